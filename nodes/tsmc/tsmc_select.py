"""TSMCSelect: selects images of a run."""

from __future__ import annotations

from comfy_api.latest import io

from ...mmd_core.kernels.quoted import quoted
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import STEERING, StateSocket
from ..base.told import told
from .run.account import run_report
from .run.finishing import selected_latent
from .run.state import Learned, TSMCState

NODE = "TSMCSelect"
SELECTIONS = ("best", "resample", "all")


class TSMCSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCSelect",
            display_name="TSMC Select",
            category=STEERING,
            description="Selects images of a run of TRI-TSMC: the best ones, samples of the tilted "
            "model, or all images with their weights.",
            inputs=[
                StateSocket.Input("state", tooltip="The run, from TSMCUpdate or TRITSMCSampler."),
                io.Combo.Input(
                    "mode",
                    options=list(SELECTIONS),
                    default="best",
                    tooltip="best: the images with the highest reward. resample: chosen at random "
                    "by weight, so they are samples of the tilted model; if ESS is small, some "
                    "appear twice. all: all images.",
                ),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=4096,
                    tooltip="The number of images. It has no effect if mode is all.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The selected images, for VAE Decode."),
                io.Float.Output(
                    "weights",
                    is_output_list=True,
                    tooltip="The weight of each image of the run, selected or not; the sum is 1 "
                    "(W).",
                ),
                io.Float.Output("log_z", tooltip="log Z, estimated from all images."),
                io.Float.Output(
                    "ess", tooltip="The effective sample size of all images, by their weights."
                ),
                io.String.Output(
                    "report", tooltip="The result of each batch, and what to change, as text."
                ),
            ],
            **schema_options(
                search_aliases=["tsmc", "smc", "steering", "best of n", "resample"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @within_limits
    def execute(cls, state: TSMCState, mode: str, count: int) -> io.NodeOutput:
        if mode not in SELECTIONS:
            raise ValueError(
                f"{NODE}: unknown mode {quoted(mode)}: choose one of {', '.join(SELECTIONS)}"
            )
        if not isinstance(state, Learned):
            raise ValueError(f"{NODE}: nothing was scored yet: connect state of TSMCUpdate")
        learning, latent = state.learning, selected_latent(state, mode, count)
        text, weights = run_report(state), learning.weights.tolist()
        return told(latent, weights, learning.log_z, learning.ess, text, says=text)
