"""MMDSaveLoRA: writes a trained LoRA with what one must know to use it."""

import folder_paths
from comfy_api.latest import io, ui

from ..base.schema import schema_options
from ..base.sockets import CATEGORY, LoRASocket
from ..host.progress import executing_node, show_text
from .training.trained_lora import DTYPES, place, write

NODE = "MMDSaveLoRA"


class MMDSaveLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MMDSaveLoRA",
            display_name="MMD Save LoRA",
            category=CATEGORY,
            description="Writes a LoRA of MMDTrainLoRA as an ordinary LoRA file, which remembers steps, sampler, schedule "
            "and cfg that it was trained for. Load it with Load LoRA like any other.",
            is_output_node=True,
            inputs=[
                LoRASocket.Input("lora", tooltip="From MMDTrainLoRA."),
                io.String.Input(
                    "prefix",
                    default="loras/mmd_ddm",
                    tooltip="Folder and name in ComfyUI's output folder; a number is added. In output/loras ComfyUI "
                    "finds it again.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="float32",
                    tooltip="float32: exactly what was trained. bfloat16 and float16: half the size, a trace different.",
                ),
                io.String.Input(
                    "report",
                    optional=True,
                    force_input=True,
                    tooltip="Of MMDTrainLoRA, to be kept in the file.",
                ),
            ],
            outputs=[
                io.String.Output("filename", tooltip="The file, as LoRA nodes list it."),
            ],
            **schema_options(search_aliases=["mmd", "ddm", "export lora", "save lora"]),
        )

    @classmethod
    def execute(cls, lora, prefix, dtype, report=""):
        if dtype not in DTYPES:
            raise ValueError(f"{NODE}: unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
        about = getattr(lora, "about", {})  # other nodes' LORA_MODEL say nothing
        about = {**about, "report": report} if about and report else about
        try:
            path = place(prefix.strip() or "loras/mmd_ddm")
            write(path, lora, about, DTYPES[dtype])
        except ValueError as error:
            raise ValueError(f"{NODE}: {error}") from error
        except OSError as error:
            raise ValueError(
                f"{NODE}: the file cannot be written ({error.strerror or error}): choose another prefix, or see whether "
                "the disk is full"
            ) from error
        name = listed_as(path)
        text = f"Saved as {name}, {path.stat().st_size / 1e6:.1f} MB."
        show_text(text, executing_node())
        return io.NodeOutput(name, ui=ui.PreviewText(text))


def listed_as(path) -> str:
    """The name by which LoRA nodes know a file; below the output folder if they do not."""
    for folder in folder_paths.get_folder_paths("loras"):
        if path.resolve().is_relative_to(folder):
            return path.resolve().relative_to(folder).as_posix()
    return path.relative_to(folder_paths.get_output_directory()).as_posix()
