"""ApplyMMDGuidance: guides whatever draws with a model."""

from comfy_api.latest import io

from ..base.schema import schema_options
from ..base.sockets import CATEGORY, TraceSocket
from ..host.micro_batch import micro_batched
from ..host.progress import executing_node
from .run.hook import apply_guidance
from .run.inputs import (
    DEFAULTS,
    guidance_config,
    later_inputs,
    new_trace,
    setting_inputs,
    source_inputs,
)
from .run.request import Request


class ApplyMMDGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ApplyMMDGuidance",
            display_name="Apply MMD Guidance",
            category=CATEGORY,
            description="Makes the batch that is drawn with this model distributed like the references. "
            "Works with every sampler node. The images of a batch are drawn together: each depends on "
            "the others.",
            inputs=[*source_inputs(), *setting_inputs(), *later_inputs()],
            outputs=[
                io.Model.Output(
                    "model", tooltip="The guided model, for any sampler or guider node."
                ),
                TraceSocket.Output(
                    "trace",
                    tooltip="What guidance did, once something is drawn with the model: for MMDPlot, with the "
                    "pictures that were drawn connected to it as well.",
                ),
            ],
            **schema_options(
                search_aliases=["mmd", "reference distribution", "style set", "dataset guidance"]
            ),
        )

    @classmethod
    def execute(
        cls, model, references, strength, start_percent, end_percent, mode, kernel=None,
        micro_batch=0, preserve=DEFAULTS.preserve, preview_batch=False, vae=None, memory=None,
    ):  # fmt: skip
        node = "ApplyMMDGuidance"
        config = guidance_config(node, kernel, strength, start_percent, end_percent, mode, preserve)
        trace = new_trace(config, references, vae)
        request = Request(node, references, config, trace, memory, preview_batch, executing_node())
        guided = apply_guidance(micro_batched(model, micro_batch), request)
        return io.NodeOutput(guided, trace)
