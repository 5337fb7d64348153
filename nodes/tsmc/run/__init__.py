"""One steered run, from its state to its report."""
