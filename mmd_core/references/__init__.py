"""The references, and how they are merged and compressed. Open `references.py` first."""
