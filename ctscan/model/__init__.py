"""The network, what its file says of itself, and what runs it."""
