"""MMDStrengths: several strengths, for one batch drawn with each."""

import math

from comfy_api.latest import io

from ..base.schema import schema_options
from ..base.sockets import CATEGORY

NODE = "MMDStrengths"


def read_strengths(text: str) -> list[float]:
    """The numbers in `text`, in their order.

    Raises:
        ValueError: Something that is no number from 0 to 10000, or nothing at all.
    """
    words = text.replace(",", " ").replace(";", " ").split()
    numbers = []
    for word in words:
        try:
            numbers.append(float(word))
        except ValueError:
            numbers.append(math.nan)
        if not 0 <= numbers[-1] <= 10000:
            raise ValueError(
                f"{NODE}: strengths must be numbers from 0 to 10000, not {word!r}: write for example 0, 30, 100"
            )
    if not numbers:
        raise ValueError(f"{NODE}: strengths is empty: write for example 0, 30, 100")
    return numbers


class MMDStrengths(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDStrengths",
            display_name="MMD Strengths",
            category=CATEGORY,
            description="Several strengths at once: connected to strength of MMDGuidedKSampler, the batch is drawn "
            "once with each. MMDPlot shows all in one grid.",
            inputs=[
                io.String.Input(
                    "strengths",
                    default="0, 10, 30, 100, 300",
                    tooltip="The strengths λ to draw with, 0 for no guidance. Each takes as long as one run.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "strength",
                    is_output_list=True,
                    tooltip="For strength of a guidance node, which then runs once for each.",
                )
            ],
            **schema_options(search_aliases=["mmd", "strength sweep", "xy plot", "list of floats"]),
        )

    @classmethod
    def validate_inputs(cls, strengths=None):
        try:
            if strengths is not None:  # else another node writes it
                read_strengths(strengths)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, strengths):
        return io.NodeOutput(read_strengths(strengths))
