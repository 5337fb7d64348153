"""Handwritten digits: without a prompt, and with one for each image."""

from functools import cache, cached_property, partial

import numpy as np
import torch
from mmd_demo.catalog import WORLDS
from mmd_demo.digits import CLASSES, digits_split
from mmd_demo.pixel_vae import PixelVAE
from mmd_tests.studies.quality.learned_world import (
    FIRST,
    LearnedCase,
    agreement,
    halves,
    prompt_extras,
    recovered,
)
from mmd_tests.studies.quality.metrics import shares, total_variation
from mmd_tests.studies.quality.mixture import exact_counts
from mmd_tests.studies.quality.worlds import generator
from torch import Tensor

MOST_REFERENCES = 100


def ink(pictures: Tensor) -> Tensor:
    """The mean brightness `(n,)` in [0, 1] of pictures `(n, *)` in [-1, 1]."""
    return pictures.flatten(1).mean(1) / 2 + 0.5


@cache
def digit_data():
    """Latents `(1000, 1, 8, 8)` that were trained on and `(797, …)` that were not, with labels."""
    trained, trained_labels, others, labels = digits_split()
    encode = PixelVAE(WORLDS["digits"]).encode
    return encode(trained), trained_labels, encode(others), labels


@cache
def ink_limits(share: float) -> Tensor:
    """The ink `(10,)` that this share of all digits of a class stays below."""
    x, x_labels, y, y_labels = digit_data()
    both, labels = ink(torch.cat([x, y])), torch.cat([x_labels, y_labels])
    return torch.stack([both[labels == c].quantile(share) for c in range(CLASSES)])


def bold(samples: Tensor, labels: Tensor) -> Tensor:
    """Whether each `(n,)` has an ink among the upper 40 % of its class."""
    return ink(samples) >= ink_limits(0.6)[labels]


def thin(samples: Tensor, labels: Tensor) -> Tensor:
    """Whether each `(n,)` has an ink among the lower 40 % of its class."""
    return ink(samples) <= ink_limits(0.4)[labels]


def split_pools(pools: dict, weights: dict, most: int, rng) -> tuple[dict, dict]:
    """References and held-out indices by class, in exact proportion and disjoint.

    `most` references if there are as many and a fifth of each class is left over; else one half of
    what there is.

    Arguments:
        pools: Class → indices `(m,)` to choose from.
        weights: Class → share of the target.
    """
    whole = int(min(len(pools[c]) / w for c, w in weights.items()))
    n = most if whole >= 1.25 * most else whole // 2
    counts = dict(zip(weights, exact_counts(weights.values(), n), strict=True))
    shuffled = {c: pools[c][torch.randperm(len(pools[c]), generator=rng)] for c in weights}
    left = min((len(pools[c]) - counts[c]) / w for c, w in weights.items())
    kept = dict(zip(weights, exact_counts(weights.values(), int(left)), strict=True))
    references = {c: shuffled[c][: counts[c]] for c in weights}
    return references, {c: shuffled[c][counts[c] : counts[c] + kept[c]] for c in weights}


