"""What a user sets for a training, checked before anything runs."""

import math
from dataclasses import dataclass

from .lora import TARGETS

__all__ = ["DDMConfig", "DECAYS", "FEATURES", "KEEP"]

FEATURES = ("latent", "pyramid", "unet")
DECAYS = ("linear", "cosine", "constant")
KEEP = ("best", "last")


@dataclass(frozen=True)
class DDMConfig:
    """Settings of a training.

    Arguments:
        batch_size: N, how many samples are drawn for each update and compared with the references, at least 2.
        micro_batch: How many of them the model works on at once.
        iterations: How many updates.
        learning_rate: Of Adam, at the beginning.
        lr_decay: How it falls, one of `DECAYS`.
        rank: r of the adapters.
        alpha: Their α; 0 takes the rank.
        targets: Which layers have one, one of `TARGETS`.
        features: What of the samples is compared, one of `FEATURES`.
        drift_penalty: β, the weight of the squared distance from the estimates of the untrained model.
        grad_last_k: Through how many calls of the model the gradient goes back; 0 goes through all.
        grad_clip: The largest norm of a gradient; 0 sets no limit.
        ema: The decay of the average of the adapters, in [0, 1[; 0 averages nothing.
        validate_every: After how many updates the held-out references are compared with.
        patience: Training ends when the distance from held-out references rose so many times in a row; 0 goes on.
        keep: Which adapters are kept, one of `KEEP`.
        seed: Of everything that is drawn.

    Raises:
        ValueError: An unknown name, or a number that is out of its range.
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

    def __post_init__(self):
        for name, known in (
            ("lr_decay", DECAYS),
            ("targets", tuple(TARGETS)),
            ("features", FEATURES),
            ("keep", KEEP),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(known)}"
                )
        for name, least in (
            ("batch_size", 2), ("micro_batch", 1), ("iterations", 1), ("rank", 1), ("validate_every", 1),
            ("grad_last_k", 0), ("patience", 0), ("drift_penalty", 0), ("grad_clip", 0), ("alpha", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie between 0 and below 1, not {self.ema}")

    def rate(self, iteration: int) -> float:
        """The share of the learning rate for the update `iteration`, from 0 on."""
        done = iteration / self.iterations
        if self.lr_decay == "linear":
            return 1 - done
        return 0.5 * (1 + math.cos(math.pi * done)) if self.lr_decay == "cosine" else 1.0
