"""One description of a workflow, and both of ComfyUI's formats from it; standard library only.

The API format is what a server runs; the UI format is what the frontend shows.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmd_tests.support.node_schema import Schema
from mmd_tests.support.packages import ROOT

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


@dataclass(frozen=True)
class Link:
    """One output of a node."""

    node: Node
    slot: int


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

    def __getitem__(self, output: str | int) -> Link:
        names = [name.lower() for name, _ in self.schema.outputs]
        return Link(self, names.index(output) if isinstance(output, str) else output)

    def value(self, name: str) -> object:
        """What a widget shows; where something is wired to it, its default."""
        value = self.inputs.get(name)
        return self.schema.default(name) if value is None or isinstance(value, Link) else value

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
        self.groups: list[Group] = []
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
        x, y, width, _ = self.groups[-1].bounding()
        top = 2 * TITLE if self.groups[-1].title else 0
        self._x, self._y = x + width + MARGIN, y + top + MARGIN

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
            schema.check(name, value)
        node = Node(len(self.nodes) + 1, node_type, schema, title, inputs, colors=colors)
        said = SAID * any(name.lower() == "report" for name, _ in schema.outputs)
        return self._place(node, wide, schema.height() + said + (room or PREVIEW.get(node_type, 0)))

    def note(self, title: str, text: str, wide: int = 460) -> Node:
        """Add a text for people, as high as it needs; only the frontend knows it."""
        node = Node(len(self.nodes) + 1, "MarkdownNote", None, title, {"text": text})
        return self._place(node, wide, text_height(text, wide))

    def _place(self, node: Node, wide: int, high: int) -> Node:
        node.box, node.muted = (self._x, self._y, wide, high), self.groups[-1].muted
        self._y += high + TITLE + MARGIN
        self.nodes.append(node)
        self.groups[-1].nodes.append(node)
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
                if isinstance(value, Link):
                    inputs[name] = [str(value.node.id), value.slot]
            meta = {"title": node.title or node.type}
            prompt[str(node.id)] = {"class_type": node.type, "inputs": inputs, "_meta": meta}
        return prompt

    def ui(self) -> dict:
        """The workflow in the UI format, version 0.4."""
        links: list[list] = []
        nodes = [self._ui_node(node, links) for node in self.nodes]
        for number, source, slot, *_ in links:
            output = nodes[source - 1]["outputs"][slot]
            output["links"] = [*(output["links"] or []), number]
        frames = [group for group in self.groups if group.title]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, self.name)),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [
                {"id": number, "title": group.title, "bounding": group.bounding(), **FRAME}
                for number, group in enumerate(frames, 1)
            ],
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [60, 100]}},
            "version": 0.4,
        }

    def _ui_node(self, node: Node, links: list[list]) -> dict:
        """A node in the UI format; its inputs are added to `links`."""
        schema = node.schema
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
        if node.colors:
            entry["color"], entry["bgcolor"] = node.colors
        if schema is None:
            return entry | {"widgets_values": [node.inputs["text"]]}
        linked = [name for name in schema.widgets if isinstance(node.inputs.get(name), Link)]
        for slot, name in enumerate(schema.sockets + linked):
            type_, _, optional = schema.inputs[name]
            socket = {"name": name, "type": type_, "link": None}
            if name in linked:
                socket["widget"] = {"name": name}
            elif optional:
                socket["shape"] = 7  # drawn as a ring
            if isinstance(source := node.inputs.get(name), Link):
                socket["link"] = len(links) + 1
                type_ = source.node.schema.outputs[source.slot][1]
                links.append([len(links) + 1, source.node.id, source.slot, node.id, slot, type_])
            entry["inputs"].append(socket)
        for name, type_ in schema.outputs:
            entry["outputs"].append({"name": name, "type": type_, "links": None})
        for name in schema.widgets:
            entry["widgets_values"].append(node.value(name))
            if schema.is_seed(name):
                entry["widgets_values"].append(node.control)
        entry["properties"] = node.properties()
        return entry


def text_height(text: str, wide: int) -> int:
    """Pixels that a text takes in a note of that width: lines, and gaps between paragraphs."""
    letters = (wide - 40) / LETTER
    high = NOTE
    for line in text.strip().split("\n"):
        high += LINE * math.ceil(len(line) / letters) if line else PARAGRAPH
    return math.ceil(high / 10) * 10
