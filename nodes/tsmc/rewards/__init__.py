"""The interface of rewards, and VAE decoding for rewards of images. Open `reward.py` first."""
