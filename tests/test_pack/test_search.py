"""A word that a person would type finds the node they mean, first or second, among all nodes of ComfyUI."""

import os
from pathlib import Path

import comfyui_version
import pytest
from mmd_tests.make.workflows import SUBGRAPHS
from mmd_tests.support.engine import NEWEST
from mmd_tests.support.node_search import (
    Entry,
    blueprint_entries,
    core_entries,
    popularity,
    ranked,
)

pytestmark = pytest.mark.comfy
MEANT = {  # nodes, by their ids, or blueprints, by their names
    "mmd": "MMD",
    "style": "Style",
    "reference": "LoadReferenceSet",
    "folder": "LoadReferenceSet",
    "load reference set": "LoadReferenceSet",
    "guided": "MMDGuidedKSampler",
    "mmd sampler": "MMDGuidedKSampler",
    "style guidance": "ApplyMMDGuidance",
    "mmd guidance": "ApplyMMDGuidance",
    "steer": "TRITSMCSampler",
    "steering": "TRITSMCSampler",
    "reward": "TSMCRewardReference",
    "score": "MMDScore",
    "strength": "MMDStrengths",
    "memory": "MMDMemory",
    "plot": "MMDPlot",
    "prompts": "MMDPrompts",
    "train": "MMDTrainLoRA",
    "few steps": "MMDTrainLoRA",
    "compress": "CompressReferences",
}


@pytest.fixture(scope="module")
def entries():
    from mmd_pack.nodes import NODES

    schemas = [node.GET_SCHEMA() for node in NODES]
    ours = [
        Entry(s.node_id, s.display_name, tuple(getattr(s, "search_aliases", None) or ()))
        for s in schemas
    ]
    comfyui = Path(os.environ["COMFYUI_PATH"])
    blueprints = blueprint_entries(comfyui / "blueprints") + blueprint_entries(SUBGRAPHS)
    return core_entries(comfyui) + blueprints + ours


@pytest.fixture(scope="module")
def used():
    import comfyui_frontend_package

    return popularity(Path(comfyui_frontend_package.__file__).parent)


@pytest.mark.parametrize("search", MEANT)
def test_the_node_that_is_meant_comes_first_or_second(search, entries, used):
    """Older versions of ComfyUI count other nodes as popular: there it is among the first."""
    first = 2 if comfyui_version.__version__ == NEWEST else 5
    titles = {entry.name: entry.display_name for entry in entries}
    found = ranked(search, entries, used)[:first]
    assert MEANT[search] in [*found, *(titles[name] for name in found)]


def test_only_a_name_that_is_the_word_itself_comes_before_nodes_that_are_used_much(entries, used):
    """So two blueprints are called by a word alone: no other name of ours would be found first."""
    others = [entry for entry in entries if entry.display_name != "Style"]
    found = ranked("style", others, used)
    assert found[:3] == ["StyleModelLoader", "StyleModelApply", "ApplyMMDGuidance"]


def test_popular_nodes_come_first_among_equals():
    """Orders that the frontend's own code gave, for nodes made up for this."""
    entries = [Entry("PlotLong", "Plot Long"), Entry("Plot", "Plot"), Entry("MyPlot", "My Plot")]
    assert ranked("plot", entries, {}) == ["Plot", "PlotLong", "MyPlot"]
    entries = [Entry("PlotA", "Plot A"), Entry("PlotLong", "Plot Long")]
    assert ranked("plot", entries, {"PlotLong": 5}) == ["PlotLong", "PlotA"]


def test_nodes_are_listed_by_family():
    from mmd_pack.nodes import NODES

    families = {}
    for node in NODES:
        schema = node.GET_SCHEMA()
        families.setdefault(schema.category, []).append(schema.node_id)
    assert set(families) == {
        f"MMD Guidance/{family}"
        for family in ("references", "sampling", "look", "steering", "training")
    }
    assert max(map(len, families.values())) <= 10
