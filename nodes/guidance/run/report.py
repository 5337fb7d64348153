"""What guidance did, in words: one line during and after a run, a report, and remarks."""

import math
from collections.abc import Sequence
from statistics import fmean

from ....mmd_core import FEW, RunTrace, TraceRow
from ...base.counted import counted
from ...base.remark import Remark
from .few_references import FEW_REFERENCES
from .problems import FEW_IMAGES, NO_NOISE, NO_PROMPT, OTHER_BATCH, RISING, SEVERAL_KINDS
from .trace import Trace

SATURATED = 0.9  # share of saturated kernel values above which the kernel is of no use
NEGLIGIBLE = 2e-3  # smallest effect that one can see, as a share of the sampler's own steps
# Below this distance an image may be a copy. The unit is the spacing of the references. Of 8000
# new images of a learned world, one is as near.
COPY = 0.3
# Shares of the prompt's moves that guidance may take back, and that suit most images. In the demo
# world emoji (16 prompts, cfg 4, denoiser after 1194 steps of training) it takes back 19 % at
# strength 3, where as many images show their prompts as without guidance; 34 % at 10, where most of
# these still do; 49 % at 30 and 72 % at 100, where few do. The share thus grows about with the
# 0.4th power of strength. After 4708 steps, with emoji_flow, another set and other prompts, it is
# 38 % at 3, where images show their prompts, 55 % at 10 and 66 % at 30, where few do.
TAKEN_BACK, FITTING, POWER = 0.45, 0.3, 0.4


def status(row: TraceRow) -> str:
    """What guidance does at one model call, in a short line for the node."""
    if not row.substeps:
        return f"MMD² {row.mmd2_before:.2g} · not guided here"
    return f"MMD² {row.mmd2_before:.2g} → {row.mmd2_after:.2g} · {row.relative:.0%} of the step"


def ending(trace: Trace) -> str:
    """The result of the last run, in a short line for the node: problems, else figures."""
    run = trace.runs[-1]
    rows = run.rows
    parts = [f"MMD² {rows[0].mmd2_before:.2g} → {rows[-1].mmd2_after:.2g}"] if rows else []
    if not run.finished:
        return " · ".join([*parts, "noise is left"])
    known = finite(run.distances)
    nearest = [f"nearest {fmean(known):.2f}"] if known else []
    problems = [f"⚠ {remark.short}" for remark in remarks(trace)]
    return " · ".join(parts + (problems or nearest))


def summary(trace: Trace) -> str:
    """The last run, in one line for the log."""
    config, run = trace.config, trace.runs[-1]  # not run.config: small batches have less strength
    acted = run.acted
    base = f", {counted(trace.base, 'base image')}" if trace.base else ""
    line = (
        f"{counted(run.batch, 'image')}, {counted(run.references, 'reference')}{base}, mode "
        f"{config.mode}, strength {config.strength:g}"
    )
    if not run.finished:
        line += ", noise is left"
    if not acted:
        judged = f", MMD² {run.mmd2:.3g}" if run.finished else ""
        return f"{line}: drawn without guidance{judged}"
    line += (
        f": guided at {len(acted)} of {counted(len(run.rows), 'model call')}, by "
        f"{fmean(r.relative for r in acted):.1%} of the sampler's steps, MMD² "
        f"{run.rows[0].mmd2_before:.3g} → {run.rows[-1].mmd2_after:.3g}"
    )
    known = finite(run.distances)
    return line + (f", nearest reference {fmean(known):.2f}" if known else "")


def remarks(trace: Trace) -> list[Remark]:
    """All problems of the runs, each with its fix."""
    if trace.config.strength == 0 or not trace.runs:
        return list(trace.problems)
    copies = _copy_remarks(trace)  # what was feared of few references, measured
    found = [each for each in trace.problems if not copies or each.short != FEW_REFERENCES]
    found += [Remark("another VAE", sentence) for sentence in trace.warnings]
    few = any(run.config.companions for run in trace.runs)
    found += _effect_remarks(trace, few)
    if few and trace.acted:
        found.append(FEW_IMAGES)
    return found + _prompt_remarks(trace) + copies


