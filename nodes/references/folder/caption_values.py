"""What the entries of caption files say: the name of an image and its caption.

The names of the fields are those of Hugging Face, sd-scripts, DiffSynth, diffusion-pipe and LLaVA.
"""

import csv
import json
import math
from collections.abc import Iterator
from typing import Any

from ....mmd_core.files import limits
from ....mmd_core.files.json_text import check
from .caption_files import clean

NAMES = (
    "file_name", "image", "file", "path", "image_path", "filename", "img", "img_path", "image_name",
    "file_path", "image_file", "image_file_name", "images",
)  # fmt: skip
TEXTS = ("text", "caption", "prompt", "captions", "description")
TALKS = ("conversations", "messages")
MAX_HEAD = 10_000  # characters of the first line of a CSV file
ANSWERS = ("gpt", "assistant", "model", "bot")  # who describes the image in a conversation

Entry = tuple[str | None, str | None]  # image name and caption; None where invalid


def caption_of(value: Any) -> str | None:
    """The caption in a JSON value; None if it is invalid.

    The value is a text, a number, a list of several captions, of which the first counts, or an
    object with such a value and tags, or with a conversation about the image.
    """
    if not isinstance(value, dict):
        return _text(value)
    if not value.keys() & {*TEXTS, *TALKS, "tags"}:
        return None
    given = filter(_given, map(value.get, TEXTS))
    said = next((text for text in map(_text, given) if text != ""), "")
    if said == "":
        said = next((_text(_answer(value[key])) for key in TALKS if value.get(key)), "")
    tags = value.get("tags")
    parts = [said, *map(_text, tags if isinstance(tags, list) else [tags])]
    return None if None in parts else ", ".join(filter(None, parts))  # as sd-scripts joins them


def _given(value: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):  # tables have NaN for nothing
        return False
    return value == 0 or bool(value.strip() if isinstance(value, str) else value)


def _text(value: Any) -> str | None:
    """The text of a JSON text, number or null, or of the first in a list; None for other values."""
    if isinstance(value, list):
        value = next(filter(_given, value), None)
    if value is None or (isinstance(value, float) and not _given(value)):
        return ""
    is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
    return clean(str(value)) if is_text else None


def _answer(talk: Any) -> Any:
    """The first answer in a conversation; False if there is none."""
    for turn in talk if isinstance(talk, list) else []:
        if isinstance(turn, dict) and turn.get("from", turn.get("role")) in ANSWERS:
            said = turn.get("value", turn.get("content"))
            parts = said if isinstance(said, list) else [said]
            texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
            return next(filter(None, texts), False)
    return False


def _entry(entry: Any) -> Entry:
    """The image name and caption of an object that contains both."""
    if not isinstance(entry, dict):
        return None, None
    name = next((entry[key] for key in NAMES if key in entry), None)
    if isinstance(name, list) and len(name) == 1:
        name = name[0]
    return name, caption_of(entry)


def parsed(text: str) -> Any:
    """The value of a JSON text; None if it is invalid or has too many values."""
    try:
        check(text, limits.LIST_VALUES)
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def jsonl_entries(text: str) -> Iterator[tuple[str, Entry]]:
    """The entries of `metadata.jsonl`, each with its place in the file."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            entry = parsed(line)
            if isinstance(entry, dict):
                entry.pop("tags", None)  # in a Hugging Face data set, an unrelated column
            yield f"line {number}", _entry(entry)


def csv_entries(text: str) -> Iterator[tuple[str, Entry]]:
    """The entries of `metadata.csv`, each with its place in the file.

    The first line names the columns. They are separated by commas, semicolons or tabs.
    """
    lines = text.split("\n")
    if max(map(len, lines)) > limits.LIST_LINE:  # it would take long, and no other thread could run
        yield "", (None, None)
        return
    heads = {mark: next(csv.reader([lines[0][:MAX_HEAD]], delimiter=mark), []) for mark in ",;\t"}
    names = {mark: [name.strip().lower() for name in head] for mark, head in heads.items()}
    mark = max(names, key=lambda mark: len({*NAMES, *TEXTS} & set(names[mark])))
    if not set(NAMES) & set(names[mark]) or not set(TEXTS) & set(names[mark]):
        yield "line 1", (None, None)
        return
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=mark)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield f"line {rows.line_num}", (None, None)
            continue
        if row and rows.line_num > 1:
            entry = dict(zip(names[mark], row, strict=False))
            entry.pop("tags", None)
            yield f"line {rows.line_num}", _entry(entry)


def json_entries(text: str) -> Iterator[tuple[str, Entry]]:
    """The entries of a JSON file, each with its place in the file.

    The file is an object with one caption per image, or a list of entries.
    """
    data = parsed(text)
    if isinstance(data, dict):
        for key, value in data.items():
            yield f"entry {key[:50]!r}", (key, caption_of(value))
    elif isinstance(data, list):
        for number, entry in enumerate(data, 1):
            yield f"entry {number}", _entry(entry)
    else:
        yield "", (None, None)
