"""Reading a folder of pictures and captions."""
