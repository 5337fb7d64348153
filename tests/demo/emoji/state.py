"""Everything a training run needs to go on where it was stopped."""

import json
from pathlib import Path

import torch
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_tests.demo.emoji.average import Average
from mmd_tests.demo.emoji.draw_prompts import load_model
from mmd_tests.demo.emoji.files import save_half, write_at_once
from mmd_tests.demo.train.muon import Optimizers

NOT_MUONS = (
    "words.",
    "denoiser.condition.",
    "denoiser.stem.",
    "denoiser.read_words.",
    "denoiser.modulate.",
    "denoiser.out.",
)
"""How the names of the weights begin that AdamW learns."""


class State:
    """Network, averaged network, optimizers and the number of steps done.

    There is no state of a random generator: each step has its number for a seed.
    """

    def __init__(
        self,
        vocabulary: list[str],
        options: dict[str, int],
        horizon: int = 1000,
        muon: float = 0.02,
        adam: float = 2e-3,
    ):
        self.vocabulary = vocabulary
        self.options = options
        self.model = EmojiModel(len(vocabulary), **options).to(memory_format=torch.channels_last)
        self.average = Average(self.model, horizon)
        self.optimizers = Optimizers(self.model, NOT_MUONS, muon, adam, decay=0.05)
        self.step = 0
        self.begun = 0  # the step at which the optimizers had no memory

    def save(self, path: Path) -> None:
        """Write everything to PATH.pt, and the averaged weights in half precision beside it."""
        content = {
            "vocabulary": self.vocabulary,
            "options": self.options,
            "model": self.model.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "step": self.step,
            "begun": self.begun,
        }
        write_at_once(path.with_suffix(".pt"), lambda part: torch.save(content, part))
        metadata = {
            "vocabulary": json.dumps(self.vocabulary),
            "options": json.dumps(self.options),
            "step": str(self.step),
        }
        save_half(self.average.network, path.with_suffix(".safetensors"), metadata)

    @classmethod
    def resume(cls, path: Path, **settings: float) -> "State":
        """Go on from a file that `save` wrote."""
        content = torch.load(path, weights_only=True)
        state = cls(content["vocabulary"], content["options"], **settings)
        state.model.load_state_dict(content["model"])
        state.average.network.load_state_dict(content["average"])
        state.optimizers.load_state_dict(content["optimizers"])
        state.step, state.begun = content["step"], content["begun"]
        return state

    @classmethod
    def begin_from(cls, path: Path, **settings: float) -> "State":
        """Go on from averaged weights only; the optimizers begin anew."""
        model, vocabulary, metadata = load_model(path)
        state = cls(vocabulary, json.loads(metadata["options"]), **settings)
        state.model.load_state_dict(model.state_dict())
        state.average.network.load_state_dict(model.state_dict())
        state.step = state.begun = int(metadata["step"])
        return state
