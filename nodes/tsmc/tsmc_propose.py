"""TSMCPropose: draws one batch of images, to be scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..base.counted import counted
from ..base.schema import schema_options
from ..base.sockets import STEERING, StateSocket
from ..host.progress import executing_node
from .run.drawing import draw_batch, with_model
from .run.iterations import first_batch_size
from .run.state import Pilot, PilotProposed, Proposed, TSMCState
from .run.watch import Watch

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

NODE = "TSMCPropose"


class TSMCPropose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TSMCPropose",
            display_name="TSMC Propose",
            category=STEERING,
            description="Draws the next batch of a run of TRI-TSMC, steered by what was learned "
            "from the scores so far. Decode its images, score each of them, and connect state and "
            "scores to TSMCUpdate.",
            inputs=[
                StateSocket.Input(
                    "state", tooltip="The run, from TSMCInit or from the last TSMCUpdate."
                ),
                io.Guider.Input(
                    "guider",
                    tooltip="The model with its prompts. Connect the same guider to each "
                    "TSMCPropose of a run.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    tooltip="The images to score; their number is particles. With feature auto or "
                    "surrogate, the first batch has twice as many.",
                ),
                StateSocket.Output("state", tooltip="The run, for TSMCUpdate."),
            ],
            **schema_options(search_aliases=["tsmc", "smc", "steering", "candidates"]),
        )

    @classmethod
    def execute(cls, state: TSMCState, guider: CFGGuider) -> io.NodeOutput:
        if isinstance(state, (PilotProposed, Proposed)):
            raise ValueError(
                f"{NODE}: the batch before this one was not scored yet: put TSMCUpdate between two "
                "TSMCPropose"
            )
        state = with_model(state, guider, NODE)
        config = state.config
        pilot = isinstance(state, Pilot)
        count = first_batch_size(config) if pilot else config.particles
        calls = -(-count // state.plan.at_once(count)) * len(state.model.steps)
        watch = Watch(NODE, executing_node(), guider, calls)
        estimates = count * len(state.model.steps)
        watch.say(f"{counted(count, 'image')}, {counted(estimates, 'denoised estimate')}")
        first = 0 if pilot else state.count
        state = draw_batch(state, guider, count, watch)
        latent = {
            **state.plan.latent,
            "samples": state.batch.samples,
            "batch_index": list(range(first, first + count)),
        }
        return io.NodeOutput(latent, state)
