"""The comparison of a batch with the references, at each model call. Open `by_features.py` first.

`by_patches.py` compares by patches.
"""
