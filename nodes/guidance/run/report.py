"""What guidance did, in words: lines while it runs and at its end, a report, and remarks on what is wrong."""

import math
from statistics import fmean

from ....mmd_core import FEW, TraceRow
from ...base.remark import Remark
from .trace import Trace

SATURATED = 0.9  # of the kernel's values
NEGLIGIBLE = 2e-3  # of the sampler's own steps
# Of the distance between neighbors among the references; of 8000 fresh shapes 1 is as near.
COPY = 0.3


FEW_IMAGES = Remark(
    "few images",
    f"Fewer than {FEW} images at once cannot show how the set is spread, so each followed one reference, drawn by its "
    f"noise. Draw {FEW} or more together to match the set itself; micro_batch keeps the memory low.",
)


def status(row: TraceRow) -> str:
    """What happens at the moment, in one short line for the node."""
    if not row.substeps:
        return f"MMD² {row.mmd2_before:.2g} · not guided here"
    return f"MMD² {row.mmd2_before:.2g} → {row.mmd2_after:.2g} · {row.relative:.0%} of the step"


def ending(trace: Trace) -> str:
    """How the last run ended, in one short line for the node: remarks come before figures."""
    rows = trace.runs[-1].rows
    parts = [f"MMD² {rows[0].mmd2_before:.2g} → {rows[-1].mmd2_after:.2g}"] if rows else []
    said = [f"⚠ {remark.short}" for remark in remarks(trace)]
    known = _known(trace.runs[-1].distances)
    nearest = [f"nearest {fmean(known):.2f}"] if known else []
    return " · ".join(parts + (said or nearest))


def summary(trace: Trace) -> str:
    """One line for the log, of the last run."""
    config, run = trace.config, trace.runs[-1]  # few images are guided by less than was set
    acted = run.acted
    line = f"{run.batch} images, {run.references} references, mode {config.mode}, strength {config.strength:g}"
    if not acted:
        return f"{line}: drawn without guidance, MMD² {run.mmd2:.3g}"
    line += (
        f": guided at {len(acted)} of {len(run.rows)} model calls, by {fmean(r.relative for r in acted):.1%} of the "
        f"sampler's steps, MMD² {run.rows[0].mmd2_before:.3g} → {run.rows[-1].mmd2_after:.3g}"
    )
    known = _known(run.distances)
    return line + (f", nearest reference {fmean(known):.2f}" if known else "")


def remarks(trace: Trace) -> list[Remark]:
    """All that keeps guidance from doing what it should."""
    config, acted = trace.config, trace.acted
    said = [Remark(*words) for words in trace.said]
    if config.strength == 0 or not trace.runs:
        return said
    said += [Remark("another VAE", sentence) for sentence in trace.noticed]
    few = any(run.config.companions for run in trace.runs)
    if not acted:
        said.append(
            Remark(
                "never acted",
                "Guidance never acted: no step of the schedule lies in the window. Lower start_percent or raise "
                "end_percent.",
            )
        )
    elif fmean(row.saturated for row in acted) > SATURATED:
        said.append(
            Remark(
                "kernel saturated",
                "To this kernel all images are equally unlike (or like) the references, so it cannot tell which way to "
                "go. Set bandwidth of MMDKernel to median, add larger and smaller multipliers, or set its kernel to "
                "energy.",
            )
        )
    elif not few and fmean(row.relative for row in acted) < NEGLIGIBLE:
        said.append(
            Remark(
                "hardly any effect",
                f"Guidance moved the images by {fmean(row.relative for row in acted):.2%} of what the sampler does: "
                "nothing one can see. Raise strength.",
            )
        )
    if few:
        said.append(FEW_IMAGES)
    near = [
        (distance, trace.names[j] if trace.names else f"reference {j + 1}")
        for run in trace.runs
        for distance, j in zip(run.distances, run.nearest, strict=True)
        if distance < COPY
    ]
    if near and acted:
        distance, name = min(near)
        said.append(
            Remark(
                "possible copies",
                f"{len(near)} of {trace.batch} images lie much nearer to a single reference than the references lie to "
                f"each other (nearest: {name}, {distance:.2f} of their distance): they may be copies of it. Lower "
                "strength or end_percent, or add references.",
            )
        )
    return said


def _known(distances) -> list[float]:
    return [distance for distance in distances if math.isfinite(distance)]


def report(trace: Trace, references: int) -> str:
    """What guidance did, for people."""
    config, acted, batch = trace.config, trace.acted, trace.batch
    if config.strength == 0:
        lines = ["Strength is 0: drawn without guidance, as by KSampler."]
    elif not trace.runs:
        lines = ["Drawn without guidance: latents of several kinds at once cannot be compared."]
    else:
        groups = f" in {len(trace.runs)} groups" if len(trace.runs) > 1 else ""
        lines = [
            f"{batch} images drawn towards {references} references{groups}, mode {config.mode}, "
            f"strength {config.strength:g}."
        ]
    if trace.remembered:
        lines.append(f"{trace.remembered} remembered images count as drawn together with them.")
    if acted:
        lines.append(
            f"Guidance acted at {len(acted)} of {len(trace.rows)} model calls, from sigma {acted[0].sigma:.3g} to "
            f"{acted[-1].sigma:.3g}, and moved the images by {fmean(row.relative for row in acted):.1%} of what the "
            f"sampler does ({fmean(row.change for row in acted):.1%} of the references' spread each time)."
        )
    if trace.runs:
        space = config.kernel_config.feature_space
        of = "" if space == "latent" else f", by {space}"
        unbiased = min(batch, references) > 1
        estimate = "; the unbiased estimate may fall a little below" if unbiased else ""
        lines.append(
            f"MMD² between the finished images and the references{of}: {trace.runs[-1].mmd2:.4f} (0 is ideal{estimate})."
        )
        if known := _known(trace.distances):
            lines.append(
                f"An image is {fmean(known):.2f} times as far from its nearest reference as the references are from "
                f"each other (least {min(known):.2f}; 0 is a copy)."
            )
    return "\n".join(lines + [remark.text for remark in remarks(trace)])
