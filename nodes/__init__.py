"""The nodes, in the order of the menu."""

NODES: list[type] = []
