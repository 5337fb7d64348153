"""MMDLoRAInfo: what a LoRA of MMDTrainLoRA was trained for, and whether it is used so."""

from pathlib import Path

import comfy.samplers
import folder_paths
from comfy_api.latest import io, ui

from ..base.schema import schema_options
from ..base.sockets import CATEGORY
from ..host.progress import executing_node, show_text
from .training.trained_lora import about_file

NODE = "MMDLoRAInfo"
ANY = "(any)"


class MMDLoRAInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDLoRAInfo",
            display_name="MMD LoRA Info",
            category=CATEGORY,
            description="Tells what a LoRA of MMDTrainLoRA was trained for, hands its steps and cfg on to the sampler, and "
            "warns if you draw otherwise.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="The file. ComfyUI lists those in models/loras and output/loras; press R to see new ones.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=[ANY, *comfy.samplers.KSampler.SAMPLERS],
                    default=ANY,
                    tooltip="The sampler you draw with, to be checked. (any): not checked.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[ANY, *comfy.samplers.KSampler.SCHEDULERS],
                    default=ANY,
                    tooltip="The schedule you draw with, to be checked. (any): not checked.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="The steps you draw with, to be checked. 0: not checked.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The cfg you draw with, to be checked. 0: not checked.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="The schedule you draw with, if it is connected as SIGMAS: its steps are checked.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report",
                    tooltip="In words: what the LoRA was trained for, and what does not fit.",
                ),
                io.Int.Output("steps", tooltip="The steps it was trained for, for the sampler."),
                io.Float.Output("cfg", tooltip="The cfg it was trained for, for the sampler."),
            ],
            **schema_options(search_aliases=["mmd", "ddm", "lora metadata", "lora steps"]),
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name, **_):
        path = folder_paths.get_full_path("loras", lora_name)
        return path and Path(path).stat().st_mtime_ns

    @classmethod
    def execute(cls, lora_name, sampler_name, scheduler, steps, cfg, sigmas=None):
        path = folder_paths.get_full_path("loras", lora_name)
        if path is None:
            raise ValueError(f"{NODE}: there is no LoRA {lora_name!r}: choose another lora_name")
        try:
            about = about_file(Path(path))
        except OSError as error:
            raise ValueError(
                f"{NODE}: {lora_name} cannot be read ({error.strerror or error}): choose another lora_name"
            ) from error
        if about is None:
            raise ValueError(
                f"{NODE}: {lora_name} does not say how it was made: choose as lora_name a file of MMDSaveLoRA"
            )
        if sigmas is not None:
            steps = len(sigmas) - 1
        used = {
            "steps": steps or None,
            "sampler_name": sampler_name,
            "scheduler": scheduler,
            "cfg": cfg or None,
        }
        lines, warned = told(about), [f"⚠ {warning}" for warning in warnings(about, used)]
        show_text(" ".join(warned) or lines[0], executing_node())
        text = "\n".join([*lines, *warned])
        return io.NodeOutput(text, about["steps"], float(about["cfg"]), ui=ui.PreviewText(text))


def told(about: dict) -> list[str]:
    """What the LoRA is, in lines."""
    lines = [
        f"For {_steps(about)} steps of {about['sampler_name']}, {about['scheduler']}, cfg {about['cfg']:g}.",
        f"Trained on {about['model']} with {about['references']} references, {about['iterations']} updates of "
        f"{about['batch_size']} images, rank {about['rank']}; compared by {about['features']}, kernel {about['kernel']}.",
    ]
    before, after = about.get("mmd2_before"), about.get("mmd2_after")
    if before is not None and after is not None:
        lines.append(f"MMD² to held-out references: {before:.3g} before, {after:.3g} after.")
    return lines


def warnings(about: dict, used: dict) -> list[str]:
    """What does not fit, each with its fix; None and `ANY` are not checked."""
    said = []
    steps = used["steps"]
    if steps is not None and not about["steps_from"] <= steps <= about["steps_to"]:
        said.append(
            f"You draw with {steps} steps, it was trained for {_steps(about)}: set steps to {about['steps']}, since "
            "with others images get worse."
        )
    for name in ("sampler_name", "scheduler"):
        same = {used[name], about[name]} == {"euler", "ddim"}
        if used[name] not in (ANY, about[name]) and not same:
            said.append(f"You draw with {used[name]}: set {name} to {about[name]}.")
    cfg = used["cfg"]
    if cfg is not None and abs(cfg - about["cfg"]) > 1e-6:
        said.append(
            f"You draw with cfg {cfg:g}: set cfg to {about['cfg']:g}, or images get too harsh or too soft."
        )
    return said


def _steps(about: dict) -> str:
    few, many = about["steps_from"], about["steps_to"]
    return str(few) if few == many else f"{few} to {many}"
