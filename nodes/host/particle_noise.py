"""One random generator per particle.

Results therefore do not depend on how many particles are sampled at once.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["ParticleNoise", "uniforms"]


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


def uniforms(seed: int, count: int) -> list[float]:
    """`count` uniform random numbers in [0, 1) for resampling."""
    return torch.rand(count, generator=_generator(seed, "resampling"), dtype=torch.float64).tolist()
