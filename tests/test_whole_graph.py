"""The shipped workflow, as ComfyUI executes it, from a folder and a checkpoint to pictures."""

import asyncio
import json
import math
import shutil
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmd_tests.random_checkpoint import write_checkpoint
from mmd_tests.tiny_models import prompt as tiny_prompt
from mmd_tests.tiny_models import tiny_model
from mmd_tests.workflows import EXAMPLES

pytestmark = pytest.mark.comfy

SHIPPED = EXAMPLES / "api" / "MMD Guidance - SD1.5 from a folder.json"
SMALL = {  # all that is changed in the shipped file
    "CheckpointLoaderSimple": {"ckpt_name": "random.safetensors"},
    "LoadReferenceSet": {"folder": "pictures"},
    "EmptyLatentImage": {"width": 64, "height": 64, "batch_size": 4},
    "KSampler": {"steps": 2},
    "MMDGuidedKSampler": {"steps": 2},
}
CAPTIONS = "a painting of a landscape", "text, watermark, frame"  # the prompts of the workflow


class TinySDXL:
    """A node that has a small SDXL model and prompts for it."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "CONDITIONING", "CONDITIONING"), "load", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return tiny_model("SDXL"), tiny_prompt(1), tiny_prompt(2)


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    """ComfyUI's executor, with our nodes, in folders that hold a checkpoint and references."""
    import comfy.model_management
    import execution

    root = tmp_path_factory.mktemp("comfyui")
    write_references(root / "input" / "pictures")
    write_checkpoint(root / "random.safetensors")
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)
    with pytest.MonkeyPatch.context() as patch:
        use_folders(root, patch)
        register_nodes(patch)
        cache = {"cache_type": execution.CacheType.CLASSIC, "cache_args": defaultdict(int)}
        executor = execution.PromptExecutor(server, **cache)
        yield executor
        executor.reset()
        comfy.model_management.unload_all_models()
    shutil.rmtree(root, ignore_errors=True)  # pytest would keep the checkpoint


def write_references(folder: Path) -> None:
    """Eight pictures of noise with captions: dark ones with one caption and light ones with another."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(8):
        pixels = noise.integers(0, 96, (64, 80, 3)) + 160 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(CAPTIONS[i % 2], "utf-8")


def use_folders(root: Path, patch) -> None:
    """Makes ComfyUI read and write below `root` alone."""
    import folder_paths

    for kind in ("input", "output", "temp"):
        (root / kind).mkdir(exist_ok=True)
        patch.setattr(folder_paths, f"{kind}_directory", str(root / kind))
    patch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(root)], {".safetensors"})
    )
    patch.setattr(folder_paths, "filename_list_cache", {})


def register_nodes(patch) -> None:
    """Adds our nodes and those of core's that ComfyUI loads as it starts."""
    from comfy_extras.nodes_preview_any import PreviewAny
    from comfy_extras.nodes_primitive import Int
    from mmd_pack.nodes import NODES

    import nodes

    ours = {node.__name__: node for node in [*NODES, PreviewAny, TinySDXL]}
    for name, node in (ours | {"PrimitiveInt": Int}).items():
        patch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)


def workflow(**settings):
    """The shipped workflow, made small, and its node ids by class; `settings` are of our sampler."""
    graph = json.loads(SHIPPED.read_text("utf-8"))
    for node in graph.values():
        node["inputs"] |= SMALL.get(node["class_type"], {})
    ids = {node["class_type"]: key for key, node in graph.items()}
    graph[ids["MMDGuidedKSampler"]]["inputs"] |= settings
    latents = {"guided": "MMDGuidedKSampler", "unguided": "KSampler"}
    latents = {name: [ids[kind], 0] for name, kind in latents.items()}
    latents["references"] = [ids["EncodeReferenceLatents"], 1]
    for name, link in latents.items():
        inputs = {"samples": link, "filename_prefix": name}
        graph[name] = {"class_type": "SaveLatent", "inputs": inputs}
    return graph, ids


