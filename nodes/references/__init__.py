"""The nodes for references: load, encode, merge, compress, show, save.

Open `encode_reference_latents.py` first.
"""
