"""Worlds whose model is learned: digits and shapes, without a prompt and with one for each image."""

from functools import cache, cached_property, partial

import numpy as np
import torch
from mmd_demo.catalog import WORLDS
from mmd_demo.digits import CLASSES, digits_split
from mmd_demo.drawing import HUES, KINDS, draw
from mmd_demo.judge import Judge, hue_shares, kind_shares
from mmd_demo.pixel_vae import PixelVAE
from mmd_demo.vocabulary import word_indices, word_vector
from torch import Tensor

from .metrics import class_band_variance, radial_bands, shares, total_variation
from .mixture import Dct, exact_counts
from .worlds import Case, generator

MOST_REFERENCES = 100  # of digits
FIRST = {  # target of each world
    "digits": "3/8/1",
    "shapes": "blue triangles",
    "prompt-digits": "bold 3s, thin 8s",
    "prompt-shapes": "blue triangles, red discs",
}


@cache
def model_of(name: str):
    """The MODEL of a demo world."""
    from mmd_demo.worlds import load_model

    return load_model(WORLDS[name])


@cache
def judge_of(name: str) -> Judge:
    return Judge(name)


class LearnedCase(Case):
    """Samples are pictures as latents `(n, C, side, side)`, cut to [-1, 1] as a decoder does.

    Attributes:
        demo: The name of the demo world.
        edges: The radii that part the frequency bands.
    """

    demo: str
    edges: tuple[float, float]

    def __init__(self, world: str, target: str):
        self.world, self.target, self.drawn_as = world, target, FIRST[world]
        kind = WORLDS[self.demo]
        self.shape = (kind.channels, kind.side, kind.side)
        self.dct, self.bands = Dct(kind.side), radial_bands(kind.side, self.edges)

    @property
    def model(self):
        return model_of(self.demo)

    @property
    def judge(self) -> Judge:
        return judge_of(self.demo)

    def pictures(self, samples: Tensor) -> Tensor:
        """As ComfyUI's pictures `(n, h, w, 3)`."""
        return PixelVAE(WORLDS[self.demo]).decode(samples)

    def samples(self, latents: Tensor) -> Tensor:
        return latents.float().clamp(-1, 1)

    def latents(self, samples: Tensor) -> Tensor:
        return samples

    def features_of_caption(self, text: str) -> Tensor:
        """The word vector `(E,)` of a caption."""
        world = WORLDS[self.demo]
        return word_vector(world, word_indices(world, text))

    def prompts(self, batch: int):
        vectors = [self.features_of_caption(text) for text in self.captions or ("",)]
        rows = [vectors[part] for part in self.parts(batch)] or vectors
        positive, nothing = torch.stack(rows), self.features_of_caption("")[None]
        return [[[words[:, None], {"pooled_output": words}]] for words in (positive, nothing)]

    def make_references(self, samples: Tensor, parts: list[int] | None = None):
        from mmd_pack.mmd_core import References

        if not self.captions:
            return References(self.latents(samples))
        features = torch.stack([self.features_of_caption(text) for text in self.captions])
        captions = tuple(self.captions[part] for part in parts)
        return References(self.latents(samples), prompts=features[parts], captions=captions)

    def probabilities(self, samples: Tensor) -> np.ndarray:
        return self.judge.probabilities(self.pictures(samples))

    def labels(self, samples: Tensor) -> np.ndarray:
        return self.probabilities(samples).argmax(1)

    def features(self, samples: Tensor) -> np.ndarray:
        return self.judge.features(self.pictures(samples))

    def fidelity(self, samples: Tensor) -> float:
        return float(self.probabilities(samples).max(1).mean())

    def variances(self, samples: Tensor, held_out: Tensor) -> dict[str, float]:
        own, true = self.labels(samples), self.labels(held_out)
        x, y = self.dct(samples), self.dct(held_out)
        values = class_band_variance(x, own, y, true, self.bands)
        return dict(zip(("var low", "var mid", "var high"), values, strict=True))


def recovered(found: float, none: float, truth: float) -> float:
    """The share of the way from what is drawn without guidance to the truth; 1 is right."""
    return (found - none) / (truth - none)


