"""What is compared with other software: one file for each kind of work, both sides on the same input."""
