"""MMDPlot: what guidance did, step by step, in one image."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw
from torch import Tensor

from ...mmd_core import GuidanceConfig
from ..base.counted import counted
from ..base.schema import schema_options
from ..base.sockets import LOOK, TraceSocket
from ..pictures.chart import (
    NEUTRAL,
    Line,
    chart,
    color_of,
)
from ..pictures.lettering import (
    BACKGROUND,
    FAINT,
    length,
    write,
)
from ..pictures.picture_grid import Row, picture_rows
from .run.report import finite
from .run.trace import Trace

WIDTH, HEIGHT, EDGE = 1280, 420, 14
OTHERS = (2, 3, 4)  # the numbers of the optional traces


def settings(config: GuidanceConfig) -> dict[str, str]:
    """The settings in words, by their names."""
    kernel = config.kernel_config
    return {
        "strength": f"strength {config.strength:g}" if config.strength else "without guidance",
        "mode": f"mode {config.mode}",
        "window": f"{config.start_percent:.0%} to {config.end_percent:.0%}",
        "kernel": f"kernel {kernel.kernel}",
        "feature_space": f"compared by {kernel.feature_space}",
        "multipliers": "multipliers " + ", ".join(f"{m:g}" for m in kernel.multipliers),
        "bandwidth": (
            kernel.bandwidth
            if kernel.bandwidth == "median"
            else f"bandwidth {kernel.bandwidth_value:g}"
        ),
        "prompt_kernel": f"prompt kernel {kernel.prompt_kernel}",
        "preserve": f"preserve {config.preserve:g}",
    }


def names(traces: list[Trace]) -> list[str]:
    """A name for each trace: the settings that differ between the traces, or the strength."""
    all_settings = [settings(trace.config) for trace in traces]
    changed = [key for key in all_settings[0] if len({s[key] for s in all_settings}) > 1]
    found = []
    for trace, each in zip(traces, all_settings, strict=True):
        here = ["strength"] if trace.config.strength == 0 else changed or ["strength"]
        found.append(", ".join(each[key] for key in here))
    if len(set(found)) == len(found):
        return found
    return [f"{i + 1}: {name}" for i, name in enumerate(found)]


def figures(trace: Trace) -> list[str]:
    """The result of the runs, as short texts."""
    notes = [f"MMD² {run.mmd2:.4f}" for run in trace.finished[-1:]]
    if known := finite(trace.distances):
        notes.append(f"nearest {fmean(known):.2f}")
    return notes


def legend(entries: list[tuple[str, str, tuple[int, int, int]]], width: int) -> Image.Image:
    """The names and colors of lines, on as many rows as they need.

    Arguments:
        entries: The name, a note and the color of each line.
        width: The width of the image, in pixels.
    """
    places, x, y = [], 0, 0
    for name, notes, _ in entries:
        needed = 26 + length(name, 17) + 10 + length(notes, 15) + 30
        if x and x + needed > width:
            x, y = 0, y + 28
        places.append((x, y))
        x += needed
    image = Image.new("RGB", (width, y + 28), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for (name, notes, color), (x, y) in zip(entries, places, strict=True):
        draw.rounded_rectangle([x, y + 11, x + 18, y + 16], 2, color)
        write(draw, (x + 26, y + 14), name, 17, anchor="lm")
        beside = x + 26 + length(name, 17) + 10
        write(draw, (beside, y + 14), notes, 15, FAINT, anchor="lm")
    return image


def plot(traces: list[Trace], images: list[Tensor | None]) -> Image.Image:
    """The traces in two charts, below a row of images for each trace that has images.

    Arguments:
        traces: The traces.
        images: The images of each trace, with shape `(B, H, W, 3)`, or None.
    """
    labels, panel = names(traces), ((WIDTH - 3 * EDGE) // 2, HEIGHT)
    colors = [color_of(i) if trace.config.strength else NEUTRAL for i, trace in enumerate(traces)]
    lines: tuple[list[Line], list[Line]] = ([], [])
    for trace, color in zip(traces, colors, strict=True):
        for stages in trace.drawings:
            rows = [
                ((number + row.progress) / len(stages), row)
                for number, run in enumerate(stages)
                for row in run.rows
            ]
            lines[0].append(Line([(place, row.mmd2_after) for place, row in rows], color))
            lines[1].append(Line([(place, row.relative) for place, row in rows], color))
    each = list(zip(traces, labels, colors, images, strict=True))
    rows = [Row(i, name, figures(trace), color) for trace, name, color, i in each if i is not None]
    parts = [picture_rows(rows, WIDTH)] if rows else []
    if len(rows) < len(traces):  # otherwise the rows name the lines
        entries = [(name, " · ".join(figures(trace)), color) for trace, name, color, _ in each]
        parts.append(legend(entries, WIDTH - 2 * EDGE))
    titles = "MMD² between batch and references", "Guidance as a share of the sampler's step"
    charts = (
        chart(titles[0], lines[0], panel, logarithmic=True),
        chart(titles[1], lines[1], panel, percent=True),
    )
    height = sum(part.height for part in parts) + HEIGHT + 3 * EDGE
    whole, top = Image.new("RGB", (WIDTH, height), BACKGROUND), 0
    for part in parts:
        inset = (WIDTH - part.width) // 2
        top += EDGE if inset else 0
        whole.paste(part, (inset, top))
        top += part.height
    for i, part in enumerate(charts):
        whole.paste(part, (EDGE + i * (panel[0] + EDGE), top + EDGE))
    return whole


def paired(
    traces: Sequence[Trace | None], images: Sequence[Tensor | None]
) -> list[tuple[Trace, Tensor | None]]:
    """Each trace with its images, or with None if there are no images.

    Raises:
        ValueError: The numbers of traces and of batches of images differ.
    """
    traces = [trace for trace in traces if trace is not None]
    images = [batch for batch in images if batch is not None]
    if not images:
        return [(trace, None) for trace in traces]
    if len(images) != len(traces):
        raise ValueError(
            f"MMDPlot: {counted(len(traces), 'trace')} came with "
            f"{counted(len(images), 'batch of images', 'batches of images')}. Connect the images "
            "that VAE Decode makes of the latents of the same sampler"
        )
    return list(zip(traces, images, strict=True))


class MMDPlot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDPlot",
            display_name="MMD Plot",
            category=LOOK,
            description="Draws what guidance did: MMD² and the size of guidance at every step, "
            "below the images. Several traces in one image compare settings.",
            inputs=[
                TraceSocket.Input(
                    "trace",
                    tooltip="From MMDGuidedKSampler or ApplyMMDGuidance. If several strengths were "
                    "drawn (MMDStrengths), each has a line.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The images drawn in that run, for a row above the plot. Always "
                    "connect them with ApplyMMDGuidance, so that the plot is drawn after the "
                    "images.",
                ),
                *(
                    io_input
                    for i in OTHERS
                    for io_input in (
                        TraceSocket.Input(
                            f"trace_{i}", optional=True, tooltip="Another trace to compare with."
                        ),
                        io.Image.Input(
                            f"images_{i}", optional=True, tooltip=f"The images of trace_{i}."
                        ),
                    )
                ),
            ],
            outputs=[io.Image.Output("plot", tooltip="The plot, for SaveImage.")],
            is_output_node=True,
            is_input_list=True,
            **schema_options(
                search_aliases=["mmd", "trace", "chart", "graph", "compare settings", "xy plot"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def execute(
        cls, trace: Sequence[Trace], images: Sequence[Tensor] = (),
        trace_2: Sequence[Trace] = (), images_2: Sequence[Tensor] = (),
        trace_3: Sequence[Trace] = (), images_3: Sequence[Tensor] = (),
        trace_4: Sequence[Trace] = (), images_4: Sequence[Tensor] = (),
    ) -> io.NodeOutput:  # fmt: skip
        # Every input is a list, since is_input_list is set.
        given = (trace, images), (trace_2, images_2), (trace_3, images_3), (trace_4, images_4)
        pairs = [pair for each in given for pair in paired(*each)]
        pairs = [(drawn, batch) for drawn, batch in pairs if drawn.runs]
        if not pairs:
            raise ValueError(
                "MMDPlot: nothing was drawn yet. Connect the images that were drawn with the "
                "guided model to images, so that the plot is drawn after them"
            )
        drawn = plot(*map(list, zip(*pairs, strict=True)))
        image = torch.from_numpy(np.asarray(drawn, np.float32) / 255)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
