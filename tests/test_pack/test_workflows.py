"""The workflows fit the nodes, their two formats agree, and the shipped files are up to date."""

import importlib
import itertools
import json

import pytest
from mmd_tests.make.templates import TEMPLATES
from mmd_tests.make.thumbnail.page import free_corner
from mmd_tests.make.workflows import EXAMPLES, Settings, describe, shipped, shipped_files
from mmd_tests.support.dissolved import dissolved
from mmd_tests.support.engine import NEWEST
from mmd_tests.support.workflow_format import (
    CORE_VERSION,
    PACK_VERSION,
    TITLE,
    Workflow,
    text_height,
)

DIGITS = Settings("digits", world="digits", batch=4, sampler={"steps": 3, "strength": 5.0})
EVERY = pytest.mark.parametrize("name", [*TEMPLATES, "digits"])
# Of comfy_extras; latent comes late because it and post_processing import each other.
EXTRAS = (
    "canny",
    "custom_sampler",
    "post_processing",
    "latent",
    "preview_any",
    "primitive",
    "train",
)
SHIPPED_UI = sorted(EXAMPLES.glob("*.json"))
SHIPPED_TWO = pytest.mark.parametrize("file", SHIPPED_UI, ids=lambda file: file.stem)
FREE = ("ckpt_name", "control_net_name", "file", "folder", "image", "lora_name")  # users' files


def _info(node: type) -> dict:
    """A node's entry in the server's /object_info."""
    if hasattr(node, "GET_NODE_INFO_V1"):
        info = node.GET_NODE_INFO_V1()
    else:
        names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
        info = {"input": node.INPUT_TYPES(), "output": node.RETURN_TYPES}
        info |= {"output_name": names, "category": node.CATEGORY}
    return json.loads(json.dumps(info))


class Schemas(dict):
    """Entries of /object_info, made as they are asked for."""

    def __missing__(self, name: str) -> dict:
        self[name] = _info(self.nodes[name])
        return self[name]


@pytest.fixture(scope="module")
def schemas():
    core, ours, demo = map(importlib.import_module, ("nodes", "mmd_pack.nodes", "mmd_demo.nodes"))
    found = Schemas()
    found.nodes = dict(core.NODE_CLASS_MAPPINGS)
    for name in EXTRAS:
        module = importlib.import_module(f"comfy_extras.nodes_{name}")
        for node in vars(module).values():
            if (
                isinstance(node, type)
                and hasattr(node, "GET_SCHEMA")
                and "define_schema" in vars(node)
            ):
                found.nodes[node.GET_SCHEMA().node_id] = node
        found.nodes |= getattr(module, "NODE_CLASS_MAPPINGS", {})
    found.nodes |= {n.__name__: n for n in (*ours.NODES, demo.MMDDemoWorld, demo.MMDDemoLatent)}
    return found


@pytest.fixture(scope="module")
def flows(schemas):
    """All workflows by name."""
    return shipped(schemas) | {"digits": describe(DIGITS, schemas)}


def _widgets(info: dict) -> list[str]:
    """The names of the values in widgets_values, told here without the code under test."""
    names = []
    for name, (kind, *options) in itertools.chain(
        info["input"].get("required", {}).items(), info["input"].get("optional", {}).items()
    ):
        options = options[0] if options else {}
        plain = isinstance(kind, list) or kind in ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")
        if plain and not options.get("forceInput"):
            names.append(name)
            seed = kind == "INT" and name in ("seed", "noise_seed")
            if options.get("control_after_generate", seed):
                names.append("control_after_generate")
    return names


def _all_nodes(ui: dict) -> list[dict]:
    """The nodes outside and inside of subgraphs; not the subgraphs themselves."""
    levels = [ui, *ui.get("definitions", {}).get("subgraphs", ())]
    wholes = {level["id"] for level in levels}
    return [node for level in levels for node in level["nodes"] if node["type"] not in wholes]


@pytest.mark.comfy
def test_shipped_files_are_what_the_descriptions_give(schemas):
    import comfyui_version

    if comfyui_version.__version__ != NEWEST:
        pytest.skip(f"they are made with ComfyUI {NEWEST}")
    for file, text in shipped_files(schemas).items():
        hint = "run `python tests/make/workflows.py` and commit"
        assert file.read_text("utf-8") == text, f"{file.name} is out of date: {hint}"
    assert set(SHIPPED_UI) <= set(shipped_files(schemas)), "no other files lie there"


@pytest.mark.comfy
@EVERY
def test_widgets_match_schemas(name, flows, schemas):
    for node in _all_nodes(flows[name].ui()):
        if node["type"] != "MarkdownNote":
            names = _widgets(schemas[node["type"]])
            assert len(node["widgets_values"]) == len(names), node["type"]


@pytest.mark.comfy
@EVERY
def test_api_format_is_complete_and_allowed(name, flows, schemas):
    prompt = flows[name].api()
    for node in prompt.values():
        info = schemas[node["class_type"]]
        required, optional = (info["input"].get(kind, {}) for kind in ("required", "optional"))
        assert set(required) <= set(node["inputs"]) <= set(required) | set(optional)
        for name, value in node["inputs"].items():
            kind, *options = (required | optional)[name]
            options = options[0] if options else {}
            if isinstance(value, list):
                given = schemas[prompt[value[0]]["class_type"]]["output"][value[1]]
                assert kind in (given, "*") or isinstance(kind, list), name
            elif isinstance(kind, list) or kind == "COMBO":
                choices = kind if isinstance(kind, list) else options["options"]
                assert name in FREE or value in choices, name
            elif kind in ("INT", "FLOAT"):
                assert options.get("min", value) <= value <= options.get("max", value), name


