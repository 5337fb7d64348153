"""Lines for the report about what is in a folder and is not used, or may not belong there."""

from collections.abc import Iterable

from .list_files import SYSTEM, natural_key, printable
from .trainer_names import MAPS, OFF, doubled_folders

SHOWN = 3  # names in one line
ADVICE = {
    MAPS: "To use them, choose their folder in `folder` or rename them",
    OFF: "To use them, rename the folders",
    SYSTEM: "To use images in them, move these elsewhere",
}


def some(names: Iterable[str]) -> str:
    """The first few of the names, and how many more there are."""
    names = [printable(name) for name in sorted(names, key=natural_key)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def notes(images: Iterable[str], left_out: dict[str, str]) -> list[str]:
    """Lines about images that are left out, and about those that may have to be.

    Arguments:
        images: The names of the images that are used.
        left_out: As in `Listing`.
    """
    lines = []
    for kind, advice in ADVICE.items():
        if names := [name for name, reason in left_out.items() if reason == kind]:
            lines.append(f"Left out as {kind}: {len(names)} ({some(names)}). {advice}.")
    if folders := doubled_folders(images):
        lines.append(
            f"All images in {some(folders)} have the names of others beside them: if they are "
            "masks or control maps, move them out of the folder."
        )
    return lines
