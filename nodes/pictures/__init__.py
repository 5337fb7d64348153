"""Drawing plots and sheets of pictures."""