@pytest.mark.comfy
@EVERY
def test_both_formats_say_the_same(name, flows, schemas):
    flow = flows[name]
    shown = dissolved(flow.ui(), lambda kind: _widgets(schemas[kind]))
    prompt = {
        number: (
            node["class_type"],
            {n: tuple(v) if isinstance(v, list) else v for n, v in node["inputs"].items()},
        )
        for number, node in flow.api().items()
    }
    assert shown == prompt


@pytest.mark.comfy
@EVERY
def test_links_hold_together(name, flows, schemas):
    ui = flows[name].ui()
    nodes = {node["id"]: node for node in ui["nodes"]}
    for number, source, slot, target, place, kind in ui["links"]:
        output, entry = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in output["links"] and entry["link"] == number
        assert output["type"] == kind and entry["type"] in (kind, "*")
        assert nodes[source]["order"] < nodes[target]["order"]
    ends = [link for node in ui["nodes"] for entry in node["inputs"] if (link := entry["link"])]
    assert sorted(ends) == [link[0] for link in ui["links"]]
    numbers = [*nodes, *(node["id"] for node in _all_nodes(ui))]
    assert ui["last_link_id"] == len(ui["links"]) and ui["last_node_id"] == max(numbers)


@pytest.mark.comfy
@EVERY
def test_nothing_overlaps_and_all_flows_to_the_right(name, flows, schemas):
    ui = flows[name].ui()
    nodes = {node["id"]: node for node in ui["nodes"]}
    boxes = [
        (x, y - TITLE, x + width, y + height)
        for (x, y), (width, height) in ((node["pos"], node["size"]) for node in ui["nodes"])
    ]
    frames = [(x, y, x + wide, y + high) for x, y, wide, high in _bounds(ui)]
    for group in (boxes, frames):
        for a, b in itertools.combinations(group, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for a, b in itertools.product(boxes, frames):
        inside = b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert inside or apart
    for _, source, _, target, *_ in ui["links"]:
        assert nodes[source]["pos"][0] <= nodes[target]["pos"][0]


def _bounds(ui: dict) -> list:
    return [group["bounding"] for group in ui["groups"]]


@pytest.mark.comfy
def test_both_branches_share_seed_and_sampler_settings(schemas):
    flow = describe(DIGITS, schemas)
    nodes = {node["class_type"]: node["inputs"] for node in flow.api().values()}
    plain, guided = nodes["KSampler"], nodes["MMDGuidedKSampler"]
    assert all(guided[name] == value for name, value in plain.items())
    assert guided["steps"] == 3 and guided["strength"] == 5.0


@pytest.mark.comfy
def test_wrong_descriptions_are_refused(schemas):
    flow = Workflow("wrong", schemas)
    flow.group()
    with pytest.raises(ValueError, match="batch"):
        flow.add("EmptyLatentImage", batch=1)
    with pytest.raises(ValueError, match="clip"):
        flow.add("CLIPTextEncode", text="")
    with pytest.raises(ValueError, match="batch_size must be from 1 to"):
        flow.add("EmptyLatentImage", batch_size=0)
    latent = flow.add("EmptyLatentImage")[0]
    with flow.part("Inside"), pytest.raises(ValueError, match="of another part"):
        flow.add("SaveLatent", samples=latent)


def test_examples_are_shipped():
    assert [file.stem for file in SHIPPED_UI] == sorted(TEMPLATES)


@SHIPPED_TWO
def test_missing_nodes_can_be_found(file):
    for node in _all_nodes(json.loads(file.read_text("utf-8"))):
        found = node["properties"].get("cnr_id"), node["properties"].get("ver")
        if any(word in node["type"] for word in ("MMD", "TSMC", "Reference")):
            assert found == ("mmd-guidance", PACK_VERSION)
        elif node["type"] != "MarkdownNote":
            assert found == ("comfy-core", CORE_VERSION)


@SHIPPED_TWO
def test_api_twin_has_the_same_nodes(file):
    twin = json.loads((EXAMPLES / "api" / file.name).read_text("utf-8"))
    nodes = _all_nodes(json.loads(file.read_text("utf-8")))
    real = {node["id"]: node["type"] for node in nodes if node["type"] != "MarkdownNote"}
    assert len(real) == len(twin)
    assert real == {int(key.split(":")[-1]): node["class_type"] for key, node in twin.items()}


@SHIPPED_TWO
def test_thumbnail_is_beside(file):
    image = pytest.importorskip("PIL.Image")
    path = file.with_suffix(".jpg")  # the only kind that the frontend asks for
    assert path.stat().st_size < 60_000
    with image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.width == picture.height >= 400
        assert free_corner(picture) * 280 >= 30  # pixels that a badge covers on a card of 280


@pytest.mark.comfy
@EVERY
def test_notes_are_as_high_as_their_text(name, flows):
    (note,) = [node for node in flows[name].nodes if node.type == "MarkdownNote"]
    text, (_, _, wide, high) = note.inputs["text"], note.box
    assert high == text_height(text, wide) > 14 * len(text) * 5 / wide  # small type, no gaps
    assert text_height(text, wide // 2) > high


@pytest.mark.comfy
def test_what_waits_for_a_file_is_muted(flows):
    ui = flows["10 Share a style set"].ui()
    modes = {node["type"]: node["mode"] for node in ui["nodes"]}
    assert modes["LoadReferenceLatents"] == modes["MMDGuidedKSampler"] == 2
    assert modes["SaveReferenceLatents"] == modes["CheckpointLoaderSimple"] == 0
