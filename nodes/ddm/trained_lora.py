"""A trained LoRA as it goes through the graph and into files: core's LORA_MODEL that knows how it was made."""

import json
from pathlib import Path

import folder_paths
import safetensors.torch
import torch
from torch import Tensor

from ...mmd_core.tensor_file import remove, write_whole

__all__ = ["Autosave", "DTYPES", "TrainedLoRA", "about_file", "place", "write"]

KEY = "mmd_ddm"  # of the metadata
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST = 2**25  # bytes of a header


class TrainedLoRA(dict):
    """Tensors by name, which core's LoRA nodes take; `about` says how they were made."""

    def __init__(self, tensors: dict[str, Tensor], about: dict):
        super().__init__(tensors)
        self.about = about


def place(prefix: str) -> Path:
    """A new file in the output folder; ComfyUI finds LoRAs in output/loras.

    Raises:
        ValueError: A prefix that leads out of the output folder.
    """
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory()
        )
    except Exception as error:  # core raises a bare one
        raise ValueError(
            f"{prefix[:100]!r} leads out of the output folder: set prefix to a name such as loras/my_lora"
        ) from error
    taken = {file.name for file in Path(folder).glob("*.safetensors")}
    while f"{name}_{counter:05}_.safetensors" in taken:
        counter += 1
    return Path(folder) / f"{name}_{counter:05}_.safetensors"


def write(
    path: Path, tensors: dict[str, Tensor], about: dict, dtype: torch.dtype = torch.float32
) -> None:
    """The file, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    kept = {
        name: tensor.to(dtype if tensor.ndim else torch.float32).contiguous()
        for name, tensor in tensors.items()
    }
    about = (
        {"modelspec.title": path.stem, KEY: json.dumps(about)}
        if about
        else {"modelspec.title": path.stem}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, [safetensors.torch.save(kept, about)])


def about_file(path: Path) -> dict | None:
    """How the LoRA of a file was made; None if the file does not say."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MOST:
            return None
        try:
            header = json.loads(file.read(size))
            about = json.loads(header.get("__metadata__", {}).get(KEY, "null"))
        except ValueError:
            return None
    return about if isinstance(about, dict) else None


class Autosave:
    """The best adapters so far in a file, while training goes on; it is removed in the end.

    Arguments:
        prefix: Of the file, in the output folder; "" keeps none.
    """

    def __init__(self, prefix: str):
        self.path = place(prefix) if prefix else None
        self.written = False

    def __call__(self, tensors: dict[str, Tensor], about: dict) -> None:
        if self.path is not None:
            write(self.path, tensors, about)
            self.written = True

    def remove(self) -> None:
        if self.written:
            remove(self.path)
