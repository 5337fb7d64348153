"""A word that a person would type finds the node they mean, first or second, among all nodes of ComfyUI."""

import os
from pathlib import Path

import comfyui_version
import pytest
from mmd_tests.support.engine import NEWEST
from mmd_tests.support.node_search import Entry, core_entries, popularity, ranked

pytestmark = pytest.mark.comfy
MEANT = {
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
    return core_entries(Path(os.environ["COMFYUI_PATH"])) + ours


@pytest.fixture(scope="module")
def used():
    import comfyui_frontend_package

    return popularity(Path(comfyui_frontend_package.__file__).parent)


@pytest.mark.parametrize("search", MEANT)
def test_the_node_that_is_meant_comes_first_or_second(search, entries, used):
    """Older versions of ComfyUI count other nodes as popular: there it is among the first."""
    first = 2 if comfyui_version.__version__ == NEWEST else 5
    assert MEANT[search] in ranked(search, entries, used)[:first]


def test_style_finds_our_node_right_after_those_of_style_models(entries, used):
    """Nodes that people use much come first among those that begin with the word."""
    found = ranked("style", entries, used)
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
