"""TSMCPlot: charts of a run of TRI-TSMC, batch by batch, in one image."""

import math

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ...mmd_core.tsmc import Learning
from ..base.schema import schema_options
from ..base.sockets import CATEGORY, StateSocket
from ..guidance.mmd_plot import legend
from ..pictures.chart import (
    NEUTRAL,
    Axis,
    Line,
    chart,
    color_of,
)
from ..pictures.lettering import BACKGROUND
from ..pictures.picture_grid import Row, picture_rows
from .run.state import Learned

NODE = "TSMCPlot"
WIDTH, HEIGHT, EDGE = 1280, 400, 14
MARKS = 12  # most batch numbers below a chart
SHARES = (0.0, 1.0)
OWN, ALL, BEST = color_of(0), color_of(1), color_of(2)
NAME = "TRI-TSMC"


def by_itself(learning: Learning) -> float:
    """The mean reward of the model without steering: of unsteered batches, else the weighted mean of all images."""
    usable = torch.isfinite(learning.rewards)
    unsteered = torch.tensor([not any(done.theta) for done in learning.summaries])
    alone = usable & unsteered.repeat_interleave(torch.tensor(learning.counts))
    if alone.any():
        return learning.rewards[alone].mean().item()
    weights = torch.softmax(-learning.log_mixture[usable], 0)
    return (weights * learning.rewards[usable]).sum().item()


def around(lines: list[Line]) -> tuple[float, float]:
    """The smallest and the largest value of lines, with a margin."""
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room


def figures(state: Learned) -> list[str]:
    """The result of a run, as short texts."""
    learning = state.learning
    return [
        f"{state.count} images",
        f"ESS {learning.ess:.1f}",
        f"log Z {learning.log_z:.3g}",
        f"best reward {max(done.best for done in learning.summaries):.4g}",
    ]


def charts(learning: Learning, size: tuple[int, int]) -> list[Image.Image]:
    """The charts of effective sample size, τ and rewards over the batches, each of the given size in pixels."""
    done = learning.summaries
    n = len(done)
    every = math.ceil(n / MARKS)
    places = [(i + 0.5) / n for i in range(n)]
    axis = Axis([(places[i], str(i + 1)) for i in range(0, n, every)], "batch")

    def line(values: list[float | None], color, name: str) -> Line:
        points = zip(places, values, strict=True)
        return Line([(x, y) for x, y in points if y is not None], color, name)

    drawn = np.cumsum([each.count for each in done]).tolist()
    effective = [
        line([each.all_ess / m for each, m in zip(done, drawn, strict=True)], ALL, "of all so far"),
        line([each.ess / each.count for each in done], OWN, "of the batch"),
    ]
    rewards = [
        line([by_itself(learning)] * n, NEUTRAL, "model alone"),
        line([each.reward for each in done], OWN, "mean"),
        line([each.best for each in done], BEST, "best"),
    ]
    taus = [each.tau for each in done]
    way = [line(taus, OWN, "no update yet" if taus == [None] * n else "tau")]
    shares = {"percent": True, "axis": axis, "span": SHARES}
    return [
        chart("Effective sample size", effective, size, **shares),
        chart("How far each update went", way, size, **shares),
        chart("Reward", rewards, size, axis=axis, span=around(rewards)),
    ]


def plot(state: Learned, images: torch.Tensor | None = None) -> Image.Image:
    """The charts of a run in one image; with `images`, a row of them is above the charts."""
    notes = figures(state)
    if images is None:
        head = legend([(NAME, " · ".join(notes), OWN)], WIDTH - 2 * EDGE)
    else:
        head = picture_rows([Row(images, NAME, notes, OWN)], WIDTH)
    inset = (WIDTH - head.width) // 2
    top = head.height + 2 * EDGE if inset else head.height
    wide = (WIDTH - 4 * EDGE) // 3
    whole = Image.new("RGB", (WIDTH, top + HEIGHT + EDGE), BACKGROUND)
    whole.paste(head, (inset, EDGE if inset else 0))
    for i, picture in enumerate(charts(state.learning, (wide, HEIGHT))):
        whole.paste(picture, (EDGE + i * (wide + EDGE), top))
    return whole


class TSMCPlot(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TSMCPlot",
            display_name="TSMC Plot",
            category=CATEGORY,
            description="Draws how a run of TRI-TSMC went, batch by batch: how many images count, how far each update "
            "went, and the rewards; with the images above.",
            inputs=[
                StateSocket.Input(
                    "state", tooltip="The run: from TRITSMCSampler, or from the last TSMCUpdate."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The images that were chosen, for a row above the plot: what VAE Decode makes of latent.",
                ),
            ],
            outputs=[io.Image.Output("plot", tooltip="The picture, for SaveImage.")],
            is_output_node=True,
            **schema_options(
                search_aliases=["tsmc", "smc", "chart", "graph", "steering", "ess"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def execute(cls, state, images=None):
        if not isinstance(state, Learned):
            raise ValueError(
                f"{NODE}: nothing was scored yet: connect state of TSMCUpdate or TRITSMCSampler"
            )
        picture = plot(state, images)
        image = torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
