"""The independent judge of each world: a small convolutional classifier."""

import torch
from torch import nn
from torch.nn import functional as F


class Classifier(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] to logits (B, classes)."""

    def __init__(self, channels: int, classes: int, strides: tuple, width: int = 32):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        widths = [width] + [min(width * 2 ** (i + 1), 96) for i in range(len(strides))]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, stride=stride)
            for before, after, stride in zip(widths, widths[1:], strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for after in widths[1:])
        self.squeeze = nn.LazyLinear(64)
        self.head = nn.Linear(64, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Feature vectors (B, 64) for Frechet distances."""
        x = F.relu(self.stem(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return F.relu(self.squeeze(x.flatten(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def digits_classifier() -> Classifier:
    """For (B, 1, 8, 8): ten digits."""
    return _sized(Classifier(1, 10, strides=(1, 2)), 1, 8)


def shapes_classifier() -> Classifier:
    """For (B, 3, 32, 32): class kind * 6 + hue, eighteen in all."""
    return _sized(Classifier(3, 18, strides=(2, 2, 2), width=24), 3, 32)


def _sized(network: Classifier, channels: int, side: int) -> Classifier:
    """Lets the lazy layer see one picture, so that it knows its size."""
    network(torch.zeros(1, channels, side, side))
    return network
