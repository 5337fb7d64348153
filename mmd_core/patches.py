"""Patches: images compared by the distribution of their small patches, wherever these are.

    K(x, y) = mean over patches a of x and b of y of k(a, b)

MMD² with this kernel is the one between all patches of the batch and all patches of the references: style
without layout. Its gradient lets every patch move towards the references' patches and away from the batch's
own. Estimates count as they are, blurred or not: what they lack is large shapes, hardly anything of a patch.
Patches are taken in tilings, which an image can be put together from again: overlapping ones if the
images are small, else another tiling at every call. Sums over thousands of patches are estimated from some
of them, the landmarks.
"""

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .config import KernelConfig
from .coupling import Coupling
from .kernels import Gram
from .mmd import mmd2

__all__ = ["PatchComparison", "PatchEmbedding", "patch_rows", "tile", "untile"]

LANDMARKS = 512  # patches that stand for all of the references, and as many for the batch
ROWS = 2048  # that move in a call, unless a single tiling has more
CHUNK = 1024  # of them at once, which bounds the memory


def tile(x: Tensor, size: tuple[int, ...], offset: tuple[int, ...]) -> Tensor:
    """The patches of a tiling that begins at `offset`, with shape `(B, tiles, C · patch)`."""
    b, c, *lengths = x.shape
    shape = [b, c]
    for axis, (n, p, o) in enumerate(zip(lengths, size, offset, strict=True), 2):
        count = (n - o) // p
        x = x.narrow(axis, o, count * p)
        shape += [count, p]
    counts, within = range(2, len(shape), 2), range(3, len(shape), 2)
    tiles = math.prod(shape[i] for i in counts)
    return x.reshape(shape).permute(0, *counts, 1, *within).reshape(b, tiles, -1)


