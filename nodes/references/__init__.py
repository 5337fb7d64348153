"""The nodes that make and keep references."""
