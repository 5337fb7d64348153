"""Conditionings that hold something for each image of a batch: hints, masks, pictures, prompts."""

import comfy.cldm.cldm
import comfy.controlnet
import torch
from comfy.controlnet import ControlBase, ControlNet, T2IAdapter
from comfy.model_patcher import ModelPatcher
from mmd_tests.support.tiny_models import prompt, random

import nodes


def with_options(conditioning: list, **options: object) -> list:
    """The CONDITIONING with these options on all of its entries."""
    return [[tokens, {**given, **options}] for tokens, given in conditioning]


def net(model: ModelPatcher) -> ControlNet:
    """A small ControlNet for the model, with random weights."""
    config = {**model.model.model_config.unet_config, "hint_channels": 3}
    config.pop("out_channels")
    torch.manual_seed(1)
    network = comfy.cldm.cldm.ControlNet(**config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return ControlNet(network, load_device=torch.device("cpu"))


def t2i_adapter() -> T2IAdapter:
    """A T2I-Adapter around a network of one convolution. It keeps its features for the run."""

    class Network(torch.nn.Module):
        unshuffle_amount = 8

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = torch.nn.Conv2d(3, 64, 8, stride=8)

        def forward(self, hint: torch.Tensor) -> dict[str, list]:
            return {"input": [None, self.layer(hint)]}

    return T2IAdapter(Network(), 3, 8, "nearest-exact", torch.device("cpu"))


def controlled(
    control_net: ControlBase, hints: int, conditioning: tuple | None = None, seed: int = 0
) -> tuple[list, list]:
    """Both prompts with `hints` different hints."""
    image = random(hints, 64, 64, 3, seed=seed)
    return nodes.ControlNetApplyAdvanced().apply_controlnet(
        *(conditioning or (prompt(1), prompt(2))), control_net, image, 1.0, 0.0, 1.0
    )


def own_control(hints: object) -> ControlBase:
    """A control object of another pack, which keeps its hints in an attribute of its own."""

    class Own(ControlBase):
        def __init__(self, hints: object) -> None:
            super().__init__()
            self.own = hints

        def get_control(
            self, x: torch.Tensor, t: torch.Tensor, cond: dict, prompts: int, options: dict
        ) -> dict[str, list]:
            held = self.own
            while isinstance(held, dict):
                held = held["pictures"]
            held = getattr(held, "pictures", getattr(held, "cond_hint_original", held))
            held = torch.cat(held) if isinstance(held, list) else held
            images = [i % len(held) for i in range(len(x) // prompts)]
            given = {"input": [held[images].repeat(prompts, 1, 1, 1).to(x) * 3]}
            return self.control_merge({**given, "middle": [], "output": []}, None, x.dtype)

        def copy(self) -> "Own":
            part = Own(self.own)
            self.copy_to(part)
            return part

        def get_models(self) -> list:
            return []

    return Own(hints)