class DigitsCase(LearnedCase):
    """Real digits: references and held-out ones were not trained on, fresh ones were.

    Arguments:
        weights: Class → its share.
        style: Which pictures of a class belong to the target, `bold`, `thin` or all.
    """

    demo = "digits"
    batch, steps = 128, 40
    edges = (2.0, 4.0)

    def __init__(self, target: str, weights: dict[int, float], style=None, world: str = "digits"):
        super().__init__(world, target)
        self.weights, self.style = weights, style

    @cached_property
    def truth(self) -> np.ndarray:
        return np.array([self.weights.get(c, 0.0) for c in range(CLASSES)])

    def style_of(self, digit: int):
        return self.style

    def pools(self, pictures: Tensor, labels: Tensor) -> dict[int, Tensor]:
        """Class → indices of the pictures that belong to the target."""
        pools = {}
        for c in self.weights:
            belongs = labels == c
            if self.style_of(c):
                belongs = belongs & self.style_of(c)(pictures, labels)
            pools[c] = torch.where(belongs)[0]
        return pools

    @cache  # noqa: B019 (cases live as long as the process)
    def split(self, seed: int) -> tuple[dict, dict]:
        _, _, pictures, labels = digit_data()
        rng = generator("digits", self.target, seed)
        return split_pools(self.pools(pictures, labels), self.weights, MOST_REFERENCES, rng)

    def draw_references(self, seed: int, n: int | None = None):
        chosen, _ = self.split(seed)
        parts = [part for part, c in enumerate(chosen) for _ in chosen[c]]
        return self.make_references(digit_data()[2][torch.cat([*chosen.values()])], parts)

    def held_out(self, seed: int) -> Tensor:
        return digit_data()[2][torch.cat([*self.split(seed)[1].values()])]

    def fresh(self, n: int, seed: int) -> Tensor:
        pictures, labels, _, _ = digit_data()
        pools, rng = self.pools(pictures, labels), generator("digits", self.target, "fresh", seed)
        n = min(n, *(int(len(pools[c]) / w) for c, w in self.weights.items()))
        counts = exact_counts(self.weights.values(), n)
        chosen = [
            pools[c][torch.randperm(len(pools[c]), generator=rng)[:k]]
            for c, k in zip(self.weights, counts, strict=True)
        ]
        return pictures[torch.cat(chosen)]

    def proportions(self, samples: Tensor) -> dict[str, float]:
        labels = torch.as_tensor(self.labels(samples))
        found = {"TV": total_variation(shares(labels, CLASSES), self.truth)}
        if self.style and not self.captions:
            belongs = self.style(samples, labels).float().mean().item()
            found["style TV"] = 1 - belongs
        return found

    def extras(self, samples: Tensor, truth) -> dict[str, float]:
        if not self.style:
            return {}
        inks = (ink(s).mean().item() for s in (samples, truth.unguided, truth.held_out))
        return {"style recovered": recovered(*inks)}


class PromptDigitsCase(DigitsCase):
    """Half of the batch is prompted for one digit, half for another, with a style for each.

    There are under 30 pictures of each style that were not trained on. Four in five of them are the
    references of a seed; held-out and fresh ones are halves of those that were trained on.
    """

    captions = ("three", "eight")
    prompt_kernel = "cosine"
    most = 30  # references of each style

    def __init__(self):
        weights = {3: 0.5, 8: 0.5}
        super().__init__(FIRST["prompt-digits"], weights, "by prompt", world="prompt-digits")

    def style_of(self, digit: int):
        return bold if digit == 3 else thin

    def _chosen(self, pictures: Tensor, labels: Tensor, *keys) -> list[Tensor]:
        """All pictures of each style, equally many, in random order."""
        pools, rng = self.pools(pictures, labels), generator("prompt-digits", *keys)
        n = min(map(len, pools.values()))
        return [
            pictures[pool[torch.randperm(len(pool), generator=rng)[:n]]] for pool in pools.values()
        ]

    def draw_references(self, seed: int, n: int | None = None):
        chosen = self._chosen(*digit_data()[2:], "references", seed)
        each = min(self.most, len(chosen[0]) * 4 // 5)
        parts = [part for part in range(len(chosen)) for _ in range(each)]
        return self.make_references(torch.cat([pool[:each] for pool in chosen]), parts)

    def held_out(self, seed: int) -> Tensor:
        chosen = self._chosen(*digit_data()[:2], "truth", seed)
        return torch.cat([pool[: len(pool) // 2] for pool in chosen])

    def fresh(self, n: int, seed: int) -> Tensor:
        chosen = self._chosen(*digit_data()[:2], "truth", seed)
        return torch.cat([pool[len(pool) // 2 :][: n // 2] for pool in chosen])

    @cached_property
    def style_inks(self) -> list[float]:
        """The mean ink of each style, of all pictures there are."""
        x, x_labels, y, y_labels = digit_data()
        both, labels = torch.cat([x, y]), torch.cat([x_labels, y_labels])
        return [ink(both[pool]).mean().item() for pool in self.pools(both, labels).values()]

    def extras(self, samples: Tensor, truth) -> dict[str, float]:
        def inks(pictures: Tensor) -> list[float]:
            return [part.mean().item() for part in halves(ink(pictures), self.captions)]

        accuracy = agreement(self.labels(samples), self.weights)
        found, none = inks(samples), inks(truth.unguided)
        return prompt_extras(self.captions, found, none, self.style_inks, accuracy)


DIGITS = {
    target: partial(DigitsCase, target, *arguments)
    for target, *arguments in (
        ("3/8/1", {3: 0.5, 8: 0.3, 1: 0.2}),
        ("only 5", {5: 1.0}),
        ("0/7", {0: 0.9, 7: 0.1}),
        ("bold", {c: 0.1 for c in range(CLASSES)}, bold),
    )
}
PROMPT_DIGITS = {FIRST["prompt-digits"]: PromptDigitsCase}
