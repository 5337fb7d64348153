"""How a batch is compared with references."""
