"""A trained LoRA as it goes through the graph and into files: core's LORA_MODEL that knows how it was made."""

import json
from pathlib import Path

import folder_paths
import safetensors.torch
import torch
from torch import Tensor

from ....mmd_core.files.tensor_file import remove, write_whole

__all__ = ["Autosave", "DTYPES", "TrainedLoRA", "about_file", "place", "write"]

KEY = "mmd_ddm"  # of the metadata
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST = 2**25  # bytes of a header
TOLD = {  # what every file says, and how
    **dict.fromkeys(("steps", "steps_from", "steps_to", "references", "iterations", "batch_size", "rank"), int),
    **dict.fromkeys(("sampler_name", "scheduler", "model", "features", "kernel"), str),
    "cfg": int | float,
    **dict.fromkeys(("mmd2_before", "mmd2_after"), float | None),
}  # fmt: skip


class TrainedLoRA(dict):
    """Tensors by name, which core's LoRA nodes take; `about` says how they were made."""

    def __init__(self, tensors: dict[str, Tensor], about: dict):
        super().__init__(tensors)
        self.about = about


def place(prefix: str, called: str = "prefix") -> Path:
    """A new file in the output folder; ComfyUI finds LoRAs in output/loras.

    Arguments:
        called: The input that it comes from.

    Raises:
        ValueError: A prefix that leads out of the output folder.
        OSError: The folder cannot be made.
    """
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory()
        )
    except OSError:
        raise
    except Exception as error:  # core raises a bare one
        raise ValueError(
            f"{prefix[:100]!r} leads out of the output folder: set {called} to a name such as loras/my_lora"
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
        header = file.read(size)
    try:
        about = json.loads(json.loads(header)["__metadata__"][KEY])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    known = isinstance(about, dict) and all(
        isinstance(about.get(name), kind) for name, kind in TOLD.items()
    )
    return about if known else None


class Autosave:
    """The best adapters so far in a file, while training goes on; it is removed in the end.

    Arguments:
        prefix: Of the file, in the output folder; "" keeps none.

    Raises:
        ValueError: There can be no such file.
    """

    def __init__(self, prefix: str):
        try:
            self.path = place(prefix, "autosave") if prefix else None
        except OSError as error:
            raise ValueError(
                f"the folder of {prefix[:100]!r} cannot be made ({error.strerror or error}): choose another autosave, or "
                "leave it empty"
            ) from error
        self.written = False

    def __call__(self, tensors: dict[str, Tensor], about: dict) -> None:
        if self.path is not None:
            write(self.path, tensors, about)
            self.written = True

    def remove(self) -> None:
        if self.written:
            remove(self.path)
