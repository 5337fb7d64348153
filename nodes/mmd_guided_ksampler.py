"""MMDGuidedKSampler: core's KSampler, guided, in groups if wanted, with a report."""

import comfy.samplers
import torch
from comfy_api.latest import io

from ..mmd_core import FEW
from ._compat import schema_options
from .groups import group_conditioning, group_indices, group_latent
from .guidance_inputs import DEFAULTS, guidance_config, later_inputs, setting_inputs, source_inputs
from .micro_batch import micro_batched
from .sampling import Session, apply_guidance
from .sockets import CATEGORY, TraceSocket


class MMDGuidedKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDGuidedKSampler",
            display_name="MMD Guided KSampler",
            category=CATEGORY,
            description="A KSampler whose batch becomes distributed like the references. The images of "
            "a batch are drawn together: each depends on the others.",
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
                    tooltip="How closely the prompt is followed (classifier-free guidance). 1 leaves "
                    "the negative prompt out.",
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
                    tooltip="The batch to draw: 8 images or more, better 16, of the size that the "
                    "references were encoded for.",
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
                    tooltip="0 draws the whole batch together. Out of memory: try micro_batch first. k "
                    "draws groups of k images: finished ones are remembered, so that later groups "
                    "balance earlier ones. In groups below 8 each image follows one reference.",
                ),
                *later_inputs(),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The images drawn, for VAE Decode."),
                TraceSocket.Output("trace", tooltip="What guidance did at every model call."),
                io.String.Output(
                    "report", tooltip="In words: settings, and how close the batch came."
                ),
            ],
            **schema_options(
                search_aliases=["mmd", "reference distribution", "style set", "few-shot", "sampler"]
            ),
        )

    @classmethod
    def execute(
        cls, model, references, seed, steps, cfg, sampler_name, scheduler, positive, negative,
        latent_image, denoise, strength, start_percent, end_percent, mode, group_size=0, kernel=None,
        micro_batch=0, preserve=DEFAULTS.preserve,
    ):  # fmt: skip
        from nodes import common_ksampler  # ComfyUI's, which may load custom nodes before itself

        node = "MMDGuidedKSampler"
        config = guidance_config(node, kernel, strength, start_percent, end_percent, mode, preserve)
        session = Session()
        model = micro_batched(model, micro_batch)
        guided = apply_guidance(model, references, config, node, session)
        batch = len(latent_image["samples"])
        parts = []
        for indices in group_indices(batch, group_size):
            whole = len(indices) == batch
            (part,) = common_ksampler(
                guided,
                seed,
                steps,
                cfg,
                sampler_name,
                scheduler,
                positive if whole else group_conditioning(positive, indices, batch),
                negative if whole else group_conditioning(negative, indices, batch),
                latent_image if whole else group_latent(latent_image, indices),
                denoise=denoise,
            )
            parts.append(part)
        trace = tuple(tuple(guidance.trace) for guidance in session.guidances)
        return io.NodeOutput(joined(parts, latent_image), trace, report(session, config, batch))


def joined(parts: list[dict], latent_image: dict) -> dict:
    """One LATENT of all groups, as core returns it for the whole batch."""
    if len(parts) == 1:
        return parts[0]
    whole = {name: value for name, value in latent_image.items() if name in parts[0]}
    return {**whole, "samples": torch.cat([part["samples"] for part in parts])}


def report(session: Session, config, batch: int) -> str:
    """What guidance did, for people."""
    if not session.guidances or session.memory is None:
        return "Strength is 0: drawn without guidance, as by KSampler."
    guidance = session.guidances[-1]
    rows = [row for g in session.guidances for row in g.trace]
    lines = [
        f"{batch} images drawn towards {len(guidance.weights)} references"
        + (f" in {len(session.guidances)} groups" if len(session.guidances) > 1 else "")
        + f", mode {config.mode}, strength {config.strength:g}."
    ]
    if not rows:
        lines.append(
            "Guidance never acted: no step of the schedule lies in the window. Lower start_percent or "
            "raise end_percent."
        )
    else:
        change = sum(row.change for row in rows) / len(rows)
        lines.append(
            f"It acted at {len(rows)} model calls, from sigma {rows[0].sigma:.3g} to "
            f"{rows[-1].sigma:.3g}, and moved the images by {change:.1%} of the references' spread each "
            "time."
        )
        if change < 1e-4 and config.mode == "flow":
            lines.append(
                "That is nothing one can see: to this kernel the images are too far from the references. "
                "Add larger multipliers on MMDKernel, or set its kernel to energy."
            )
    unbiased = min(batch, len(guidance.weights)) > 1
    score = guidance.comparison.mmd2(session.memory.latents, unbiased)
    estimate = "; the unbiased estimate may fall a little below" if unbiased else ""
    space = config.kernel_config.feature_space
    of = "" if space == "latent" else f", by {space}"
    lines.append(
        f"MMD² between the finished images and the references{of}: {score:.4f} (0 is ideal{estimate})."
    )
    if any(g.config.companions for g in session.guidances):
        lines.append(
            f"Fewer than {FEW} images at once cannot show how the set is spread, so each followed one "
            f"reference, drawn by its noise. Draw {FEW} or more together to match the set itself; "
            "micro_batch keeps the memory low."
        )
    return "\n".join(lines)
