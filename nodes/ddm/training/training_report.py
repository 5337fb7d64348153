"""What a training costs and what it did: texts, metadata and a chart."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ....mmd_core.ddm import Training, adapter_numbers, layers
from ...pictures.chart import (
    NEUTRAL,
    Axis,
    Line,
    chart,
    color_of,
)
from .engine import MEMORY_FACTOR
from .plan import Plan

__all__ = [
    "cost_text", "free_text", "loss_chart", "progress_text", "steps_text", "training_metadata",
    "training_report",
]  # fmt: skip

GIGABYTE, MEGABYTE = 2**30, 2**20
CHART_SIZE = (760, 420)
MAX_POINTS = 150  # of one line of the chart
SMOOTHED = 20  # the chart shows the mean loss of this many updates
CHECKPOINTED_MEMORY_FACTOR = 1.5  # as `MEMORY_FACTOR`, with gradient checkpointing
COPIES = 4  # of the adapters on the device: themselves, gradients, and two moments of Adam
FEW_REFERENCES = 200
FREE = ("dpmpp_2m", "kl_optimal")  # the sampler and the schedule that draw well without training
LEAST_FREE_STEPS = 4  # with fewer, they do not


def cost_text(plan: Plan) -> str:
    """The work and memory that the training needs, in words."""
    setup, config, steps = plan.setup, plan.config, len(plan.chains[0])
    calls = config.batch_size * steps
    batches_per_call = 2 if setup.cfg != 1 else 1  # positive and negative
    latent = plan.references.latents[0].numel()
    call = setup.model.memory_required(
        [config.micro_batch * batches_per_call, *plan.references.latents.shape[1:]]
    )
    network, rank = setup.model.model.diffusion_model, config.rank
    if setup.existing_lora:  # its rank replaces that of the settings
        downs = [len(t) for name, t in setup.existing_lora.items() if "lora_down" in name]
        rank = max(downs, default=rank)
    adapters = adapter_numbers(network, layers(network, config.targets), rank)
    parts = {
        "model": setup.model.model_size(),
        "adapters": COPIES * 4 * adapters,
        "one call with gradients": call
        * (CHECKPOINTED_MEMORY_FACTOR if setup.checkpointing else MEMORY_FACTOR),
        "samples": 4 * config.batch_size * latent * (steps + 2 + plan.chains[0].draws),
        "references": 4 * latent * (len(plan.references) + len(plan.validation or ())),
    }
    # In forward passes for each call: one to draw, one with a graph, about two backward, and one
    # for checkpointing.
    work = 4 + setup.checkpointing
    listed = ", ".join(f"{name} {_bytes_text(part)}" for name, part in parts.items())
    return (
        f"{config.iterations} updates. Each runs the model {calls} times forward, then {calls} "
        "times forward and backward. In all, this is the work of "
        f"{work * calls * batches_per_call * config.iterations} forward passes for one image. "
        f"Memory about {_bytes_text(sum(parts.values()))}: {listed}."
    )


def _bytes_text(size: float) -> str:
    return f"{size / GIGABYTE:.1f} GB" if size >= GIGABYTE / 10 else f"{size / MEGABYTE:.1f} MB"


def progress_text(training: Training, iterations: int) -> str:
    """How far the training is, in one short line."""
    losses = training.losses[-SMOOTHED:]
    parts = [f"update {len(training.losses)} of {iterations}"]
    if losses:
        parts.append(f"MMD² {sum(losses) / len(losses):.2g}")
    if training.validated:
        first, last = training.validated[0][1], training.validated[-1][1]
        parts.append(f"held out {first:.2g} → {last:.2g}")
    return " · ".join(parts)


def training_metadata(plan: Plan, training: Training) -> dict[str, Any]:
    """What a LoRA file says about the training."""
    setup, sampling, config, kernel = plan.setup, plan.sampling, plan.config, plan.kernel
    held_out = dict(training.validated)
    before, after = training.compared or (held_out.get(0), held_out.get(training.best))
    return {
        "method": "MMD-DDM (arXiv 2301.07969)",
        "steps": sampling.steps,
        "steps_from": min(sampling.step_counts),
        "steps_to": max(sampling.step_counts),
        "sampler_name": sampling.sampler_name,
        "scheduler": sampling.scheduler,
        "cfg": setup.cfg,
        "shift": getattr(setup.model.get_model_object("model_sampling"), "shift", None),
        "model": type(setup.model.model).__name__,
        "latent": list(plan.references.latents.shape[1:]),
        "features": config.features,
        "kernel": kernel.kernel,
        "bandwidth_multipliers": list(kernel.multipliers),
        "prompt_kernel": kernel.prompt_kernel if plan.prompt_features is not None else "none",
        "prompts": setup.prompts,
        "references": len(plan.references),
        "held_out": len(plan.validation or ()),
        "batch_size": config.batch_size,
        "rank": config.rank,
        "targets": config.targets,
        "iterations": len(training.losses),
        "kept_iteration": training.best,
        "mmd2_before": before,
        "mmd2_after": after,
    }


def steps_text(metadata: dict[str, Any]) -> str:
    """The numbers of steps that a LoRA was trained for: "5" or "4 to 6"."""
    low, high = metadata["steps_from"], metadata["steps_to"]
    return str(low) if low == high else f"{low} to {high}"


def free_text(metadata: dict[str, Any]) -> str:
    """What to try before a LoRA, because it costs nothing; "" where it is no alternative."""
    sampler, scheduler = FREE
    used = metadata["sampler_name"], metadata["scheduler"]
    if used == FREE or metadata["steps"] < LEAST_FREE_STEPS:
        return ""
    return (
        f"Try this first: {metadata['steps']} steps of {sampler}, {scheduler} without a LoRA. On "
        "digits, 5 such steps came closer to real ones (MMD² 0.0010) than a LoRA for euler "
        "(0.0058)."
    )


def remarks(plan: Plan, training: Training) -> list[str]:
    """What the user should change, in full sentences."""
    texts = []
    if plan.validation is None:
        texts.append(
            "Connect more references, or other images to validation. With fewer than 10 references "
            "none is held out, so nothing shows whether the LoRA has only memorized them."
        )
    elif len(plan.references) < FEW_REFERENCES:
        texts.append(
            "Use some hundreds of references, for example from MMD Make References. "
            f"{len(plan.references)} are few: the LoRA may memorize them."
        )
    if plan.kernel.kernel in ("polynomial", "linear") and plan.config.features != "unet":
        texts.append(
            "Use the kernel rbf, or set features to unet. "
            f"The kernel {plan.kernel.kernel} compares only a few moments of latents."
        )
    if plan.setup.prompts > 1 and plan.prompt_features is None:
        texts.append(
            "Encode the references with captions and clip, or draw them with MMD Make References. "
            "Now captions are not compared, so each prompt is matched with all references."
        )
    if training.validated and training.best == 0:
        texts.append(
            "Try a higher or lower learning_rate, more iterations, or a larger batch_size. "
            f"Training brought no improvement, so this LoRA {_untrained(training)}."
        )
    elif training.compared and not training.compared[1] < training.compared[0]:
        texts.append("Set keep to best. The last LoRA is no better than none at the same settings.")
    if training.ended:
        texts.append(f"Training ended {training.ended}.")
    return texts


def _untrained(training: Training) -> str:
    """What a LoRA is that training did not improve."""
    without, given = training.compared or (0.0, 0.0)
    return "is the existing LoRA" if given < without else "has no effect"


def training_report(plan: Plan, training: Training) -> str:
    """Cost, result and remarks, in words."""
    metadata, sampling = training_metadata(plan, training), plan.sampling
    lines = [
        cost_text(plan),
        f"Trained for {steps_text(metadata)} steps of {sampling.sampler_name}, "
        f"{sampling.scheduler}, cfg {plan.setup.cfg:g}. Draw with exactly these settings. With "
        "many steps, the model without the LoRA is better.",
        f"{len(training.losses)} updates with {len(plan.references)} references. The LoRA is that "
        f"after update {training.best}.",
    ]
    before, after = metadata["mmd2_before"], metadata["mmd2_after"]
    if before is not None:
        lines.append(
            f"At the same settings and on new noise, MMD² to {metadata['held_out']} held-out "
            f"references is {before:.3g} without the LoRA, {after:.3g} with it."
        )
    lines += filter(None, [free_text(metadata)])
    return "\n".join([*lines, *(f"Note: {text}" for text in remarks(plan, training))])


def loss_chart(training: Training, iterations: int) -> Image.Image:
    """The MMD² of batches and of held-out references over the updates."""
    n = max(1, iterations)
    losses = torch.tensor(training.losses or [0.0])
    width = min(SMOOTHED, len(losses))
    means = losses.unfold(0, width, 1).mean(1)
    lines = [
        Line(
            _thinned([((i + width) / n, v) for i, v in enumerate(means.tolist())]),
            NEUTRAL,
            f"each batch, mean of {width}",
        )
    ]
    if training.validated:
        lines.append(
            Line([(i / n, v) for i, v in training.validated], color_of(0), "held-out references")
        )
        lines.append(
            Line(
                [(i / n, v) for i, v in training.validated if i == training.best],
                color_of(1),
                "kept",
            )
        )
    marks = [(share, f"{share * n:.0f}") for share in (0, 0.25, 0.5, 0.75, 1)]
    return chart(
        "MMD² (unbiased: about 0 is a match)",
        lines,
        CHART_SIZE,
        axis=Axis(marks, "updates"),
        span=_span(lines),
    )


def _thinned(points: Sequence) -> Sequence:
    """At most `MAX_POINTS` of the points."""
    return points[:: -(-len(points) // MAX_POINTS)]


def _span(lines: Sequence[Line]) -> tuple[float, float]:
    """The ends of the y axis, with a margin. It includes 0."""
    values = [y for line in lines for _, y in line.points]
    low, high = min(0.0, *values), max(values)
    margin = 0.08 * ((high - low) or 1.0)
    return low - (margin if low < 0 else 0), high + margin
