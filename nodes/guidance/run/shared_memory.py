"""Where memories of finished latents are kept, and the value of MMD_MEMORY.

Each memory is a folder in models/mmd_memories, or in what `extra_model_paths.yaml` names for it first, which may
be on a network drive. A workflow names a memory there, and reads and writes nothing else.
"""

import os
from pathlib import Path
from typing import NamedTuple

import folder_paths
from torch import Tensor

from ....mmd_core.files import memory_file
from ....mmd_core.files.memory_file import Recalled
from ...base.safe_paths import below, name_parts

KIND = "mmd_memories"
DEFAULT = os.path.join(folder_paths.models_dir, KIND)

folder_paths.add_model_folder_path(KIND, DEFAULT)
folder_paths.folder_names_and_paths[KIND][1].add(".safetensors")  # what ComfyUI lists of it


def folder_of(name: str) -> Path:
    """The folder of the memory called `name`, links resolved; it need not be there.

    Raises:
        ValueError: A name that leads out of the place for memories, or that not every system can have; a place
            that is not there.
    """
    place = folder_paths.get_folder_paths(KIND)[0]
    try:
        folder = below(place, "/".join(name_parts(name)))
        if folder is None:
            raise ValueError(f"a link leads out of {KIND}")
    except ValueError as trouble:
        raise ValueError(
            f"{name[:100]!r} cannot be the name of a memory ({trouble}): give `name` of MMDMemory a name such as "
            "my_batch, or comics/ink for a folder"
        ) from None
    # Made where it is missing, a network drive that is not connected would look like an empty memory.
    if place != DEFAULT and not os.path.isdir(place):
        raise ValueError(
            f"the folder that extra_model_paths.yaml names for {KIND} is not there: connect its drive, or make "
            "the folder"
        )
    return folder


class SharedMemory(NamedTuple):
    """The value of MMD_MEMORY: what a run does with a memory.

    Attributes:
        name: The memory.
        loads: Whether what it holds counts as drawn together with the run's samples.
        appends: Whether the run's samples are added.
        limit: How many count.
    """

    name: str
    loads: bool
    appends: bool
    limit: int

    def recall(self, shape=None, kind: str | None = None, prompts: int | None = None) -> Recalled:
        """What counts, as it is now; see `memory_file.recall`.

        Raises:
            ValueError: It cannot be read.
        """
        try:
            return memory_file.recall(folder_of(self.name), self.limit, shape, kind, prompts)
        except OSError as error:
            raise ValueError(
                f"the memory {self.name!r} cannot be read ({error.strerror or error}): see whether its drive is "
                "connected and ComfyUI may read it, or set `action` of MMDMemory to append"
            ) from error

    def append(self, latents: Tensor, kind: str, prompts: Tensor | None) -> str | None:
        """Adds samples; a sentence if they could not be added, with the fix, else None."""
        try:
            memory_file.append(folder_of(self.name), latents, kind, prompts, self.limit)
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error
            advice = (
                "see whether the disk is full, its drive connected, and ComfyUI may write there"
            )
            if isinstance(error, ValueError):
                advice = "fix that before you draw more"
            return f"The images are drawn, but were not added to the memory {self.name!r} ({cause}): {advice}."
        return None
