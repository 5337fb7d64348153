"""Kernels on latents and on prompts, their bandwidths, and MMD² with its gradient. Open `kernels.py` first."""
