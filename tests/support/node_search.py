"""In what order ComfyUI's frontend lists the nodes that a search finds.

The rule is that of `FuseSearch` and `ComfyNodeDefImpl.postProcessSearchScores` in the frontend (read in versions
1.47.12 and 1.58.1). A node's id and its display name decide; aliases only let a node be found, below all others.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

PART = re.compile(r" |\b|(?<=[a-z])(?=[A-Z])|(?=[A-Z][a-z])")
REACH = 30  # characters from the beginning of a text within which a word is found
ONLY_SIMILAR = 9


class Entry(NamedTuple):
    """A node as a search sees it."""

    name: str
    display_name: str
    aliases: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.name, self.display_name, *self.aliases)


def _fit(search: str, text: str) -> tuple[float, float, float]:
    """How well `text` fits: the kind of match, its place, and the length; less is better."""
    parts = [part.lower() for part in PART.split(text)]
    words, text = search.split(" "), text.lower()
    length = len(text)
    if text == search:
        return 0, 0, 0
    if text.startswith(search):
        return 1, 0, length
    if search in text:
        return (2 if search in parts else 3), text.index(search) + length / 2, length
    if all(word in parts for word in words):
        places = [parts.index(word) for word in words]
        return 4, max(places) - min(places) + max(places) / 2 + length / 2, length
    if all(word in text for word in words):
        first = min(map(text.index, words))
        last = max(text.index(word) + len(word) for word in words)
        return 5, last - first + last / 2 + length / 2, length
    return ONLY_SIMILAR, 0, 0


def ranked(search: str, entries: list[Entry], popularity: dict[str, int]) -> list[str]:
    """The ids of the nodes whose id or display name holds what is searched for, best first.

    Of equal ones, that with more texts that hold it comes first: the last score of the frontend is a product with a
    factor below 1 for each.
    """
    search = search.lower()

    def order(entry: Entry) -> tuple:
        kind, *place = min(_fit(search, text) for text in entry.texts[:2])
        if "deprecated" in f"{entry.name} {entry.display_name}".lower():
            kind += 5 * bool(kind)
        holding = sum(search in text.lower()[:REACH] for text in entry.texts)
        return kind, -popularity.get(entry.name, 0), *place, -holding

    found = [
        entry
        for entry in entries
        if order(entry)[0] < ONLY_SIMILAR
        and all(any(w in t.lower()[:REACH] for t in entry.texts) for w in search.split())
    ]
    return [entry.name for entry in sorted(found, key=order)]


def core_entries(comfyui: Path) -> list[Entry]:
    """All nodes of ComfyUI itself, read from its sources without running them."""
    found: dict[str, str] = {}
    named: dict[str, str] = {}
    for file in (comfyui / "nodes.py", *(comfyui / "comfy_extras").glob("nodes_*.py")):
        for item in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(item, ast.Call) and ast.unparse(item.func).endswith("Schema"):
                given = {k.arg: getattr(k.value, "value", None) for k in item.keywords}
                if isinstance(given.get("node_id"), str):
                    found[given["node_id"]] = given.get("display_name") or given["node_id"]
            elif isinstance(item, ast.Assign) and isinstance(item.value, ast.Dict):
                target = ast.unparse(item.targets[0])
                keys = [getattr(key, "value", None) for key in item.value.keys]
                if target == "NODE_CLASS_MAPPINGS":
                    found |= {key: found.get(key, key) for key in keys if isinstance(key, str)}
                elif target == "NODE_DISPLAY_NAME_MAPPINGS":
                    texts = [getattr(value, "value", None) for value in item.value.values]
                    named |= {k: t for k, t in zip(keys, texts, strict=True) if isinstance(t, str)}
    return [Entry(name, named.get(name, title)) for name, title in found.items()]


def blueprint_entries(folder: Path) -> list[Entry]:
    """The blueprints in a folder: named by their files; the id that the frontend gives them says nothing."""
    return [
        Entry(f"SubgraphBlueprint.{hashlib.sha256(file.stem.encode()).hexdigest()}", file.stem)
        for file in sorted(folder.glob("*.json"))
    ]


def popularity(frontend: Path) -> dict[str, int]:
    """How often nodes are used, by id, as the installed frontend has it; {} where it has no such file."""
    file = frontend / "static" / "assets" / "sorted-custom-node-map.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}
