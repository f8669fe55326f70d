"""A data folder and a recipe to a checkpoint."""
