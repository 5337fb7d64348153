"""ApplyMMDGuidance: guides whatever draws with a model."""

from comfy_api.latest import io

from ._compat import schema_options
from .guidance_inputs import DEFAULTS, guidance_config, later_inputs, setting_inputs, source_inputs
from .micro_batch import micro_batched
from .sampling import apply_guidance
from .sockets import CATEGORY


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
                )
            ],
            **schema_options(
                search_aliases=["mmd", "reference distribution", "style set", "dataset guidance"]
            ),
        )

    @classmethod
    def execute(
        cls, model, references, strength, start_percent, end_percent, mode, kernel=None,
        micro_batch=0, preserve=DEFAULTS.preserve,
    ):  # fmt: skip
        node = "ApplyMMDGuidance"
        config = guidance_config(node, kernel, strength, start_percent, end_percent, mode, preserve)
        model = micro_batched(model, micro_batch)
        return io.NodeOutput(apply_guidance(model, references, config, node))
