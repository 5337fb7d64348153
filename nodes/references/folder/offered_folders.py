"""The folders that LoadReferenceSet offers; the first one is what a new node shows."""

import os
from itertools import islice

from .file_kinds import IMAGE_FILE
from .list_files import SYSTEM_FOLDERS
from .reference_folders import list_folders, locate
from .trainer_names import left_out, split_repeats

NEW_FOLDER = "mmd_references"  # the folder to make where there is none; the templates name it, too
# Folders that ComfyUI itself makes in its input folder: pictures there are seldom references.
COMFYUIS_OWN = {"3d", "backgrounds", "clipspace", "painter", "pasted", "threed", "webcam"}
MAX_LOOKED_AT = 1000  # folders, and files of each


def _may_be_a_set(folder: str) -> bool:
    """Whether the name of a folder may be that of references."""
    parts = [part.casefold() for part in folder.split("/")]
    if parts[0] in COMFYUIS_OWN or any(part[:1] == "." or part in SYSTEM_FOLDERS for part in parts):
        return False
    return not left_out([f"{folder}/picture.png"])  # no folder of masks or control maps


def _has_pictures(folder: str) -> bool:
    """Whether an image lies in the folder itself."""
    path, _ = locate(folder)
    try:
        with os.scandir(path or "") as entries:
            first = islice(entries, MAX_LOOKED_AT)
            return any(IMAGE_FILE.fullmatch(e.name) and not e.name.startswith(".") for e in first)
    except OSError:
        return False


def offered_folders() -> list[str]:
    """All folders that may hold references, the first one with pictures at the beginning.

    Of a folder such as `10_name`, which kohya's trainers read, the folder around it comes first.
    Where no folder holds pictures, the list begins with one to make: `NEW_FOLDER`.
    """
    names = list_folders()
    likely = islice(filter(_may_be_a_set, names), MAX_LOOKED_AT)
    first = next(filter(_has_pictures, likely), NEW_FOLDER)
    around, _, last = first.rpartition("/")
    if around in names and split_repeats(last)[1] != last:
        first = around
    return list(dict.fromkeys([first, *names]))
