"""Patches: images compared by the distribution of their small patches, wherever these are.

    K(x, y) = mean over patches a of x and b of y of k(a, b)

MMD² with this kernel is the one between all patches of the batch and all patches of the references: style
without layout. Its gradient lets every patch move towards the references' patches and away from the batch's
own. Estimates count as they are, blurred or not: what they lack is large shapes, hardly anything of a patch.
Patches are taken in tilings, which cover an image: all of them if the images are small, else another one at
every call. Sums over thousands of patches are estimated from some
of them, the landmarks.
"""

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import Gram
from ..kernels.mmd import mmd2, uniform
from .coupling import Coupling
from .latents import Latents
from .nearest import nearest_rows, spacing
from .patches import patch_rows, tile, tiling, untile
from .rows import Rows
from .workers import ALONE, Workers

__all__ = ["Patched", "PatchComparison", "PatchEmbedding"]

LANDMARKS = 512  # patches that stand for all of the references, and as many for the batch
ROWS = 2048  # that move in a call, unless a single tiling has more
CHUNK = 1024  # of them at once, which bounds the memory
MAX_RATE = 0.5  # λ · rate of one sub-step of the flow


class Landmarks:
    """Patches of the references that stand for all of them, and the kernel between patches.

    Arguments:
        config: The kernel; its median bandwidth is that between the landmarks.
        references: Latents with shape `(N, C, *)`.

    Attributes:
        size: Of a patch, along each axis.
        rows: The landmarks about `centre`, with shape `(m, d)`.
        owners: Whose they are, with shape `(m,)`.
        gram: Their inner products.
    """

    def __init__(self, config: KernelConfig, references: Latents):
        self.size = tuple(min(config.patch_size, n) for n in references.shape[1:])
        rows, self.owners = patch_rows(references, self.size, LANDMARKS)
        # As in `GramSpace`: distances keep their digits about the mean, dot products need the origin.
        self.centre = rows.mean(0) if config.radial else torch.zeros_like(rows[0])
        self.rows = rows - self.centre
        self.gram = self.rows @ self.rows.T
        self.kernel = config.resolve(self.gram, rows.shape[1])


class PatchEmbedding:
    """Images as rows whose inner products are K, but for what MMD does not see.

    Nyström's approximation: an image is where its patches' mean embedding lies among those of
    landmarks, patches of the references.

    Arguments:
        config: The kernel between patches.
        references: With shape `(N, C, *)`, fp32 or better.
        weights: Their weights, with shape `(N,)`, sum 1.

    References:
        Williams, Seeger, Using the Nyström Method to Speed Up Kernel Machines, NIPS 2000.
    """

    def __init__(self, config: KernelConfig, references: Tensor, weights: Tensor):
        landmarks = Landmarks(config, Latents(references, weights))
        self.size, self.centre, self.rows = landmarks.size, landmarks.centre, landmarks.rows
        self.kernel = landmarks.kernel
        values = self.kernel.values(Gram.within(landmarks.gram))
        # About the landmarks' mean: then distances, too, make a matrix without negative eigenvalues.
        self.means = values.mean(0)
        values = values - self.means - self.means[:, None] + self.means.mean()
        eigenvalues, vectors = torch.linalg.eigh(values.double())
        kept = eigenvalues > 1e-6 * eigenvalues[-1]
        self.root = (vectors[:, kept] * eigenvalues[kept].rsqrt()).to(self.rows)

    def __call__(self, x: Tensor) -> Tensor:
        """The rows of images with shape `(n, C, *)`, `(n, F)`."""
        places, regular = tiling(x.shape[2:], self.size, (0,) * len(self.size))
        learned = (self.rows, self.centre, self.means, self.root)
        rows, centre, means, root = (part.to(x.device) for part in learned)
        embedded = []
        for patches in tile(x.to(rows.dtype), places[regular].to(x.device)) - centre:
            values = self.kernel.values(Gram.of(patches, rows))
            embedded.append((values - values.mean(1, keepdim=True)).mean(0) - means)
        return (torch.stack(embedded) + means.mean()) @ root


