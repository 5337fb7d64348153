"""MMDLoRAInfo: the settings that a LoRA was trained for, compared with those you draw with."""

from pathlib import Path
from typing import Any, NamedTuple

import comfy.samplers
import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ...mmd_core.kernels.quoted import quoted
from ..base.limits import within_limits
from ..base.schema import schema_options
from ..base.sockets import TRAINING
from ..base.told import told
from ..host.progress import executing_node, show_text
from .training.trained_lora import read_metadata
from .training.training_report import free_text, steps_text

NODE = "MMDLoRAInfo"
ANY = "(any)"
KNOWN = {
    "sampler_name": comfy.samplers.KSampler.SAMPLERS,
    "scheduler": comfy.samplers.KSampler.SCHEDULERS,
}


class DrawingSettings(NamedTuple):
    """The settings you draw with; 0 and `ANY` are not checked."""

    steps: int
    sampler_name: str
    scheduler: str
    cfg: float


class MMDLoRAInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDLoRAInfo",
            display_name="MMD LoRA Info",
            category=TRAINING,
            description="Shows which settings a LoRA of MMDTrainLoRA was trained for, outputs its "
            "steps and cfg for the sampler, and warns if you draw with other settings.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="The LoRA file, in models/loras or output/loras. Press R to update the "
                    "list.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=[ANY, *KNOWN["sampler_name"]],
                    default=ANY,
                    tooltip="The sampler you draw with. (any): not checked.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[ANY, *KNOWN["scheduler"]],
                    default=ANY,
                    tooltip="The schedule you draw with. (any): not checked.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="The number of steps you draw with. 0: not checked.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The cfg you draw with. 0: not checked.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Connect the SIGMAS you draw with: their number of steps replaces "
                    "steps.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report",
                    tooltip="What the LoRA was trained for, and which settings differ, in words.",
                ),
                io.Int.Output("steps", tooltip="The number of steps the LoRA was trained for."),
                io.Float.Output("cfg", tooltip="The cfg the LoRA was trained for."),
            ],
            **schema_options(
                search_aliases=["mmd", "ddm", "lora metadata", "lora steps"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_: Any) -> int | None:
        path = folder_paths.get_full_path("loras", lora_name)
        return path and Path(path).stat().st_mtime_ns

    @classmethod
    @within_limits
    def execute(
        cls, lora_name: str, sampler_name: str, scheduler: str, steps: int, cfg: float,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        path = folder_paths.get_full_path("loras", lora_name)
        if path is None:
            raise ValueError(
                f"{NODE}: there is no LoRA {quoted(lora_name)}: choose another lora_name"
            )
        try:
            metadata = read_metadata(Path(path))
        except OSError as error:
            raise ValueError(
                f"{NODE}: {lora_name} cannot be read ({error.strerror or error}): choose another "
                "lora_name"
            ) from error
        if metadata is None:
            raise ValueError(
                f"{NODE}: {lora_name} does not say how it was trained: choose a file of "
                "MMDSaveLoRA as lora_name"
            )
        if sigmas is not None:
            steps = len(sigmas) - 1
        settings = DrawingSettings(steps, sampler_name, scheduler, cfg)
        lines, warned = summary(metadata), [f"⚠ {text}" for text in warnings(metadata, settings)]
        show_text(" ".join(warned) or lines[0], executing_node())
        text = "\n".join([*lines, *warned])
        return told(text, metadata["steps"], float(metadata["cfg"]), says=text)


def summary(metadata: dict[str, Any]) -> list[str]:
    """What the LoRA was trained for, as lines of text."""
    m = metadata
    lines = [
        f"For {steps_text(m)} steps of {m['sampler_name']}, {m['scheduler']}, cfg {m['cfg']:g}.",
        f"Trained on {m['model']} with {m['references']} references, {m['iterations']} updates of "
        f"{m['batch_size']} images, rank {m['rank']}, features {m['features']}, "
        f"kernel {m['kernel']}.",
    ]
    before, after = m.get("mmd2_before"), m.get("mmd2_after")
    if before is not None and after is not None:
        lines.append(f"MMD² to held-out references: {before:.3g} without it, {after:.3g} with it.")
    lines += filter(None, [free_text(m)])
    return lines


def warnings(metadata: dict[str, Any], settings: DrawingSettings) -> list[str]:
    """The settings that differ from the training, each with its fix."""
    texts = []
    steps, cfg = settings.steps, settings.cfg
    before, after = metadata.get("mmd2_before"), metadata.get("mmd2_after")
    if before is not None and after is not None and not after < before:
        texts.append("Draw without this LoRA: with it, images are no closer to its references.")
    if steps and not metadata["steps_from"] <= steps <= metadata["steps_to"]:
        texts.append(
            f"Set steps to {metadata['steps']}: you draw with {steps} steps, and the LoRA was "
            f"trained for {steps_text(metadata)}. With other numbers images get worse."
        )
    for name, known in KNOWN.items():
        used, trained = getattr(settings, name), metadata[name]
        if trained not in known:
            texts.append(
                f"Install the node pack that adds the {name} {trained}, or take another LoRA: "
                "this ComfyUI does not have it."
            )
        elif used not in (ANY, trained) and {used, trained} != {"euler", "ddim"}:
            texts.append(f"Set {name} to {trained}: you draw with {used}.")
    if cfg and abs(cfg - metadata["cfg"]) > 1e-6:
        texts.append(
            f"Set cfg to {metadata['cfg']:g}: you draw with cfg {cfg:g}, which makes images too "
            "harsh or too soft."
        )
    return texts
