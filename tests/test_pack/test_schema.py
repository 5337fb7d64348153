"""What workflows and ComfyUI Manager rely on: ids, inputs, outputs, and where they can be read."""

import ast
import inspect
import json
import subprocess
import sys

import pytest
from mmd_tests.support.packages import ROOT, TESTS

SNAPSHOT = TESTS / "node_schemas.json"
LISTED = ("file", "folder", "lora_name", "sampler_name", "scheduler")  # what this ComfyUI has


def schemas() -> dict:
    """Every node as the frontend sees it, without texts that may change."""
    from mmd_pack.nodes import NODES

    found = {}
    for node in NODES:
        schema = node.GET_SCHEMA()
        types = node.INPUT_TYPES()
        inputs = {}
        for group in ("required", "optional"):
            for name, (kind, *options) in types.get(group, {}).items():
                given = options[0] if options else {}
                choices = given.get("options") if kind == "COMBO" else None
                if name in LISTED:
                    choices = None
                inputs[name] = {
                    "group": group,
                    "type": kind if isinstance(kind, str) else "COMBO",
                    "default": given.get("default"),
                    **({"options": choices} if choices else {}),
                }
        found[schema.node_id] = {
            "inputs": inputs,
            "outputs": [[out.display_name or out.id, out.io_type] for out in schema.outputs],
            "lists": [bool(out.is_output_list) for out in schema.outputs],
        }
    return found


@pytest.mark.comfy
def test_ids_inputs_and_outputs_are_those_that_workflows_were_saved_with(pytestconfig):
    """Append only; --update-schemas rewrites the file, and its diff must show additions alone."""
    if pytestconfig.getoption("--update-schemas"):
        SNAPSHOT.write_text(json.dumps(schemas(), indent=1) + "\n", "utf-8")
    assert schemas() == json.loads(SNAPSHOT.read_text("utf-8"))


@pytest.mark.comfy
def test_execute_takes_exactly_the_inputs_of_the_schema():
    from mmd_pack.nodes import NODES

    for node in NODES:
        schema = node.GET_SCHEMA()
        parameters = inspect.signature(node.execute).parameters
        assert {i.id for i in schema.inputs} == set(parameters), schema.node_id
        for given in schema.inputs:
            if given.optional:  # an API prompt may leave it out
                default = parameters[given.id].default
                assert default is not inspect.Parameter.empty, f"{schema.node_id}.{given.id}"


@pytest.mark.comfy
def test_every_input_and_output_has_a_tooltip():
    from mmd_pack.nodes import NODES

    for node in NODES:
        schema = node.GET_SCHEMA()
        assert schema.description and schema.category.startswith("MMD Guidance/")
        for part in (*schema.inputs, *schema.outputs):
            assert part.tooltip and len(part.tooltip) > 15, f"{schema.node_id}: {part}"


def node_classes() -> dict[str, str]:
    """Class name: node id, of all classes in any file whose base is io.ComfyNode, as scanners read them."""
    found = {}
    for file in ROOT.rglob("*.py"):
        for item in ast.walk(ast.parse(file.read_text("utf-8"))):
            bases = [ast.unparse(base) for base in getattr(item, "bases", [])]
            if not isinstance(item, ast.ClassDef) or "ComfyNode" not in " ".join(bases):
                continue
            assert bases == ["io.ComfyNode"], f"{item.name} must inherit from io.ComfyNode directly"
            ids = [
                keyword.value.value
                for call in ast.walk(item)
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema"
                for keyword in call.keywords
                if keyword.arg == "node_id"
            ]
            found[item.name] = ids[0]
    return found


def test_a_static_scanner_finds_our_nodes_and_no_others():
    """ComfyUI Manager reads files without running them, tests and demonstration included."""
    classes = node_classes()
    assert all(name == node_id for name, node_id in classes.items())
    listed = json.loads((ROOT / "node_list.json").read_text("utf-8"))
    assert set(classes) == set(listed) == {
        "LoadReferenceSet", "EncodeReferenceLatents", "SaveReferenceLatents", "LoadReferenceLatents",
        "MergeReferences", "CompressReferences", "ReferencePreview", "MMDKernel", "ApplyMMDGuidance",
        "MMDGuidedKSampler", "MMDMemory", "MMDStrengths", "MMDPlot", "MMDScore",
        "TSMCRewardReference", "TSMCRewardCLIPVision", "TSMCRewardImageStats", "TSMCScoreImages",
        "TRITSMCSampler", "TSMCInit", "TSMCPropose", "TSMCUpdate", "TSMCSelect", "TSMCPlot",
        "MMDPrompts", "MMDMakeReferences", "MMDTrainLoRA", "MMDSaveLoRA", "MMDLoRAInfo",
        "MMDBaseImages",
    }  # fmt: skip


@pytest.mark.comfy
def test_comfyui_loads_exactly_these_nodes():
    """Through the pack's real __init__.py, under a module name as ComfyUI gives it."""
    import asyncio
    import importlib.util

    name = str(ROOT).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)

    async def ids():
        extension = await module.comfy_entrypoint()
        return {node.GET_SCHEMA().node_id for node in await extension.get_node_list()}

    assert asyncio.run(ids()) == set(node_classes())


IMPORT = """
import sys, types
pack = types.ModuleType("pack"); pack.__path__ = [{root!r}]; sys.modules["pack"] = pack
import pack.{module}
print([m for m in sys.modules if m.split(".")[0] in ("comfy", "comfy_api", "folder_paths", "nodes")])
"""


def modules_of_comfyui(module: str) -> str:
    script = IMPORT.format(root=str(ROOT), module=module)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return done.stdout + done.stderr


def test_the_core_imports_nothing_of_comfyui():
    assert modules_of_comfyui("mmd_core").strip() == "[]"


def test_the_import_test_can_fail():
    assert modules_of_comfyui("nodes").strip() != "[]"
