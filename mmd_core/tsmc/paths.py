"""Paths of the twisted chain, and their sufficient statistics h and H.

Let ξ = (x' − μ)/s be the noise relative to the base kernel, and let the columns of Φ be the
features φ_k. A path has

    h = Σ_i s_i Φ_iᵀ ξ_i ∈ R^p,   H = Σ_i s_i² Φ_iᵀ Φ_i ∈ R^{p×p},
    log dQ_θ/dP = θᵀh − ½ θᵀHθ

So h and H give the density ratio for every θ, without a difference of two large squares.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .transition import Transition
from .twist import Twist, drift

__all__ = ["Denoise", "Noise", "Paths", "Recording", "Sums", "propose", "replayed"]

Denoise = Callable[[Tensor, int], Tensor]  # (x, step) → x̂0
Noise = Callable[[int], Tensor]  # step → ξ, with the shape of x


@dataclass(frozen=True, eq=False)
class Recording:
    """x̂0 and ξ of all steps with noise, in fp16 on the CPU.

    `replayed` computes h and H of a later twist from them.

    Attributes:
        steps: The indices of these steps.
        x0: x̂0 of each step, with shape `(B, *)`.
        noise: ξ of each step, with shape `(B, *)`.
    """

    steps: tuple[int, ...]
    x0: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]

    @classmethod
    def joined(cls, parts: Sequence["Recording"]) -> "Recording":
        """Joins the recordings of several batches into one."""
        x0 = (torch.cat(each) for each in zip(*(part.x0 for part in parts), strict=True))
        noise = (torch.cat(each) for each in zip(*(part.noise for part in parts), strict=True))
        return cls(parts[0].steps, tuple(x0), tuple(noise))

    def paths(self) -> Iterator["Recording"]:
        """Splits the recording into one recording per path."""
        for i in range(len(self.x0[0])):
            x0, noise = (tuple(each[i : i + 1] for each in part) for part in (self.x0, self.noise))
            yield Recording(self.steps, x0, noise)


@dataclass(frozen=True, eq=False)
class Paths:
    """B paths.

    Attributes:
        z: The last samples of the paths, with shape `(B, *)`.
        h: With shape `(B, p)`, float64 on the CPU.
        H: With shape `(B, p, p)`, float64 on the CPU.
        recording: The recording, if `propose` was called with `record`.
    """

    z: Tensor
    h: Tensor
    H: Tensor
    recording: Recording | None = None


class Sums:
    """Adds up h and H, step by step.

    The terms stay on the device of the samples until `done`, because each copy to the CPU would
    wait for the device.

    Arguments:
        batch: B, the number of paths.
        size: p, the number of parameters.
    """

    def __init__(self, batch: int, size: int) -> None:
        self.h = torch.zeros(batch, size, dtype=torch.float64)
        self.H = torch.zeros(batch, size, size, dtype=torch.float64)
        self._pending: list[tuple[slice, Tensor, Tensor]] = []

    def add(self, which: slice, features: Tensor, noise: Tensor, s: float) -> None:
        """Adds one step: features `(B, q, *)` of the q parameters `which`, and ξ `(B, *)`."""
        # Not a matrix product: its rounding depends on the other paths of the batch.
        rows = features.flatten(2) * s
        h = (rows * noise.flatten(1)[:, None]).sum(2)
        H = (rows[:, :, None] * rows[:, None]).sum(3)
        self._pending.append((which, h, H))

    def done(self) -> tuple[Tensor, Tensor]:
        """h and H, with shapes `(B, p)` and `(B, p, p)`, float64 on the CPU."""
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
    """Draws independent paths from the proposal Q_θ, without resampling.

    Arguments:
        denoise: Maps `(x, step)` to x̂0.
        x: The initial noisy samples, with shape `(B, *)`.
        steps: The transitions of the chain.
        noise: Maps a step to standard normal numbers with the shape of `x`. It is called for each
            step with noise.
        twist: The features of the drift; None draws from the base chain P.
        theta: θ, with shape `(p,)`; needed with a twist.
        record: Whether to keep a `Recording`.
    """
    sums = Sums(len(x), twist.size if twist else 0)
    kept: tuple[list[int], list[Tensor], list[Tensor]] = ([], [], [])
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
    recording: Recording,
    steps: Sequence[Transition],
    twist: Twist,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """h and H of recorded paths, as in `Paths`, under a twist that was found later.

    Arguments:
        device: Where the twist is evaluated; None means the CPU.
    """
    sums = Sums(len(recording.x0[0]), twist.size)
    for i, x0, xi in zip(recording.steps, recording.x0, recording.noise, strict=True):
        which, features = twist(x0.to(device).float(), i)
        sums.add(which, features, xi.to(device).float(), steps[i].noise)
    return sums.done()
