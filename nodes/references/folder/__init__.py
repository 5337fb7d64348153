"""Reads folders of reference images with captions, and finds reference files. Open `image_folder.py` first."""
