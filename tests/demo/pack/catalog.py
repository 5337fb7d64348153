"""What the worlds are: sizes, words, noise levels, networks. Knows nothing of ComfyUI."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from .dense import DenseNet
from .digits import CLASSES
from .drawing import HUES, KINDS, SIDE
from .unet import UNet

WEIGHTS = Path(__file__).parent / "weights"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class World:
    """One world; latents are its pictures (B, channels, side, side) in [-1, 1]."""

    name: str
    channels: int
    side: int
    words: tuple[str, ...]
    synonyms: dict[str, str]
    sigma_data: float
    network: Callable[..., torch.nn.Module]
    sigma_min: float = 0.02
    sigma_max: float = 80.0


WORLDS = {
    "shapes": World("shapes", 3, SIDE, KINDS + HUES, {"circle": "disc", "disk": "disc"}, 0.6, UNet),
    "digits": World(
        "digits", 1, 8, NUMBERS, {str(n): NUMBERS[n] for n in range(CLASSES)}, 0.75, DenseNet
    ),
}


EMOJI = ("emoji", "emoji_flow")
"""The third world as a model like Stable Diffusion and as one like Flux; see `emoji`."""

EMOJI_CHANNELS, EMOJI_SIDE, EMOJI_DOWNSCALE = 4, 16, 4


def load_weights(network: torch.nn.Module, name: str) -> torch.nn.Module:
    """The network with its stored half precision weights, as single precision, ready to use."""
    state = load_file(WEIGHTS / f"{name}.safetensors")
    network.load_state_dict({key: value.float() for key, value in state.items()})
    network.requires_grad_(False)
    return network.eval().to(memory_format=torch.channels_last)


def load_network(world: World) -> torch.nn.Module:
    """The learned denoiser of a world."""
    return load_weights(world.network(words=len(world.words)), world.name)
