"""The learned networks of the world and of its judge, with hashes of their weights."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from mmd_demo.emoji import VAE_WEIGHTS
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.emoji.vae import EmojiVAE
from mmd_tests.demo.emoji.captions import LENGTH
from mmd_tests.demo.emoji.draw_prompts import load_model
from mmd_tests.demo.emoji.judge import Judge, encode_names, load_judge
from mmd_tests.demo.emoji.latents import load_vae
from mmd_tests.demo.emoji.pictures import to_float
from torch import Tensor


def in_parts(function, values: Tensor, size: int = 64) -> Tensor:
    """A function of a few values at a time, its results together."""
    return torch.cat([function(part) for part in values.split(size)])


@dataclass(frozen=True)
class World:
    """The networks and the names among which the judge looks for a picture's own.

    Attributes:
        name_words: The words of the names as the judge numbers them, with shape `(N, L)`.
        drawing, judging: Hashes of the weights that draw, and of those that judge.
    """

    model: EmojiModel
    vocabulary: list[str]
    vae: EmojiVAE
    judge: Judge
    names: tuple[str, ...]
    name_words: Tensor
    drawing: str
    judging: str
    step: str

    def words(self, prompts: tuple[str, ...]) -> Tensor:
        """Prompts as the model reads them, with shape `(B, LENGTH)`."""
        return encode_names(list(prompts), self.vocabulary)[:, :LENGTH]

    @torch.no_grad()
    def prompt_features(self, prompts: tuple[str, ...]) -> Tensor:
        """The sum of the word vectors, which is the pooled output of the world's CLIP."""
        return self.model.words(self.words(prompts)).sum(1)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of pictures uint8 (B, 3, 64, 64)."""
        return in_parts(self.vae.encode, to_float(pixels))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64) in -1 to 1."""
        return in_parts(self.vae.decode, latents)


def file_digest(path: Path) -> str:
    """A hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_world(denoiser: Path, judge: Path, names: tuple[str, ...]) -> World:
    """The world with these weights; the names without repetition."""
    model, vocabulary, metadata = load_model(denoiser)
    critic, words = load_judge(judge)
    vae = load_vae(VAE_WEIGHTS)
    for network in (model, vae, critic):  # gradients of images do not need those of weights
        network.requires_grad_(False)
    return World(
        model,
        vocabulary,
        vae,
        critic,
        names,
        encode_names(list(names), words),
        file_digest(denoiser) + file_digest(VAE_WEIGHTS),
        file_digest(judge),
        metadata["step"],
    )
