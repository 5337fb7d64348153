"""MMDSaveLoRA: writes a trained LoRA and the settings of its training to a file."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ...mmd_core.kernels.quoted import quoted
from ..base.schema import schema_options
from ..base.sockets import TRAINING, LoRASocket
from ..base.told import told
from ..host.progress import executing_node, show_text
from .training.trained_lora import FILE_DTYPES, save_lora

NODE = "MMDSaveLoRA"


class MMDSaveLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMDSaveLoRA",
            display_name="MMD Save LoRA",
            category=TRAINING,
            description="Writes a LoRA of MMDTrainLoRA as a normal LoRA file. The file also holds "
            "the steps, sampler, schedule and cfg of the training. Load it with Load LoRA like any "
            "other.",
            is_output_node=True,
            inputs=[
                LoRASocket.Input("lora", tooltip="Connect the LoRA of MMDTrainLoRA."),
                io.String.Input(
                    "prefix",
                    default="loras/mmd_ddm",
                    tooltip="Folder and name in ComfyUI's output folder; a number is added. LoRA "
                    "nodes find files in output/loras.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(FILE_DTYPES),
                    default="float32",
                    tooltip="The number format of the file. float32: exactly the trained LoRA. "
                    "bfloat16, float16: half the size, with images that differ slightly.",
                ),
                io.String.Input(
                    "report",
                    optional=True,
                    force_input=True,
                    tooltip="Connect the report of MMDTrainLoRA to store it in the file.",
                ),
            ],
            outputs=[
                io.String.Output("filename", tooltip="The file name as LoRA nodes list it."),
            ],
            **schema_options(
                search_aliases=["mmd", "ddm", "export lora", "save lora"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def execute(
        cls, lora: dict[str, Tensor], prefix: str, dtype: str, report: str = ""
    ) -> io.NodeOutput:
        if dtype not in FILE_DTYPES:
            raise ValueError(
                f"{NODE}: unknown dtype {quoted(dtype)}: choose one of {', '.join(FILE_DTYPES)}"
            )
        metadata = getattr(lora, "metadata", {})  # the LORA_MODEL of other nodes has none
        metadata = {**metadata, "report": report} if metadata and report else metadata
        try:
            path = save_lora(prefix.strip() or "loras/mmd_ddm", lora, metadata, FILE_DTYPES[dtype])
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        except OSError as error:
            raise ValueError(
                f"{NODE}: the file cannot be written ({error.strerror or error}): choose another "
                "prefix, or check whether the disk is full"
            ) from error
        name = listed_as(path)
        text = f"Saved as {name}, {path.stat().st_size / 1e6:.1f} MB."
        show_text(text, executing_node())
        return told(name, says=text)


def listed_as(path: Path) -> str:
    """The name of a file in the lists of LoRA nodes.

    If they do not list it, this is its path in the output folder.
    """
    for folder in folder_paths.get_folder_paths("loras"):
        if path.resolve().is_relative_to(folder):
            return path.resolve().relative_to(folder).as_posix()
    return path.relative_to(folder_paths.get_output_directory()).as_posix()