def untile(tiles: Tensor, shape: tuple[int, ...], size, offset) -> Tensor:
    """The transpose of `tile`: patches laid back into images of `shape`, 0 where there are none."""
    b, c, *lengths = shape
    counts = [(n - o) // p for n, p, o in zip(lengths, size, offset, strict=True)]
    k = len(counts)
    order = [0, k + 1, *(i for axis in range(k) for i in (1 + axis, k + 2 + axis))]
    inner = tiles.reshape(b, *counts, c, *size).permute(order)
    inner = inner.reshape(b, c, *(n * p for n, p in zip(counts, size, strict=True)))
    whole = tiles.new_zeros(shape)
    window = whole
    for axis, (n, o) in enumerate(zip(inner.shape[2:], offset, strict=True), 2):
        window = window.narrow(axis, o, n)
    window.copy_(inner)
    return whole


def patch_rows(
    x: Tensor, weights: Tensor, size: tuple[int, ...], count: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Patches of images `(N, C, *)`, chosen by the seed: rows `(count, C · patch)`, and whose they are `(count,)`.

    Arguments:
        weights: How often an image is chosen, with shape `(N,)`, not negative.
        size: Of a patch, along each axis.
    """
    rng = torch.Generator().manual_seed(seed)
    owners = torch.multinomial(weights.double().cpu(), count, replacement=True, generator=rng)
    windows, index = x, []
    for axis, p in enumerate(size, 2):
        windows = windows.unfold(axis, p, 1)
        index.append(torch.randint(0, windows.shape[axis], (count,), generator=rng).to(x.device))
    owners = owners.to(x.device)
    return windows.movedim(1, x.ndim - 1)[(owners, *index)].flatten(1), owners


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
        self.size = tuple(min(config.patch_size, n) for n in references.shape[2:])
        rows, _ = patch_rows(references, weights, self.size, LANDMARKS)
        self.centre = rows.mean(0) if config.radial else torch.zeros_like(rows[0])
        self.rows = rows - self.centre
        gram = self.rows @ self.rows.T
        self.kernel = config.resolve(gram, rows.shape[1])
        values = self.kernel.values(Gram.within(gram))
        # About the landmarks' mean: then distances, too, make a matrix without negative eigenvalues.
        self.means = values.mean(0)
        values = values - self.means - self.means[:, None] + self.means.mean()
        eigenvalues, vectors = torch.linalg.eigh(values.double())
        kept = eigenvalues > 1e-6 * eigenvalues[-1]
        self.root = (vectors[:, kept] * eigenvalues[kept].rsqrt()).to(rows)

    def __call__(self, x: Tensor) -> Tensor:
        """The rows of images with shape `(n, C, *)`, `(n, F)`."""
        tiles = tile(x.to(self.rows), self.size, (0,) * len(self.size)) - self.centre
        embedded = []
        for patches in tiles:
            values = self.kernel.values(Gram.of(patches, self.rows))
            embedded.append((values - values.mean(1, keepdim=True)).mean(0) - self.means)
        return (torch.stack(embedded) + self.means.mean()) @ self.root


class PatchComparison:
    """The patches of references, and of finished samples, that a batch is compared with.

    Arguments:
        config: The kernel; its median bandwidth is that between patches of references.
        references: With shape `(N, C, *)`, fp32 or better.
        weights: Their weights, with shape `(N,)`, sum 1.
        finished: Samples that count as drawn together with the batch, with shape `(m, C, *)`.
    """

    def __init__(
        self,
        config: KernelConfig,
        references: Tensor,
        weights: Tensor,
        finished: Tensor | None = None,
    ):
        self.references, self.weights = references, weights
        self.size = tuple(min(config.patch_size, n) for n in references.shape[2:])
        rows, self.owners = patch_rows(references, weights, self.size, LANDMARKS)
        # As in `GramSpace`: distances keep their digits about the mean, dot products need the origin.
        self.centre = rows.mean(0) if config.radial else torch.zeros_like(rows[0])
        self.rows = rows - self.centre
        self.kernel = config.resolve(self.rows @ self.rows.T, rows.shape[1])
        if finished is not None:
            equal = weights.new_ones(len(finished))
            rows, owners = patch_rows(finished, equal, self.size, LANDMARKS)
            self.rows = torch.cat([self.rows, rows - self.centre])
            self.owners = torch.cat([self.owners, len(references) + owners])
        offsets = itertools.product(
            *(
                range(min(p, n - p + 1))
                for p, n in zip(self.size, references.shape[2:], strict=True)
            )
        )
        self.offsets = list(offsets)
        order = torch.randperm(len(self.offsets), generator=torch.Generator().manual_seed(0))
        self.offsets = [self.offsets[i] for i in order]
        self.calls = 0

    def start(self, x0: Tensor, x: Tensor, sigma: float) -> "Patched":
        """The batch as it is compared: estimates `x0`, in the tilings whose turn it is."""
        tiles = math.prod(n // p for n, p in zip(x0.shape[2:], self.size, strict=True))
        wanted = max(1, min(len(self.offsets), ROWS // (len(x0) * tiles)))
        first = self.calls * wanted
        self.calls += 1
        offsets = [self.offsets[(first + i) % len(self.offsets)] for i in range(wanted)]
        parts = [tile(x0, self.size, offset) - self.centre for offset in offsets]
        rows = torch.cat(parts, 1)
        return Patched(self, x0.shape, offsets, rows, rows)

    def mmd2(self, x: Tensor, unbiased: bool) -> float:
        """MMD² between finished latents `x` and the references, of patches that guidance has not seen."""
        equal = self.weights.new_ones(len(x))
        rows = [
            patch_rows(images, weights, self.size, 2 * LANDMARKS, seed=1)[0]
            for images, weights in ((x.to(self.references), equal), (self.references, self.weights))
        ]
        return float(mmd2(*rows, self.kernel, unbiased=unbiased))


@dataclass(frozen=True, eq=False)
class Patched:
    """A batch as patches on their way.

    Arguments:
        shape: Of the batch.
        offsets: Of the tilings.
        began, rows: The patches as they were and as they are, with shape `(B, T, d)`, about the centre.
    """

    comparison: PatchComparison
    shape: tuple[int, ...]
    offsets: list[tuple[int, ...]]
    began: Tensor
    rows: Tensor

    @property
    def landmarks(self) -> Tensor:
        """Which of the rows stand for all of them, spread over the batch and its places, with shape `(m,)`."""
        n = self.rows.shape[0] * self.rows.shape[1]
        m = min(n, LANDMARKS)
        step = torch.arange(m, device=self.rows.device, dtype=torch.float64) * (n / m)
        return step.long()

    def flowed(self, coupling: Coupling, reach: float, substeps: int) -> "Patched":
        """w ← w − λ·Ĝ(w) for every patch, in `substeps`."""
        rows = self.rows
        for _ in range(substeps):
            rows = rows - reach / substeps * self._gradient(rows, coupling)
        return replace(self, rows=rows)

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
        """How far the images have moved, with shape `(B, *shape)`: the mean of what their patches want."""
        size, parts = self.comparison.size, (self.rows - self.began)
        total, covered, first = 0, 0, 0
        for offset in self.offsets:
            here = math.prod(
                (n - o) // p for n, p, o in zip(self.shape[2:], size, offset, strict=True)
            )
            tiles = parts[:, first : first + here]
            total = total + untile(tiles, self.shape, size, offset)
            covered = covered + untile(
                torch.ones_like(tiles[:1]), (1, *self.shape[1:]), size, offset
            )
            first += here
        return total / covered.clamp_min(1)

    def shortened(self, share: Tensor) -> "Patched":
        """With one share of the way for each image, with shape `(B,)`."""
        return replace(self, rows=self.began + share[:, None, None] * (self.rows - self.began))

    def mmd2(self, coupling: Coupling) -> float:
        """The biased MMD² between the landmarks of both sides."""
        comparison, kernel = self.comparison, self.comparison.kernel
        z, own = comparison.rows, self.rows.flatten(0, 1)[self.landmarks]
        grams = Gram.within(own @ own.T), Gram.of(own, z), Gram.within(z @ z.T)
        values = [kernel.values(gram) for gram in grams]
        if coupling.wz is not None:
            image = self.landmarks // self.rows.shape[1]
            whose = (image, image), (image, comparison.owners), (comparison.owners,) * 2
            weights = coupling.ww, coupling.wz, coupling.zz
            values = [v * k[a][:, b] for v, k, (a, b) in zip(values, weights, whose, strict=True)]
        s, p = self._weights(coupling)
        kww, kwz, kzz = values
        return float(p * p * kww.sum() + 2 * p * (kwz @ s).sum() + s @ kzz @ s)
