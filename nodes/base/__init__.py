"""Code that all nodes share: socket types, schema helpers, remarks and safe file paths.

Open `sockets.py` first.
"""
