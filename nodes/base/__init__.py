"""Code that all nodes share: socket types, schema helpers and safe file paths. Open `sockets.py` first."""