def _effect_remarks(trace: Trace, few: bool) -> list[Remark]:
    """What keeps guidance from having an effect.

    Arguments:
        few: Whether the images followed companions, which moves them less.
    """
    acted, told = trace.acted, {problem.short for problem in trace.problems}
    if not acted and told & {RISING.short, OTHER_BATCH}:
        return []
    if not trace.rows:
        return [
            Remark(
                "no model call",
                "Draw with another sampler, or more steps: guidance saw no call of the model. "
                "Either the schedule has no step, or this sampler calls the model without what "
                "ComfyUI gave it for this run (model_options).",
            )
        ]
    if not acted and max(len(run.rows) for run in trace.runs) == 1:
        return [
            Remark(
                "never acted",
                "Draw with 2 steps or more: guidance acts in every step but the last, and here is "
                "only one.",
            )
        ]
    if not acted and few:
        return [
            Remark(
                "never acted",
                f"Draw {FEW} images or more together, or set start_percent to 0: fewer are guided "
                "only in the first part of the noise schedule, and no step of this run lies there.",
            )
        ]
    if not acted:
        return [
            Remark(
                "never acted",
                "Lower start_percent or raise end_percent: guidance never acted, because no step "
                "of the schedule lies between them.",
            )
        ]
    if fmean(row.saturated for row in acted) > SATURATED:
        median = trace.config.kernel_config.bandwidth == "median"
        fix = "Add" if median else "Set bandwidth of MMDKernel to median, add"
        return [
            Remark(
                "kernel saturated",
                f"{fix} larger and smaller multipliers on MMDKernel, or set its kernel to energy: "
                "to this kernel all images are equally similar to the references, so it cannot "
                "tell which way to go.",
            )
        ]
    effect = fmean(row.relative for row in acted)
    if trace.base and FEW_REFERENCES in told:
        return []
    if trace.base and effect < NEGLIGIBLE and trace.config.preserve < 1:
        return [
            Remark(
                "no contrast",
                "Disconnect base: what the model drew for the captions is as much like the "
                "references as these are like each other, so guidance found no style to follow.",
            )
        ]
    if effect < NEGLIGIBLE and trace.config.preserve == 1:
        return [
            Remark(
                "hardly any effect",
                "Lower preserve: at 1 guidance may not move the images at all.",
            )
        ]
    if not few and effect < NEGLIGIBLE:
        return [
            Remark(
                "hardly any effect",
                f"Raise strength: guidance moved the images by {effect:.2%} of the sampler's "
                "steps, nothing one can see.",
            )
        ]
    return []


def _prompt_remarks(trace: Trace) -> list[Remark]:
    """Whether guidance outweighs the prompt."""
    _, along = _by_prompt(trace) or (0.0, 0.0)
    if -along <= TAKEN_BACK:
        return []
    fitting = float(f"{trace.config.strength * (FITTING / -along) ** (1 / POWER):.1g}")
    # Less than 1 moves nothing: then the prompt itself hardly shows in the images.
    lower = f", or lower strength to about {fitting:g}," if fitting >= 1 else ""
    return [
        Remark(
            "outweighs the prompt",
            f"Set mode to keep_prompt{lower} if the images shall show the prompt: guidance took "
            f"back {_share(-along)} of what the prompt gave.",
        )
    ]


def _by_prompt(trace: Trace) -> tuple[float, float] | None:
    """How far guidance moved images by how far the prompt did, and the part of it along the prompt.

    Means over the calls, also those at which only the prompt acted; None if none was compared.
    """
    rows = [row for row in trace.rows if row.by_prompt is not None]
    if not rows:
        return None
    calls = len(rows) + len(trace.rows) - len(trace.acted)
    return sum(row.by_prompt for row in rows) / calls, sum(row.along_prompt for row in rows) / calls


def _copy_remarks(trace: Trace) -> list[Remark]:
    """Whether images may be copies of references."""
    near = [
        (distance, trace.names[j] if trace.names else f"reference {j + 1}")
        for run in trace.runs
        for distance, j in zip(run.distances, run.nearest, strict=True)
        if distance < COPY
    ]
    if not near or not trace.acted:
        return []
    distance, name = min(near)
    are, copies = ("is", "it may be a copy") if len(near) == 1 else ("are", "they may be copies")
    return [
        Remark(
            "possible copies",
            f"Lower strength or end_percent, or add references: {len(near)} of "
            f"{counted(trace.batch, 'image')} {are} much nearer to a single reference than "
            f"references are to each other (nearest: {name}, at {distance:.2f} times that "
            f"distance), so {copies}.",
        )
    ]


