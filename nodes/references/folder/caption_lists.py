"""Captions from list files: one file with the captions of many images."""

import re
from collections.abc import Callable, Iterator
from functools import partial

from ....mmd_core.files import limits
from .caption_files import CaptionRequest, Captions, NamedImages
from .caption_values import Entry, csv_entries, json_entries, jsonl_entries
from .problems import Problem

MAX_BROKEN = 100  # broken entries per file: limits the memory for messages about a malicious file
Reader = Callable[[str], Iterator[tuple[str, Entry]]]

IN_LINES = "not JSON with file_name and text"
IN_COLUMNS = "not CSV with columns file_name and text"
IN_JSON = "not JSON with names of images and captions"


def listed_captions(wanted: dict[str, tuple[Reader, str]], request: CaptionRequest) -> Captions:
    """Captions from list files in the folder of an image or in a parent folder.

    Image names in a list file are relative to the folder of that file. If several files have a
    caption for an image, the file in the deepest folder wins; within one folder, the last name of
    `wanted` wins.

    Arguments:
        wanted: By the name of a list file, in lower case: a function that yields the entries of its
            text, and the reason to report for an invalid entry.
        request: The images and the caption files.
    """
    images, captions, order = NamedImages(request.names), {}, list(wanted)
    on_the_way = {""} | {
        name[: slash.start()] for name in request.names for slash in re.finditer("/", name)
    }
    sources = []
    for source in request.files:
        parent, _, file = source.rpartition("/")
        if file.lower() in wanted and parent in on_the_way:
            sources.append((source.count("/"), order.index(file.lower()), source, parent))
    for _, number, source, parent in sorted(sources):
        text = request.read(source, limits.LIST)
        entries, problem = wanted[order[number]]
        if text is not None and _is_too_long(source, text):
            request.problems.append(Problem(source, "has too many entries: split it"))
            text = None
        broken = 0
        for entry, (place, (key, caption)) in enumerate(entries(text) if text is not None else ()):
            if entry % 1000 == 0:
                request.on_progress(0)
            if isinstance(key, str) and caption is not None:
                if found := images.find(parent, key):
                    request.used.add(source)
                    caption = request.limited(caption, len(found), source, place)
                    captions |= dict.fromkeys(found, caption) if caption else {}
                continue
            request.problems.append(Problem(source, problem, place))
            broken += 1
            if broken == MAX_BROKEN:
                reason = f"has {broken} such entries or more: the rest is not read"
                request.problems.append(Problem(source, reason))
                break
    return captions


def _is_too_long(name: str, text: str) -> bool:
    """Whether a file has so many entries that they would take all memory, or hours."""
    is_json = name.lower().endswith(".json")
    is_full = is_json and text.count('"') > 2 * limits.LIST_VALUES
    return is_full or text.count("\n") > limits.LIST_LINES


metadata_captions = partial(
    listed_captions,
    {"metadata.csv": (csv_entries, IN_COLUMNS), "metadata.jsonl": (jsonl_entries, IN_LINES)},
)
json_captions = partial(
    listed_captions,
    # sd-scripts makes each of the meta files from the one before it.
    dict.fromkeys(
        ("metadata.json", "meta_cap.json", "meta_clean.json", "meta_lat.json", "captions.json"),
        (json_entries, IN_JSON),
    ),
)
