"""Prompts as word vectors: one place for each word that a world knows."""

import re

import torch

from .catalog import World


def word_indices(world: World, prompt: str) -> list[int]:
    """The places of the known words in a prompt; other words and plural endings are ignored."""
    plain = re.sub(r":[\d.]+", "", prompt.lower())  # emphasis such as (blue:1.2)
    found = set()
    for word in re.findall(r"[a-z]+|\d+", plain):
        for form in (word, word.removesuffix("s")):
            form = world.synonyms.get(form, form)
            if form in world.words:
                found.add(world.words.index(form))
    return sorted(found)


def word_vector(world: World, indices: list[int]) -> torch.Tensor:
    """A multi-hot vector (E,); all zero means unconditional."""
    vector = torch.zeros(len(world.words))
    vector[indices] = 1.0
    return vector
