"""What joins MONAI and Ignite engines to the rest."""
