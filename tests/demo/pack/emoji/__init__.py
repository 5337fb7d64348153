"""The world *emoji*: a text-to-image model of usual design, only small.

The scripts of tests/demo/emoji learned it; LICENCES.md there says from whose pictures.
"""

from pathlib import Path

_WEIGHTS = Path(__file__).absolute().parents[1] / "weights"

DENOISER_WEIGHTS = _WEIGHTS / "emoji.safetensors"
"""The weights of the denoiser and of its words; the vocabulary is in their metadata."""

VAE_WEIGHTS = _WEIGHTS / "emoji_vae.safetensors"
