"""Pixels of a slice: where body and lungs are, the square a model sees, pictures of maps."""
