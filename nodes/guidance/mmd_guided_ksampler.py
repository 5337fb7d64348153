"""MMDGuidedKSampler: core's KSampler with guidance, groups and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.nested_tensor
import comfy.samplers
import torch
from comfy_api.latest import io

from ...mmd_core import KernelConfig, References
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import SAMPLING, TraceSocket
from ..base.told import told
from ..host.groups import Group, group_indices
from ..host.micro_batch import micro_batched
from ..host.progress import executing_node
from .run.hook import apply_guidance
from .run.inputs import (
    DEFAULTS,
    OTHER_SIZES,
    guidance_config,
    later_inputs,
    new_trace,
    setting_inputs,
    source_inputs,
)
from .run.presets import CUSTOM, chosen
from .run.report import run_report
from .run.request import Request
from .run.shared_memory import SharedMemory

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

LONGEST_SCHEDULE = 10**6  # steps: what the smallest number of the widget makes of most steps


class MMDGuidedKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDGuidedKSampler",
            display_name="MMD Guided KSampler",
            category=SAMPLING,
            description="A KSampler whose batch becomes distributed like the references. The "
            "images of a batch are drawn together: each depends on the others.",
            inputs=[
                *source_inputs(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The seed of the noise, as in KSampler.",
                ),
                io.Int.Input(
                    "steps", default=25, min=1, max=10000, tooltip="The number of denoising steps."
                ),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How closely the prompt is followed (classifier-free guidance). At 1 "
                    "the negative prompt has no effect.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler_ancestral",
                    tooltip="The sampler. Ancestral ones follow the references best.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="karras",
                    tooltip="How noise is removed over the steps.",
                ),
                io.Conditioning.Input("positive", tooltip="What the images should show."),
                io.Conditioning.Input("negative", tooltip="What they should not show."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The batch to draw (B): 8 images or more, better 16, of the size for "
                    "which the references were encoded.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of latent_image is drawn anew. 1: everything.",
                ),
                *setting_inputs(),
                io.Int.Input(
                    "group_size",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Out of memory: try micro_batch first. Draws groups of so many images; "
                    "finished ones are remembered, so that later groups balance earlier ones. In "
                    "groups below 8 each image follows one reference. Use 0 with patches that let "
                    "images see each other, and with IP-Adapter with one picture per image. 0: the "
                    "whole batch together.",
                ),
                *later_inputs(),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The images drawn, for VAE Decode."),
                TraceSocket.Output(
                    "trace", tooltip="What guidance did at every model call, for MMDPlot."
                ),
                io.String.Output(
                    "report",
                    tooltip="In words: settings, how close the batch came, and what to change if "
                    "something is wrong.",
                ),
            ],
            **schema_options(
                search_aliases=[
                    "mmd",
                    "mmd sampler",
                    "guidance",
                    "style",
                    "style set",
                    "style transfer",
                    "reference distribution",
                    "few-shot",
                    "sampler",
                    "diverse",
                    "diversity",
                    "like my pictures",
                ],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls, model: ModelPatcher, references: References, seed: int, steps: int, cfg: float,
        sampler_name: str, scheduler: str, positive: list, negative: list,
        latent_image: dict[str, Any], denoise: float, strength: float, start_percent: float,
        end_percent: float, mode: str, group_size: int = 0, kernel: KernelConfig | None = None,
        micro_batch: int = 0, preserve: float = DEFAULTS.preserve, preview_batch: bool = False,
        vae: VAE | None = None, memory: SharedMemory | None = None, base: References | None = None,
        other_sizes: str = OTHER_SIZES[0], preset: str = CUSTOM,
    ) -> io.NodeOutput:  # fmt: skip
        from nodes import common_ksampler  # here: ComfyUI may load custom nodes before it

        node = "MMDGuidedKSampler"
        check_denoise(node, denoise, steps)
        strength, mode = chosen(node, preset, strength, mode)
        config = guidance_config(node, kernel, strength, start_percent, end_percent, mode, preserve)
        trace = new_trace(config, references, vae, base)
        request = Request(
            node, references, config, trace, memory, preview_batch, executing_node(), base,
            resizes=other_sizes == "resize",
        )  # fmt: skip
        guided = apply_guidance(
            micro_batched(model, micro_batch, trace.told("micro_batch")), request, grouped=True
        )
        batch = latent_image["samples"].shape[0]  # latents of several kinds have no len
        parts = []
        for indices in group_indices(batch, group_size):
            drawn_by, latent = guided, latent_image
            if len(indices) < batch:
                group = Group(indices, batch, node, "set group_size to 0")
                drawn_by, latent = group.of_model(guided), with_batch_index(latent_image, node)
            (part,) = common_ksampler(
                drawn_by, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent,
                denoise=denoise,
            )  # fmt: skip
            parts.append(part)
        text = run_report(trace, len(references))
        return told(joined(parts, latent_image), trace, text, says=text)


def check_denoise(node: str, denoise: float, steps: int) -> None:
    """Checks that a number of another node is not so small that a schedule would never be made.

    Core makes a schedule of `steps / denoise` steps and takes the last ones.

    Raises:
        ValueError: It is.
    """
    least = steps / LONGEST_SCHEDULE
    if 0 < denoise < least:
        raise ValueError(
            f"{node}: denoise must be 0, or at least {least:g} for {steps} steps, not {denoise:g}: "
            "change what is connected to it"
        )


def with_batch_index(latent: dict[str, Any], node: str) -> dict[str, Any]:
    """A LATENT whose images get their noise one by one, so that groups get that of the batch.

    Raises:
        ValueError: Its `batch_index` is too short.
    """
    batch = latent["samples"].shape[0]
    index = list(latent.get("batch_index") or range(batch))[:batch]
    if len(index) < batch:
        raise ValueError(
            f"{node}: latent_image has {batch} images, but its batch_index only {len(index)}: "
            "connect a latent with one number for each image, for example of RepeatLatentBatch"
        )
    return {**latent, "batch_index": index}


def joined(parts: list[dict[str, Any]], latent_image: dict[str, Any]) -> dict[str, Any]:
    """One LATENT of all groups, as core's KSampler returns it for the whole batch.

    Arguments:
        parts: The LATENT of each group.
        latent_image: The LATENT of the whole batch before it was drawn.
    """
    if len(parts) == 1:
        return parts[0]
    whole = {name: value for name, value in latent_image.items() if name in parts[0]}
    samples = [part["samples"] for part in parts]
    together = comfy.nested_tensor.cat_nested if samples[0].is_nested else torch.cat
    return {**whole, "samples": together(samples)}
