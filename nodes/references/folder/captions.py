"""Reads the captions of images from the file formats that people and training tools use."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ...base.safe_paths import open_file
from .trainer_names import split_repeats

CAPTION_FILE = re.compile(
    r"(.+/)?(metadata\.jsonl|captions\.json|meta_(cap|clean)\.json|.+\.(txt|caption))",
    re.IGNORECASE | re.DOTALL,
)
MAX_SIDECAR, MAX_LIST = 2**20, 2**26  # bytes
# Characters of a path component; file names have fewer. NFC of a long text can take hours.
MAX_PART = 1000
MAX_BROKEN = 100  # broken entries per file: limits the memory for messages about a malicious file
Captions = dict[str, str]  # caption by image name
Entry = tuple[str | None, str | None]  # image name and caption; None where invalid
Files = dict[str, Path]  # absolute path by path relative to the image folder
Problems = list[tuple[str, str]]  # a file (or an entry in it), and why it cannot be used


@dataclass(frozen=True)
class CaptionRequest:
    """The images that need captions, and the files that may have them.

    Arguments:
        folder: The folder of the images.
        names: The images, as paths below it.
        files: The caption files in it.
        problems: Receives the files and entries that cannot be used, each with the reason.
    """

    folder: Path
    names: list[str]
    files: Files
    problems: Problems


def clean(text: str) -> str:
    """The text without surrounding whitespace, and with "?" for lone surrogates.

    UTF-8 cannot encode these characters, so tokenizers fail.
    """
    return text.encode("utf-8", "replace").decode().strip()


def read_text(name: str, path: Path, limit: int, problems: Problems) -> str | None:
    """The text of a file in UTF-8 or UTF-16, with "\\n" as line ends.

    If the file cannot be read, has more than `limit` bytes or is not text, this returns None and
    adds the reason to `problems`.
    """
    try:
        with open_file(path, limit) as file:
            data = file.read()
        utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if utf_16 else "utf-8-sig")
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n")
        reason = "is not UTF-8 text: save it as UTF-8"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        reason = "is not UTF-8 text: save it as UTF-8"
    except ValueError as error:
        reason = str(error)
    problems.append((name, reason))


def nfc(name: str) -> str:
    """The name in Unicode NFC.

    macOS may store accents in file names as separate characters, other systems do not.
    """
    return unicodedata.normalize("NFC", name)


def sidecar_captions(request: CaptionRequest) -> Captions:
    """Captions from sidecar files: `image.txt`, else `image.caption`, beside `image.png`."""
    found = {}
    for spell in (nfc, str):  # an exact name overwrites a normalized one
        for file in request.files:
            stem, _, ending = file.rpartition(".")
            found[spell(stem), ending.lower()] = file
    captions = {}
    for name in request.names:
        stem = name.rpartition(".")[0]
        for ending in ("txt", "caption"):
            file = found.get((stem, ending)) or found.get((nfc(stem), ending))
            if file and not captions.get(name):
                text = read_text(file, request.files[file], MAX_SIDECAR, request.problems)
                captions[name] = clean(text or "")
    return captions


class NamedImages:
    """Finds the images that an entry of a caption file names, among the given `names` only."""

    def __init__(self, names: list[str]) -> None:
        whole, stems = {}, {}
        for name in names:
            whole.setdefault(nfc(name), []).append(name)
            stems.setdefault(nfc(name.rpartition(".")[0]), []).append(name)
        self.found = stems | whole

    def find(self, parent: str, key: str) -> list[str]:
        """The images that `key` names, with or without file extension.

        Paths are relative to the folder `parent` of the caption file. Of an absolute path of any
        operating system, the longest trailing part that matches counts, because data sets are often
        moved.
        """
        parts = PurePosixPath(key.replace("\\", "/")).parts
        absolute = re.match(r"[/\\]|[A-Za-z]:", key)
        parts = parts[-16:] if absolute else parts
        parts = [part if len(part) > MAX_PART else nfc(part) for part in parts]
        for start in range(len(parts)) if absolute else [0]:
            images = self.found.get("/".join([parent] * bool(parent) + parts[start:]))
            if images:
                return images
        return []


def _text(value: Any) -> str | None:
    """The text of a JSON string, number or null; None for other values."""
    if value is None:
        return ""
    is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
    return clean(str(value)) if is_text else None


def _caption(value: Any) -> str | None:
    """The caption in a JSON value; None if it is invalid.

    The value is a string, a number, or an object with text, caption or tags.
    """
    if not isinstance(value, dict):
        return _text(value)
    if not value.keys() & {"text", "caption", "tags"}:
        return None
    parts = _text(value.get("text") or value.get("caption")), _text(value.get("tags"))
    return None if None in parts else ", ".join(filter(None, parts))  # as sd-scripts joins them


def _entry(entry: Any) -> Entry:
    """The image name and caption of a JSON object that contains both."""
    if not isinstance(entry, dict):
        return None, None
    keys = ("file_name", "image", "file", "path")
    return next((entry[key] for key in keys if key in entry), None), _caption(entry)


def _parse(text: str) -> Any:
    """The value of a JSON text; None if it is invalid."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def jsonl_entries(text: str) -> Iterator[tuple[str, Entry]]:
    """The entries of `metadata.jsonl`, each with its position in the file as text."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            entry = _parse(line)
            if isinstance(entry, dict):
                entry.pop("tags", None)  # in a Hugging Face data set, an unrelated column
            yield f", line {number}", _entry(entry)


def json_entries(text: str) -> Iterator[tuple[str, Entry]]:
    """The entries of a JSON file, each with its position in the file as text.

    The file is an object with one caption per image, or a list of entries.
    """
    data = _parse(text)
    if isinstance(data, dict):
        for key, value in data.items():
            yield f", entry {key[:50]!r}", (key, _caption(value))
    elif isinstance(data, list):
        for number, entry in enumerate(data, 1):
            yield f", entry {number}", _entry(entry)
    else:
        yield "", (None, None)


def listed_captions(
    wanted: tuple[str, ...],
    entries: Callable[[str], Iterator[tuple[str, Entry]]],
    problem: str,
    request: CaptionRequest,
) -> Captions:
    """Captions from list files (JSON or JSONL) in the folder of an image or in a parent folder.

    Image names in a list file are relative to the folder of that file. If several files have a
    caption for an image, the file in the deepest folder wins; within one folder, the last name of
    `wanted` wins.

    Arguments:
        wanted: The names of list files, in lower case.
        entries: Yields the entries of the text of such a file.
        problem: The reason to report for an invalid entry.
        request: The images and the caption files.
    """
    images, captions = NamedImages(request.names), {}
    on_the_way = {""} | {
        name[: slash.start()] for name in request.names for slash in re.finditer("/", name)
    }
    sources = []
    for source in request.files:
        parent, _, file = source.rpartition("/")
        if file.lower() in wanted and parent in on_the_way:
            sources.append((source.count("/"), wanted.index(file.lower()), source, parent))
    for _, _, source, parent in sorted(sources):
        text = read_text(source, request.files[source], MAX_LIST, request.problems)
        broken = 0
        for place, (key, caption) in entries(text) if text is not None else ():
            if isinstance(key, str) and caption is not None:
                captions |= {name: caption for name in images.find(parent, key) if caption}
                continue
            request.problems.append((source + place, problem))
            broken += 1
            if broken == MAX_BROKEN:
                reason = f"has {broken} such entries or more: the rest is not read"
                request.problems.append((source, reason))
                break
    return captions


metadata_captions = partial(
    listed_captions, ("metadata.jsonl",), jsonl_entries, "not JSON with file_name and text"
)
json_captions = partial(
    listed_captions,
    # sd-scripts makes the second from the first.
    ("meta_cap.json", "meta_clean.json", "captions.json"),
    json_entries,
    "not JSON with names of images and captions",
)


def folder_captions(request: CaptionRequest) -> Captions:
    """Captions from the name of the folder that contains the image, without kohya's repeats."""
    parents = {name: (request.folder / name).parent.name for name in request.names}
    return {name: clean(split_repeats(parent)[1]) for name, parent in parents.items()}


# For each image, the readers are tried in this order: the first caption that is not empty counts.
CAPTION_SOURCES: dict[str, tuple[Callable[[CaptionRequest], Captions], ...]] = {
    "auto": (sidecar_captions, metadata_captions, json_captions),
    "txt": (sidecar_captions,),
    "metadata.jsonl": (metadata_captions,),
    "folder name": (folder_captions,),
    "none": (),
    "captions.json": (json_captions,),
}


def read_captions(
    source: str, folder: Path, names: list[str], files: Files, problems: Problems
) -> list[str]:
    """The caption of each image, "" if it has none.

    Arguments:
        source: One of `CAPTION_SOURCES`.
        folder, names, files, problems: As in `CaptionRequest`.
    """
    request = CaptionRequest(folder, names, files, problems)
    found = [read(request) for read in CAPTION_SOURCES[source]]
    return [next(filter(None, (c.get(name) for c in found)), "") for name in names]
