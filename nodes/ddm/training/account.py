"""What a training costs and what it did, in words and as a plot."""

from collections.abc import Sequence

import torch
from PIL import Image

from ....mmd_core.ddm import Training
from ...pictures.chart import (
    NEUTRAL,
    Axis,
    Line,
    chart,
    color_of,
)
from .finetuning import Plan

__all__ = ["about", "cost", "line", "plot", "report"]

GIGABYTE = 2**30
SIZE = (760, 420)
SMOOTHED = 20  # updates that a point of the loss is the mean of
WITH_GRADIENTS = 3  # times what ComfyUI reckons for a call without
CHECKPOINTED = 1.5
FEW = 200  # references


def cost(plan: Plan) -> str:
    """What the training takes, before it starts."""
    config, steps = plan.config, len(plan.chains[0])
    calls = config.batch_size * steps
    twice = 2 if plan.cfg != 1 else 1
    latent = plan.references.latents[0].numel()
    call = plan.model.memory_required(
        [config.micro_batch * twice, *plan.references.latents.shape[1:]]
    )
    parts = {
        "model": plan.model.model_size(),
        "one call with gradients": call * (CHECKPOINTED if plan.save_memory else WITH_GRADIENTS),
        "samples": 4 * config.batch_size * latent * (steps + 2 + plan.chains[0].draws),
        "references": 4 * latent * (len(plan.references) + len(plan.validation or ())),
    }
    work = (
        4 + plan.save_memory
    )  # forward passes' worth: draw, again with a graph, backwards; blocks once more
    listed = ", ".join(f"{name} {_size(part)}" for name, part in parts.items())
    return (
        f"{config.iterations} updates of {calls} calls of the model forwards, and as many forwards and backwards "
        f"({work * calls * twice * config.iterations} forward passes' worth of work in all). Memory about "
        f"{_size(sum(parts.values()))}: {listed}."
    )


def _size(size: float) -> str:
    return f"{size / GIGABYTE:.1f} GB" if size >= GIGABYTE / 10 else f"{size / 2**20:.1f} MB"


def line(training: Training, iterations: int) -> str:
    """How far it is, in one short line."""
    losses = training.losses[-SMOOTHED:]
    parts = [f"update {len(training.losses)} of {iterations}"]
    if losses:
        parts.append(f"MMD² {sum(losses) / len(losses):.2g}")
    if training.validated:
        first, last = training.validated[0][1], training.validated[-1][1]
        parts.append(f"held out {first:.2g} → {last:.2g}")
    return " · ".join(parts)


def about(plan: Plan, training: Training) -> dict:
    """What a file should know of the training."""
    kernel, sampling = plan.kernel, plan.model.get_model_object("model_sampling")
    held_out = dict(training.validated)
    before, after = held_out.get(0), held_out.get(training.best)
    lengths = plan.steps
    return {
        "method": "MMD-DDM (arXiv 2301.07969)",
        "steps": lengths[0],
        "steps_from": min(lengths),
        "steps_to": max(lengths),
        "sampler_name": plan.sampler_name,
        "scheduler": plan.scheduler,
        "cfg": plan.cfg,
        "shift": getattr(sampling, "shift", None),
        "model": type(plan.model.model).__name__,
        "latent": list(plan.references.latents.shape[1:]),
        "features": plan.config.features,
        "kernel": kernel.kernel,
        "bandwidth_multipliers": list(kernel.multipliers),
        "prompt_kernel": kernel.prompt_kernel if plan.prompt_features is not None else "none",
        "prompts": plan.prompts,
        "references": len(plan.references),
        "held_out": len(plan.validation or ()),
        "batch_size": plan.config.batch_size,
        "rank": plan.config.rank,
        "targets": plan.config.targets,
        "iterations": len(training.losses),
        "kept_iteration": training.best,
        "mmd2_before": before,
        "mmd2_after": after,
    }


def remarks(plan: Plan, training: Training) -> list[str]:
    """What may be wrong, each with its fix."""
    said = []
    if plan.validation is None:
        said.append(
            "Nothing was held out, since there are fewer than 10 references: nobody knows whether the LoRA only learned "
            "these. Connect more, or others to validation."
        )
    elif len(plan.references) < FEW:
        said.append(
            f"{len(plan.references)} references are few: the LoRA learns their proportions by heart. Some hundreds "
            "are better, for example from MMD Make References."
        )
    if plan.kernel.kernel in ("polynomial", "linear") and plan.config.features != "unet":
        said.append(
            f"The kernel {plan.kernel.kernel} sees only a few moments of latents: use rbf, or set features to unet."
        )
    if plan.prompts > 1 and plan.prompt_features is None:
        said.append(
            "The references have no captions of their own that count, so every prompt is matched with all of them. "
            "Encode them with captions and clip, or make them with MMD Make References."
        )
    if training.validated and training.best == 0:
        said.append(
            "Training made nothing better, and the LoRA changes nothing. Try a higher or lower learning_rate, more "
            "iterations, or a larger batch_size."
        )
    if training.ended:
        said.append(f"Training ended {training.ended}.")
    return said


def report(plan: Plan, training: Training) -> str:
    """The whole training in words."""
    made = about(plan, training)
    few = made["steps_from"], made["steps_to"]
    steps = str(few[0]) if few[0] == few[1] else f"{few[0]} to {few[1]}"
    lines = [
        cost(plan),
        f"Trained for {steps} steps of {plan.sampler_name}, {plan.scheduler}, cfg {plan.cfg:g}. Draw with just these; "
        "with many steps the model alone is better.",
        f"{len(training.losses)} updates with {len(plan.references)} references; kept: after {training.best}.",
    ]
    before, after = made["mmd2_before"], made["mmd2_after"]
    if before is not None:
        lines.append(
            f"MMD² to {made['held_out']} held-out references: {before:.3g} before, {after:.3g} after."
        )
    return "\n".join([*lines, *(f"Note: {text}" for text in remarks(plan, training))])


def plot(training: Training, iterations: int) -> Image.Image:
    """The loss and the distance from what was held out, over the updates."""
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
        SIZE,
        axis=Axis(marks, "updates"),
        span=_span(lines),
    )


def _thinned(points: Sequence, most: int = 150) -> Sequence:
    return points[:: -(-len(points) // most)]


def _span(lines: Sequence[Line]) -> tuple[float, float]:
    values = [y for each in lines for _, y in each.points]
    low, high = min(0.0, *values), max(values)
    room = 0.08 * ((high - low) or 1.0)
    return low - (room if low < 0 else 0), high + room
