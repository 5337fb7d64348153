"""Judges pictures of a demo world with a classifier that no sampler ever saw."""

import numpy as np
import torch

from .catalog import NUMBERS, WORLDS, load_weights
from .classifier import digits_classifier, shapes_classifier
from .drawing import HUES, KINDS


class Judge:
    """Class probabilities and features of pictures (B, H, W, 3) in [0, 1]."""

    def __init__(self, name: str):
        self.world = WORLDS[name]
        if name == "shapes":
            network = shapes_classifier()
            self.class_names = tuple(f"{hue} {kind}" for kind in KINDS for hue in HUES)
        else:
            network = digits_classifier()
            self.class_names = NUMBERS
        self.network = load_weights(network, f"{name}_judge")

    def _latents(self, images) -> torch.Tensor:
        pictures = torch.as_tensor(images, dtype=torch.float32).cpu()[..., :3].movedim(-1, 1)
        if self.world.channels == 1:
            pictures = pictures.mean(1, keepdim=True)
        return pictures * 2 - 1

    @torch.no_grad()
    def probabilities(self, images) -> np.ndarray:
        """Class probabilities (B, classes)."""
        return self.network(self._latents(images)).softmax(1).numpy()

    @torch.no_grad()
    def features(self, images) -> np.ndarray:
        """Feature vectors (B, 64)."""
        return self.network.features(self._latents(images)).numpy()

    def confidence(self, images) -> float:
        """Mean probability of the likeliest class: how clear the pictures are."""
        return float(self.probabilities(images).max(1).mean())

    def proportions(self, images) -> np.ndarray:
        """Share of each class (classes,) among the pictures, each counted as its likeliest."""
        chosen = self.probabilities(images).argmax(1)
        return np.bincount(chosen, minlength=len(self.class_names)) / len(chosen)


def kind_shares(proportions: np.ndarray) -> np.ndarray:
    """Shares of disc, square, triangle (3,) from the eighteen proportions of *shapes*."""
    return proportions.reshape(len(KINDS), len(HUES)).sum(1)


def hue_shares(proportions: np.ndarray) -> np.ndarray:
    """Shares of red, yellow, green, cyan, blue, magenta (6,) from the eighteen proportions."""
    return proportions.reshape(len(KINDS), len(HUES)).sum(0)


def total_variation(p, q) -> float:
    """Half of the absolute difference between two lists of shares: 0 same, 1 disjoint."""
    return float(np.abs(np.asarray(p) - np.asarray(q)).sum() / 2)


def frechet_distance(first, second) -> float:
    """Frechet distance between two sets of features (n, F) and (m, F), taken as Gaussian.

    The trace of the root of the product of covariances is the nuclear norm of the product of
    their square roots, which never leaves the real numbers however few the samples are.
    """
    first, second = (np.asarray(f, dtype=np.float64) for f in (first, second))
    a, b = (np.atleast_2d(np.cov(f, rowvar=False)) for f in (first, second))
    gap = first.mean(0) - second.mean(0)
    overlap = np.linalg.svd(_root(a) @ _root(b), compute_uv=False).sum()
    return float(max(gap @ gap + np.trace(a) + np.trace(b) - 2 * overlap, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
