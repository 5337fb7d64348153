"""The references: latents that stand for the distribution to be matched.

`y_j`, j = 1 … N, with weights `w_j` that sum to one and, when captions were given, one prompt feature each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["References"]

PIECE = 2**22  # numbers looked at together


@dataclass(frozen=True, eq=False)
class References:
    """N encoded reference images, in the space of ComfyUI's LATENT socket (raw VAE output).

    Arguments:
        latents: Reference latents `y`, with shape `(N, C, *)`, any float dtype; kept as float32 on the CPU.
        weights: How much each reference counts, with shape `(N,)`, not negative; normalised to sum 1.
            Without weights all count alike.
        prompts: Features of the captions, with shape `(N, E)`, for the prompt kernel.
        names: A name for each reference, for messages.
        captions: The caption of each reference, "" where it has none.
        thumbnails: The pictures at latent resolution, RGB in [0, 1], with shape `(N, 3, h, w)`; they
            tell whether the latents come from the VAE that a model expects.
        vae: A fingerprint of the VAE that encoded the latents.
        sizes: Width and height in pixels of each picture as it came, (0, 0) where unknown.
        size: Width and height in pixels at which the pictures were encoded, (0, 0) if unknown.

    Raises:
        ValueError: No references, not one weight (prompt feature, name …) per reference, a weight that
            is negative or not finite, or a latent that is not finite.
    """

    latents: Tensor
    weights: Tensor | None = None
    prompts: Tensor | None = None
    names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    thumbnails: Tensor | None = None
    vae: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    size: tuple[int, int] = (0, 0)

    def __post_init__(self):
        latents = self.latents.detach().to("cpu", torch.float32)
        n = latents.shape[0] if latents.ndim > 1 else 0
        if n == 0:
            raise ValueError("no reference latents were given: at least one reference is needed")
        names = tuple(self.names) or tuple(f"reference {j + 1}" for j in range(n))
        # Piece by piece: a set may be larger than the memory, and lie in a file.
        pieces = latents.split(max(1, PIECE // max(1, latents[0].numel())))
        bad = torch.cat([~torch.isfinite(piece.flatten(1)).all(1) for piece in pieces])
        if bad.any():
            first = ", ".join(names[j] for j in bad.nonzero().flatten().tolist()[:3])
            raise ValueError(
                f"{int(bad.sum())} of {n} references contain NaN or infinite numbers ({first}): "
                "encode them again in fp32, or leave these images out"
            )
        weights = torch.ones(n) if self.weights is None else self.weights.detach().float().cpu()
        if weights.shape != (n,) or not torch.isfinite(weights).all() or (weights < 0).any():
            raise ValueError(
                f"weights must be {n} finite numbers that are not negative, one per reference"
            )
        if weights.sum() <= 0:
            raise ValueError(
                "all reference weights are 0: give at least one reference a positive weight"
            )
        total = weights.double().sum()
        if (total - 1).abs() > 1e-5:  # else as they are: what was saved is loaded bit by bit
            weights = (weights / total).float()
        if self.prompts is not None and self.prompts.shape[0] != n:
            raise ValueError(f"{self.prompts.shape[0]} captions were encoded for {n} references")
        for field in ("names", "captions", "sizes"):
            if len(getattr(self, field)) not in (0, n):
                raise ValueError(f"{len(getattr(self, field))} {field} for {n} references")
        for field, value in {
            "latents": latents,
            "weights": weights,
            "prompts": None
            if self.prompts is None
            else self.prompts.detach().float().cpu().flatten(1),
            "names": names,
            "captions": tuple(self.captions) or ("",) * n,
            "sizes": tuple(self.sizes) or ((0, 0),) * n,
        }.items():
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return self.latents.shape[0]
