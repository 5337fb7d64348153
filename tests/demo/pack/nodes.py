"""Two nodes that put a demo world where a checkpoint would be."""

import comfy.model_management
import torch
from comfy_api.latest import ComfyExtension, io

from .catalog import EMOJI, EMOJI_CHANNELS, EMOJI_DOWNSCALE, EMOJI_SIDE, WORLDS
from .emoji.models import load_emoji
from .worlds import load_world

# Lists of nodes are made by looking for classes that name io.ComfyNode as their base; these
# nodes are no part of the published pack and stay out of such lists.
_Node = io.ComfyNode

_CATEGORY = "MMD Guidance/demo"


def _world_input() -> io.Combo.Input:
    tooltip = (
        "shapes: discs, squares, triangles, 32x32. digits: handwritten digits, 8x8. "
        "emoji: pictures of 1800 words, 64x64, by a model that works as Stable Diffusion does; "
        "emoji_flow: the same as Flux does."
    )
    return io.Combo.Input("world", options=[*WORLDS, *EMOJI], tooltip=tooltip)


class MMDDemoWorld(_Node):
    """Loads a world like a checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDDemoWorld",
            display_name="MMD Demo World",
            category=_CATEGORY,
            description="A very small diffusion model to try MMD Guidance on any computer.",
            inputs=[_world_input()],
            outputs=[
                io.Model.Output(tooltip="The model that removes noise."),
                io.Clip.Output(
                    tooltip="Reads prompts such as 'a blue triangle', 'three' or 'cat face'."
                ),
                io.Vae.Output(tooltip="Between pictures and latents."),
            ],
        )

    @classmethod
    def execute(cls, world: str) -> io.NodeOutput:
        if world in EMOJI:
            return io.NodeOutput(*load_emoji(world))
        return io.NodeOutput(*load_world(world))


class MMDDemoLatent(_Node):
    """Empty latents of the size that a world was learned at."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDDemoLatent",
            display_name="MMD Demo Latent",
            category=_CATEGORY,
            description="Empty latents of the right size for a demo world.",
            inputs=[
                _world_input(),
                io.Int.Input(
                    "batch_size",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="How many pictures are made at once.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="Zeros, one latent for each picture.")],
        )

    @classmethod
    def execute(cls, world: str, batch_size: int) -> io.NodeOutput:
        if world in EMOJI:
            channels, side, downscale = EMOJI_CHANNELS, EMOJI_SIDE, EMOJI_DOWNSCALE
        else:
            channels, side, downscale = WORLDS[world].channels, WORLDS[world].side, 1
        device = comfy.model_management.intermediate_device()
        zeros = torch.zeros(batch_size, channels, side, side, device=device)
        return io.NodeOutput({"samples": zeros, "downscale_ratio_spacial": downscale})


class DemoExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list:
        return [MMDDemoWorld, MMDDemoLatent]
