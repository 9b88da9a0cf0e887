"""Raw cases become arrays in plan space and predictions go the way back."""