def finite(distances: Sequence[float]) -> list[float]:
    """The distances that are known."""
    return [distance for distance in distances if math.isfinite(distance)]


def run_report(trace: Trace, references: int) -> str:
    """What guidance did in the runs of a node.

    Arguments:
        references: The number of references.
    """
    lines = [_heading(trace, references)]
    acted = trace.acted
    if trace.base and acted:
        lines.append(
            f"Guidance followed the contrast with {counted(trace.base, 'base image')}: what "
            "differs between these and the references."
        )
    if trace.remembered:
        how = "as drawn together with them"
        if trace.base:
            how = "in MMD² only, because base is connected"
        images = counted(trace.remembered, "remembered image counts", "remembered images count")
        lines.append(f"{images} {how}.")
    if acted and trace.frames > 1:
        lines.append(f"Films of {trace.frames} frames were compared by their mean over time.")
    if trace.masked:
        lines.append("A mask keeps a part of the images: only the new part was compared.")
    if acted and trace.resized:
        sizes = [f"{w}×{h}" for h, w in sorted(trace.resized)]
        more = f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""
        lines.append(f"References were resized, in latents to {', '.join(sizes[:6])}{more}.")
    if acted:
        lines.append(
            f"Guidance acted at {len(acted)} of {counted(len(trace.rows), 'model call')}, from "
            f"sigma {acted[0].sigma:.3g} to {acted[-1].sigma:.3g}, and moved the images by "
            f"{fmean(row.relative for row in acted):.1%} of the sampler's steps "
            f"({fmean(row.change for row in acted):.1%} of the references' spread each time)."
        )
    if compared := _by_prompt(trace):
        size, along = compared
        took = f"took back {_share(-along)} of" if along < 0 else f"added {along:.0%} to"
        moved = f"It moved them {size:.2g} times as far as the prompt did (cfg)"
        lines.append(f"{moved}, and {took} what the prompt gave.")
    if trace.finished:
        lines += _result(trace, trace.finished[-1], references)
    return "\n".join(lines + [remark.text for remark in remarks(trace)])


def _share(taken: float) -> str:
    """How much of what the prompt gave was taken back; more than all of it is all."""
    return "all" if taken > 1 else f"{taken:.0%}"


def _heading(trace: Trace, references: int) -> str:
    config = trace.config
    if config.strength == 0:
        return "Strength is 0: drawn without guidance, as by KSampler."
    if {NO_NOISE, NO_PROMPT, SEVERAL_KINDS} & set(trace.problems):
        return "Drawn without guidance."
    if not trace.runs:
        return "Nothing was drawn: denoise is 0, so latent_image stays as it is."
    groups = f" in {len(trace.drawings)} groups" if len(trace.drawings) > 1 else ""
    drawn, left = trace.batch, ""
    if not trace.finished:
        drawn, left = trace.runs[-1].batch, "; noise is left in them, so they are not judged yet"
    return (
        f"{counted(drawn, 'image')} drawn towards {counted(references, 'reference')}"
        f"{groups}{left}, mode {config.mode}, strength {config.strength:g}."
    )


def _result(trace: Trace, last: RunTrace, references: int) -> list[str]:
    """MMD² and distances at the end."""
    space = trace.config.kernel_config.feature_space
    of = "" if space == "latent" else f", by {space}"
    unbiased = min(trace.batch, references) > 1
    estimate = "; the unbiased estimate may be a little below" if unbiased else ""
    lines = [
        f"MMD² between the finished images and the references{of}: {last.mmd2:.4f} (0 is "
        f"ideal{estimate})."
    ]
    if known := finite(trace.distances):
        lines.append(
            f"An image is {fmean(known):.2f} times as far from its nearest reference as references "
            f"are from each other (least {min(known):.2f}; 0 is a copy)."
        )
    return lines
