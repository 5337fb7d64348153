"""Kernels, their bandwidths, and MMD²."""
