"""The value of MMD_MEMORY: a folder of finished latents that several runs share.

Each memory is a folder in models/mmd_memories, or in the first place that `extra_model_paths.yaml`
names for mmd_memories, which may be on a network drive. A workflow reads and writes nothing else.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import folder_paths
from torch import Tensor

from ....mmd_core.files import memory_file
from ....mmd_core.files.memory_file import Recalled
from ....mmd_core.kernels.quoted import quoted
from ...base.safe_paths import below, name_parts

KIND = "mmd_memories"
DEFAULT = os.path.join(folder_paths.models_dir, KIND)

folder_paths.add_model_folder_path(KIND, DEFAULT)
folder_paths.folder_names_and_paths[KIND][1].add(".safetensors")  # the files that ComfyUI lists


def folder_of(name: str) -> Path:
    """The folder of the memory called `name`, with links resolved. It may not exist yet.

    Raises:
        ValueError: The name leads out of the place for memories, or is not possible on every
            system, or the place for memories does not exist.
    """
    place = folder_paths.get_folder_paths(KIND)[0]
    try:
        folder = below(place, "/".join(name_parts(name)))
        if folder is None:
            raise ValueError(f"a link leads out of {KIND}")
    except ValueError as trouble:
        raise ValueError(
            f"{quoted(name)} cannot be the name of a memory ({trouble}): give `name` of MMDMemory "
            "a name such as my_batch, or comics/ink for a folder"
        ) from None
    # It is not created here: a network drive that is not connected would look like an empty memory.
    if place != DEFAULT and not os.path.isdir(place):
        raise ValueError(
            f"the folder that extra_model_paths.yaml names for {KIND} does not exist: connect its "
            "drive, or make the folder"
        )
    return folder


class SharedMemory(NamedTuple):
    """A memory, and how runs use it.

    Attributes:
        name: The name of the memory.
        loads: Whether its samples count as drawn together with those of a run.
        appends: Whether the samples of a run are added.
        limit: How many samples count, the newest.
    """

    name: str
    loads: bool
    appends: bool
    limit: int

    def recall(
        self,
        shape: Sequence[int] | None = None,
        kind: str | None = None,
        prompts: int | None = None,
    ) -> Recalled:
        """The samples that count now; arguments as in `memory_file.recall`.

        Raises:
            ValueError: The memory cannot be read.
        """
        try:
            return memory_file.recall(folder_of(self.name), self.limit, shape, kind, prompts)
        except OSError as error:
            raise ValueError(
                f"the memory {self.name!r} cannot be read ({error.strerror or error}): check that "
                "its drive is connected and that ComfyUI may read it, or set `action` of MMDMemory "
                "to append"
            ) from error

    def append(self, latents: Tensor, kind: str, prompts: Tensor | None) -> str | None:
        """Adds samples.

        Arguments:
            latents: With shape `(B, *shape)`, not scaled by the model.
            kind: Their latent format.
            prompts: Their prompt features, with shape `(B, E)`, or None.

        Returns:
            A sentence with the cause and the fix if they could not be added, else None.
        """
        try:
            memory_file.append(folder_of(self.name), latents, kind, prompts, self.limit)
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error
            advice = (
                "fix that before you draw more"
                if isinstance(error, ValueError)
                else "check that the disk is not full, that its drive is connected, and that "
                "ComfyUI may write there"
            )
            return (
                f"The images are drawn, but were not added to the memory {self.name!r} ({cause}): "
                f"{advice}."
            )
        return None
