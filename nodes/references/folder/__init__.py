"""Reads folders of captioned images, and finds reference files. Open `image_folder.py` first."""
