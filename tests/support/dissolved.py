"""What the frontend queues of a workflow in the UI format, told without what wrote it; standard library only.

It is the rule of `graphToPrompt` of the frontend: nodes of a subgraph are called after both, "5:7", and nothing is left
of the subgraph itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Source = tuple[str, int]  # node and output
NONE = None, None  # of a wire that leads nowhere


def dissolved(
    ui: Mapping, widgets: Callable[[str], Sequence[str]]
) -> dict[str, tuple[str, dict[str, object]]]:
    """By node, its type and its inputs: values of widgets, and a (node, output) for each wire.

    Args:
        ui: A workflow.
        widgets: The names of the values in widgets_values, by the type of a node.
    """
    subgraphs = {each["id"]: each for each in ui.get("definitions", {}).get("subgraphs", ())}
    found: dict[str, tuple[str, dict[str, object]]] = {}

    def level(
        nodes: Sequence[Mapping],
        links: Mapping[int, tuple],
        before: str,
        around: Mapping[int, object],
    ) -> Callable[[int, int], object]:
        """Adds the nodes of a level; the result tells what an output of theirs is."""
        by_id = {node["id"]: node for node in nodes}
        gives: dict[int, Callable[[int], object]] = {}

        def output(node: int, slot: int) -> object:
            if node == -10:
                return around.get(slot, NONE)
            if by_id[node]["type"] in subgraphs:
                return inside(by_id[node])(slot)
            return (f"{before}{node}", slot)

        def taken(node: Mapping) -> list[object]:
            wired = [entry.get("link") for entry in node["inputs"]]
            return [NONE if link is None else output(*links[link][:2]) for link in wired]

        def inside(node: Mapping) -> Callable[[int], object]:
            if node["id"] not in gives:
                subgraph = subgraphs[node["type"]]
                names = [entry["name"] for entry in node["inputs"] if "widget" in entry]
                values = dict(zip(names, node["widgets_values"], strict=True))
                around = {
                    slot: values[entry["name"]] if source is NONE and "widget" in entry else source
                    for slot, (entry, source) in enumerate(
                        zip(node["inputs"], taken(node), strict=True)
                    )
                }
                keys = ("origin_id", "origin_slot", "target_id", "target_slot")
                wires = {link["id"]: tuple(map(link.get, keys)) for link in subgraph["links"]}
                ends = {w[3]: w[:2] for w in wires.values() if w[2] == -20}
                whole = level(subgraph["nodes"], wires, f"{before}{node['id']}:", around)
                gives[node["id"]] = lambda slot: whole(*ends[slot])
            return gives[node["id"]]

        for node in nodes:
            if node["type"] in subgraphs:
                inside(node)
            elif node["type"] != "MarkdownNote":
                names = widgets(node["type"])
                inputs = dict(zip(names, node["widgets_values"], strict=True))
                inputs.pop("control_after_generate", None)
                sources = zip(node["inputs"], taken(node), strict=True)
                inputs |= {entry["name"]: source for entry, source in sources if source is not NONE}
                found[f"{before}{node['id']}"] = (node["type"], inputs)
        return output

    links = {link[0]: tuple(link[1:5]) for link in ui["links"]}
    level(ui["nodes"], links, "", {})
    return found
