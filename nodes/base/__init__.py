"""Code that all nodes share: socket types, schema helpers, remarks, counts, safe file paths.

Open `sockets.py` first.
"""
