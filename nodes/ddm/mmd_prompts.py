"""MMDPrompts: several prompts, one for each image of a batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..base.schema import schema_options
from ..base.sockets import SAMPLING
from ..host.prompt_rows import as_rows

if TYPE_CHECKING:
    from comfy.sd import CLIP

NODE = "MMDPrompts"
MAX_STRETCH = 4  # prompts are repeated up to this many times the length of the longest


class MMDPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDPrompts",
            display_name="MMD Prompts",
            category=SAMPLING,
            description="Several prompts as one conditioning, one per line: the first image of a "
            "batch uses the first line, the second image the second line, and so on. After the "
            "last line it starts again with the first.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="Write one prompt per line. Empty lines are ignored.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive",
                    tooltip="Connect it to MMDTrainLoRA, MMDMakeReferences or any sampler node.",
                ),
                io.Int.Output("count", tooltip="The number of prompts. Symbol P."),
            ],
            **schema_options(search_aliases=["mmd", "prompt list", "batch prompts", "lines"]),
        )

    @classmethod
    def execute(cls, clip: CLIP | None, text: str) -> io.NodeOutput:
        prompts = [line.strip() for line in text.splitlines() if line.strip()]
        if not prompts:
            raise ValueError(f"{NODE}: text is empty: write one prompt per line")
        if clip is None:
            raise ValueError(f"{NODE}: clip is missing: connect the text encoder of the checkpoint")
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in prompts]
        return io.NodeOutput(stacked(encoded), len(prompts))


def stacked(encoded: list[list]) -> list:
    """One CONDITIONING whose rows are the prompts.

    The tokens of shorter prompts are repeated until all have the same length, as ComfyUI does with
    the negative prompt.

    Arguments:
        encoded: One CONDITIONING for each prompt.

    Raises:
        ValueError: The lengths of the prompts differ too much.
    """
    first = encoded[0][0]
    lengths = {entry[0][0].shape[1] for entry in encoded}
    length = math.lcm(*lengths)
    masked = any("attention_mask" in entry[0][1] for entry in encoded)
    fit = length <= MAX_STRETCH * max(lengths) and not (masked and len(lengths) > 1)
    for name, value in first[1].items():
        if isinstance(value, torch.Tensor):
            parts = [entry[0][1].get(name) for entry in encoded]
            fit = fit and all(getattr(part, "shape", None) == value.shape for part in parts)
    if not fit:
        raise ValueError(
            f"{NODE}: the prompts are {', '.join(map(str, sorted(lengths)))} tokens long, and this "
            "text encoder cannot combine different lengths: make them about equally long"
        )
    stretched = [
        [[tokens.repeat(1, length // tokens.shape[1], 1), options]]
        for ((tokens, options), *_) in encoded
    ]
    return as_rows(stretched)
