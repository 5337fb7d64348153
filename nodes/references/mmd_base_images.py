"""MMDBaseImages: draws with the model itself what the references show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import comfy.model_management as management
import comfy.sample
import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from ...mmd_core import References
from ..base.counted import counted
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import REFERENCES, ReferencesSocket
from ..base.told import told
from ..host.draw_images import Batch, Part, Settings, draw_images
from ..host.prompt_rows import alike, as_rows
from ..host.prompts import entry_feature
from ..host.vae_match import wrong_vae

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

NODE = "MMDBaseImages"


class MMDBaseImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDBaseImages",
            display_name="MMD Base Images",
            category=REFERENCES,
            description="Draws with the model itself what the references show: one image for each "
            "caption. Connect them to base of MMDGuidedKSampler or ApplyMMDGuidance. Guidance then "
            "follows only what is different in the references: their style.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that draws, without guidance. It is not changed."
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint."),
                ReferencesSocket.Input(
                    "references",
                    tooltip="The references of the guidance node, with captions that say what they "
                    "show, but not their style.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The negative prompt of the guided images. Unconnected: an empty text.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="What is drawn for references without a caption.",
                ),
                io.Int.Input(
                    "count",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="How many images are drawn (M): for so many references, evenly spaced "
                    "over the set. 0: for all.",
                ),
                io.Int.Input(
                    "steps",
                    default=25,
                    min=1,
                    max=10000,
                    tooltip="The number of denoising steps, as for the guided images.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="As for the guided images: a high cfg gives images a look of its own.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler_ancestral",
                    tooltip="The sampler, as for the guided images.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="karras",
                    tooltip="How noise is removed over the steps, as for the guided images.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="The seed of the noise. Keep it: another seed draws all images anew.",
                ),
                io.Int.Input(
                    "micro_batch",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="How many images are drawn at once. More is faster and needs more "
                    "memory. Captions whose lengths differ are not drawn at once.",
                ),
            ],
            outputs=[
                ReferencesSocket.Output(
                    "base", tooltip="Connect it to base of MMDGuidedKSampler or ApplyMMDGuidance."
                ),
                io.Latent.Output(
                    "latents", tooltip="The images as a batch. Connect it to VAE Decode."
                ),
                io.String.Output(
                    "report", tooltip="In words: what was drawn, and for how many captions."
                ),
            ],
            **schema_options(
                search_aliases=["mmd", "contrast", "style", "captions", "base"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls, model: ModelPatcher, clip: CLIP | None, references: References, prompt: str,
        count: int, steps: int, cfg: float, sampler_name: str, scheduler: str, seed: int,
        micro_batch: int, negative: list | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        if clip is None:
            raise ValueError(f"{NODE}: clip is missing: connect the text encoder of the checkpoint")
        trouble = wrong_vae(references, model.get_model_object("latent_format"))
        if trouble:
            raise ValueError(f"{NODE}: references: {trouble}")
        index = evenly_spaced(references.weights.nonzero().flatten().tolist(), count)
        texts = [references.captions[j].strip() or prompt for j in index]
        encoded = encode(clip, texts)
        if negative is None:
            (negative,) = encode(clip, [""])
        parts = (
            Part(
                [index[i] for i in positions],
                as_rows([encoded[i] for i in positions]),
                negative,
            )
            for positions in micro_batches(encoded, micro_batch)
        )
        settings = Settings(steps, cfg, sampler_name, scheduler, seed)
        empty = torch.zeros_like(references.latents[:1])
        empty = comfy.sample.fix_empty_latent_channels(model, empty)
        # Base images stand for references, whose captions are rows of a part's own conditioning.
        batch = Batch(len(references), ("negative",), NODE)
        drawn = draw_images(model, empty, batch, parts, len(index), settings, "base images")
        base = References(
            drawn.reshape(-1, *references.latents.shape[1:]),  # without a frame if they have none
            references.weights[index],
            torch.cat([feature(each) for each in encoded]),
            tuple(references.names[j] for j in index),
            tuple(texts),
            size=references.size,
        )
        without = sum(not references.captions[j].strip() for j in index)
        text = report(len(index), len(references), without, prompt, settings)
        return told(base, {"samples": drawn}, text, says=text)


def evenly_spaced(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items, evenly spaced; all if `count` is 0 or there are not more."""
    n = len(items)
    return [items[i * n // count] for i in range(count)] if 0 < count < n else list(items)


def encode(clip: CLIP, texts: list[str]) -> list[list]:
    """The CONDITIONING of each text. Each distinct text is encoded once."""
    known: dict[str, list] = {}
    for text in texts:
        if text not in known:
            management.throw_exception_if_processing_interrupted()
            known[text] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return [known[text] for text in texts]


def feature(conditioning: list) -> Tensor:
    """The prompt feature of one prompt, with shape `(1, E)`, as captions of references have it."""
    (tokens, options), *_ = conditioning
    return entry_feature({**options, "cross_attn": tokens})[:1]


def micro_batches(prompts: list[list], size: int) -> list[list[int]]:
    """Which images are drawn at once: up to `size` whose prompts can be rows of one CONDITIONING.

    Arguments:
        prompts: The CONDITIONING of each image.
    """
    groups: list[list[int]] = []
    for i, prompt in enumerate(prompts):
        fitting = (group for group in groups if alike(prompts[group[0]], prompt))
        group = next(fitting, None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return [group[first : first + size] for group in groups for first in range(0, len(group), size)]


def report(drawn: int, references: int, without: int, prompt: str, settings: Settings) -> str:
    """What was drawn, in words.

    Arguments:
        drawn: The number of base images.
        references: The number of references.
        without: How many base images belong to references without a caption.
        prompt: What was drawn for these.
        settings: How images were drawn.
    """
    some = f"{drawn} of " if drawn < references else ""
    whose = f"{some}{counted(references, 'reference')}"
    text = f"{counted(drawn, 'base image')} drawn, for {whose}, with {settings}."
    if not without:
        return text
    told = f"prompt '{prompt}'" if prompt.strip() else "an empty text, because prompt is empty"
    have = counted(without, "of these references has", "of these references have")
    return (
        f"{text}\n{have} no caption: in its place stood {told}. Where base images show other "
        "things than the references, guidance follows the difference in things, too, and can pull "
        "images away from their prompts. Give each picture a caption that says what it shows: "
        "LoadReferenceSet reads it from a text file of the same name."
    )
