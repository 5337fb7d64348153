"""Nodes of a workflow that are shown as one: a subgraph of ComfyUI; standard library only."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmd_tests.support.node_schema import height
from mmd_tests.support.wires import Inlet, Link

if TYPE_CHECKING:
    from mmd_tests.support.workflow_format import Group, Node

INPUTS, OUTPUTS = -10, -20  # what the frontend calls both ends of a subgraph
ENDS, ROW = 120, 20  # pixels: how wide they are, and how high a socket of theirs


@dataclass
class Part:
    """Some nodes of a workflow, and what of them is seen from outside.

    Attributes:
        id: Its number among the nodes; in a run, each node inside is called after both, "5:7".
        inside: Its nodes, from left to right.
        taken: What each of its inputs gets: a link, a widget's value, or None where nothing is wired to it.
        given: Its outputs, by name.
    """

    id: int
    title: str
    inside: Group
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    muted: bool = False
    part: Part | None = None  # of another part it can be none
    taken: dict[str, object] = field(default_factory=dict)
    given: dict[str, Link] = field(default_factory=dict)

    type = property(lambda self: _id(self.title))
    nodes = property(lambda self: self.inside.nodes)

    def take(self, name: str, value: object = None) -> Inlet:
        """A new input of the whole, for nodes inside; without a value nothing is wired to it."""
        self.taken[name] = value
        return Inlet(self, name)

    def give(self, name: str, link: Link) -> None:
        """A new output of the whole."""
        self.given[name] = link

    def __getitem__(self, output: str | int) -> Link:
        names = list(self.given)
        return Link(self, names.index(output) if isinstance(output, str) else output)

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """Name and type of what it gives."""
        return [(name, link.node.outputs[link.slot][1]) for name, link in self.given.items()]

    def ends(self, name: str) -> list[tuple[Node, str]]:
        """The inputs inside that an input of the whole leads to."""
        return [
            (node, key)
            for node in self.nodes
            for key, value in node.inputs.items()
            if isinstance(value, Inlet) and value.name == name
        ]

    def sockets(self) -> list[dict]:
        """The inputs of the whole, as the frontend writes them; widgets come last."""
        sockets = []
        for name in self.taken:
            (node, key), *others = self.ends(name)
            type_, _, optional = node.schema.inputs[key]
            optional &= all(n.schema.inputs[k][2] for n, k in others)
            entry = {"name": name, "type": type_, "link": None}
            if key in node.schema.widgets:
                entry["widget"] = {"name": name}
            elif optional:
                entry["shape"] = 7  # drawn as a ring
            sockets.append(entry)
        return sorted(sockets, key=lambda entry: "widget" in entry)

    def height(self) -> int:
        """Pixels that all its sockets and widgets take."""
        widgets = [s["name"] for s in self.sockets() if "widget" in s]
        texts = [name for name in widgets if _is_text(*self.ends(name)[0])]
        slots = max(len(self.taken) - len(widgets), len(self.given))
        return height(slots, len(widgets), len(texts))

    def value(self, name: str) -> object:
        """What a widget of the whole shows."""
        node, key = self.ends(name)[0]
        return node.value(key)

    def definition(self, nodes: list[dict], wires: list[tuple], **more: object) -> dict:
        """What the frontend keeps of the inside.

        Args:
            nodes: The nodes inside, in the UI format.
            wires: (number, source, slot, target, slot, type) of each wire inside.
            more: What else is known of the whole, for a blueprint.
        """
        x, y, wide, high = self.inside.bounding()
        sides = []
        for end, left, rows in (
            (INPUTS, x - ENDS - 60, [(s["name"], s["type"]) for s in self.sockets()]),
            (OUTPUTS, x + wide + 60, self.outputs),
        ):
            source = end == INPUTS
            sides.append(
                [
                    {
                        "id": _id(self.title, end, name),
                        "name": name,
                        "type": type_,
                        "linkIds": [
                            w[0] for w in wires if (w[1:3] if source else w[3:5]) == (end, at)
                        ],
                        "pos": [left + ENDS * source, y + ROW * (at + 1)],
                    }
                    for at, (name, type_) in enumerate(rows)
                ]
            )
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        bounds = [[left, y, ENDS, 2 * ROW + ROW * len(side)] for left, side in zip(
            (x - ENDS - 60, x + wide + 60), sides, strict=True)]  # fmt: skip
        return {
            "id": self.type,
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": max(node["id"] for node in nodes),
                "lastLinkId": len(wires),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.title,
            "inputNode": {"id": INPUTS, "bounding": bounds[0]},
            "outputNode": {"id": OUTPUTS, "bounding": bounds[1]},
            "inputs": sides[0],
            "outputs": sides[1],
            "widgets": [],
            "nodes": nodes,
            "groups": [],
            "links": [dict(zip(keys, wire, strict=True)) for wire in wires],
            "extra": {},
            **more,
        }


def _is_text(node: Node, name: str) -> bool:
    return node.schema.is_text(name)


def _id(*parts: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, parts))))
