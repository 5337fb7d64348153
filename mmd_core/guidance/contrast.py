"""Contrast: towards the references, away from what the model itself draws of the same things.

The references differ from a batch in style *and* in what they show. A flow towards them therefore
pulls both over, and prompts are lost. What the model draws for the captions of the references, the
*base images*, shows the same things in the model's own style. In the difference of both the things
cancel, and style is left. Samples climb the witness function of references against base images:

    f(w) = Σ_j u_j k(w, y_j) − Σ_b t_b k(w, b)      w' = 2 · unit · ∇f(w) · rest(w)

A witness has no maximum near the references: samples would run on and exaggerate. Each sample rests
once its witness is that of the references. f is high at references and low at base images, on
average f_Y and f_B:

    rest(w) = clamp((f_Y − f(w)) / (f_Y − f_B), 0, 1)

Both averages stand for new images, so each image is left out of its own, and so is its partner: the
base image of a reference shows the same thing, which a new image does not. With partners the
difference of the averages would be too small, often below 0, and then nothing moves.

Samples do not act on each other, and what each estimate lacks (`posterior.py`) is measured by
itself. So an image is the same in every batch, and in a batch of one too.

References:
    Witness function: Gretton et al., A Kernel Two-Sample Test, JMLR 2012, section 2.3.
    https://jmlr.org/papers/v13/gretton12a.html
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..comparison.gram_space import GramSpace
from ..kernels.kernels import Gram, Kernel
from ..kernels.transfers import placed
from .config import GuidanceConfig

__all__ = ["Base", "Contrast", "check_base", "shares"]


class Base(NamedTuple):
    """What the model itself draws for the captions of the references.

    Arguments:
        latents: With shape `(m, *shape)`, in the space of the samples.
        weights: Their weights, with shape `(m,)`, sum 1, not negative.
        captions: Their prompt features, with shape `(m, E)`, if the kernel compares prompts.
        partners: The index of the reference for whose caption each was drawn, or −1, with shape
            `(m,)`, on the CPU; None if none is known.
    """

    latents: Tensor
    weights: Tensor
    captions: Tensor | None = None
    partners: Tensor | None = None


def check_base(config: GuidanceConfig, base: Base | None) -> None:
    """Checks that base images can be compared with.

    Raises:
        ValueError: The settings do not allow it, or the kernel compares prompts and the base images
            have none.
    """
    if base is None:
        return
    if not config.rules.contrast:
        raise ValueError(
            f"mode {config.mode} does not use base images: disconnect base, or set mode to "
            "keep_prompt or flow"
        )
    if config.patches:
        raise ValueError(
            "base images are compared as a whole, not by patches: disconnect base, or set "
            "feature_space of MMDKernel to latent"
        )
    if config.kernel_config.prompt_kernel != "none" and base.captions is None:
        raise ValueError(
            "the kernel compares prompts, but the base images carry none: make them with "
            "MMDBaseImages, or set prompt_kernel of MMDKernel to none"
        )


@dataclass(frozen=True, eq=False)
class Contrast:
    """The flow of samples between references and base images, which are rows z of a Gram space.

    Arguments:
        weights: Signed weights of the rows z for each sample, or one row for all: u for references,
            −t for base images, 0 for finished samples, with shape `(B, M)` or `(1, M)`.
        start: f_B for each sample, with shape `(B,)` or `(1,)`.
        goal: f_Y, with the same shape.
    """

    weights: Tensor
    start: Tensor
    goal: Tensor

    resting = True

    @classmethod
    def between(
        cls, space: GramSpace, kernel: Kernel, u: Tensor, t: Tensor, partners: Tensor | None = None
    ) -> "Contrast":
        """The contrast of the references of `space` and its last rows.

        Arguments:
            space: The references, then finished samples, then base images.
            kernel: The kernel between rows.
            u: Weights of the references, with shape `(B, N)` or `(1, N)`; each row has sum 1.
            t: Weights of the base images, with shape `(B, m)` or `(1, m)`; each row has sum 1.
            partners: As in `Base`.
        """
        index, gram = space.sample
        n, m = len(index), t.shape[1]
        every = torch.arange(len(gram), device=gram.device)
        rows = torch.cat([every[:n], every[len(gram) - m :]])
        values = kernel.values(Gram.within(gram[rows][:, rows]))
        some = _normalised(u[:, index])
        yy, yb, bb = values[:n, :n], values[:n, n:], values[n:, n:]
        strange = torch.ones_like(yb)
        if partners is not None:
            strange = (index[:, None] != placed(partners, index)).to(yb)
        of_references = (some * (_others(some, yy) - _strangers(t, yb, strange))).sum(1)
        of_base = (t * (_strangers(some, yb.T, strange.T) - _others(t, bb))).sum(1)
        between = u.new_zeros(len(u), len(space) - u.shape[1] - m)
        return cls(torch.cat([u, between, -t], 1), of_base, of_references)

    def bounded(self, kernel: Kernel) -> bool:
        """Whether the coefficients of a sample are known to be small, as in `Coupling`."""
        return False

    def velocity(self, kernel: Kernel, gram: Gram) -> Tensor:
        """[L | F] with w' = L·w + F·z, with shape `(B, B + M)`; arguments as in `Coupling`."""
        b = len(gram.dot)
        values = kernel.values(gram)[:, b:]
        far = self.goal - self.start
        left = self.goal - (values * self.weights).sum(1)
        # Where the base images are as close to the references as these are, there is no style to
        # follow.
        rest = torch.where(far > 0, left / far, 0).clamp(0, 1)
        by = kernel.pulls(gram, in_units=True)
        by[:, :b] = 0
        by[:, b:] *= 2 * rest[:, None] * self.weights
        if kernel.radial:
            by.diagonal().sub_(by.sum(1))
        return by


def shares(weights: Tensor, similar: Tensor | None) -> Tensor:
    """The share that each row has for each sample, with shape `(B, n)`, or `(1, n)` for all.

    Arguments:
        weights: Weights of the rows, with shape `(n,)`, sum 1.
        similar: Prompt weights of samples and rows, with shape `(B, n)`, or None. A sample whose
            prompt is similar to no caption has no shares, so it is not moved.
    """
    return weights[None] if similar is None else _normalised(weights * similar)


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def _others(weights: Tensor, values: Tensor) -> Tensor:
    """The mean kernel value of each row with the other rows, with the shape of `weights`.

    Arguments:
        weights: With shape `(B, n)`; each row has sum 1.
        values: Kernel values, with shape `(n, n)`.
    """
    others = weights @ values - weights * values.diagonal()
    return others / (1 - weights).clamp_min(torch.finfo(weights.dtype).eps)


def _strangers(weights: Tensor, values: Tensor, strange: Tensor) -> Tensor:
    """The mean kernel value of each row with the rows that show other things, with shape `(B, n)`.

    Where all show the same thing, the mean with all.

    Arguments:
        weights: Of the other rows, with shape `(B, m)`; each row has sum 1.
        values: Kernel values, with shape `(n, m)`.
        strange: 1 where two rows show other things, else 0, with shape `(n, m)`.
    """
    total = weights @ strange.T
    mean = weights @ (values * strange).T / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, mean, weights @ values.T)
