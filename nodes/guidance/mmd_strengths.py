"""MMDStrengths: several strengths; the batch is drawn once with each."""

import math

from comfy_api.latest import io

from ...mmd_core.kernels.quoted import quoted
from ..base.schema import schema_options
from ..base.sockets import SAMPLING

NODE = "MMDStrengths"
MOST = 100  # strengths: the batch is drawn once with each


def read_strengths(text: str) -> list[float]:
    """The numbers in `text`, in their order.

    Raises:
        ValueError: A word is not a number from 0 to 10000, or there are no or too many words.
    """
    words = text.replace(",", " ").replace(";", " ").split(maxsplit=MOST)
    if len(words) > MOST:
        raise ValueError(
            f"{NODE}: strengths has more than {MOST} numbers, and the batch would be drawn once "
            "with each: write fewer"
        )
    numbers = []
    for word in words:
        try:
            numbers.append(float(word))
        except ValueError:
            numbers.append(math.nan)
        if not 0 <= numbers[-1] <= 10000:
            raise ValueError(
                f"{NODE}: strengths must be numbers from 0 to 10000, not {quoted(word)}: "
                "write for example 0, 30, 100"
            )
    if not numbers:
        raise ValueError(f"{NODE}: strengths is empty: write for example 0, 30, 100")
    return numbers


class MMDStrengths(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDStrengths",
            display_name="Strength Sweep (MMD)",
            category=SAMPLING,
            description="Compares strengths: connect it to strength of MMDGuidedKSampler, and the "
            "batch is drawn once with each. MMDPlot shows all in one grid.",
            inputs=[
                io.String.Input(
                    "strengths",
                    default="0, 10, 30, 100, 300",
                    tooltip="The strengths, separated by commas; 0 is without guidance. Each takes "
                    "as long as one run. In formulas λ.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "strength",
                    is_output_list=True,
                    tooltip="For strength of a guidance node, which runs once with each.",
                )
            ],
            **schema_options(
                search_aliases=[
                    "mmd",
                    "mmd strengths",
                    "strength sweep",
                    "sweep",
                    "xy plot",
                    "list of floats",
                ]
            ),
        )

    @classmethod
    def validate_inputs(cls, strengths: str | None = None) -> bool | str:
        try:
            if strengths is not None:  # None: it comes from another node
                read_strengths(strengths)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, strengths: str) -> io.NodeOutput:
        return io.NodeOutput(read_strengths(strengths))
