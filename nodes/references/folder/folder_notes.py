"""Lines for the report about what is in a folder and is not used, or may not belong there."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from ....mmd_core.files import limits
from .caption_files import CaptionRequest
from .color_profile import UNUSABLE
from .file_kinds import OTHER_IMAGE_FILE, OTHER_TEXT_FILE, has_ending, sniffed, stem_of
from .list_files import SYSTEM, Listing, natural_key, printable
from .problems import some
from .trainer_names import MAPS, OFF, OTHERS, doubled_folders

ADVICE = {
    MAPS: "To use them, choose their folder in `folder` or rename them",
    OTHERS: "To use them, choose their folder in `folder` or rename it",
    OFF: "To use them, rename the folders",
    SYSTEM: "To use images in them, move these elsewhere",
}


def image_notes(listing: Listing) -> list[str]:
    """Lines about images that are left out or not read, and about those that may be none."""
    lines = []
    for kind, advice in ADVICE.items():
        if names := [name for name, reason in listing.left_out.items() if reason == kind]:
            lines.append(f"Left out as {kind}: {len(names)} ({_some(names)}). {advice}.")
    if folders := doubled_folders(listing.images):
        lines.append(
            f"All images in {_some(folders)} have the names of others beside them: if they are "
            "masks or control maps, move them out of the folder."
        )
    if names := dict.fromkeys(filter(OTHER_IMAGE_FILE.fullmatch, listing.others)):
        counts = Counter("." + name.rpartition(".")[2].lower() for name in names)
        formats = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
        lines.append(f"Formats that are not read: {formats} ({_some(names)}). Save them as .png.")
    unknown = ((name, path) for name, path in listing.others.items() if has_ending(name))
    looked = islice(((n, p) for n, p in unknown if n not in names), limits.SNIFFED)
    if misnamed := {name: kind for name, path in looked if (kind := sniffed(path))}:
        kinds = some(f"{printable(name)} ({misnamed[name]})" for name in misnamed)
        lines.append(f"Images with other endings are not read: {kinds}. Rename them to use them.")
    return lines


def color_notes(profiles: dict[str, str]) -> list[str]:
    """Lines about color profiles, by the name of each image."""
    counts = Counter(filter(None, profiles.values()))
    broken = counts.pop(UNUSABLE, 0)
    lines = []
    if counts:
        names = some(f"{printable(name)} ({count})" for name, count in counts.most_common())
        lines.append(f"Colors converted to sRGB, from {names}.")
    if broken:
        names = _some(name for name, profile in profiles.items() if profile == UNUSABLE)
        lines.append(
            f"Images with {UNUSABLE}, taken as sRGB: {broken} ({names}). If their colors are "
            "wrong, save them as sRGB."
        )
    return lines


def caption_notes(listing: Listing, request: CaptionRequest) -> list[str]:
    """Lines about text files that are not used, although images have no captions.

    Arguments:
        listing: The files.
        request: The captions that were found, and the files that were used for them.
    """
    texts = [*request.files, *filter(OTHER_TEXT_FILE.fullmatch, listing.others)]
    unused = [name for name in texts if name not in request.used]
    if not request.found:
        others = _spelled({*request.every, *listing.left_out} - set(request.names))
        unused = [name for name in unused if _stem(name) not in others]
        advice = (
            "Name them like their images (photo.txt for photo.png), name lists metadata.jsonl, "
            "metadata.csv or captions.json, or change `caption_source`"
        )
        start = "No caption is found in these files"
    else:
        without = _spelled(name for name in request.names if name not in request.found)
        unused = [name for name in unused if _stem(name) in without]
        advice = "Name them like photo.txt for photo.png"
        start = "Images without a caption have these files beside them, which are not read"
    return [f"{start}: {_some(unused)}. {advice}."] * bool(unused)


def _spelled(names: Iterable[str]) -> set[str]:
    """What files of an image may be called, in lower case and without their endings."""
    return {name.casefold() for image in names for name in (image, stem_of(image))}


def _stem(name: str) -> str:
    return name.rpartition(".")[0].casefold()


def _some(names: Iterable[str]) -> str:
    return some(printable(name) for name in sorted(names, key=natural_key))
