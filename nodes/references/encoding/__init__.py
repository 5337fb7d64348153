"""Encodes images to latents and captions to prompt features. Open `encode_images.py` first."""
