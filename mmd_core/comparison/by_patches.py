"""Compares a batch with the references by small patches, independent of their position.

    K(x, y) = mean over patches a of x and b of y of k(a, b)

MMD² with this kernel compares all patches of the batch with all patches of the references, so it
compares style, not layout. Its gradient moves every patch towards the patches of the references and
away from the other patches of the batch. Denoised estimates are not corrected for posterior
variance (`posterior.py`), because most of that variance is in large shapes and little in a patch.

A tiling is a set of patches that covers an image. Small images use all tilings at each call. Larger
images use one or a few tilings at each call, and the next ones at the next call. Sums over all
patches are estimated from a subset of patches, the landmarks (`landmarks.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import Gram
from ..kernels.mmd import mmd2, uniform
from .coupling import Coupling
from .landmarks import LANDMARKS, Landmarks
from .latents import Latents
from .nearest import nearest_rows, spacing
from .patches import patch_rows
from .rows import Rows, never_stopped
from .tilings import Cover, covers

__all__ = ["Patched", "PatchComparison"]

ROWS = 2048  # most patches that move in one call, unless a single tiling has more
CHUNK = 256  # patches whose kernel values are computed at once: their matrices stay in CPU cache
CHUNK_OF_GPU = 8192  # fewer operators; the matrices of a GPU take 30 MB each
MAX_RATE = 0.5  # longest sub-step of the flow, in units of λ · rate


class PatchComparison:
    """The patches of the references and of the finished samples, with which a batch is compared.

    Arguments:
        config: The kernel. Its median bandwidth is the median distance between landmarks of the
            references.
        references: Latents with shape `(N, C, *)`.
        finished: Finished samples that belong to the same measure as the batch, with shape
            `(m, C, *)`: those of earlier groups, of earlier runs, or of other machines.
        check: As in `Rows`.
    """

    def __init__(
        self,
        config: KernelConfig,
        references: Latents,
        finished: Tensor | None = None,
        check: Callable[[], None] = never_stopped,
    ) -> None:
        self.references, self.weights, self.check = references, references.weights, check
        landmarks = Landmarks(config, references)
        self.size, self.centre, self.rows = landmarks.size, landmarks.centre, landmarks.rows
        self.kernel, self.owners = landmarks.kernel, landmarks.owners
        if finished is not None:
            rows, owners = patch_rows(_alike(finished, self.weights), self.size, LANDMARKS)
            self.rows = torch.cat([self.rows, rows - self.centre])
            self.owners = torch.cat([self.owners, len(references) + owners])
        self.squares = self.rows.square().sum(1)
        every = covers(references.shape[1:], self.size, self.weights)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
        self.covers = [every[i] for i in order]
        self.calls, self._used, self._coupling = 0, {}, None

    def start(self, x0: Tensor, residual: Tensor | None, sigma: float) -> "Patched":
        """The patches of denoised estimates, in the tilings of this call.

        Arguments:
            x0: The denoised estimates, with shape `(B, *shape)`.
            residual, sigma: Not used; they are the same arguments as in `FeatureComparison.start`.
        """
        every = len(self.covers)
        wanted = max(1, min(every, ROWS // (len(x0) * len(self.covers[0].places))))
        first = self.calls * wanted % every
        self.calls += 1
        if (first, wanted) not in self._used:
            chosen = [self.covers[(first + i) % every] for i in range(wanted)]
            self._used[first, wanted] = Cover.together(chosen)
        cover = self._used[first, wanted]
        rows = cover.cut(x0) - self.centre
        return Patched(self, x0.shape, cover, rows, rows)

    def weights_of(self, coupling: Coupling) -> tuple[Tensor, Tensor]:
        """The signed weights of the landmarks, with shape `(m,)`, and the weight of the batch.

        Those of the last coupling are cached.
        """
        if self._coupling is not coupling:
            n = len(self.weights)
            total = coupling.s[:n].sum(), coupling.s[n:].sum()
            each = torch.where(self.owners >= n, *(t / LANDMARKS for t in reversed(total)))
            self._coupling, self._weighed = coupling, (each, coupling.p.sum())
        return self._weighed

    @cached_property
    def kzz(self) -> Tensor:
        """Kernel values between the landmarks of references and finished samples, `(m, m)`."""
        return self.kernel.values(Gram.within(self.rows @ self.rows.T))

    def mmd2(self, x: Tensor, unbiased: bool) -> Tensor:
        """MMD² between finished latents and the references, a scalar.

        It is computed from random patches other than the landmarks that guide.

        Arguments:
            x: The finished latents, with shape `(b, *shape)`.
            unbiased: Whether to take the unbiased estimate.
        """
        both = _alike(x.to(self.weights), self.weights), self.references
        rows = [patch_rows(images, self.size, 2 * LANDMARKS, seed=1)[0] for images in both]
        return mmd2(*rows, self.kernel, unbiased=unbiased)

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The reference nearest to each finished latent, compared as whole latents.

        Arguments:
            x: The finished latents, with shape `(b, *shape)`.

        Returns:
            The indices of the references, and the distances divided by the spacing of the
            references, both with shape `(b,)`.
        """
        rows = Rows(self.references, budget=0)  # not stored on the device: they are used only once
        index, distances = nearest_rows(x.to(self.weights).flatten(1) - rows.centre, rows)
        return index, distances / spacing(rows)


