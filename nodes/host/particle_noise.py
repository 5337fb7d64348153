"""The noise of particles. It does not depend on how many of them are sampled at once."""

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["InitialNoise", "ParticleNoise", "Starts", "uniforms"]

EQUAL = 0.999  # correlation from which two noises count as the same


def _generator(*key: object) -> torch.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class ParticleNoise:
    """The noise that a sampler adds to some particles at its steps.

    Arguments:
        seed: The seed of the run.
        indices: The index of each particle among all particles of the run.
    """

    def __init__(self, seed: int, indices: Iterable[int]) -> None:
        self.generators = [_generator(seed, "steps", index) for index in indices]

    def __call__(self, like: Tensor) -> Tensor:
        """The next standard normal numbers, one row per particle.

        They have the shape, dtype and device of `like`.
        """
        rows = [torch.randn(like.shape[1:], generator=one) for one in self.generators]
        return torch.stack(rows).to(like)


class InitialNoise(Protocol):
    """A NOISE of ComfyUI."""

    seed: int

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """The initial noise for a LATENT, with the shape of its samples."""


class Starts:
    """A NOISE of one batch of a run, with other noise than the batches before.

    A NOISE may ignore `batch_index`. It would then give all batches the same noise. So it makes the
    noise of the whole run at once, of which this batch takes its part.

    Arguments:
        noise: The NOISE of the run.
        first: The number of particles before this batch.
        total: The number of particles of the run, as far as it is known.

    Attributes:
        seed: The seed of the run.
        zero: Whether the noise is 0, so that all particles begin with the same latent.
        alike: The mean correlation between the noise of two particles. It is near 0 for independent
            noise, and higher if a NOISE makes variations of one noise.
    """

    def __init__(self, noise: InitialNoise, first: int, total: int) -> None:
        self.noise, self.first, self.total = noise, first, total
        self.seed, self.zero, self.alike = noise.seed, False, 0.0
        self._made: Tensor | None = None

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """The initial noise of this batch, the same at each call.

        Arguments:
            input_latent: A LATENT with the samples of this batch.

        Raises:
            ValueError: Two particles would begin with the same noise.
        """
        if self._made is None:
            self._made = self._make(input_latent)
        return self._made

    def _make(self, latent: dict[str, Any]) -> Tensor:
        samples, first = latent["samples"], self.first

        def of(start: int, stop: int) -> Tensor:
            rows = samples[:1].expand(stop - start, *samples.shape[1:])
            part = {**latent, "samples": rows, "batch_index": list(range(start, stop))}
            return self.noise.generate_noise(part)

        made = of(first, first + len(samples))
        if first and torch.equal(made, of(0, len(samples))):
            made = of(0, max(self.total, first + len(samples)))[first : first + len(samples)]
        self.zero = not made.any()
        others = correlations(made)
        self.alike = others.mean().item() if len(others) else 0.0
        if not self.zero and (others > EQUAL).any():
            raise ValueError(
                "TRI-TSMC: noise gives several images the same noise, but they have to begin "
                "independently of each other: connect RandomNoise"
            )
        return made


def correlations(noise: Tensor) -> Tensor:
    """The correlation between the noise of each two particles, with shape `(n · (n - 1) / 2,)`.

    Arguments:
        noise: With shape `(n, *)`.
    """
    rows = torch.nn.functional.normalize(noise.flatten(1).float(), dim=1)
    i, j = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    return (rows @ rows.T)[i, j]


def uniforms(seed: int, count: int) -> list[float]:
    """`count` uniform random numbers in [0, 1) for resampling."""
    return torch.rand(count, generator=_generator(seed, "resampling"), dtype=torch.float64).tolist()
