"""Colored shapes: without a prompt, and with one for each image."""

from functools import cached_property, partial

import numpy as np
import torch
from mmd_demo.drawing import HUES, KINDS, draw
from mmd_demo.judge import hue_shares, kind_shares
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

TRIANGLE, DISC, RED, BLUE = 2, 0, 0, 4
WIDE = (0.27, 0.3)  # of the radius, what an outline may be at most
ANYWHERE, CORNER = (-1.0, 1.0), (-1.0, -0.7)  # places, from left (top) to right (bottom)


def draw_shapes(kind: Tensor, hue: Tensor, rng, outline=None, place=ANYWHERE) -> Tensor:
    """Pictures `(n, 3, 32, 32)` of kinds and hue words `(n,)`, within half a word of each hue."""
    hue = (hue + torch.rand(len(hue), generator=rng) - 0.5) % len(HUES)
    return draw(kind, hue, rng, outline=outline, place=place)


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


def places(samples: Tensor) -> Tensor:
    """Where shapes are, `(n, 2)` from left and top, −1, to right and bottom, 1; NaN without a shape.

    As `draw` means it: the middle of what is not ground, by the room that a shape of that size has.
    """
    edge = torch.ones(samples.shape[-2:], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    ground = samples[:, :, edge].median(2)[0][:, :, None, None]
    shape = (samples - ground).abs().amax(1) > 0.4
    found = []
    for line in (shape.any(1), shape.any(2)):  # (n, side)
        n = line.shape[1]
        axis = torch.arange(n)
        first = torch.where(line, axis, n).amin(1)
        last = torch.where(line, axis, -1).amax(1)
        room = (n - 2 - (last - first + 1)) / 2  # a pixel is left at the edge
        place = ((first + last + 1 - n) / 2 / room.clamp_min(0.5)).clamp(-1, 1)
        found.append(torch.where(last < 0, torch.nan, place))
    return torch.stack(found, 1)


class ShapesCase(LearnedCase):
    """Drawn shapes; the truth is the drawing itself.

    Arguments:
        kinds, hues: The target's shares.
        outline: The range of its outlines, as a share of the radius, or None for all kinds of them.
    """

    demo = "shapes"
    batch, steps, place = 32, 25, ANYWHERE
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
        return draw_shapes(label // len(HUES), label % len(HUES), rng, self.outline, self.place)

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
            parts = halves(self.labels(pictures) % len(HUES), self.captions)
            return [
                float((part == hue).mean())
                for part, (_, hue) in zip(parts, self.wanted, strict=True)
            ]

        kinds = self.labels(samples) // len(HUES)
        contrast = super().extras(samples, truth)
        return contrast | prompt_extras(
            self.captions,
            *(hues(s) for s in (samples, truth.unguided, truth.held_out)),
            agreement(kinds, [kind for kind, _ in self.wanted]),
        )


class CornerCase(ShapesCase):
    """Red and blue shapes with wide outlines, all in one corner: is layout copied along with the style?"""

    place = CORNER

    def __init__(self):
        hues = [0.5 * (hue in (RED, BLUE)) for hue in range(len(HUES))]
        super().__init__("in the corner", EQUAL_KINDS, hues, WIDE, "corner")

    def extras(self, samples: Tensor, truth) -> dict[str, float]:
        found, own = (x[x.isfinite().all(1)] for x in map(places, (samples, truth.unguided)))
        layout = {
            "in the corner": (found < 0).all(1).double().mean().item(),
            "layout spread": (found.std(0) / own.std(0)).mean().item(),
        }
        return super().extras(samples, truth) | layout


def _one(n: int, *chosen: int) -> list[float]:
    return [float(i in chosen) for i in range(n)]


EQUAL_KINDS, EQUAL_HUES = [1 / 3] * 3, [1 / 6] * 6
SHAPES = {
    target: partial(ShapesCase, target, *arguments)
    for target, *arguments in (
        ("blue triangles", _one(3, TRIANGLE), _one(6, BLUE)),
        ("red triangles and discs", [0.3, 0.0, 0.7], _one(6, RED)),
        ("wide outlines", EQUAL_KINDS, EQUAL_HUES, WIDE),
    )
}
CORNER_SHAPES = {"in the corner": CornerCase}
PROMPT_SHAPES = {FIRST["prompt-shapes"]: PromptShapesCase}
