"""The chart of MMDPlot, of runs with emoji."""

from __future__ import annotations

from mmd_pack.nodes.guidance import mmd_plot
from mmd_tests.make.help.guidance import SWEEP, swept
from mmd_tests.make.help.sheets import PAGE
from PIL import Image


def plot() -> Image.Image:
    """What MMDPlot makes of several strengths, narrower than on the node."""
    mmd_plot.WIDTH, mmd_plot.HEIGHT = PAGE, 360
    traces = [swept(strength).trace for strength in SWEEP]
    return mmd_plot.plot(traces, [None for _ in traces])
