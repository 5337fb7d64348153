"""TSMCPropose: draws one batch of images, to be scored."""

from comfy_api.latest import io

from ..base.schema import schema_options
from ..base.sockets import CATEGORY, StateSocket
from ..host.progress import executing_node
from .run.drawing import draw_batch, with_model
from .run.iterations import first_batch_size
from .run.state import Pilot, PilotProposed, Proposed
from .run.watch import Watch

NODE = "TSMCPropose"


class TSMCPropose(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TSMCPropose",
            display_name="TSMC Propose",
            category=CATEGORY,
            description="Draws the next batch of a run of TRI-TSMC, steered by what the scores so far have taught. Decode "
            "and score its images, one score for each, and hand state and scores to TSMCUpdate.",
            inputs=[
                StateSocket.Input("state", tooltip="From TSMCInit, or from the last TSMCUpdate."),
                io.Guider.Input(
                    "guider",
                    tooltip="The model with its prompts. It must be the same in all steps of a run.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    tooltip="The images to score: particles of them, in the first batch twice as many where a surrogate "
                    "is fitted to their scores (feature auto or surrogate).",
                ),
                StateSocket.Output("state", tooltip="The run, for TSMCUpdate."),
            ],
            **schema_options(search_aliases=["tsmc", "smc", "steering", "candidates"]),
        )

    @classmethod
    def execute(cls, state, guider):
        if isinstance(state, (PilotProposed, Proposed)):
            raise ValueError(
                f"{NODE}: the batch before this one was not scored yet: put TSMCUpdate between two TSMCPropose"
            )
        state = with_model(state, guider, NODE)
        config = state.config
        pilot = isinstance(state, Pilot)
        count = first_batch_size(config) if pilot else config.particles
        calls = -(-count // state.plan.at_once(count)) * len(state.model.steps)
        watch = Watch(NODE, executing_node(), guider, calls)
        watch.say(f"{count} images, {count * len(state.model.steps)} denoised estimates")
        first = 0 if pilot else state.count
        state = draw_batch(state, guider, count, watch)
        latent = {
            **state.plan.latent,
            "samples": state.batch.samples,
            "batch_index": list(range(first, first + count)),
        }
        return io.NodeOutput(latent, state)
