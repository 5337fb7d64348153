"""Rewards on digits, and a judge that is neither of them."""

from functools import cache, cached_property

import numpy as np
import torch
from mmd_demo.catalog import WORLDS
from mmd_demo.digits import digits_split
from mmd_demo.judge import Judge
from mmd_demo.pixel_vae import PixelVAE
from mmd_tests.studies.quality.worlds import get_case
from torch import Tensor

WANTED = 5


class ClassReward:
    """The log-probability of one class by a classifier of pictures: a black box, known by its scores only."""

    name, space, fixed, gradient = f"log-probability of {WANTED}", "image", True, None

    @cached_property
    def vae(self):
        return PixelVAE(WORLDS["digits"])

    @cached_property
    def judge(self) -> Judge:
        return Judge("digits")

    def for_model(self, latent_format, device) -> "ClassReward":
        return self

    def fixed_by(self, batch: Tensor) -> tuple[Tensor, "ClassReward"]:
        return self.value(batch), self

    @torch.no_grad()
    def value(self, batch: Tensor) -> Tensor:
        grey = batch[..., :3].mean(3)[:, None] * 2 - 1
        return self.judge.network(grey).log_softmax(1)[:, WANTED]


def reference_reward(seed: int):
    """The witness of 100 references, half of them 3, 30 % 8 and 20 % 1; base unconnected."""
    from mmd_pack.nodes.tsmc.reward_reference import TSMCRewardReference

    references = get_case("digits", "3/8/1").draw_references(seed)
    return TSMCRewardReference.execute(references)[0]


class SecondJudge:
    """A support vector machine, learned from the digits that the other judge learned from too, but of another kind.

    No reward is taken from it, so it cannot be pleased by what only pleases the reward.
    """

    def __init__(self):
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.svm import SVC

        pictures, labels, held_out, held_out_labels = digits_split()
        self.machine = CalibratedClassifierCV(SVC(C=10.0), ensemble=False)  # draws nothing
        self.machine.fit(self.rows(pictures), labels.numpy())
        self.accuracy = self.machine.score(self.rows(held_out), held_out_labels.numpy())

    @staticmethod
    def rows(pictures: Tensor) -> np.ndarray:
        return pictures[..., 0].flatten(1).numpy().astype(np.float64)

    def probabilities(self, pictures: Tensor) -> np.ndarray:
        """Of pictures `(n, 8, 8, 3)` in [0, 1], with shape `(n, 10)`."""
        return self.machine.predict_proba(self.rows(pictures))


@cache
def second_judge() -> SecondJudge:
    return SecondJudge()
