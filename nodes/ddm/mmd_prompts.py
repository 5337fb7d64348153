"""MMDPrompts: several prompts, one for each image of a batch."""

import math

import torch
from comfy_api.latest import io

from ..base.schema import schema_options
from ..base.sockets import CATEGORY

NODE = "MMDPrompts"
LONGEST = 4  # times the shortest prompt


class MMDPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDPrompts",
            display_name="MMD Prompts",
            category=CATEGORY,
            description="Several prompts as one conditioning: the first image of a batch follows the first line, the second "
            "the second, and so on, from the beginning again if there are more images than lines.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="One prompt per line. Empty lines do not count.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive",
                    tooltip="For MMDTrainLoRA and MMDMakeReferences, and for every sampler node.",
                ),
                io.Int.Output("count", tooltip="How many prompts there are."),
            ],
            **schema_options(search_aliases=["mmd", "prompt list", "batch prompts", "lines"]),
        )

    @classmethod
    def execute(cls, clip, text):
        prompts = [line.strip() for line in text.splitlines() if line.strip()]
        if not prompts:
            raise ValueError(f"{NODE}: text is empty: write one prompt per line")
        if clip is None:
            raise ValueError(f"{NODE}: clip is missing: connect the text encoder of the checkpoint")
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in prompts]
        return io.NodeOutput(stacked(encoded), len(prompts))


def stacked(encoded: list[list]) -> list:
    """One conditioning of all, a row for each.

    Tokens of fewer blocks are repeated, as ComfyUI does, until all have as many.

    Raises:
        ValueError: Prompts whose lengths do not go together.
    """
    first = encoded[0][0]
    lengths = {entry[0][0].shape[1] for entry in encoded}
    length = math.lcm(*lengths)
    masked = any("attention_mask" in entry[0][1] for entry in encoded)
    fit = length <= LONGEST * max(lengths) and not (masked and len(lengths) > 1)
    options = {}
    for name, value in first[1].items():
        parts = [entry[0][1].get(name) for entry in encoded]
        options[name] = value
        if isinstance(value, torch.Tensor):
            fit = fit and all(getattr(part, "shape", None) == value.shape for part in parts)
            options[name] = torch.cat(parts) if fit else value
    if not fit:
        raise ValueError(
            f"{NODE}: the prompts are {', '.join(map(str, sorted(lengths)))} tokens long, which this text encoder cannot "
            "stack: make them about equally long"
        )
    tokens = [entry[0][0].repeat(1, length // entry[0][0].shape[1], 1) for entry in encoded]
    return [[torch.cat(tokens), options]]
