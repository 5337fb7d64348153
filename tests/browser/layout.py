"""What is wrong with how nodes lie on the canvas; pure geometry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

SLACK = 1.0  # canvas units; positions are kept as 32-bit floats


@dataclass(frozen=True)
class Box:
    """A rectangle on the canvas; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: Box) -> bool:
        """Whether the two cover common ground; touching is no meeting."""
        return (
            min(self.x + self.width, other.x + other.width) - max(self.x, other.x) > SLACK
            and min(self.y + self.height, other.y + other.height) - max(self.y, other.y) > SLACK
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies within this one."""
        return (
            other.x >= self.x - SLACK
            and other.y >= self.y - SLACK
            and other.x + other.width <= self.x + self.width + SLACK
            and other.y + other.height <= self.y + self.height + SLACK
        )


@dataclass(frozen=True)
class Node:
    """A node as the frontend shows it: `box` with its title, `minimum` for the body alone."""

    name: str
    box: Box
    body: tuple[float, float]
    minimum: tuple[float, float]
    cut_text: float = 0.0  # pixels of a note that are scrolled out of sight


@dataclass(frozen=True)
class Group:
    """A group of nodes."""

    name: str
    box: Box


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all of them; there must be one at least."""
    boxes = list(boxes)
    left, top = min(box.x for box in boxes), min(box.y for box in boxes)
    right = max(box.x + box.width for box in boxes)
    bottom = max(box.y + box.height for box in boxes)
    return Box(left, top, right - left, bottom - top)


def overlaps(nodes: Sequence[Node]) -> Iterator[str]:
    """Nodes that cover each other."""
    for first, second in combinations(nodes, 2):
        if first.box.meets(second.box):
            yield f"{first.name} and {second.name} overlap"


def too_small(nodes: Sequence[Node]) -> Iterator[str]:
    """Nodes that have not the room their widgets need."""
    for node in nodes:
        for side, has, needs in zip(("wide", "high"), node.body, node.minimum, strict=True):
            if has < needs - SLACK:
                yield f"{node.name} is {has:.0f} {side} and needs {needs:.0f}"


def cut_texts(nodes: Sequence[Node]) -> Iterator[str]:
    """Notes with text that is out of sight."""
    for node in nodes:
        if node.cut_text > 0:
            yield f"the text of {node.name} is cut by {node.cut_text:.0f} pixels"


def ungrouped(nodes: Sequence[Node], groups: Sequence[Group]) -> Iterator[str]:
    """Groups that cover a part of a node or of another group, and groups that hold nothing."""
    for group in groups:
        held = [node for node in nodes if group.box.holds(node.box)]
        if not held:
            yield f"group {group.name} holds no node"
        for node in nodes:
            if node not in held and group.box.meets(node.box):
                yield f"{node.name} sticks out of group {group.name}"
    for first, second in combinations(groups, 2):
        nested = first.box.holds(second.box) or second.box.holds(first.box)
        if first.box.meets(second.box) and not nested:
            yield f"groups {first.name} and {second.name} overlap"


def faults(nodes: Sequence[Node], groups: Sequence[Group]) -> list[str]:
    """All of the above, and a graph without nodes."""
    if not nodes:
        return ["there is no node"]
    return [
        *overlaps(nodes),
        *too_small(nodes),
        *cut_texts(nodes),
        *ungrouped(nodes, groups),
    ]
