"""One description of a workflow, and both of ComfyUI's formats from it; standard library only.

The API format is what a server runs; the UI format is what the frontend shows.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mmd_tests.support.node_schema import Schema
from mmd_tests.support.packages import ROOT
from mmd_tests.support.subgraph import INPUTS, OUTPUTS, Part
from mmd_tests.support.wires import Inlet, Link

PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
PACK_VERSION = re.search(r'^version = "(.+?)"', PROJECT, re.M)[1]
CORE_VERSION = re.search(r'^requires-comfyui = ">=(.+?)"', PROJECT, re.M)[1]
TITLE, MARGIN, GAP = 30, 20, 60  # pixels
NOTE, LETTER, LINE, PARAGRAPH = 40, 6.4, 19, 14  # of a note: its border, a letter, a line, a gap
MUTED = 2  # the mode of a node
SAID = 90  # pixels of what a node says after a run
PREVIEW = {
    "KSampler": 240,
    "MMDGuidedKSampler": 220,
    "TRITSMCSampler": 220,
    "TSMCPropose": 280,
    "MMDTrainLoRA": 300,
    "MMDMakeReferences": 40,
    "MMDBaseImages": 40,
    "MMDSaveLoRA": 60,
}  # pixels for the live preview; ours has spare ones
FRAME = {"color": "#3f789e", "font_size": 24, "flags": {}}


@dataclass
class Node:
    """A node or, without a schema, a note; its outputs are reached by name or number."""

    id: int
    type: str
    schema: Schema | None
    title: str
    inputs: dict[str, object]
    box: tuple[int, int, int, int] = (0, 0, 0, 0)  # x, y, width, height
    colors: tuple[str, str] | None = None
    models: list[dict] = field(default_factory=list)  # files the frontend offers to download
    muted: bool = False
    control: str = "fixed"  # what becomes of its seed after a run
    part: Part | None = None  # in which it is

    def __getitem__(self, output: str | int) -> Link:
        names = [name.lower() for name, _ in self.schema.outputs]
        return Link(self, names.index(output) if isinstance(output, str) else output)

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """Name and type of what it gives."""
        return self.schema.outputs if self.schema else []

    def value(self, name: str) -> object:
        """What a widget shows; where something is wired to it, its default."""
        value = self.inputs.get(name)
        if isinstance(value, Inlet):
            value = value.part.taken[value.name]
        return self.schema.default(name) if value is None or isinstance(value, Link) else value

    def sockets(self) -> list[dict]:
        """Its inputs as the frontend writes them: sockets, then widgets to which something is wired."""
        wired = [n for n in self.schema.widgets if isinstance(self.inputs.get(n), Link | Inlet)]
        sockets = []
        for name in self.schema.sockets + wired:
            type_, _, optional = self.schema.inputs[name]
            socket = {"name": name, "type": type_, "link": None}
            if name in wired:
                socket["widget"] = {"name": name}
            elif optional:
                socket["shape"] = 7  # drawn as a ring
            sockets.append(socket)
        return sockets

    def properties(self) -> dict:
        """What tells ComfyUI where to get this node or its models if they are missing."""
        properties: dict = {"Node name for S&R": self.type}
        family, _, part = self.schema.category.partition("/")
        if family != "MMD Guidance":
            properties |= {"cnr_id": "comfy-core", "ver": CORE_VERSION}
        elif part != "demo":  # those are not published
            properties |= {"cnr_id": "mmd-guidance", "ver": PACK_VERSION}
        return properties | ({"models": self.models} if self.models else {})


@dataclass
class Group:
    """A titled frame around columns of nodes; without a title only a place."""

    title: str
    x: int
    y: int
    muted: bool = False
    nodes: list[Node] = field(default_factory=list)

    def bounding(self) -> list[int]:
        """x, y, width, height."""
        right = max(node.box[0] + node.box[2] for node in self.nodes) + MARGIN
        bottom = max(node.box[1] + node.box[3] for node in self.nodes) + MARGIN
        return [self.x, self.y, right - self.x, bottom - self.y]


class Workflow:
    """Nodes and how they are wired, laid out in groups from left to right."""

    def __init__(self, name: str, schemas: Mapping[str, Mapping]) -> None:
        self.name, self.schemas = name, schemas
        self.nodes: list[Node] = []
        self.parts: list[Part] = []
        self.groups: list[Group] = []
        self._within: Part | None = None
        self._x = self._y = 0

    def __getitem__(self, name: str) -> Node:
        """The first node of that type or title."""
        return next(node for node in self.nodes if name in (node.type, node.title))

    def group(self, title: str = "", below: bool = False, muted: bool = False) -> None:
        """Put what is added next into a new group: right of all others, or below the last one.

        What is muted is not run by the frontend until the user switches it on.
        """
        x = y = 0
        if below:
            x, y, _, height = self.groups[-1].bounding()
            y += height + GAP
        elif self.groups:
            x = GAP + max(box[0] + box[2] for box in (g.bounding() for g in self.groups))
        self.groups.append(Group(title, x, y, muted))
        self._x, self._y = x + MARGIN, y + (2 * TITLE if title else 0) + MARGIN

    def column(self) -> None:
        """Put what is added next into a new column of the same group."""
        group = self._within.inside if self._within else self.groups[-1]
        x, y, width, _ = group.bounding()
        self._x, self._y = x + width + MARGIN, y + (2 * TITLE if group.title else 0) + MARGIN

    @contextmanager
    def part(self, title: str, *, wide: int = 340, room: int = 0) -> Iterator[Part]:
        """What is added inside is shown as one node below the last one: a subgraph."""
        before = self._x, self._y
        part = self._within = Part(self._number(), title, Group("", 0, 0))
        self._x = self._y = MARGIN
        yield part
        self._within = None
        self._x, self._y = before
        self.parts.append(part)
        self._place(part, wide, part.height() + room)

    def _number(self) -> int:
        return len(self.nodes) + len(self.parts) + bool(self._within) + 1

    def add(
        self,
        node_type: str,
        title: str = "",
        *,
        wide: int = 340,
        room: int = 0,
        colors: tuple[str, str] | None = None,
        **inputs: object,
    ) -> Node:
        """Add a node below the last one, `wide` pixels wide, `room` pixels higher than it must be."""
        schema = Schema(self.schemas[node_type])
        unknown = set(inputs) - set(schema.inputs)
        optional = {name for name, (*_, is_optional) in schema.inputs.items() if is_optional}
        missing = set(schema.sockets) - optional - set(inputs)
        if unknown or missing:
            raise ValueError(f"{node_type}: unknown {sorted(unknown)}, missing {sorted(missing)}")
        for name, value in inputs.items():
            if isinstance(value, Link | Inlet) and self._within is not _home(value):
                raise ValueError(f"{node_type}: {name} is wired to a node of another part")
            schema.check(name, value)
        node = Node(self._number(), node_type, schema, title, inputs, colors=colors)
        said = SAID * any(name.lower() == "report" for name, _ in schema.outputs)
        return self._place(node, wide, schema.height() + said + (room or PREVIEW.get(node_type, 0)))

    def note(self, title: str, text: str, wide: int = 460) -> Node:
        """Add a text for people, as high as it needs; only the frontend knows it."""
        node = Node(self._number(), "MarkdownNote", None, title, {"text": text})
        return self._place(node, wide, text_height(text, wide))

    def _place(self, node: Node | Part, wide: int, high: int) -> Node | Part:
        node.box, node.muted = (self._x, self._y, wide, high), self.groups[-1].muted
        self._y += high + TITLE + MARGIN
        node.part = self._within
        if isinstance(node, Node):
            self.nodes.append(node)
        (self._within.inside if self._within else self.groups[-1]).nodes.append(node)
        return node

    # --- the two formats --------------------------------------------------------------------------

    def api(self) -> dict:
        """The workflow in the API format, with a value for every widget, and with what is muted."""
        prompt = {}
        for node in self.nodes:
            if node.schema is None:
                continue
            inputs = {name: node.value(name) for name in node.schema.widgets}
            for name, value in node.inputs.items():
                if isinstance(link := _source(value), Link):
                    inputs[name] = [_key(link.node), link.slot]
            meta = {"title": node.title or node.type}
            prompt[_key(node)] = {"class_type": node.type, "inputs": inputs, "_meta": meta}
        return prompt

    def ui(self) -> dict:
        """The workflow in the UI format, version 0.4."""
        shown = [node for group in self.groups for node in group.nodes]
        nodes, links = _ui_nodes(sorted(shown, key=lambda node: node.id))
        frames = [group for group in self.groups if group.title]
        content = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, self.name)),
            "revision": 0,
            "last_node_id": len(self.nodes) + len(self.parts),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": [list(link) for link in links],
            "groups": [
                {"id": number, "title": group.title, "bounding": group.bounding(), **FRAME}
                for number, group in enumerate(frames, 1)
            ],
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [60, 100]}},
            "version": 0.4,
        }
        if self.parts:
            content["definitions"] = {"subgraphs": [inside(part) for part in self.parts]}
        return content


def inside(part: Part, **more: object) -> dict:
    """The nodes of a part as the frontend keeps them, with what else is known of it."""
    gives = [(link, OUTPUTS, at) for at, link in enumerate(part.given.values())]
    return part.definition(*_ui_nodes(part.nodes, gives), **more)


def _home(source: Link | Inlet) -> Part | None:
    return source.part if isinstance(source, Inlet) else source.node.part


def _key(node: Node) -> str:
    """What a node is called in a run."""
    return f"{node.part.id}:{node.id}" if node.part else str(node.id)


def _source(value: object) -> object:
    """Where a wire begins once no nodes are shown as one; or else a value."""
    if isinstance(value, Inlet):
        return _source(value.part.taken[value.name])
    if isinstance(value, Link) and isinstance(value.node, Part):
        return _source(list(value.node.given.values())[value.slot])
    return value


def _ui_nodes(
    nodes: Sequence[Node | Part], gives: Sequence[tuple[Link, int, int]] = ()
) -> tuple[list[dict], list[tuple]]:
    """Nodes in the UI format, and the wires between them: number, source, slot, target, slot, type.

    `gives` are further wires, to what is around the nodes.
    """
    wires: list[tuple] = []

    def wire(source: Link | Inlet, target: int, slot: int) -> int:
        if isinstance(source, Inlet):
            sockets = source.part.sockets()
            at = [socket["name"] for socket in sockets].index(source.name)
            begin = (INPUTS, at, target, slot, sockets[at]["type"])
        else:
            begin = (source.node.id, source.slot, target, slot, source.node.outputs[source.slot][1])
        wires.append((len(wires) + 1, *begin))
        return len(wires)

    entries = {node.id: _ui_node(node, wire) for node in nodes}
    for each in gives:
        wire(*each)
    for number, source, slot, *_ in wires:
        if source != INPUTS:
            output = entries[source]["outputs"][slot]
            output["links"] = [*(output["links"] or []), number]
    return list(entries.values()), wires


def _ui_node(node: Node | Part, wire: Callable[[Link | Inlet, int, int], int]) -> dict:
    """A node in the UI format; `wire` notes what is wired to it, and numbers it."""
    entry = {"id": node.id, "type": node.type, "pos": node.box[:2], "size": node.box[2:]}
    entry |= {
        "flags": {},
        "order": node.id - 1,
        "mode": MUTED * node.muted,
        "inputs": [],
        "outputs": [],
    }
    entry |= {"properties": {}, "widgets_values": []}
    if node.title:  # else the frontend names the node, in the user's language
        entry["title"] = node.title
    for name, type_ in node.outputs:
        entry["outputs"].append({"name": name, "type": type_, "links": None})
    if isinstance(node, Part):
        sockets, given = node.sockets(), node.taken
        widgets = [socket["name"] for socket in sockets if "widget" in socket]
        entry["widgets_values"] = [node.value(name) for name in widgets]
        proxies = [["-1", name] for name in widgets]
        own = {"cnr_id": "mmd-guidance", "ver": PACK_VERSION}
        entry["properties"] = {"proxyWidgets": proxies, **own}
    elif node.schema is None:
        return entry | {"widgets_values": [node.inputs["text"]]}
    else:
        sockets, given = node.sockets(), node.inputs
        for name in node.schema.widgets:
            entry["widgets_values"].append(node.value(name))
            if node.schema.is_seed(name):
                entry["widgets_values"].append(node.control)
        entry["properties"] = node.properties()
        if node.colors:
            entry["color"], entry["bgcolor"] = node.colors
    for slot, socket in enumerate(sockets):
        if isinstance(source := given.get(socket["name"]), Link | Inlet):
            socket["link"] = wire(source, node.id, slot)
        entry["inputs"].append(socket)
    return entry


def text_height(text: str, wide: int) -> int:
    """Pixels that a text takes in a note of that width: lines, and gaps between paragraphs."""
    letters = (wide - 40) / LETTER
    high = NOTE
    for line in text.strip().split("\n"):
        high += LINE * math.ceil(len(line) / letters) if line else PARAGRAPH
    return math.ceil(high / 10) * 10
