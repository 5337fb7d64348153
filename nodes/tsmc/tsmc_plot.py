"""TSMCPlot: charts of a run of TRI-TSMC, batch by batch, in one plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ...mmd_core.tsmc import Learning
from ..base.counted import counted
from ..base.schema import schema_options
from ..base.sockets import LOOK, StateSocket
from ..guidance.mmd_plot import legend
from ..pictures.chart import NEUTRAL, Axis, Line, chart, color_of
from ..pictures.lettering import BACKGROUND, Color
from ..pictures.picture_grid import Row, picture_rows
from .run.state import Learned, TSMCState

NODE = "TSMCPlot"
WIDTH, HEIGHT, EDGE = 1280, 400, 14  # of the plot, of a chart, and between charts, in pixels
MAX_LABELS = 12  # batch numbers below a chart
FRACTIONS = (0.0, 1.0)
OWN, ALL, BEST = color_of(0), color_of(1), color_of(2)
NAME = "TRI-TSMC"


def unsteered_mean(learning: Learning) -> float:
    """The mean reward of the model without steering.

    This is the mean over unsteered batches, or the weighted mean over all images if there are none.
    """
    usable = torch.isfinite(learning.rewards)
    unsteered = torch.tensor([not any(batch.theta) for batch in learning.summaries])
    known = usable & unsteered.repeat_interleave(torch.tensor(learning.counts))
    if known.any():
        return learning.rewards[known].mean().item()
    weights = torch.softmax(-learning.log_mixture[usable], 0)
    return (weights * learning.rewards[usable]).sum().item()


def value_range(lines: Sequence[Line]) -> tuple[float, float]:
    """The smallest and the largest value of lines, with a margin."""
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return low - margin, high + margin


def result_notes(state: Learned) -> list[str]:
    """The result of a run, as short texts."""
    learning = state.learning
    return [
        counted(state.count, "image"),
        f"ESS {learning.ess:.1f}",
        f"log Z {learning.log_z:.3g}",
        f"best reward {max(batch.best for batch in learning.summaries):.4g}",
    ]


def charts(learning: Learning, size: tuple[int, int]) -> list[Image.Image]:
    """The charts of effective sample size, τ and rewards over the batches.

    Arguments:
        size: Width and height of each chart, in pixels.
    """
    batches = learning.summaries
    n = len(batches)
    every = math.ceil(n / MAX_LABELS)
    places = [(i + 0.5) / n for i in range(n)]
    axis = Axis([(places[i], str(i + 1)) for i in range(0, n, every)], "batch")

    def line(values: Sequence[float | None], color: Color, name: str) -> Line:
        points = zip(places, values, strict=True)
        return Line([(x, y) for x, y in points if y is not None], color, name)

    totals = np.cumsum([batch.count for batch in batches]).tolist()
    so_far = [batch.all_ess / total for batch, total in zip(batches, totals, strict=True)]
    ess = [
        line(so_far, ALL, "of all so far"),
        line([batch.ess / batch.count for batch in batches], OWN, "of the batch"),
    ]
    rewards = [
        line([unsteered_mean(learning)] * n, NEUTRAL, "model alone"),
        line([batch.reward for batch in batches], OWN, "mean"),
        line([batch.best for batch in batches], BEST, "best"),
    ]
    taus = [batch.tau for batch in batches]
    updates = [line(taus, OWN, "no update yet" if taus == [None] * n else "tau")]
    percent = {"percent": True, "axis": axis, "span": FRACTIONS}
    return [
        chart("Effective sample size", ess, size, **percent),
        chart("How far each update went", updates, size, **percent),
        chart("Reward", rewards, size, axis=axis, span=value_range(rewards)),
    ]


def plot(state: Learned, images: Tensor | None = None) -> Image.Image:
    """The charts of a run side by side; with `images`, a row of them is above the charts."""
    notes = result_notes(state)
    if images is None:
        head = legend([(NAME, " · ".join(notes), OWN)], WIDTH - 2 * EDGE)
    else:
        head = picture_rows([Row(images, NAME, notes, OWN)], WIDTH)
    inset = (WIDTH - head.width) // 2
    top = head.height + 2 * EDGE if inset else head.height
    wide = (WIDTH - 4 * EDGE) // 3
    whole = Image.new("RGB", (WIDTH, top + HEIGHT + EDGE), BACKGROUND)
    whole.paste(head, (inset, EDGE if inset else 0))
    for i, one in enumerate(charts(state.learning, (wide, HEIGHT))):
        whole.paste(one, (EDGE + i * (wide + EDGE), top))
    return whole


class TSMCPlot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCPlot",
            display_name="TSMC Plot",
            category=LOOK,
            description="Shows how a run of TRI-TSMC went, batch by batch: the effective sample "
            "size, how far each update went, and the rewards.",
            inputs=[
                StateSocket.Input(
                    "state", tooltip="The run, from TRITSMCSampler or from the last TSMCUpdate."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The selected images, shown above the charts: latent through VAE "
                    "Decode.",
                ),
            ],
            outputs=[io.Image.Output("plot", tooltip="The plot, for SaveImage.")],
            is_output_node=True,
            **schema_options(
                search_aliases=["tsmc", "smc", "chart", "graph", "steering", "ess"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def execute(cls, state: TSMCState, images: Tensor | None = None) -> io.NodeOutput:
        if not isinstance(state, Learned):
            raise ValueError(
                f"{NODE}: nothing was scored yet: connect state of TSMCUpdate or TRITSMCSampler"
            )
        image = torch.from_numpy(np.asarray(plot(state, images), np.float32) / 255)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
