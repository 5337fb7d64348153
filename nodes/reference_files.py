"""Where sets of references are kept: models/mmd_references, and what `extra_model_paths.yaml` names for it.

A workflow names a file in these places, and reads and writes nothing else.
"""

import itertools
import os
import re
from pathlib import Path

import folder_paths

from ..mmd_core import References
from ..mmd_core.reference_file import NOT_IN_NAMES, holds, write
from .folders import below
from .list_files import natural_key

KIND = "mmd_references"
ENDING = ".safetensors"
# Windows keeps these for devices, whatever follows the first dot.
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
MAX_BYTES = 200  # of a part of a path; systems have 255, and a number and the ending are added

folder_paths.add_model_folder_path(KIND, os.path.join(folder_paths.models_dir, KIND))
folder_paths.folder_names_and_paths[KIND][1].add(ENDING)  # what ComfyUI lists of it


def places() -> list[Path]:
    """The folders that may hold sets, links resolved; new sets go to the first."""
    return [Path(place).resolve() for place in folder_paths.get_folder_paths(KIND)]


def list_sets() -> list[str]:
    """The names of all sets, with forward slashes, in natural order; hidden ones are left out."""
    names = set()
    for place in places():
        for folder, folders, files in os.walk(place):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names |= {
                (Path(folder) / name).relative_to(place).as_posix()
                for name in files
                if name.lower().endswith(ENDING) and not name.startswith(".")
            }
    return sorted(names, key=natural_key)


def find(name: str) -> Path | None:
    """The file of that name in the first place that has it, links resolved; None if there is none.

    Raises:
        ValueError: The name, or a link of that name, leads out of all places.
    """
    roots = places()
    found = [below(place, name, roots) for place in roots]
    for path in filter(None, found):
        if path.suffix.lower() == ENDING and os.path.isfile(path):
            return path
    if None in found:
        raise ValueError(
            f"{name[:200]!r} leads out of the folders for sets of references: copy the file into "
            f"models/{KIND}, or add its folder as {KIND} to extra_model_paths.yaml"
        )
    return None


def trouble_with(part: str) -> str | None:
    """Why some system cannot have a file or folder of that name, or would take it for something else."""
    if not part:
        return "a part of it is empty"
    if part[0] in ". " or part[-1] in ". ":
        return "a part of it starts or ends with a dot or space"
    if NOT_IN_NAMES.search(part) or set(part) & set('<>:"|?*'):
        return 'it has a character that file names cannot have, such as : ? * " < > |'
    if DEVICE.fullmatch(part):
        return f"Windows keeps the name {part} for a device"
    if len(part.encode()) > MAX_BYTES:
        return f"a part of it is longer than {MAX_BYTES} bytes"
    return None


def place_for(filename: str) -> tuple[Path, str]:
    """The folder for a new set called `filename`, links resolved, and its name there without ending.

    Raises:
        ValueError: A name that leads out of the first place, or that not every system can have.
    """
    name = filename[: -len(ENDING)] if filename.lower().endswith(ENDING) else filename
    *folders, stem = name.replace("\\", "/").split("/")
    trouble = next(filter(None, map(trouble_with, (*folders, stem))), None)
    folder = None if trouble else below(places()[0], "/".join(folders))
    if folder is None:
        trouble = trouble or f"a link leads out of models/{KIND}"
        raise ValueError(
            f"{filename[:100]!r} cannot be the name of a file ({trouble}): give `filename` a name "
            "such as my_style, or styles/ink for a folder"
        )
    return folder, stem


def save(references: References, filename: str, dtype: str, overwrite: bool) -> tuple[Path, bool]:
    """The file that holds the references now, and whether it was written.

    A file with another content is kept unless `overwrite` is set: the new one gets a number. A link is
    never followed, but counts as a file, and is replaced like one.

    Raises:
        ValueError: The name or the references cannot be written.
        OSError: The file cannot be written.
    """
    folder, stem = place_for(filename)
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / f"{stem}{'' if number == 1 else f'_{number}'}{ENDING}"
        if path.is_file() and not path.is_symlink() and holds(path, references, dtype):
            return path, False
        if overwrite or not os.path.lexists(path):
            write(references, path, dtype)
            return path, True
