"""The vectors of the learned words as ComfyUI's CLIP."""

import logging
from collections.abc import Sequence

import comfy.sd
import comfy.supported_models_base
import torch
from comfy.sd1_clip import escape_important, token_weights, unescape_important

from .denoiser import Words
from .words import LENGTH, PADDING, split_words

KEY = "words"

Token = tuple[int, float]  # number of the word, emphasis


class Tokenizer:
    """Prompts to the numbers of their words; words that are not known are left out."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.numbers = {word: number for number, word in enumerate(vocabulary, 1)}
        self.reported: set[str] = set()

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **_ignored: object
    ) -> dict[str, list[list[tuple]]]:
        """One row of LENGTH tokens, with emphasis such as (red:1.2) and no word at the end."""
        found: list[Token] = []
        for segment, weight in token_weights(escape_important(text), 1.0):
            for word in split_words(unescape_important(segment)):
                number = self.numbers.get(word) or self.numbers.get(word.removesuffix("s"))
                if number:
                    found.append((number, weight))
                elif word not in self.reported:
                    self.reported.add(word)
                    logging.warning("The world emoji does not know the word %r: left out.", word)
        if len(found) > LENGTH:
            logging.warning("The world emoji reads %d words: %r is longer.", LENGTH, text)
        row = (found + [(PADDING, 1.0)] * LENGTH)[:LENGTH]
        if return_word_ids:
            row = [(*token, place) for place, token in enumerate(row, 1)]
        return {KEY: [row]}

    def untokenize(self, tokens: Sequence[tuple]) -> list[tuple]:
        """Tokens with their words."""
        words = ["", *self.numbers]
        return [(token, words[token[0]]) for token in tokens]

    def state_dict(self) -> dict:
        """Nothing: the vocabulary is beside the weights."""
        return {}


class TextEncoder(torch.nn.Module):
    """Tokens to word vectors (1, LENGTH, E), and their sum (1, E)."""

    dtypes = frozenset({torch.float32})
    disable_offload = True  # a megabyte

    def __init__(
        self, words: int, device: torch.device, dtype: torch.dtype, **_ignored: object
    ) -> None:
        super().__init__()
        self.words = Words(words).to(device, dtype)

    def set_clip_options(self, options: dict) -> None:
        """There is only one layer."""

    def reset_clip_options(self) -> None:
        """There is only one layer."""

    def encode_token_weights(
        self, tokens: dict[str, list[list[tuple]]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        [row] = tokens[KEY]
        device = self.words.weight.device
        numbers = torch.tensor([token[0] for token in row], device=device)
        weights = torch.tensor([token[1] for token in row], device=device)
        vectors = (self.words(numbers) * weights[:, None])[None].float().cpu()
        return vectors, vectors.sum(1)

    def load_sd(self, weights: dict[str, torch.Tensor]) -> tuple[list[str], list[str]]:
        return self.load_state_dict(weights, strict=False)


def load_clip(vocabulary: Sequence[str], weights: dict[str, torch.Tensor]) -> comfy.sd.CLIP:
    """The CLIP of these words, with the state of their `Words`."""
    target = comfy.supported_models_base.ClipTarget(
        lambda **_ignored: Tokenizer(vocabulary), TextEncoder
    )
    target.params = {"words": len(vocabulary)}
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    clip.cond_stage_model.words.load_state_dict(weights)
    clip.cond_stage_model.requires_grad_(False)
    return clip
