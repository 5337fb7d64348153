"""A trained LoRA in workflows and in files: ComfyUI's LORA_MODEL with metadata of its training."""

import json
from pathlib import Path
from typing import Any

import folder_paths
import safetensors.torch
import torch
from torch import Tensor

from ....mmd_core.files.tensor_file import remove, write_whole
from ....mmd_core.kernels.quoted import quoted

__all__ = ["Autosave", "FILE_DTYPES", "TrainedLoRA", "new_path", "read_metadata", "write_lora"]

FILE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
METADATA_KEY = "mmd_ddm"  # the entry in the metadata of the file
MAX_HEADER_BYTES = 2**25
METADATA_TYPES = {  # what is in every file
    **dict.fromkeys(
        (
            "steps", "steps_from", "steps_to", "references", "iterations", "batch_size", "rank",
        ),
        int,
    ),
    **dict.fromkeys(("sampler_name", "scheduler", "model", "features", "kernel"), str),
    "cfg": int | float,
    **dict.fromkeys(("mmd2_before", "mmd2_after"), float | None),
}  # fmt: skip


class TrainedLoRA(dict[str, Tensor]):
    """The tensors by name, as ComfyUI's LoRA nodes take them.

    Attributes:
        metadata: How the LoRA was trained; the keys are those of `training_metadata`.
    """

    def __init__(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.metadata = metadata


def new_path(prefix: str, input_name: str = "prefix") -> Path:
    """The path of a new file in the output folder. ComfyUI finds LoRAs in output/loras.

    Arguments:
        prefix: The folder and the start of the file name.
        input_name: The input of the node that gives the prefix, for error messages.

    Raises:
        ValueError: The prefix leads out of the output folder.
        OSError: The folder cannot be created.
    """
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory()
        )
    except OSError:
        raise
    except Exception as error:  # ComfyUI raises a bare Exception
        raise ValueError(
            f"{quoted(prefix)} leads out of the output folder: set {input_name} to a name such as "
            "loras/my_lora"
        ) from error
    taken = {file.name for file in Path(folder).glob("*.safetensors")}
    while f"{name}_{counter:05}_.safetensors" in taken:
        counter += 1
    return Path(folder) / f"{name}_{counter:05}_.safetensors"


def write_lora(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes the file as a whole, or not at all.

    Arguments:
        path: The file.
        tensors: The tensors by name.
        metadata: How the LoRA was trained; empty for a LoRA of other nodes.
        dtype: The dtype of the tensors in the file.

    Raises:
        OSError: The file cannot be written.
    """
    kept = {
        name: tensor.to(dtype if tensor.ndim else torch.float32).contiguous()
        for name, tensor in tensors.items()
    }
    entries = {"modelspec.title": path.stem}
    if metadata:
        entries[METADATA_KEY] = json.dumps(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, [safetensors.torch.save(kept, entries)])


def read_metadata(path: Path) -> dict[str, Any] | None:
    """How the LoRA in a file was trained; None if the file does not say.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            return None
        header = file.read(size)
    try:
        metadata = json.loads(json.loads(header)["__metadata__"][METADATA_KEY])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    known = isinstance(metadata, dict) and all(
        isinstance(metadata.get(name), kind) for name, kind in METADATA_TYPES.items()
    )
    return metadata if known else None


class Autosave:
    """The file with the best LoRA so far, which exists only during training.

    Arguments:
        prefix: The folder and the start of the file name in the output folder; "" writes no file.

    Raises:
        ValueError: The file cannot be created.
    """

    def __init__(self, prefix: str) -> None:
        try:
            self.path = new_path(prefix, "autosave") if prefix else None
        except OSError as error:
            raise ValueError(
                f"the folder of {quoted(prefix)} cannot be created ({error.strerror or error}): "
                "choose another autosave, or leave it empty"
            ) from error
        self.written = False

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Replaces the file.

        Raises:
            OSError: The file cannot be written.
        """
        if self.path is not None:
            write_lora(self.path, tensors, metadata)
            self.written = True

    def remove(self) -> None:
        """Removes the file if there is one."""
        if self.written:
            remove(self.path)
