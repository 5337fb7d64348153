"""Paths of the twisted chain, and the few numbers that they are summarised by.

With ξ = (x' − μ)/s, the noise as seen by the base kernel, a path has

    h = Σ_i s_i Φ_iᵀ ξ_i ∈ ℝ^p,   H = Σ_i s_i² Φ_iᵀ Φ_i ∈ ℝ^{p×p},   log dQ_θ/dP = θᵀh − ½ θᵀHθ

for every θ at once, without a difference of large squares.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .chain import Transition
from .twist import Twist, drift

__all__ = ["Paths", "Recording", "Sums", "propose", "replayed"]

Denoise = Callable[[Tensor, int], Tensor]  # (x, step) → x̂0
Noise = Callable[[int], Tensor]  # step → ξ, with the shape of x


@dataclass(frozen=True, eq=False)
class Recording:
    """Estimates and noise of the steps that draw, in fp16 on the CPU: what h and H of a later twist need.

    Attributes:
        steps: Which steps.
        x0: x̂0 of each, with shape `(B, *)`.
        noise: ξ of each.
    """

    steps: tuple[int, ...]
    x0: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]

    @classmethod
    def joined(cls, parts: Sequence["Recording"]) -> "Recording":
        """One recording of several batches."""
        x0 = (torch.cat(each) for each in zip(*(part.x0 for part in parts), strict=True))
        noise = (torch.cat(each) for each in zip(*(part.noise for part in parts), strict=True))
        return cls(parts[0].steps, tuple(x0), tuple(noise))

    def paths(self) -> Iterator["Recording"]:
        """One recording of each path."""
        for i in range(len(self.x0[0])):
            x0, noise = (tuple(each[i : i + 1] for each in part) for part in (self.x0, self.noise))
            yield Recording(self.steps, x0, noise)


@dataclass(frozen=True, eq=False)
class Paths:
    """B paths.

    Attributes:
        z: Their last samples, with shape `(B, *)`.
        h: With shape `(B, p)`, float64 on the CPU.
        H: With shape `(B, p, p)`, float64 on the CPU.
        recording: What was recorded, if it was asked for.
    """

    z: Tensor
    h: Tensor
    H: Tensor
    recording: Recording | None = None


class Sums:
    """h and H of `batch` paths, step by step.

    Numbers stay where the samples are until `done`, so that a GPU need not wait at every step.
    """

    def __init__(self, batch: int, size: int):
        self.h = torch.zeros(batch, size, dtype=torch.float64)
        self.H = torch.zeros(batch, size, size, dtype=torch.float64)
        self._pending: list[tuple[slice, Tensor, Tensor]] = []

    def add(self, which: slice, features: Tensor, noise: Tensor, s: float) -> None:
        """One step: features `(B, q, *)` of the parameters `which`, and ξ `(B, *)`."""
        # Row by row, not by a matrix product: a path's sums must not depend on how many are drawn together.
        rows = features.flatten(2) * s
        h = (rows * noise.flatten(1)[:, None]).sum(2)
        H = (rows[:, :, None] * rows[:, None]).sum(3)
        self._pending.append((which, h, H))

    def done(self) -> tuple[Tensor, Tensor]:
        """h and H."""
        for which, h, H in self._pending:
            self.h[:, which] += h.to("cpu").double()
            self.H[:, which, which] += H.to("cpu").double()
        self._pending.clear()
        return self.h, self.H


def propose(
    denoise: Denoise,
    x: Tensor,
    steps: Sequence[Transition],
    noise: Noise,
    twist: Twist | None = None,
    theta: Tensor | None = None,
    record: bool = False,
) -> Paths:
    """Independent paths drawn from Q_θ, without resampling; without a twist from the base chain.

    Arguments:
        denoise: x̂0 of `(x, step)`.
        x: The noisy samples to begin with, with shape `(B, *)`.
        steps: The chain.
        noise: Standard normal numbers with the shape of `x`, for each step that draws.
        theta: θ, with shape `(p,)`.
        record: Whether to keep a `Recording`.
    """
    sums = Sums(len(x), twist.size if twist else 0)
    kept: tuple[list, list, list] = ([], [], [])
    for i, step in enumerate(steps):
        x0 = denoise(x, i)
        mean = step.mean(x, x0)
        if step.noise == 0:
            x = mean
            continue
        xi = noise(i)
        if twist is not None:
            which, features = twist(x0, i)
            xi = xi + step.noise * drift(theta, which, features)
            sums.add(which, features, xi, step.noise)
        if record:
            for into, value in zip(kept, (i, _small(x0), _small(xi)), strict=True):
                into.append(value)
        x = mean + step.noise * xi
    recording = Recording(*map(tuple, kept)) if record else None
    return Paths(x, *sums.done(), recording)


def _small(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float16)


def replayed(
    recording: Recording, steps: Sequence[Transition], twist: Twist, device=None
) -> tuple[Tensor, Tensor]:
    """h and H of a twist that was not known yet when the paths were drawn."""
    sums = Sums(len(recording.x0[0]), twist.size)
    for i, x0, xi in zip(recording.steps, recording.x0, recording.noise, strict=True):
        which, features = twist(x0.to(device).float(), i)
        sums.add(which, features, xi.to(device).float(), steps[i].noise)
    return sums.done()
