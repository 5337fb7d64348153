"""Subgraph blueprints: whole files, whose wires fit the nodes inside and outside."""

import json

import pytest
from mmd_tests.make.blueprints import BLUEPRINTS, INPUTS, OUTPUTS
from mmd_tests.make.workflows import SUBGRAPHS
from mmd_tests.support.packages import TESTS

EVERY = pytest.mark.parametrize("name", BLUEPRINTS)
OURS = json.loads((TESTS / "node_schemas.json").read_text("utf-8"))


def parts(name):
    """The node that is seen, and the subgraph that it stands for."""
    content = json.loads((SUBGRAPHS / f"{name}.json").read_text("utf-8"))
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
