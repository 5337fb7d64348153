"""Drawing with Pillow: charts and grids of images.

Open `lettering.py` first: it draws all text.
"""