class PatchComparison:
    """The patches of references, and of finished samples, that a batch is compared with.

    Arguments:
        config: The kernel; its median bandwidth is that between patches of references.
        references: Latents with shape `(N, C, *)`.
        finished: Samples that count as drawn together with the batch, with shape `(m, C, *)`.
        workers: Those that the batch is drawn by; each moves the patches of all.
    """

    def __init__(
        self,
        config: KernelConfig,
        references: Latents,
        finished: Tensor | None = None,
        workers: Workers = ALONE,
    ):
        self.references, self.weights, self.workers = references, references.weights, workers
        landmarks = Landmarks(config, references)
        self.size, self.centre, self.rows = landmarks.size, landmarks.centre, landmarks.rows
        self.kernel, self.owners = landmarks.kernel, landmarks.owners
        if finished is not None:
            rows, owners = patch_rows(_alike(finished, self.weights), self.size, LANDMARKS)
            self.rows = torch.cat([self.rows, rows - self.centre])
            self.owners = torch.cat([self.owners, len(references) + owners])
        lengths = references.shape[1:]
        offsets = itertools.product(
            *(range(min(p, n - p + 1)) for p, n in zip(self.size, lengths, strict=True))
        )
        tilings = [tiling(lengths, self.size, offset) for offset in offsets]
        order = torch.randperm(len(tilings), generator=torch.Generator().manual_seed(0))
        self.tilings = [[part.to(self.weights.device) for part in tilings[i]] for i in order]
        self.calls = 0

    def start(self, x0: Tensor, residual: Tensor | None, sigma: float) -> "Patched":
        """The batch as it is compared: estimates `x0`, in the tilings whose turn it is."""
        x0 = self.workers.gather(x0)
        every = len(self.tilings)
        wanted = max(1, min(every, ROWS // (len(x0) * len(self.tilings[0][0]))))
        first = self.calls * wanted
        self.calls += 1
        tilings = [self.tilings[(first + i) % every] for i in range(wanted)]
        places, regular = zip(*tilings, strict=True)
        rows = torch.cat([tile(x0, some) - self.centre for some in places], 1)
        return Patched(self, x0.shape, places, torch.cat(regular), rows, rows)

    @cached_property
    def kzz(self) -> Tensor:
        """Kernel values between all landmarks that a batch is compared with."""
        return self.kernel.values(Gram.within(self.rows @ self.rows.T))

    def mmd2(self, x: Tensor, unbiased: bool) -> Tensor:
        """MMD² between finished latents `x` and the references, of patches that guidance has not seen."""
        both = _alike(x.to(self.weights), self.weights), self.references
        rows = [patch_rows(images, self.size, 2 * LANDMARKS, seed=1)[0] for images in both]
        return mmd2(*rows, self.kernel, unbiased=unbiased)

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Which reference is nearest to each of the finished latents `x` as a whole, and how far."""
        rows = Rows(self.references, budget=0)  # looked at once
        index, distances = nearest_rows(x.to(self.weights).flatten(1) - rows.centre, rows)
        return index, distances / spacing(rows)


def _alike(latents: Tensor, like: Tensor) -> Latents:
    """Latents that all count alike."""
    return Latents(latents, uniform(len(latents), like))


@dataclass(frozen=True, eq=False)
class Patched:
    """A batch as patches on their way.

    Arguments:
        shape: Of the batch.
        places: Of the patches of each tiling, see `tiling`.
        regular: Which of all T patches of an image are regular, with shape `(T,)`.
        began, rows: The patches as they were and as they are, with shape `(B, T, d)`, about the centre.
    """

    comparison: PatchComparison
    shape: tuple[int, ...]
    places: tuple[Tensor, ...]
    regular: Tensor
    began: Tensor
    rows: Tensor

    @cached_property
    def landmarks(self) -> Tensor:
        """Which of the rows stand for all of them, spread over the batch and its places, with shape `(m,)`."""
        candidates = self.regular.repeat(len(self.rows)).nonzero().flatten()
        m = min(len(candidates), LANDMARKS)
        step = torch.arange(m, device=candidates.device, dtype=torch.float64) * (
            len(candidates) / m
        )
        return candidates[step.long()]

    def flowed(self, coupling: Coupling, reach: float) -> tuple["Patched", int]:
        """w ← w − λ·Ĝ(w) for every patch, in sub-steps, and in how many."""
        rows, substeps = self.rows, max(1, math.ceil(reach / MAX_RATE))
        for _ in range(substeps):
            rows = rows - reach / substeps * self._gradient(rows, coupling)
        return replace(self, rows=rows), substeps

    def _gradient(self, rows: Tensor, coupling: Coupling) -> Tensor:
        """Ĝ of all patches, as in `coupling.py`, with shape `(B, T, d)`."""
        kernel, z = self.comparison.kernel, self.comparison.rows
        w, chosen = rows.flatten(0, 1), self.landmarks
        own = w[chosen]
        s, p = self._weights(coupling)
        images = torch.arange(len(w), device=w.device) // rows.shape[1]
        gradient = torch.empty_like(w)
        for part in torch.arange(len(w), device=w.device).split(CHUNK):
            x, image = w[part], images[part]
            to_z = 2 * kernel.pulls(Gram.of(x, z), in_units=True) * s
            to_w = 2 * kernel.pulls(Gram.of(x, own), in_units=True) * p
            if coupling.wz is not None:
                to_z = to_z * coupling.wz[image][:, self.comparison.owners]
                to_w = to_w * coupling.ww[image][:, images[chosen]]
            moved = to_z @ z
            if kernel.radial:  # a patch does not pull itself
                to_w = to_w.masked_fill(part[:, None] == chosen, 0)
                moved = moved - (to_z.sum(1) + to_w.sum(1))[:, None] * x
            gradient[part] = moved + to_w @ own
        return gradient.view_as(rows)

    def _weights(self, coupling: Coupling) -> tuple[Tensor, float]:
        """Signed weights of the comparison's landmarks, and that of one of the batch's own."""
        references = len(self.comparison.weights)
        total = coupling.s[:references].sum(), coupling.s[references:].sum()
        of_memory = self.comparison.owners >= references
        each = torch.where(of_memory, *(t / LANDMARKS for t in reversed(total)))
        return each, (coupling.p.sum() / len(self.landmarks)).item()

    def displacement(self) -> Tensor:
        """How far this worker's images have moved, with shape `(b, *shape)`: the mean of what their patches want."""
        total, covered, parts = 0, 0, self.rows - self.began
        split = parts.split([len(places) for places in self.places], 1)
        for places, tiles in zip(self.places, split, strict=True):
            total = total + untile(tiles, self.shape, places)
            covered = covered + untile(torch.ones_like(tiles[:1]), (1, *self.shape[1:]), places)
        return total[self.comparison.workers.own(len(total))] / covered

    def shortened(self, share: Tensor) -> "Patched":
        """With one share of the way for each image, with shape `(B,)`."""
        return replace(self, rows=self.began + share[:, None, None] * (self.rows - self.began))

    def mmd2(self, coupling: Coupling) -> Tensor:
        """The biased MMD² between the landmarks of both sides."""
        comparison, kernel = self.comparison, self.comparison.kernel
        own = self.rows.flatten(0, 1)[self.landmarks]
        grams = Gram.within(own @ own.T), Gram.of(own, comparison.rows)
        values = [*map(kernel.values, grams), comparison.kzz]
        if coupling.wz is not None:
            image = self.landmarks // self.rows.shape[1]
            whose = (image, image), (image, comparison.owners), (comparison.owners,) * 2
            weights = coupling.ww, coupling.wz, coupling.zz
            values = [v * k[a][:, b] for v, k, (a, b) in zip(values, weights, whose, strict=True)]
        s, p = self._weights(coupling)
        kww, kwz, kzz = values
        return p * p * kww.sum() + 2 * p * (kwz @ s).sum() + s @ kzz @ s

    def saturated(self) -> Tensor:
        """The share of kernel values between landmarks of both sides that tell nothing."""
        kernel, z = self.comparison.kernel, self.comparison.rows
        own = self.rows.flatten(0, 1)[self.landmarks]
        return kernel.saturated(kernel.values(Gram.of(own, z))).to(own.dtype).mean()

    def nearest(self) -> Tensor:
        """NaN: a patch that equals one of a reference makes no copy of it."""
        return self.rows.new_full((len(self.rows),), math.nan)