# --- digits ---------------------------------------------------------------------------------------


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
            return [part.mean().item() for part in _halves(ink(pictures), self.captions)]

        accuracy = _agreement(self.labels(samples), self.weights)
        found, none = inks(samples), inks(truth.unguided)
        return prompt_extras(self.captions, found, none, self.style_inks, accuracy)


def _halves(values, captions) -> list:
    """Values `(n,)` of the images of each caption."""
    cut = [round(len(values) * part / len(captions)) for part in range(len(captions) + 1)]
    return [values[a:b] for a, b in zip(cut, cut[1:], strict=False)]


def _agreement(labels: np.ndarray, wanted) -> float:
    """The share of images that show what their prompt says."""
    parts = _halves(labels, wanted)
    return float(np.mean([(part == c).mean() for part, c in zip(parts, wanted, strict=True)]))


def prompt_extras(captions, found, none, truth, accuracy: float) -> dict[str, float]:
    """Style recovered for each prompt, how far the prompts are from 1 on average, and accuracy."""
    each = [recovered(*values) for values in zip(found, none, truth, strict=True)]
    named = {f"{text} recovered": value for text, value in zip(captions, each, strict=True)}
    gap = float(np.mean([abs(1 - value) for value in each]))
    return {**named, "style gap": gap, "accuracy": accuracy}


# --- shapes ---------------------------------------------------------------------------------------

TRIANGLE, DISC, RED, BLUE = 2, 0, 0, 4
WIDE = (0.27, 0.3)  # of the radius, what an outline may be at most


def draw_shapes(kind: Tensor, hue: Tensor, rng, outline=None) -> Tensor:
    """Pictures `(n, 3, 32, 32)` of kinds and hue words `(n,)`, within half a word of each hue."""
    hue = (hue + torch.rand(len(hue), generator=rng) - 0.5) % len(HUES)
    return draw(kind, hue, rng, outline=outline)


