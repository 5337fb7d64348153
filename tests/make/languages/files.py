"""Node names, inputs and tooltips in other languages, from one table; standard library only.

`tests/make/workflows.py` writes the files. A text that the table lacks stops it: translate it in `table.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmd_tests.support.packages import ROOT

TABLE = Path(__file__).absolute().with_name("table.json")
LANGUAGES = ("zh", "ja")
LOCALES = ROOT / "locales"


def words(info: Mapping) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """All that is shown of a node: its place in the file, the part of the table, and the English text."""
    yield ("display_name",), "nodes", info["name"]
    yield ("description",), "texts", info["description"]
    for group in ("required", "optional"):
        for name, (_, *options) in info["input"].get(group, {}).items():
            yield ("inputs", name, "name"), "names", name
            yield ("inputs", name, "tooltip"), "texts", options[0]["tooltip"]
    for place, name in enumerate(info["output_name"]):
        yield ("outputs", str(place), "name"), "names", name.lower()
        yield ("outputs", str(place), "tooltip"), "texts", info["output_tooltips"][place]


def translated(language: str, infos: Mapping[str, Mapping]) -> dict:
    """The content of nodeDefs.json.

    Raises:
        KeyError: The table lacks a text.
    """
    table = json.loads(TABLE.read_text("utf-8"))
    found: dict = {}
    for node, info in infos.items():
        for place, part, text in words(info):
            if text not in table[part]:
                raise KeyError(f"{node}: translate this in {TABLE.name}, {part}: {text}")
            inner = found.setdefault(node, {})
            for key in place[:-1]:
                inner = inner.setdefault(key, {})
            inner[place[-1]] = table[part][text][language]
    return found


def locale_files(infos: Mapping[str, Mapping]) -> dict[Path, str]:
    """The files, and what must be in them; `infos` are entries of /object_info of our nodes."""
    return {
        LOCALES / language / "nodeDefs.json": json.dumps(
            translated(language, infos), indent=1, ensure_ascii=False
        )
        + "\n"
        for language in LANGUAGES
    }
