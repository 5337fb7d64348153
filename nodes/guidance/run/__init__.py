"""One guided run, from the sampler's call to the report."""
