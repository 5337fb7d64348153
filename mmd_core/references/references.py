"""The references: latents that represent the distribution to be matched.

A set has N latents `y_j` with weights `w_j`, whose sum is 1, and optionally one prompt feature for
each latent.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..guidance.unfinished import Unfinished, unfinished_towards

__all__ = ["References"]

PIECE = 2**22  # numbers that are checked at once
COMPARED = 256  # most references that are compared with each other


@dataclass(frozen=True, eq=False)
class References:
    """N encoded reference images, in the space of ComfyUI's LATENT socket (raw VAE output).

    Arguments:
        latents: Latents `y`, with shape `(N, C, *)`, of any float dtype; stored as float32 on the
            CPU.
        weights: The weight of each reference, with shape `(N,)`, not negative; normalized to sum 1.
            By default all are equal.
        prompts: Features of the captions, with shape `(N, E)`, for a prompt kernel.
        names: A name for each reference, for messages.
        captions: The caption of each reference, "" if it has none.
        thumbnails: The images at the size of the latents, RGB in [0, 1], with shape `(N, 3, h, w)`.
            They show whether the latents come from the VAE that a model expects.
        vae: A fingerprint of the VAE that encoded the latents, "" if unknown.
        sizes: Width and height of each image in pixels before it was resized, (0, 0) if unknown.
        size: Width and height in pixels at which the images were encoded, (0, 0) if unknown.

    Raises:
        ValueError: There are no references, a weight is negative or not finite, all weights are 0,
            a latent is not finite, or there is not one weight, name and so on per reference.
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

    def __post_init__(self) -> None:
        latents = self.latents.detach().to("cpu", torch.float32)
        n = latents.shape[0] if latents.ndim > 1 else 0
        if n == 0:
            raise ValueError("no reference latents were given: at least one reference is needed")
        names = tuple(self.names) or tuple(f"reference {j + 1}" for j in range(n))
        # In pieces, because a memory-mapped set may be larger than the memory.
        pieces = latents.split(max(1, PIECE // max(1, latents[0].numel())))
        bad = torch.cat([~torch.isfinite(piece.flatten(1)).all(1) for piece in pieces])
        if bad.any():
            first = ", ".join(names[j] for j in bad.nonzero().flatten().tolist()[:3])
            raise ValueError(
                f"references with NaN or infinite numbers: {int(bad.sum())} of {n} ({first}): "
                "encode them again in fp32, or leave these images out"
            )
        weights = torch.ones(n) if self.weights is None else self.weights.detach().float().cpu()
        if weights.shape != (n,) or not torch.isfinite(weights).all() or (weights < 0).any():
            raise ValueError("weights must be finite and not negative, one for each reference")
        if weights.sum() <= 0:
            raise ValueError(
                "all reference weights are 0: give at least one reference a positive weight"
            )
        total = weights.double().sum()
        if (total - 1).abs() > 1e-5:  # keeps normalized weights, so files are read bit by bit
            weights = (weights / total).float()
        if self.prompts is not None and self.prompts.shape[0] != n:
            raise ValueError(_mismatch("prompt features", self.prompts.shape[0], n))
        for name in ("names", "captions", "sizes"):
            if len(getattr(self, name)) not in (0, n):
                raise ValueError(_mismatch(name, len(getattr(self, name)), n))
        prompts = self.prompts
        if prompts is not None:
            prompts = prompts.detach().float().cpu().flatten(1)
        for name, value in {
            "latents": latents,
            "weights": weights,
            "prompts": prompts,
            "names": names,
            "captions": tuple(self.captions) or ("",) * n,
            "sizes": tuple(self.sizes) or ((0, 0),) * n,
        }.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.latents.shape[0]

    @cached_property
    def unfinished(self) -> Unfinished:
        """Samples that runs towards references of this content left with noise.

        The runs that go on with them read them here.
        """
        return unfinished_towards(self.latents, self.weights)

    def different(self, most: int) -> int:
        """How many references with a weight above 0 differ from each other, counted up to `most`.

        Of more than 256 references, evenly spaced ones are compared.
        """
        known, found = self.weights.nonzero().flatten(), set()
        for j in known[:: -(-len(known) // COMPARED)].tolist():
            if len(found) < most:
                found.add(self.latents[j].contiguous().numpy().tobytes())
        return len(found)


def _mismatch(field: str, have: int, want: int) -> str:
    return f"the number of {field} is {have}, but that of the references is {want}: give one each"
