"""MMDMakeReferences: draws references for MMDTrainLoRA with the model itself, in many steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy_api.latest import io

from ...mmd_core import References
from ..base.counted import counted
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import TRAINING, ReferencesSocket
from ..base.told import told
from ..host.draw_images import Batch, Part, Settings, draw_images
from ..host.groups import group_indices
from ..host.prompts import batch_features, prompt_count

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class MMDMakeReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDMakeReferences",
            display_name="MMD Make References",
            category=TRAINING,
            description="Draws references with the model itself, in many steps. MMDTrainLoRA then "
            "trains the model to draw such images in few steps. Save the references with "
            "SaveReferenceLatents, so that they are drawn only once.",
            inputs=[
                io.Model.Input("model", tooltip="The model that draws: the one to be trained."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the images show. Connect MMDPrompts for several prompts: they "
                    "are used in turn, one for each image.",
                ),
                io.Conditioning.Input("negative", tooltip="What the images should not show."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Connect EmptyLatentImage: it gives the size. Its batch size is "
                    "ignored.",
                ),
                io.Int.Input(
                    "count",
                    default=256,
                    min=2,
                    max=100000,
                    tooltip="How many references are drawn. Use some hundreds: with few, training "
                    "memorizes them. Symbol N.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=10000,
                    tooltip="The number of steps for good images with this model.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How closely the images follow the prompt. Training also learns the "
                    "effect of a high cfg, so that you can draw with cfg 1 afterwards.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="Any sampler that draws well. After training you may draw with another "
                    "one.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="The schedule of noise levels over the steps.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The seed of the noise, as in KSampler.",
                ),
                io.Int.Input(
                    "micro_batch",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="How many images are drawn at once. More is faster and needs more "
                    "memory. Each image keeps its own prompt, hint and mask.",
                ),
            ],
            outputs=[
                ReferencesSocket.Output(
                    "references", tooltip="Connect it to MMDTrainLoRA and SaveReferenceLatents."
                ),
                io.Latent.Output(
                    "latents", tooltip="The references as a batch. Connect it to VAE Decode."
                ),
                io.String.Output("report", tooltip="What was drawn, in words."),
            ],
            **schema_options(
                search_aliases=["mmd", "ddm", "teacher", "synthetic", "distill"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls, model: ModelPatcher, positive: list, negative: list, latent_image: dict[str, Any],
        count: int, steps: int, cfg: float, sampler_name: str, scheduler: str, seed: int,
        micro_batch: int,
    ) -> io.NodeOutput:  # fmt: skip
        # The empty latent may have the channels and size of another VAE.
        ratios = {name: n for name, n in latent_image.items() if name.startswith("downscale_ratio")}
        empty = latent_image["samples"]
        if empty.is_nested:
            raise ValueError(
                "MMDMakeReferences: latent_image holds latents of several kinds at once (images "
                "and sound): connect a latent of images alone"
            )
        empty = comfy.sample.fix_empty_latent_channels(model, empty, **ratios)[:1]
        entries = comfy.sampler_helpers.convert_cond(positive)
        prompts = prompt_count(entries)
        settings = Settings(steps, cfg, sampler_name, scheduler, seed)
        batch = Batch(count, ("positive", "negative"), "MMDMakeReferences")
        parts = (Part(index, positive, negative) for index in group_indices(count, micro_batch))
        drawn = draw_images(model, empty, batch, parts, count, settings, "references")
        features = batch_features(entries, prompts, float("inf"))
        if features is not None:
            features = features[torch.arange(count) % prompts]
        references = References(
            drawn, prompts=features, names=tuple(f"drawn {i + 1}" for i in range(count))
        )
        text = f"{count} references drawn with {settings}, {counted(prompts, 'prompt')}."
        return told(references, {"samples": drawn}, text, says=text)
