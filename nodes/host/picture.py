"""The picture of a LATENT."""

from typing import Any

__all__ = ["picture"]


def picture(samples: Any) -> Any:
    """The samples of a LATENT; of latents of several kinds, such as film and sound, the first.

    ComfyUI's own VAE Decode takes the first kind, too.
    """
    return samples.unbind()[0] if getattr(samples, "is_nested", False) else samples
