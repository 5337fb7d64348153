"""What is true of a tilted model of digits, and the figures of what a method found on one seed."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from mmd_tests.studies.quality.digits_worlds import digit_data
from mmd_tests.studies.quality.metrics import (
    median_feature_distance,
    shares,
    total_variation,
    vendi_score,
)
from mmd_tests.studies.quality.worlds import generator
from mmd_tests.studies.steering.digits_chain import DigitsChain
from mmd_tests.studies.steering.digits_methods import OUT, Spent, scores_of
from mmd_tests.studies.steering.digits_rewards import WANTED, second_judge
from torch import Tensor

CLASSES = 10


@dataclass(frozen=True, eq=False)
class Truth:
    """Of the tilt that one run of TRI-TSMC fixed, from many unsteered samples.

    Attributes:
        rewards: r of these samples.
        log_z: log Z, and `error` its standard error.
        center, spread: The mean and the standard deviation of r without steering: its unit in all figures.
        mean: E_π[r], in this unit.
        kl: KL(π ‖ P), in nats.
        weights: Of the samples, that make them ones of π.
    """

    rewards: Tensor
    log_z: float
    error: float
    center: float
    spread: float
    mean: float
    kl: float
    weights: Tensor

    def unit(self, reward):
        return (reward - self.center) / self.spread


def truth_of(state, samples: Tensor, rewards: Tensor | None = None) -> Truth:
    """The truth of a run's reward and scale.

    Arguments:
        samples: Unsteered ones.
        rewards: Of these, if they are known.
    """
    from mmd_pack.mmd_core.tsmc import effective, log_mean_exp

    rewards = (scores_of(state, samples) if rewards is None else rewards).double()
    tilt = state.learning.tilt_of(rewards)
    weights, log_z = torch.softmax(tilt, 0), log_mean_exp(tilt)
    error = (1 / effective(tilt) - 1 / len(tilt)) ** 0.5
    center, spread = rewards.mean().item(), rewards.std().item()
    mean = ((weights * rewards).sum().item() - center) / spread
    kl = (weights * tilt).sum().item() - log_z
    return Truth(rewards, log_z, error, center, spread, mean, kl, weights)


@cache
def feature_bandwidth(case) -> float:
    """The median distance of real digits in features of the world's judge."""
    return median_feature_distance(case.features(digit_data()[2]))


def of_samples(chain: DigitsChain, samples: Tensor, rewards: Tensor, truth: Truth, wanted) -> dict:
    """Figures of the samples that a method hands out.

    Arguments:
        wanted: The class that is wanted, or shares of all of them.
    """
    case, cut = chain.case, chain.case.samples(samples)
    likely = second_judge().probabilities(case.pictures(cut))
    found = shares(likely.argmax(1), CLASSES)
    features = case.features(cut).astype(np.float64)
    of_class = isinstance(wanted, int)
    return {
        "reward": truth.unit(rewards.double().mean().item()),
        "best": truth.unit(rewards.max().item()),
        "wanted": float(found[wanted]) if of_class else total_variation(found, wanted),
        "confidence": float(likely.max(1).mean()),
        "vendi": vendi_score(features, feature_bandwidth(case)),
        "distinct": len({row.numpy().tobytes() for row in samples}),
    }


def of_method(chain: DigitsChain, spent: Spent, state, truth: Truth, wanted) -> dict[str, dict]:
    """Figures of each set that a method hands out, with those of its estimates."""
    known = {
        "log Z": spent.log_z - truth.log_z,
        "mean": truth.unit(spent.mean) - truth.mean,
        "ess": spent.ess,
        "reward calls": spent.reward_calls,
        "estimates": spent.estimates,
    }
    return {
        name: {
            **of_samples(chain, given, scores_of(state, given), truth, wanted),
            **known,
            "best": truth.unit(spent.rewards.max().item()),
        }
        for name, given in spent.given.items()
    }


def ideal(
    chain: DigitsChain, truth: Truth, samples: Tensor, seed: int, wanted
) -> tuple[dict, Tensor]:
    """16 samples of π itself, and their figures."""
    rng = generator("tilted", seed)
    index = torch.multinomial(truth.weights, OUT, replacement=True, generator=rng)
    return of_samples(chain, samples[index], truth.rewards[index], truth, wanted), samples[index]


WANTED_BY = {
    "class": WANTED,
    "witness": np.array([{3: 0.5, 8: 0.3, 1: 0.2}.get(c, 0.0) for c in range(CLASSES)]),
}
