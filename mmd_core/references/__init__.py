"""References, and how they are merged and compressed."""
