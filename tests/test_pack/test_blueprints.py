"""Subgraph blueprints: whole files, whose wires fit the nodes inside and outside; each draws on a real server."""

import json
import os
import sys
from pathlib import Path

import pytest
from mmd_tests.make.blueprints import BLUEPRINTS
from mmd_tests.make.templates.parts import FOLDER
from mmd_tests.make.workflows import ROOT, SUBGRAPHS
from mmd_tests.support.dissolved import dissolved
from mmd_tests.support.engine import Engine
from mmd_tests.support.node_schema import Schema
from mmd_tests.support.packages import TESTS
from mmd_tests.support.server import Server
from mmd_tests.support.subgraph import INPUTS, OUTPUTS
from mmd_tests.support.workflow_format import Workflow

EVERY = pytest.mark.parametrize("name", BLUEPRINTS)
OURS = json.loads((TESTS / "node_schemas.json").read_text("utf-8"))
DIGITS = TESTS / "demo" / "references" / "digits"


def read(name):
    return json.loads((SUBGRAPHS / f"{name}.json").read_text("utf-8"))


def parts(name):
    """The node that is seen, and the subgraph that it stands for."""
    content = read(name)
    (outer,), (inner,) = content["nodes"], content["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"] and outer["title"] == inner["name"] == name
    return outer, inner


def test_no_other_files_lie_there():
    assert {file.stem for file in SUBGRAPHS.iterdir()} == set(BLUEPRINTS)


@EVERY
def test_both_sides_of_a_blueprint_are_the_same(name):
    outer, inner = parts(name)
    for side in ("inputs", "outputs"):
        seen = [(each["name"], each["type"]) for each in outer[side]]
        assert seen == [(each["name"], each["type"]) for each in inner[side]]
    widgets = [each["name"] for each in outer["inputs"] if "widget" in each]
    assert [name for _, name in outer["properties"]["proxyWidgets"]] == widgets
    assert len(outer["widgets_values"]) == len(widgets)


@EVERY
def test_every_wire_has_two_ends_of_one_type(name):
    _, inner = parts(name)
    nodes = {node["id"]: node for node in inner["nodes"]}
    nodes[INPUTS], nodes[OUTPUTS] = {"outputs": inner["inputs"]}, {"inputs": inner["outputs"]}
    reached = set()
    for link in inner["links"]:
        source = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
        target = nodes[link["target_id"]]["inputs"][link["target_slot"]]
        assert link["id"] in source.get("links", source.get("linkIds"))
        assert link["id"] in target.get("linkIds", [target.get("link")])
        assert source["type"] == link["type"] and target["type"] in (link["type"], "*")
        reached |= {(link["target_id"], link["target_slot"])}
    assert len(reached) == len(inner["links"]), "two wires into one input"


@EVERY
def test_inner_nodes_have_all_their_widgets_and_nothing_required_is_loose(name):
    _, inner = parts(name)
    for node in inner["nodes"]:
        if node["type"] not in OURS:
            continue
        schema = OURS[node["type"]]["inputs"]
        sockets = [i["name"] for i in node["inputs"] if "widget" not in i]
        widgets = [each for each in schema if each not in sockets]
        seeds = node["widgets_values"].count("fixed")
        assert len(node["widgets_values"]) == len(widgets) + seeds
        loose = {each["name"] for each in node["inputs"] if each["link"] is None}
        assert not {each for each in loose if schema[each]["group"] == "required"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("blueprints")
    folder = base / "input" / "mmd_references"
    folder.mkdir(parents=True)
    for file in DIGITS.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    engine = Engine(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), "under test")
    packs = [("mmd-guidance", ROOT), ("mmd-demo", TESTS / "demo" / "pack")]
    with Server(engine, packs, base=base, args=("--cpu",)) as running:
        yield running


class Schemas(dict):
    """Entries of /object_info, asked for as they are needed."""

    def __init__(self, server):
        self.server = server

    def __missing__(self, name):
        self[name] = self.server.object_info(name)
        return self[name]


@pytest.mark.comfy
@EVERY
def test_a_blueprint_draws(server, name):
    """Wired to the world of digits, what it gives is what its name says, and draws."""
    flow = Workflow(name, Schemas(server))
    flow.group()
    world = flow.add("MMDDemoWorld", world="digits")
    latent = flow.add("MMDDemoLatent", world="digits", batch_size=8)[0]
    sides = ("positive", "negative")
    told = {s: flow.add("CLIPTextEncode", clip=world["clip"], text="")[0] for s in sides}
    folder = flow.add("LoadReferenceSet", folder=FOLDER)["reference_set"]
    wires = {"vae": world["vae"], "target": latent, "reference_set": folder}
    found = flow.add("EncodeReferenceLatents", **wires)["references"]
    with flow.part(name) as part:
        BLUEPRINTS[name].build(flow, part)
    short = {"steps": 3, "cfg": 2.0}
    given = {"model": world["model"], "latent_image": latent, "target": latent, **told, **short}
    given |= {"vae": world["vae"], "references": found}
    part.taken |= {key: value for key, value in given.items() if key in part.taken}
    needed = {s["name"] for s in part.sockets() if "widget" not in s and "shape" not in s}
    assert needed <= set(given)
    flow.column()
    core = {"latent_image": latent, **told, **short}
    if "latent" in part.given:
        drawn = part["latent"]
    elif "model" in part.given:
        drawn = flow.add("KSampler", model=part["model"], **core)[0]
    else:
        more = {"model": world["model"], "references": part["references"]}
        drawn = flow.add("MMDGuidedKSampler", **more, **core)["latent"]
    images = flow.add("VAEDecode", samples=drawn, vae=world["vae"])[0]
    flow.add("SaveImage", images=images)
    if "report" in part.given:
        flow.add("PreviewAny", "told", source=part["report"])
    if "trace" in part.given:
        flow.add("MMDPlot", trace=part["trace"], images=images)
    prompt = flow.api()

    def widgets(kind):
        schema = Schema(flow.schemas[kind])
        pairs = (
            (w, "control_after_generate") if schema.is_seed(w) else (w,) for w in schema.widgets
        )
        return [each for pair in pairs for each in pair]

    seen = {n: (node["class_type"], set(node["inputs"])) for n, node in prompt.items()}
    shown = dissolved(flow.ui(), widgets)
    assert seen == {n: (kind, set(inputs)) for n, (kind, inputs) in shown.items()}
    kinds = {n: node["class_type"] for n, node in prompt.items()}
    outputs = {kinds[n]: output for n, output in server.run(prompt)["outputs"].items()}
    assert len(outputs["SaveImage"]["images"]) == 8
    assert "trace" not in part.given or outputs["MMDPlot"]["images"]
    assert "report" not in part.given or len(outputs["PreviewAny"]["text"][0]) > 100
