"""The subgraph blueprints that the pack ships: a few nodes that the search offers as one; standard library only.

`tests/make/workflows.py` writes them, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmd_tests.make.templates.parts import FOLDER
from mmd_tests.support.node_schema import Schema
from mmd_tests.support.workflow_format import PACK_VERSION

INPUTS, OUTPUTS = -10, -20  # the ids of both ends of a subgraph
WIDE, GAP = 340, 60


@dataclass(frozen=True)
class Blueprint:
    """Some nodes in a row, wired, and what of them is seen from outside.

    Attributes:
        nodes: The types of the nodes, from left to right.
        wires: (node, output, node, input), where a node is its place in `nodes`.
        shown: (node, input): sockets and widgets that the whole has.
        given: (node, output): what the whole gives.
        about: What it does, in one sentence.
        aliases: Words that find it.
    """

    nodes: tuple[str, ...]
    wires: tuple[tuple[int, str, int, str], ...]
    shown: tuple[tuple[int, str], ...]
    given: tuple[tuple[int, str], ...]
    about: str
    aliases: tuple[str, ...] = field(default=())


BLUEPRINTS = {
    "References from a folder (MMD)": Blueprint(
        ("LoadReferenceSet", "EncodeReferenceLatents"),
        ((0, "reference_set", 1, "reference_set"),),
        ((1, "vae"), (1, "target"), (1, "clip"), (0, "folder")),
        ((1, "references"), (1, "report")),
        "Reads a folder of pictures and encodes them as references, of the size of the latents on target.",
        ("reference", "style folder", "mmd"),
    ),
    "Guided sampler with report (MMD)": Blueprint(
        ("MMDGuidedKSampler", "PreviewAny"),
        ((0, "report", 1, "source"),),
        tuple(
            (0, name)
            for name in (
                "model",
                "references",
                "positive",
                "negative",
                "latent_image",
                "base",
                "seed",
                "steps",
                "cfg",
                "strength",
                "preset",
                "micro_batch",
            )
        ),
        ((0, "latent"), (0, "trace"), (0, "report")),
        "Draws a batch like the references, and shows what guidance did in words.",
        ("guidance", "style", "sampler", "mmd"),
    ),
}


def _value(schema: Schema, name: str) -> object:
    """What a widget shows; the folders that there are differ from one ComfyUI to another."""
    return FOLDER if name == "folder" else schema.default(name)


def _id(*parts: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, parts))))


def _node(number: int, kind: str, schema: Schema, left: int, linked: list[str]) -> dict:
    """A node inside the subgraph, with its own values and no links yet."""
    widgets = [name for name in schema.widgets if name in linked]
    inputs = []
    for name in (*schema.sockets, *widgets):
        type_, _, optional = schema.inputs[name]
        socket = {"name": name, "type": type_, "link": None}
        if name in widgets:
            socket["widget"] = {"name": name}
        elif optional:
            socket["shape"] = 7  # drawn as a ring
        inputs.append(socket)
    values = []
    for name in schema.widgets:
        values += [_value(schema, name), *(["fixed"] if schema.is_seed(name) else [])]
    pack = schema.category.startswith("MMD Guidance/")
    return {
        "id": number,
        "type": kind,
        "pos": [left, 100],
        "size": [WIDE, schema.height()],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": [{"name": n, "type": t, "links": []} for n, t in schema.outputs],
        "properties": {
            "Node name for S&R": kind,
            "cnr_id": "mmd-guidance" if pack else "comfy-core",
            **({"ver": PACK_VERSION} if pack else {}),
        },
        "widgets_values": values,
    }


def described(name: str, blueprint: Blueprint, schemas: Mapping[str, Mapping]) -> dict:
    """The file of a blueprint: one node, and the subgraph that it stands for."""
    kinds = [Schema(schemas[kind]) for kind in blueprint.nodes]
    nodes = []
    for place, (kind, schema) in enumerate(zip(blueprint.nodes, kinds, strict=True)):
        linked = [n for at, n in blueprint.shown if at == place]
        linked += [n for *_, at, n in blueprint.wires if at == place]
        nodes.append(_node(place + 1, kind, schema, 300 + place * (WIDE + GAP), linked))
    links: list[dict] = []

    def slot(place: int, name: str, side: str) -> int:
        names = [each["name"].lower() for each in nodes[place][side]]
        return names.index(name)

    def link(source: int, out: int, target: int, into: int, type_: str) -> int:
        number = len(links) + 1
        links.append(
            {
                "id": number,
                "origin_id": source,
                "origin_slot": out,
                "target_id": target,
                "target_slot": into,
                "type": type_,
            }
        )
        return number

    for source, output, target, given in blueprint.wires:
        out, into = slot(source, output, "outputs"), slot(target, given, "inputs")
        type_ = nodes[source]["outputs"][out]["type"]
        number = link(source + 1, out, target + 1, into, type_)
        nodes[source]["outputs"][out]["links"].append(number)
        nodes[target]["inputs"][into]["link"] = number
    inner_inputs, outer_inputs, values, proxies = [], [], [], []
    for at, (place, shown) in enumerate(blueprint.shown):
        into = slot(place, shown, "inputs")
        socket = nodes[place]["inputs"][into]
        number = socket["link"] = link(INPUTS, at, place + 1, into, socket["type"])
        inner_inputs.append(
            {
                "id": _id(name, "in", shown),
                "name": shown,
                "type": socket["type"],
                "linkIds": [number],
                "pos": [180, 120 + 20 * at],
            }
        )
        kept = {key: socket[key] for key in ("widget", "shape") if key in socket}
        outer_inputs.append({"name": shown, "type": socket["type"], **kept, "link": None})
        if "widget" in socket:
            values.append(_value(kinds[place], shown))
            proxies.append(["-1", shown])
    inner_outputs, outer_outputs = [], []
    right = 300 + len(nodes) * (WIDE + GAP)
    for at, (place, shown) in enumerate(blueprint.given):
        out = slot(place, shown, "outputs")
        type_ = nodes[place]["outputs"][out]["type"]
        number = link(place + 1, out, OUTPUTS, at, type_)
        nodes[place]["outputs"][out]["links"].append(number)
        inner_outputs.append(
            {
                "id": _id(name, "out", shown),
                "name": shown,
                "type": type_,
                "linkIds": [number],
                "pos": [right, 120 + 20 * at],
            }
        )
        outer_outputs.append({"name": shown, "type": type_, "links": None})
    inside = _id(name)
    outer = {
        "id": 1,
        "type": inside,
        "pos": [100, 100],
        "size": [WIDE, 60 + 26 * len(outer_inputs)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": outer_inputs,
        "outputs": outer_outputs,
        "title": name,
        "properties": {"proxyWidgets": proxies, "cnr_id": "mmd-guidance", "ver": PACK_VERSION},
        "widgets_values": values,
    }
    subgraph = {
        "id": inside,
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": len(nodes),
            "lastLinkId": len(links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": INPUTS, "bounding": [60, 100, 120, 40 + 20 * len(inner_inputs)]},
        "outputNode": {"id": OUTPUTS, "bounding": [right, 100, 120, 40 + 20 * len(inner_outputs)]},
        "inputs": inner_inputs,
        "outputs": inner_outputs,
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": links,
        "extra": {},
        "category": "MMD Guidance",
        "description": blueprint.about,
        "search_aliases": list(blueprint.aliases),
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [outer],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {},
    }
