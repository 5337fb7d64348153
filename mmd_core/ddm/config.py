"""The settings of a training, which are checked when they are created."""

import math
from dataclasses import dataclass

from ..kernels.quoted import quoted
from .lora import TARGETS

__all__ = ["DDMConfig", "DECAYS", "FEATURES", "KEEP"]

FEATURES = ("latent", "pyramid", "unet")
DECAYS = ("linear", "cosine", "constant")
KEEP = ("best", "last")


@dataclass(frozen=True)
class DDMConfig:
    """The settings of a training.

    Arguments:
        batch_size: N, the number of samples that are drawn for each update, at least 2.
        micro_batch: The number of samples in one call of the model.
        iterations: The number of updates.
        learning_rate: The initial learning rate of Adam.
        lr_decay: How the learning rate falls, one of `DECAYS`.
        rank: r, the rank of the LoRA adapters.
        alpha: α of the adapters; 0 means α = r.
        targets: Which layers get an adapter, one of `TARGETS`.
        features: Which features of the samples the MMD compares, one of `FEATURES`.
        drift_penalty: β, the weight of the mean squared distance from the estimates of the
            untrained model.
        grad_last_k: The gradient passes only through this number of last calls of the model; 0
            means all.
        grad_clip: The largest norm of the gradient; 0 means no limit.
        ema: The decay of the exponential moving average of the adapters, in [0, 1[; 0 means no
            average.
        validate_every: The number of updates between two comparisons with the held-out references.
        patience: With `keep` = `best`, training ends when the distance from the held-out references
            rose this many times in a row; 0 means never.
        keep: Which adapters are kept, one of `KEEP`.
        seed: The seed of all random numbers.

    Raises:
        ValueError: A name is unknown, or a number is out of range.
    """

    batch_size: int = 32
    micro_batch: int = 2
    iterations: int = 300
    learning_rate: float = 1e-4
    lr_decay: str = "linear"
    rank: int = 8
    alpha: float = 0.0
    targets: str = "all"
    features: str = "latent"
    drift_penalty: float = 0.0
    grad_last_k: int = 0
    grad_clip: float = 0.5
    ema: float = 0.95
    validate_every: int = 25
    patience: int = 5
    keep: str = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("lr_decay", DECAYS),
            ("targets", tuple(TARGETS)),
            ("features", FEATURES),
            ("keep", KEEP),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"unknown {name} {quoted(value)}: choose one of {', '.join(known)}"
                )
        for name, least in (
            ("batch_size", 2), ("micro_batch", 1), ("iterations", 1), ("rank", 1),
            ("validate_every", 1), ("grad_last_k", 0), ("patience", 0), ("drift_penalty", 0),
            ("grad_clip", 0), ("alpha", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, not {self.ema}")

    def rate(self, iteration: int) -> float:
        """The factor of the learning rate in the update `iteration`, which counts from 0."""
        done = iteration / self.iterations
        if self.lr_decay == "linear":
            return 1 - done
        return 0.5 * (1 + math.cos(math.pi * done)) if self.lr_decay == "cosine" else 1.0
