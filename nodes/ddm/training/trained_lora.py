"""A trained LoRA in workflows and in files: ComfyUI's LORA_MODEL with metadata of its training."""

import contextlib
import itertools
import json
import math
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import safetensors.torch
import torch
from torch import Tensor

from ....mmd_core.files import limits
from ....mmd_core.files.json_text import parsed
from ....mmd_core.files.tensor_file import remove, write_new, write_whole
from ....mmd_core.files.tensor_reader import read_header
from ....mmd_core.kernels.quoted import quoted

__all__ = ["Autosave", "FILE_DTYPES", "TrainedLoRA", "read_metadata", "save_lora"]

FILE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
METADATA_KEY = "mmd_ddm"  # the entry in the metadata of the file
MARK = "autosave"  # the key in it that tells the autosaves of trainings apart
NAMES = ("sampler_name", "scheduler", "model", "features", "kernel")  # texts in every file
# Without signs of HTML, of a link or of a folder of this machine.
NAME = re.compile(rf"[\w+ -][\w/+ -]{{0,{limits.LORA_NAME - 1}}}", re.ASCII)
RANGES = {  # the numbers in every file, with the smallest and the largest that can be
    **dict.fromkeys(("steps", "steps_from", "steps_to"), (1, 10_000)),
    **dict.fromkeys(("references", "iterations", "batch_size", "rank"), (0, 10**9)),
    "cfg": (0, 1000),
}
DISTANCES = ("mmd2_before", "mmd2_after")  # numbers that may be missing


class TrainedLoRA(dict[str, Tensor]):
    """The tensors by name, as ComfyUI's LoRA nodes take them.

    Attributes:
        metadata: How the LoRA was trained; the keys are those of `training_metadata`.
    """

    def __init__(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        super().__init__(tensors)
        self.metadata = metadata


def save_lora(
    prefix: str,
    tensors: dict[str, Tensor],
    metadata: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a new file in the output folder. ComfyUI finds LoRAs in output/loras.

    Arguments:
        prefix: The folder and the start of the file name.
        tensors: The tensors by name.
        metadata: How the LoRA was trained; empty for a LoRA of other nodes.
        dtype: The dtype of the tensors in the file.

    Returns:
        The path of the file.

    Raises:
        ValueError: The prefix leads out of the output folder.
        OSError: The file cannot be written.
    """
    paths = _free_paths(prefix, "prefix")
    while True:
        path = next(paths)
        with contextlib.suppress(FileExistsError):  # another process has just taken the name
            write_new(path, [_file(path, tensors, metadata, dtype)])
            return path


def _free_paths(prefix: str, input_name: str) -> Iterator[Path]:
    """Paths of new files in the output folder, without end.

    Arguments:
        prefix: The folder and the start of the file name. The folder is created.
        input_name: The input of the node that gives the prefix, for error messages.

    Raises:
        ValueError: The prefix leads out of the output folder.
        OSError: The folder cannot be created.
    """
    try:
        folder, name, first, *_ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory()
        )
    except OSError:
        raise
    except Exception as error:  # ComfyUI raises a bare Exception
        raise ValueError(
            f"{quoted(prefix)} leads out of the output folder: set {input_name} to a name such as "
            "loras/my_lora"
        ) from error
    paths = (Path(folder) / f"{name}_{number:05}_.safetensors" for number in itertools.count(first))
    return (path for path in paths if not os.path.lexists(path))


def _file(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any], dtype: torch.dtype
) -> bytes:
    """The content of the LoRA file `path`; arguments as in `save_lora`."""
    kept = {
        name: tensor.to(dtype if tensor.ndim else torch.float32).contiguous()
        for name, tensor in tensors.items()
    }
    entries = {"modelspec.title": path.stem}
    if metadata:
        # JSON has no NaN: a number that is not finite is unknown.
        known = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metadata.items()
        }
        entries[METADATA_KEY] = json.dumps(known)
    return safetensors.torch.save(kept, entries)


def read_metadata(path: Path) -> dict[str, Any] | None:
    """How the LoRA in a file was trained; None if the file does not say, or says nonsense.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            header = read_header(file, limits.LORA_HEADER, limits.LORA_ENTRIES)
            text = header.metadata[METADATA_KEY]
            if len(text) > limits.LORA_METADATA:
                return None
            metadata = parsed(text, limits.LORA_VALUES)
        except (ValueError, LookupError):
            return None
    return metadata if isinstance(metadata, dict) and _is_possible(metadata) else None


def _is_possible(metadata: dict[str, Any]) -> bool:
    """Whether a training can have these values, which may come from a stranger."""
    names = [metadata.get(name) for name in NAMES]
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        return False
    for name, (low, high) in RANGES.items():
        value, kinds = metadata.get(name), (int, float) if name == "cfg" else (int,)
        if type(value) not in kinds or not low <= value <= high:
            return False
    if not metadata["steps_from"] <= metadata["steps"] <= metadata["steps_to"]:
        return False
    return all(type(metadata.get(name)) in (int, float, type(None)) for name in DISTANCES)


class Autosave:
    """The file with the best LoRA so far, which exists only during training.

    Several trainings may save under one prefix, also those of other processes: each takes a name
    when it first saves, and replaces and removes no file but its own.

    Arguments:
        prefix: The folder and the start of the file name in the output folder; "" writes no file.

    Attributes:
        path: The file; None until it is written.

    Raises:
        ValueError: The file cannot be created.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix, self.path = prefix, None
        self._mark = uuid.uuid4().hex  # in the file, because its name may get another owner
        try:
            if prefix:
                _free_paths(prefix, "autosave")
        except OSError as error:
            raise ValueError(
                f"the folder of {quoted(prefix)} cannot be created ({error.strerror or error}): "
                "choose another autosave, or leave it empty"
            ) from error

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Replaces the file.

        Raises:
            OSError: The file cannot be written.
        """
        if not self.prefix:
            return
        metadata = {**metadata, MARK: self._mark}
        if self._is_own():
            write_whole(self.path, [_file(self.path, tensors, metadata, torch.float32)])
        else:
            self.path = save_lora(self.prefix, tensors, metadata)

    def remove(self) -> None:
        """Removes the file if there is one."""
        if self._is_own():
            remove(self.path)

    def _is_own(self) -> bool:
        """Whether the file is there, and is that of this training."""
        with contextlib.suppress(OSError):
            about = self.path and read_metadata(self.path)
            return bool(about) and about.get(MARK) == self._mark
        return False
