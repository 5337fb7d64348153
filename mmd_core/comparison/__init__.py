"""The comparison of a batch with the references, per model call. Open `by_features.py` first (`by_patches.py` for patches)."""