def outline_share(samples: Tensor) -> Tensor:
    """The dark part `(n,)` of the area of each shape, 0 without an outline; NaN on dark grounds.

    Dark is below .25 in every channel (ink is below .1), colored is where channels differ by .3. On
    a ground that is hardly lighter than ink an outline cannot be told from it.
    """
    colors = samples / 2 + 0.5
    brightest, faintest = colors.amax(1), colors.amin(1)
    dark = (brightest < 0.25).flatten(1).sum(1)
    colored = (brightest - faintest > 0.3).flatten(1).sum(1)
    edge = torch.ones(samples.shape[-2:], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    ground = brightest[:, edge].median(1)[0]
    share = dark / (dark + colored).clamp_min(1)
    return share.masked_fill(ground < 0.35, torch.nan)


class ShapesCase(LearnedCase):
    """Drawn shapes; the truth is the drawing itself.

    Arguments:
        kinds, hues: The target's shares.
        outline: The range of its outlines, as a share of the radius, or None for all kinds of them.
    """

    demo = "shapes"
    batch, steps = 32, 25
    edges = (4.0, 12.0)
    references_count, held_out_count = 64, 256

    def __init__(self, target: str, kinds, hues, outline=None, world: str = "shapes"):
        super().__init__(world, target)
        self.kinds, self.hues = torch.tensor(kinds), torch.tensor(hues)
        self.outline = outline

    @cached_property
    def truth(self) -> np.ndarray:
        """Shares `(18,)` of kind * 6 + hue."""
        return (self.kinds[:, None] * self.hues).flatten().numpy()

    def draw(self, n: int, rng) -> Tensor:
        """n samples of the target, kinds and hues in exact proportion."""
        counts = torch.tensor(exact_counts(self.truth, n))
        label = torch.repeat_interleave(torch.arange(len(counts)), counts)
        label = label[torch.randperm(n, generator=rng)]
        return draw_shapes(label // len(HUES), label % len(HUES), rng, self.outline)

    def _draw(self, n: int, *keys) -> Tensor:
        return self.draw(n, generator(self.world, self.target, *keys)).clamp(-1, 1)

    def draw_references(self, seed: int, n: int | None = None):
        n = n or self.references_count
        return self.make_references(self._draw(n, "references", seed), self.parts(n))

    def held_out(self, seed: int) -> Tensor:
        return self._draw(self.held_out_count, "held-out", seed)

    def fresh(self, n: int, seed: int) -> Tensor:
        return self._draw(n, "fresh", seed)

    def proportions(self, samples: Tensor) -> dict[str, float]:
        found, truth = shares(self.labels(samples), len(self.truth)), self.truth
        pairs = {"TV": (found, truth)}
        for name, of in (("hue TV", hue_shares), ("kind TV", kind_shares)):
            pairs[name] = of(found), of(truth)
        return {name: total_variation(*pair) for name, pair in pairs.items()}

    def extras(self, samples: Tensor, truth) -> dict[str, float]:
        contrast, wanted = (s.flatten(1).std(1).mean().item() for s in (samples, truth.references))
        found = {"contrast": contrast / wanted}
        if self.outline:
            outlines = [
                outline_share(s).nanmean().item() for s in (samples, truth.unguided, truth.held_out)
            ]
            found |= {"outline": outlines[0], "style recovered": recovered(*outlines)}
        return found


class PromptShapesCase(ShapesCase):
    """Triangles whose references are blue, discs whose references are red."""

    captions = ("triangle", "disc")
    prompt_kernel = "cosine"
    wanted = ((TRIANGLE, BLUE), (DISC, RED))  # kind, hue of each caption

    def __init__(self):
        kinds, hues = (0.5, 0.0, 0.5), (0.5, 0.0, 0.0, 0.0, 0.5, 0.0)
        super().__init__(FIRST["prompt-shapes"], kinds, hues, world="prompt-shapes")

    @cached_property
    def truth(self) -> np.ndarray:
        truth = np.zeros(len(KINDS) * len(HUES))
        for kind, hue in self.wanted:
            truth[kind * len(HUES) + hue] = 0.5
        return truth

    def draw(self, n: int, rng) -> Tensor:
        wanted = torch.tensor(self.wanted)[self.parts(n)]
        return draw_shapes(wanted[:, 0], wanted[:, 1], rng)

    def extras(self, samples: Tensor, truth) -> dict[str, float]:
        def hues(pictures: Tensor) -> list[float]:
            parts = _halves(self.labels(pictures) % len(HUES), self.captions)
            return [
                float((part == hue).mean())
                for part, (_, hue) in zip(parts, self.wanted, strict=True)
            ]

        kinds = self.labels(samples) // len(HUES)
        contrast = super().extras(samples, truth)
        return contrast | prompt_extras(
            self.captions,
            *(hues(s) for s in (samples, truth.unguided, truth.held_out)),
            _agreement(kinds, [kind for kind, _ in self.wanted]),
        )


def _one(n: int, *chosen: int) -> list[float]:
    return [float(i in chosen) for i in range(n)]


EQUAL_KINDS, EQUAL_HUES = [1 / 3] * 3, [1 / 6] * 6
LEARNED = {
    "digits": {
        target: partial(DigitsCase, target, *arguments)
        for target, *arguments in (
            ("3/8/1", {3: 0.5, 8: 0.3, 1: 0.2}),
            ("only 5", {5: 1.0}),
            ("0/7", {0: 0.9, 7: 0.1}),
            ("bold", {c: 0.1 for c in range(CLASSES)}, bold),
        )
    },
    "shapes": {
        target: partial(ShapesCase, target, *arguments)
        for target, *arguments in (
            ("blue triangles", _one(3, TRIANGLE), _one(6, BLUE)),
            ("red triangles and discs", [0.3, 0.0, 0.7], _one(6, RED)),
            ("wide outlines", EQUAL_KINDS, EQUAL_HUES, WIDE),
        )
    },
    "prompt-digits": {FIRST["prompt-digits"]: PromptDigitsCase},
    "prompt-shapes": {FIRST["prompt-shapes"]: PromptShapesCase},
}
