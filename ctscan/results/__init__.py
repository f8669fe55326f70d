"""Measurements kept, and the texts that are made of them."""
