"""ApplyMMDGuidance: guides a model, for any sampler node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...mmd_core import KernelConfig, References
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import SAMPLING, TraceSocket
from ..host.micro_batch import micro_batched
from ..host.progress import executing_node
from .run.hook import apply_guidance
from .run.inputs import (
    DEFAULTS,
    OTHER_SIZES,
    guidance_config,
    later_inputs,
    new_trace,
    setting_inputs,
    source_inputs,
)
from .run.presets import CUSTOM, chosen
from .run.request import Request
from .run.shared_memory import SharedMemory

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE


class ApplyMMDGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ApplyMMDGuidance",
            display_name="Style Guidance (MMD)",
            category=SAMPLING,
            description="Makes the batch that is drawn with this model distributed like the "
            "references. Works with every sampler node. The images of a batch are drawn together: "
            "each depends on the others.",
            inputs=[*source_inputs(), *setting_inputs(), *later_inputs()],
            outputs=[
                io.Model.Output(
                    "model", tooltip="The guided model, for any sampler or guider node."
                ),
                TraceSocket.Output(
                    "trace",
                    tooltip="What guidance did, for MMDPlot. Connect the drawn images to MMDPlot "
                    "as well, so that it runs after them.",
                ),
            ],
            **schema_options(
                search_aliases=[
                    "mmd",
                    "apply mmd guidance",
                    "guidance",
                    "style",
                    "style set",
                    "style transfer",
                    "reference distribution",
                    "dataset guidance",
                    "diverse",
                ]
            ),
        )

    @classmethod
    @within_limits
    def execute(
        cls, model: ModelPatcher, references: References, strength: float, start_percent: float,
        end_percent: float, mode: str, kernel: KernelConfig | None = None, micro_batch: int = 0,
        preserve: float = DEFAULTS.preserve, preview_batch: bool = False, vae: VAE | None = None,
        memory: SharedMemory | None = None, base: References | None = None,
        other_sizes: str = OTHER_SIZES[0], preset: str = CUSTOM,
    ) -> io.NodeOutput:  # fmt: skip
        node = "ApplyMMDGuidance"
        strength, mode = chosen(node, preset, strength, mode)
        config = guidance_config(node, kernel, strength, start_percent, end_percent, mode, preserve)
        trace = new_trace(config, references, vae, base)
        request = Request(
            node, references, config, trace, memory, preview_batch, executing_node(), base,
            resizes=other_sizes == "resize",
        )  # fmt: skip
        guided = apply_guidance(
            micro_batched(model, micro_batch, trace.told("micro_batch")), request
        )
        return io.NodeOutput(guided, trace)
