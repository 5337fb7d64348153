"""Encodes pictures to latents and captions to prompt features, with a disk cache. Open `encode_pictures.py` first."""
