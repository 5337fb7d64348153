"""What a node's input can be wired to; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmd_tests.support.subgraph import Part
    from mmd_tests.support.workflow_format import Node


@dataclass(frozen=True)
class Link:
    """One output of a node, or of nodes that are shown as one."""

    node: Node | Part
    slot: int


@dataclass(frozen=True)
class Inlet:
    """What nodes that are shown as one get from outside: a socket or a widget of the whole."""

    part: Part
    name: str
