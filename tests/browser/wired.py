"""The pictures of wired nodes in the help: a node of a template, and what comes right before and after it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from mmd_tests.browser.frontend import Frontend
from mmd_tests.browser.layout import Box
from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import TITLE, Workflow
from PIL import Image

WIRED = {  # by picture: a template, and the type of a node in it
    "wired-references": ("02 SDXL from a folder", "EncodeReferenceLatents"),
    "wired-sampler": ("02 SDXL from a folder", "MMDGuidedKSampler"),
    "wired-guidance": ("09 With LoRA and ControlNet", "ApplyMMDGuidance"),
    "wired-base": ("", "MMDBaseImages"),
    "wired-plot": ("03 Compare with and without", "MMDPlot"),
    "wired-score": ("03 Compare with and without", "MMDScore"),
    "wired-steering": ("14 Steer towards a set (TRI-TSMC)", "TRITSMCSampler"),
    "wired-training": ("12 Your set in few steps (MMD-DDM)", "MMDTrainLoRA"),
}
TITLED = ("CLIPTextEncode", "PrimitiveInt")  # all others are called as the search calls them
FOLDED, GAP, STEP = 200, 60, 46  # of a folded node: its width, what is between columns and rows
WIDTH, COLORS = 800, 256
FIT = """id => {  // no room for previews; where the node is
  const node = app.graph.getNodeById(id);
  node.setSize([node.size[0], node.computeSize()[1]]);
  return [...node.pos, ...node.size];
}"""
PLAIN = """() => {  // neither badges, which would cover nodes, nor a grid, which would make files large
  app.canvas.background_image = '';
  return app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None');
}"""


def with_base(schemas: Mapping[str, Mapping]) -> Workflow:
    """What no template has: base images for a guided sampler."""
    flow = Workflow("base", schemas)
    begun = parts.start(flow, "a painting of a landscape")
    found = parts.references(flow, begun, clip=True)
    flow.group()
    wires = {"model": begun.model, "negative": begun.negative, "references": found}
    base = flow.add("MMDBaseImages", clip=begun.clip, **wires)["base"]
    flow.column()
    flow.add("MMDGuidedKSampler", **begun.wires(), references=found, base=base)
    return flow


def neighbours(ui: Mapping, kind: str) -> dict:
    """The first node of a type with what is wired to it; all others are folded, and the rest is left out."""
    main = next(node for node in ui["nodes"] if node["type"] == kind)
    into = [link for link in ui["links"] if link[3] == main["id"]]
    out = [link for link in ui["links"] if link[1] == main["id"]]
    columns = [
        (-FOLDED - GAP, list(dict.fromkeys(link[1] for link in sorted(into, key=lambda e: e[4])))),
        (main["size"][0] + GAP, list(dict.fromkeys(link[3] for link in out))),
    ]
    places = {
        number: (left, STEP * row) for left, column in columns for row, number in enumerate(column)
    }
    kept = {link[0]: link for link in (*into, *out)}
    nodes = [{**main, "pos": [0, 0]}]
    for node in ui["nodes"]:
        if node["id"] in places:
            flags = {"collapsed": True}
            nodes.append({**node, "pos": list(places[node["id"]]), "flags": flags, "mode": 0})
    nodes = [
        {k: v for k, v in node.items() if k != "title" or node["type"] in TITLED} for node in nodes
    ]
    for node in nodes:
        node["inputs"] = [
            {**entry, "link": entry["link"] if entry["link"] in kept else None}
            for entry in node["inputs"]
        ]
        node["outputs"] = [
            {**entry, "links": [n for n in entry["links"] or [] if n in kept]}
            for entry in node["outputs"]
        ]
    return {**ui, "nodes": nodes, "links": list(kept.values()), "groups": [], "definitions": {}}


def take_wired(page: Frontend, files: Mapping[str, dict], folder: Path) -> None:
    """Writes the pictures."""
    page.page.evaluate(PLAIN)
    for name, (template, kind) in WIRED.items():
        flow = neighbours(files[template], kind)
        page.open_workflow(flow, name)
        x, y, wide, high = page.page.evaluate(FIT, flow["nodes"][0]["id"])
        high = max(high, *(node["pos"][1] for node in flow["nodes"]))
        side = FOLDED + GAP
        box = page.show(Box(x - side, y - TITLE, wide + 2 * side, high + TITLE))
        shot = Image.open(io.BytesIO(page.page.screenshot(clip=page.clip(box)))).convert("RGB")
        size = WIDTH, round(WIDTH * shot.height / shot.width)
        method, plain = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE  # wires keep their colors
        drawn = shot.resize(size, Image.LANCZOS).quantize(COLORS, method=method, dither=plain)
        drawn.save(folder / f"{name}.png", optimize=True)
