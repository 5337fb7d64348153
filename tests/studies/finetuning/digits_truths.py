"""What drawn digits are compared with: real ones that nobody has seen, and what the model draws with 50 steps."""

from functools import cached_property

import numpy as np
import torch
from mmd_tests.studies.quality.digits_worlds import CLASSES, DigitsCase
from mmd_tests.studies.quality.evaluate import Truth, evaluate
from mmd_tests.studies.quality.methods import Drawn
from mmd_tests.studies.quality.metrics import shares
from mmd_tests.studies.quality.worlds import get_case

EVEN = {c: 1 / CLASSES for c in range(CLASSES)}
LATER = 50  # added to a training's seed: that of the 50-step images it is compared with


class OwnDigits(DigitsCase):
    """What the model itself draws with many steps.

    Arguments:
        given: References, that nearest distances are measured to.
        others: Other `References`, which samples are compared with.
    """

    def __init__(self, given, others):
        super().__init__("50 steps", EVEN)
        self.given, self.others = given, self.samples(others.latents)

    @cached_property
    def truth(self) -> np.ndarray:
        return shares(self.labels(self.others), CLASSES)

    def draw_references(self, seed: int, n: int | None = None):
        return self.given

    def held_out(self, seed: int):
        return self.others


def real_digits(seed: int) -> Truth:
    """600 real digits of all classes, from the half that the model was not learned from."""
    return Truth(DigitsCase("all", EVEN), seed)


def own_digits(graph, seed: int, given, positive=None, sampler: str = "euler") -> Truth:
    """As many images of 50 steps as the references that were trained on, by another seed."""
    others = graph.references(seed + LATER, positive, sampler, len(given))
    return Truth(OwnDigits(given, others), seed)


def few_classes(seed: int) -> Truth:
    """Real 3s, 8s and 1s, in the proportions 5, 3 and 2: 100 references, and others that are held out."""
    return Truth(get_case("digits", "3/8/1"), seed)


def judged(truth: Truth, drawn: Drawn, prompted: bool = False) -> dict[str, float]:
    """All figures of the benchmark; with ten prompts in turn also how many images show theirs."""
    figures = evaluate(truth, drawn)
    if prompted:
        wanted = np.arange(len(drawn.samples)) % CLASSES
        figures["agreement"] = float((truth.case.labels(drawn.samples) == wanted).mean())
    return figures


def ideal(truth: Truth) -> Drawn:
    """Real digits of the same kind, which the model was learned from."""
    return Drawn(truth.case.fresh(520, truth.seed))


def real_of(truth: Truth, count: int = 20) -> torch.Tensor:
    """Some real digits, for the picture."""
    mixed = torch.randperm(len(truth.references), generator=torch.Generator().manual_seed(0))
    return truth.references[mixed[:count]].clone()
