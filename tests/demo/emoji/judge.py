"""The judge of pictures: of which style and category they are, and how well a name fits them."""

import json
from pathlib import Path

import torch
from mmd_demo.emoji.words import STYLES, UNSEEN, encode_words, split_words
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

JUDGED_STYLES = (*STYLES, UNSEEN)
CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
WORDS = 32
"""So many words of a description are read at most."""


class ResidualBlock(nn.Module):
    """Residual pair of 3x3 convolutions with batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class PictureTower(nn.Sequential):
    """Pictures (B, 3, 64, 64) in -1 to 1 to features (B, `size`)."""

    def __init__(self, channels: tuple[int, ...], size: int) -> None:
        layers: list[nn.Module] = [nn.PixelUnshuffle(4)]
        for before, after in zip((48, *channels[:-1]), channels, strict=True):
            stride = 2 if len(layers) > 1 else 1
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                ResidualBlock(after),
            ]
        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(*layers, *pool, nn.Linear(channels[-1], size), nn.BatchNorm1d(size))


class NameTower(nn.Module):
    """Numbers of words (B, L), in any order and 0 for no word, to unit vectors (B, `size`)."""

    def __init__(self, words: int, size: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words + 1, size, mode="mean", padding_idx=0)
        self.mix = nn.Linear(size, size)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.mix(self.words(words)), dim=1)


class Judge(nn.Module):
    """Features of pictures, and from them the scores of styles, of categories and of names."""

    def __init__(self, words: int, size: int = 96) -> None:
        super().__init__()
        self.features = PictureTower((48, 96, 192), size)
        self.names = NameTower(words, size)
        self.style = nn.Linear(size, len(JUDGED_STYLES))
        self.category = nn.Linear(size, len(CATEGORIES))
        self.meaning = nn.Linear(size, size)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def name_scores(self, features: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Scaled cosines (B, N) of pictures' features (B, F) and names' words (N, L)."""
        pictures = F.normalize(self.meaning(features), dim=1)
        return self.log_scale.exp() * pictures @ self.names(words).T


def encode_names(names: list[str], vocabulary: list[str]) -> torch.Tensor:
    """The words of names or descriptions, as numbers (N, WORDS)."""
    numbers = {word: number for number, word in enumerate(vocabulary, 1)}
    return torch.tensor([encode_words(split_words(name), numbers, WORDS) for name in names])


def load_judge(path: Path) -> tuple[Judge, list[str]]:
    """The learned judge and its vocabulary."""
    with safe_open(path, "pt") as file:
        vocabulary = json.loads(file.metadata()["vocabulary"])
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    judge = Judge(len(vocabulary))
    judge.load_state_dict(state)
    return judge.eval().to(memory_format=torch.channels_last), vocabulary
