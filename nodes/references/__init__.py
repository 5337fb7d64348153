"""The nodes for references: load, encode, merge, compress, show, save, and draw base
images of them.

Open `encode_reference_latents.py` first.
"""
