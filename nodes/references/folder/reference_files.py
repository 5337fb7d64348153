"""Where sets of references are kept: models/mmd_references, and what `extra_model_paths.yaml` names for it.

A workflow names a file in these places, and reads and writes nothing else.
"""

import itertools
import os
from pathlib import Path

import folder_paths

from ....mmd_core import References
from ....mmd_core.files.reference_file import holds, write
from ...base.safe_paths import below, name_parts
from .list_files import natural_key

KIND = "mmd_references"
ENDING = ".safetensors"

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


def place_for(filename: str) -> tuple[Path, str]:
    """The folder for a new set called `filename`, links resolved, and its name there without ending.

    Raises:
        ValueError: A name that leads out of the first place, or that not every system can have.
    """
    name = filename[: -len(ENDING)] if filename.lower().endswith(ENDING) else filename
    try:
        *folders, stem = name_parts(name)
        folder = below(places()[0], "/".join(folders))
        if folder is None:
            raise ValueError(f"a link leads out of models/{KIND}")
    except ValueError as trouble:
        raise ValueError(
            f"{filename[:100]!r} cannot be the name of a file ({trouble}): give `filename` a name "
            "such as my_style, or styles/ink for a folder"
        ) from None
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