def _alike(latents: Tensor, like: Tensor) -> Latents:
    """Latents with equal weights, on the device and in the dtype of `like`."""
    return Latents(latents, uniform(len(latents), like))


@dataclass(frozen=True, eq=False)
class Patched:
    """A batch as patches, at its start or after a move.

    Arguments:
        comparison: The references and finished samples with which the batch is compared.
        shape: The shape of the batch, `(B, C, *)`.
        cover: Where the T patches of an image lie.
        began, rows: The patches at the start and now, minus the centre, with shape `(B, T, d)`.
    """

    comparison: PatchComparison
    shape: tuple[int, ...]
    cover: Cover
    began: Tensor
    rows: Tensor

    @property
    def landmarks(self) -> Tensor:
        """The indices of the landmarks of the batch, evenly spaced, with shape `(m,)`."""
        return self.cover.landmarks(len(self.rows), LANDMARKS)

    def flowed(self, coupling: Coupling, reach: float) -> tuple["Patched", int]:
        """The batch after w := w − λ·Ĝ(w) for every patch, and the number of sub-steps."""
        rows, substeps = self.rows, max(1, math.ceil(reach / MAX_RATE))
        gradient = self._gradient(coupling)
        for _ in range(substeps):
            rows = rows.sub(gradient(rows), alpha=reach / substeps)
        return replace(self, rows=rows), substeps

    def _pairs(self, coupling: Coupling) -> Tensor:
        """2 u_b κ_ib between images i and all landmarks b, with shape `(B, m)`.

        The landmarks are those of references and finished samples, then those of the batch. Without
        prompts it is 2 u_b, with shape `(m,)`.
        """
        s, p = self._weights(coupling)
        weights = 2 * torch.cat([s, p.expand(len(self.landmarks))])
        if coupling.wz is None:
            return weights
        images = self.landmarks // self.rows.shape[1]
        of_z, of_w = coupling.wz[:, self.comparison.owners], coupling.ww[:, images]
        return torch.cat([of_z, of_w], 1) * weights

    def _gradient(self, coupling: Coupling) -> Callable[[Tensor], Tensor]:
        """Ĝ of all patches, as in `coupling.py`, as a function of the patches.

        Patches and Ĝ have the shape `(B, T, d)`.
        """
        kernel, chosen, pairs = self.comparison.kernel, self.landmarks, self._pairs(coupling)
        z, of_z = self.comparison.rows, self.comparison.squares
        # The landmarks of references and finished samples, then those of the batch, which move.
        m, others = len(z), torch.cat([z, z.new_empty(len(chosen), z.shape[1])])
        of_others = torch.cat([of_z, of_z.new_empty(len(chosen))])
        numbers = torch.arange(len(self.rows) * self.rows.shape[1], device=z.device)
        images, itself = numbers // self.rows.shape[1], numbers[:, None] == chosen
        chunk = CHUNK if z.device.type == "cpu" else CHUNK_OF_GPU

        def gradient(rows: Tensor) -> Tensor:
            w = rows.flatten(0, 1)
            squares, parts = w.square().sum(1), []
            torch.index_select(w, 0, chosen, out=others[m:])
            torch.index_select(squares, 0, chosen, out=of_others[m:])
            for first in range(0, len(w), chunk):
                self.comparison.check()
                part = slice(first, first + chunk)
                x = w[part]
                by = kernel.pulls(Gram(x @ others.T, squares[part], of_others), in_units=True)
                by = by.mul_(pairs if pairs.ndim == 1 else pairs[images[part]])
                if kernel.radial:  # a patch exerts no pull on itself
                    by[:, m:].masked_fill_(itself[part], 0)
                moved = by @ others
                if kernel.radial:
                    moved.addcmul_(by.sum(1, keepdim=True), x, value=-1)
                parts.append(moved)
            return (parts[0] if len(parts) == 1 else torch.cat(parts)).view_as(rows)

        return gradient

    def _weights(self, coupling: Coupling) -> tuple[Tensor, Tensor]:
        """The weights of landmarks.

        Returns:
            The signed weights of the landmarks of references and finished samples, with shape
            `(m,)`, and the weight of each landmark of the batch, a scalar.
        """
        each, total = self.comparison.weights_of(coupling)
        return each, total / len(self.landmarks)

    def displacement(self) -> Tensor:
        """The displacement of the images, with shape `(B, *shape)`.

        It is the mean patch displacement where patches overlap.
        """
        return self.cover.spread(self.rows - self.began, self.shape)

    def shortened(self, share: Tensor) -> "Patched":
        """The batch with the displacement of each image multiplied by its `share`.

        Arguments:
            share: One factor for each image, with shape `(B,)`.
        """
        return replace(self, rows=self.began + share[:, None, None] * (self.rows - self.began))

    def mmd2(self, coupling: Coupling) -> Tensor:
        """The biased MMD² between samples (finished ones included) and references, a scalar.

        It is computed from landmarks.
        """
        comparison, kernel = self.comparison, self.comparison.kernel
        own = self._own
        values = [kernel.values(Gram.within(own @ own.T)), self._to_others, comparison.kzz]
        if coupling.wz is not None:
            image = self.landmarks // self.rows.shape[1]
            whose = (image, image), (image, comparison.owners), (comparison.owners,) * 2
            weights = coupling.ww, coupling.wz, coupling.zz
            values = [v * k[a][:, b] for v, k, (a, b) in zip(values, weights, whose, strict=True)]
        s, p = self._weights(coupling)
        kww, kwz, kzz = values
        return p * torch.add(p * kww.sum(), (kwz @ s).sum(), alpha=2) + s @ kzz @ s

    def saturated(self) -> Tensor:
        """The share of saturated kernel values between landmarks of the batch and all others.

        It is a scalar; `RadialKernel.saturated` says which values are saturated.
        """
        values = self._to_others
        return self.comparison.kernel.saturated(values).mean(dtype=values.dtype)

    @cached_property
    def _own(self) -> Tensor:
        """The landmarks of the batch, with shape `(m, d)`."""
        return self.rows.flatten(0, 1)[self.landmarks]

    @cached_property
    def _to_others(self) -> Tensor:
        """Kernel values between landmarks of the batch and all others."""
        others, own = self.comparison, self._own
        gram = Gram(own @ others.rows.T, own.square().sum(1), others.squares)
        return others.kernel.values(gram)

    def nearest(self) -> Tensor:
        """NaN for each image, with shape `(B,)`.

        An image with patches equal to those of a reference is not a copy of it.
        """
        return self.rows.new_full((len(self.rows),), math.nan)
