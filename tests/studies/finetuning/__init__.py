"""A ring of Gaussians and a small network: what MMD-DDM is measured by where the truth is known."""
