"""Kernels on latents and prompts, bandwidths, MMD² and its gradient. Open `kernels.py` first."""
