"""What worlds have in common whose model is learned: the model, its judge, one prompt or several."""

from functools import cache

import numpy as np
import torch
from mmd_demo.catalog import WORLDS
from mmd_demo.judge import Judge
from mmd_demo.pixel_vae import PixelVAE
from mmd_demo.vocabulary import word_indices, word_vector
from mmd_tests.studies.quality.metrics import class_band_variance, radial_bands
from mmd_tests.studies.quality.mixture import Dct
from mmd_tests.studies.quality.worlds import Case
from torch import Tensor

FIRST = {  # target of each world
    "digits": "3/8/1",
    "shapes": "blue triangles",
    "corner": "in the corner",
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


def halves(values, captions) -> list:
    """Values `(n,)` of the images of each caption."""
    cut = [round(len(values) * part / len(captions)) for part in range(len(captions) + 1)]
    return [values[a:b] for a, b in zip(cut, cut[1:], strict=False)]


def agreement(labels: np.ndarray, wanted) -> float:
    """The share of images that show what their prompt says."""
    parts = halves(labels, wanted)
    return float(np.mean([(part == c).mean() for part, c in zip(parts, wanted, strict=True)]))


def prompt_extras(captions, found, none, truth, accuracy: float) -> dict[str, float]:
    """Style recovered for each prompt, how far the prompts are from 1 on average, and accuracy."""
    each = [recovered(*values) for values in zip(found, none, truth, strict=True)]
    named = {f"{text} recovered": value for text, value in zip(captions, each, strict=True)}
    gap = float(np.mean([abs(1 - value) for value in each]))
    return {**named, "style gap": gap, "accuracy": accuracy}
