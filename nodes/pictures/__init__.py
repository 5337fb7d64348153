"""Drawing with Pillow: charts, contact sheets and rows of pictures. Open `lettering.py` first: it draws all text."""
