"""What a node says stays: it is in the history beside the images, also where its result comes from the cache."""

import ast
import inspect
import json
import re
import textwrap

import folder_paths
import numpy as np
import pytest
from mmd_pack.nodes import NODES
from mmd_pack.nodes.host.progress import HARMLESS
from mmd_pack.nodes.references.load_reference_set import LoadReferenceSet
from mmd_tests.support.packages import ROOT
from PIL import Image

pytestmark = pytest.mark.comfy
TELLING = [
    node
    for node in NODES
    if "report" in {(o.display_name or o.id) for o in node.GET_SCHEMA().outputs}
]


def calls(node):
    """The names of all functions that `execute` calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(node.execute)))
    return {ast.unparse(call.func) for call in ast.walk(tree) if isinstance(call, ast.Call)}


@pytest.mark.parametrize("node", TELLING, ids=lambda node: node.__name__)
def test_a_report_is_also_what_the_node_says(node):
    assert "told" in calls(node) and "io.NodeOutput" not in calls(node)
    assert getattr(node.GET_SCHEMA(), "has_intermediate_output", True)


def test_the_text_lies_beside_the_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    (tmp_path / "set").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "set" / "a.png")
    output = LoadReferenceSet.execute("set")
    report = output.args[-1]
    assert "Images used: 1 of 1" in report
    assert output.ui["text"] == (report,) and len(output.ui["images"]) == 1


def test_the_page_makes_texts_harmless_as_the_server_does():
    """Pages of ComfyUI before 1.47 read the live line as HTML, and our script writes reports there."""
    script = (ROOT / "nodes" / "web" / "keep_texts.js").read_text("utf-8")
    table = json.loads(re.search(r"const HARMLESS = (.*?);\n", script)[1].replace('", }', '"}'))
    assert {ord(sign): ord(other) for sign, other in table.items()} == HARMLESS and {*table} == {
        *"<>&"
    }
    assert "text.replace(/[<>&]/g, (sign) => HARMLESS[sign])" in script
    assert "widget.value = widget.name === LIVE ? harmless(text) : text;" in script
