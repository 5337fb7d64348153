"""TSMCSelect: selects images of a run."""

from comfy_api.latest import io

from ..base.schema import schema_options
from ..base.sockets import CATEGORY, StateSocket
from .run.account import run_report
from .run.finishing import selected_latent
from .run.state import Learned

NODE = "TSMCSelect"
SELECTIONS = ("best", "resample", "all")


class TSMCSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TSMCSelect",
            display_name="TSMC Select",
            category=CATEGORY,
            description="Hands out images of a run of TRI-TSMC: the best, or samples of the tilted model, or all of them "
            "with their weights.",
            inputs=[
                StateSocket.Input("state", tooltip="From TSMCUpdate or TRITSMCSampler."),
                io.Combo.Input(
                    "mode",
                    options=list(SELECTIONS),
                    default="best",
                    tooltip="best: the images of the highest reward. resample: images drawn by their weights, which are "
                    "samples of the tilted model; some come twice if few count. all: every image.",
                ),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="How many images, unless mode is all.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The images chosen, for VAE Decode."),
                io.Float.Output(
                    "weights",
                    is_output_list=True,
                    tooltip="The weight W of each image of the run, chosen or not; they sum to 1.",
                ),
                io.Float.Output("log_z", tooltip="log Z, from all images."),
                io.Float.Output("ess", tooltip="How many images count, in effect."),
                io.String.Output("report", tooltip="In words: each batch, and what to change."),
            ],
            **schema_options(search_aliases=["tsmc", "smc", "steering", "best of n", "resample"]),
        )

    @classmethod
    def execute(cls, state, mode, count):
        if mode not in SELECTIONS:
            raise ValueError(
                f"{NODE}: unknown mode {mode!r}: choose one of {', '.join(SELECTIONS)}"
            )
        if not isinstance(state, Learned):
            raise ValueError(f"{NODE}: nothing was scored yet: connect state of TSMCUpdate")
        learning, latent = state.learning, selected_latent(state, mode, count)
        return io.NodeOutput(
            latent, learning.weights.tolist(), learning.log_z, learning.ess, run_report(state)
        )