def run(executor, graph, ids):
    """What the graph draws: latents by name, pictures by the file names they are saved with, report."""
    import execution
    import folder_paths
    import numpy as np
    from PIL import Image
    from safetensors.torch import load_file

    valid, error, targets, node_errors = asyncio.run(execution.validate_prompt("id", graph, None))
    assert valid, (error, node_errors)
    executor.execute(graph, "id", {}, targets)
    assert executor.success, executor.status_messages
    shown = executor.history_result["outputs"]
    drawn = SimpleNamespace(latents={}, pictures={}, report=shown[ids["PreviewAny"]]["text"][0])
    output = Path(folder_paths.get_output_directory())
    for key, node in graph.items():
        if node["class_type"] == "SaveLatent":
            (file,) = shown[key]["latents"]
            drawn.latents[key] = load_file(output / file["filename"])["latent_tensor"]
        elif node["class_type"] == "SaveImage":
            files = [Image.open(output / file["filename"]) for file in shown[key]["images"]]
            pictures = np.stack([np.asarray(file) for file in files])
            drawn.pictures[node["inputs"]["filename_prefix"]] = pictures
    return drawn


def check(drawn) -> None:
    """Everything has its size and is finite, and guidance brought the batch closer to the references."""
    assert {name: tuple(x.shape) for name, x in drawn.latents.items()} == {
        "guided": (4, 4, 8, 8), "unguided": (4, 4, 8, 8), "references": (8, 4, 8, 8)
    }  # fmt: skip
    assert all(torch.isfinite(x).all() for x in drawn.latents.values())
    assert {x.shape for x in drawn.pictures.values()} == {(4, 64, 64, 3)}
    assert (drawn.pictures["mmd_guided"] != drawn.pictures["mmd_unguided"]).mean() > 0.5
    assert "MMD²" in drawn.report and "It acted at 1 model calls" in drawn.report
    assert "nothing one can see" not in drawn.report
    assert distance(drawn, "guided") < distance(drawn, "unguided") / 2


def distance(drawn, name: str) -> float:
    """The unbiased MMD² between drawn latents and the references."""
    from mmd_pack.mmd_core import KernelConfig, mmd2

    y = drawn.latents["references"]
    flat = (y - y.mean(0)).flatten(1)
    kernel = KernelConfig().resolve(flat @ flat.T, flat.shape[1])
    return float(mmd2(drawn.latents[name], y, kernel, unbiased=True))


def test_shipped_workflow_draws_guided_pictures_from_a_checkpoint(executor):
    """As shipped but small, it draws pictures that differ from core's and are closer to the folder."""
    check(run(executor, *workflow()))


def test_shipped_workflow_at_strength_0_draws_what_core_draws(executor):
    """Both halves of the workflow are then equal bit for bit, and the report says so."""
    drawn = run(executor, *workflow(strength=0.0))
    assert torch.equal(drawn.latents["guided"], drawn.latents["unguided"])
    assert (drawn.pictures["mmd_guided"] == drawn.pictures["mmd_unguided"]).all()
    assert "Strength is 0" in drawn.report


def test_captions_of_the_folder_guide_by_the_prompt(executor):
    """With a prompt kernel, pictures follow the references whose captions are the prompt."""
    plain = run(executor, *workflow())
    graph, ids = workflow(kernel=["kernel", 0])
    graph[ids["EncodeReferenceLatents"]]["inputs"]["clip"] = [ids["CheckpointLoaderSimple"], 1]
    kernel = {"kernel": "rbf", "bandwidth": "median", "bandwidth_value": 100.0, "multipliers": "1"}
    kernel |= {"prompt_kernel": "cosine", "prompt_bandwidth": 0.0}
    graph["kernel"] = {"class_type": "MMDKernel", "inputs": kernel}
    prompted = run(executor, graph, ids)
    check(prompted)
    assert to_own_captions(prompted) < to_own_captions(plain)


def to_own_captions(drawn) -> float:
    """How far the mean of the guided batch is from that of the references captioned with the prompt."""
    own = drawn.latents["references"][::2].mean(0)
    return math.dist(drawn.latents["guided"].mean(0).flatten(), own.flatten())


def test_sdxl_goes_through_the_same_workflow(executor):
    """A model of another family draws in the same graph, with references from the checkpoint's VAE."""
    graph, ids = workflow()
    graph["sdxl"] = {"class_type": "TinySDXL", "inputs": {}}
    for kind in ("KSampler", "MMDGuidedKSampler"):
        links = {"model": ["sdxl", 0], "positive": ["sdxl", 1], "negative": ["sdxl", 2]}
        graph[ids[kind]]["inputs"] |= links
    check(run(executor, graph, ids))
