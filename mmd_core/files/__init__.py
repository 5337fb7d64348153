"""The file formats: references in a file, samples in a folder. Open `tensor_file.py` first."""
