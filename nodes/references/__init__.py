"""The nodes that load, encode, merge, compress, show and save references. Open `encode_reference_latents.py` first."""
