"""Finds and saves reference files.

They are in models/mmd_references or in the folders that `extra_model_paths.yaml` adds to it. A
workflow can read and write only files in these folders.
"""

import itertools
import os
from pathlib import Path

import folder_paths

from ....mmd_core import References
from ....mmd_core.files.reference_file import holds, write
from ....mmd_core.kernels.quoted import quoted
from ...base.safe_paths import below, name_parts
from .list_files import natural_key

KIND = "mmd_references"
ENDING = ".safetensors"

folder_paths.add_model_folder_path(KIND, os.path.join(folder_paths.models_dir, KIND))
folder_paths.folder_names_and_paths[KIND][1].add(ENDING)  # file extensions that ComfyUI lists


def places() -> list[Path]:
    """The folders of reference files, with links resolved. New files are saved in the first."""
    return [Path(place).resolve() for place in folder_paths.get_folder_paths(KIND)]


def list_sets() -> list[str]:
    """The names of all reference files that are not hidden, in natural order.

    The names are relative to their place, with forward slashes.
    """
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
    """The path of the reference file `name`, with links resolved; None if there is none.

    If several places have such a file, the first place counts.

    Raises:
        ValueError: The file was not found, and the name or a link leads out of the allowed folders.
    """
    roots = places()
    found = [below(place, name, roots) for place in roots]
    for path in filter(None, found):
        if path.suffix.lower() == ENDING and os.path.isfile(path):
            return path
    if None in found:
        raise ValueError(
            f"{quoted(name)} leads out of the folders for sets of references: copy the file into "
            f"models/{KIND}, or add its folder as {KIND} to extra_model_paths.yaml"
        )
    return None


def place_for(filename: str) -> tuple[Path, str]:
    """The folder and the name without extension for a new reference file.

    The links of the folder are resolved.

    Raises:
        ValueError: The name leads out of the first place, or is not valid on every operating
            system.
    """
    name = filename[: -len(ENDING)] if filename.lower().endswith(ENDING) else filename
    try:
        *folders, stem = name_parts(name)
        folder = below(places()[0], "/".join(folders))
        if folder is None:
            raise ValueError(f"a link leads out of models/{KIND}")
    except ValueError as problem:
        raise ValueError(
            f"{quoted(filename)} cannot be the name of a file ({problem}): give `filename` a name "
            "such as my_style, or styles/ink for a folder"
        ) from None
    return folder, stem


def save(references: References, filename: str, dtype: str, overwrite: bool) -> tuple[Path, bool]:
    """Saves the references. An existing file with the same content is reused.

    Without `overwrite`, an existing file with other content is kept, and the new file gets a
    number. A symbolic link is never followed: it counts as an existing file, and `overwrite`
    replaces the link itself.

    Returns:
        The path of the file, and whether it was written now.

    Raises:
        ValueError: The name is not valid, or the references cannot be stored.
        OSError: The file cannot be written.
    """
    folder, stem = place_for(filename)
    folder.mkdir(parents=True, exist_ok=True)

    def is_equal(path: Path) -> bool:
        return path.is_file() and not path.is_symlink() and holds(path, references, dtype)

    for number in itertools.count(1):
        path = folder / f"{stem}{'' if number == 1 else f'_{number}'}{ENDING}"
        if is_equal(path):
            return path, False
        if overwrite or not os.path.lexists(path):
            try:
                write(references, path, dtype, replace=overwrite)
                return path, True
            except FileExistsError:  # another process has just taken the name
                if is_equal(path):
                    return path, False
