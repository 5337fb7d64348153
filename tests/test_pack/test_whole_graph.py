"""The shipped workflow, as ComfyUI executes it, from a folder and a checkpoint to pictures."""

import asyncio
import json
import math
import shutil
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import execution
import folder_paths
import numpy as np
import pytest
import torch
from comfy_extras.nodes_preview_any import PreviewAny
from comfy_extras.nodes_primitive import Int
from mmd_pack.mmd_core import KernelConfig, mmd2
from mmd_pack.nodes import NODES
from mmd_tests.make.workflows import EXAMPLES
from mmd_tests.support.random_checkpoint import write_checkpoint
from mmd_tests.support.tiny_models import prompt as tiny_prompt
from mmd_tests.support.tiny_models import tiny_model
from PIL import Image
from safetensors.torch import load_file

import nodes

pytestmark = pytest.mark.comfy

SHIPPED = EXAMPLES / "api" / "01 SD1.5 from a folder.json"
SMALL = {  # all that is changed in the shipped file
    "CheckpointLoaderSimple": {"ckpt_name": "random.safetensors"},
    "LoadReferenceSet": {"folder": "pictures"},
    "EmptyLatentImage": {"width": 64, "height": 64, "batch_size": 4},
    "KSampler": {"steps": 2},
    "MMDGuidedKSampler": {"steps": 2},
}


class TinySDXL:
    """A node that has a small SDXL model and prompts for it."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "CONDITIONING", "CONDITIONING"), "load", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return tiny_model("SDXL"), tiny_prompt(1), tiny_prompt(2)


class Runner:
    """Runs graphs with ComfyUI's executor, which keeps what the next graph has in common."""

    def __init__(self):
        server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)
        cache = {"cache_type": execution.CacheType.CLASSIC, "cache_args": defaultdict(int)}
        self.executor = execution.PromptExecutor(server, **cache)
        self.shown = {}  # by node; older ComfyUIs do not repeat what kept results showed

    def run(self, graph, ids):
        """What is drawn: latents by name, pictures by the name of their files, and the report."""
        valid, error, ends, node_errors = asyncio.run(execution.validate_prompt("id", graph, None))
        assert valid, (error, node_errors)
        self.executor.execute(graph, "id", {}, ends)
        assert self.executor.success, self.executor.status_messages
        self.shown |= self.executor.history_result["outputs"]
        drawn = SimpleNamespace(latents={}, pictures={})
        drawn.report = self.shown[ids["PreviewAny"]]["text"][0]
        for key, node in graph.items():
            if node["class_type"] == "SaveLatent":
                drawn.latents[key] = read_latents(self.shown[key])
            elif node["class_type"] == "SaveImage":
                drawn.pictures[node["inputs"]["filename_prefix"]] = read_pictures(self.shown[key])
        return drawn


def read_latents(shown) -> torch.Tensor:
    (file,) = shown["latents"]
    return load_file(output_path(file))["latent_tensor"]


def read_pictures(shown):
    return np.stack([np.asarray(Image.open(output_path(file))) for file in shown["images"]])


def output_path(file) -> Path:
    return Path(folder_paths.get_output_directory(), file["subfolder"], file["filename"])


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Runs graphs with our nodes, in folders that hold a checkpoint and references."""
    root = tmp_path_factory.mktemp("comfyui")
    write_references(root / "input" / "pictures")
    write_checkpoint(root / "random.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        use_folders(root, patch)
        register_nodes(patch)
        runner = Runner()
        yield runner
        runner.executor.reset()
        comfy.model_management.unload_all_models()
    shutil.rmtree(root, ignore_errors=True)  # pytest would keep the checkpoint


def write_references(folder: Path) -> None:
    """By turns dark pictures captioned with the prompt and light ones with the negative prompt."""
    graph, ids = workflow()
    links = [graph[ids["KSampler"]]["inputs"][name] for name in ("positive", "negative")]
    captions = [graph[key]["inputs"]["text"] for key, _ in links]
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(8):
        pixels = noise.integers(0, 96, (64, 80, 3)) + 160 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(captions[i % 2], "utf-8")


def use_folders(root: Path, patch) -> None:
    """Makes ComfyUI read and write below `root` alone."""
    for kind in ("input", "output", "temp"):
        (root / kind).mkdir(exist_ok=True)
        patch.setattr(folder_paths, f"{kind}_directory", str(root / kind))
    patch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(root)], {".safetensors"})
    )
    patch.setattr(folder_paths, "filename_list_cache", {})


def register_nodes(patch) -> None:
    """Adds our nodes and those of core's that ComfyUI loads as it starts."""
    ours = {node.__name__: node for node in [*NODES, PreviewAny, TinySDXL]}
    for name, node in (ours | {"PrimitiveInt": Int}).items():
        patch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)


def workflow(**settings):
    """The shipped workflow, made small, and its node ids by class; `settings` for our sampler."""
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


def check(drawn, batch: int = 4) -> None:
    """All is finite and has its size, and guidance brought the batch closer to the references."""
    size = (batch, 4, 8, 8)
    assert {name: tuple(x.shape) for name, x in drawn.latents.items()} == {
        "guided": size, "unguided": size, "references": (8, 4, 8, 8)
    }  # fmt: skip
    assert all(torch.isfinite(x).all() for x in drawn.latents.values())
    assert {x.shape for x in drawn.pictures.values()} == {(batch, 64, 64, 3)}
    assert (drawn.pictures["mmd_guided"] != drawn.pictures["mmd_unguided"]).mean() > 0.5
    assert "MMD²" in drawn.report and "Guidance acted at" in drawn.report
    assert "nothing one can see" not in drawn.report
    assert distance(drawn, "guided") < distance(drawn, "unguided") / 2


def distance(drawn, name: str) -> float:
    """The unbiased MMD² between drawn latents and the references."""
    y = drawn.latents["references"]
    flat = (y - y.mean(0)).flatten(1)
    kernel = KernelConfig().resolve(flat @ flat.T, flat.shape[1])
    return float(mmd2(drawn.latents[name], y, kernel, unbiased=True))


def test_shipped_workflow_draws_guided_pictures_from_a_checkpoint(runner, caplog):
    """Made small, it draws pictures that differ from core's and are closer to the folder's."""
    check(runner.run(*workflow()))
    assert "missing" not in caplog.text.lower()  # no weight, or random memory would take its place


def test_shipped_workflow_at_strength_0_draws_what_core_draws(runner):
    """Both halves of the workflow are then equal bit for bit, and the report says so."""
    drawn = runner.run(*workflow(strength=0.0))
    assert torch.equal(drawn.latents["guided"], drawn.latents["unguided"])
    assert (drawn.pictures["mmd_guided"] == drawn.pictures["mmd_unguided"]).all()
    assert "Strength is 0" in drawn.report


@pytest.mark.long
def test_captions_of_the_folder_guide_by_the_prompt(runner):
    """With a prompt kernel, pictures come closer to the references captioned like their prompt."""
    graph, ids = workflow()
    graph[ids["EmptyLatentImage"]]["inputs"]["batch_size"] = 8  # matched to the set together
    plain = runner.run(graph, ids)
    graph[ids["MMDGuidedKSampler"]]["inputs"]["kernel"] = ["kernel", 0]
    graph[ids["EncodeReferenceLatents"]]["inputs"]["clip"] = [ids["CheckpointLoaderSimple"], 1]
    kernel = {"kernel": "rbf", "bandwidth": "median", "bandwidth_value": 100.0}
    kernel |= {"multipliers": "0.5, 1, 2", "prompt_kernel": "cosine", "prompt_bandwidth": 0.0}
    graph["kernel"] = {"class_type": "MMDKernel", "inputs": kernel}
    prompted = runner.run(graph, ids)
    check(prompted, batch=8)
    assert to_own_captions(prompted) < to_own_captions(plain)


def to_own_captions(drawn) -> float:
    """From the mean of the guided batch to that of the references captioned with its prompt."""
    own = drawn.latents["references"][::2].mean(0)
    return math.dist(drawn.latents["guided"].mean(0).flatten(), own.flatten())


def test_sdxl_goes_through_the_same_workflow(runner):
    """A model of another family draws in the same graph, with the checkpoint's VAE."""
    graph, ids = workflow()
    graph["sdxl"] = {"class_type": "TinySDXL", "inputs": {}}
    for kind in ("KSampler", "MMDGuidedKSampler"):
        links = {"model": ["sdxl", 0], "positive": ["sdxl", 1], "negative": ["sdxl", 2]}
        graph[ids[kind]]["inputs"] |= links
    check(runner.run(graph, ids))


@pytest.mark.long
def test_a_set_goes_through_merging_compressing_and_a_file(runner, monkeypatch, tmp_path):
    """What is saved in one run guides another that sees neither folder nor VAE, to the same bits."""
    kinds = folder_paths.folder_names_and_paths
    monkeypatch.setitem(kinds, "mmd_references", ([str(tmp_path)], {".safetensors"}))
    graph, ids = workflow()
    graph[ids["EmptyLatentImage"]]["inputs"]["batch_size"] = 8  # matched to the set together
    encoded = [ids["EncodeReferenceLatents"], 0]
    sets = {"references_a": encoded, "references_b": encoded, "share_a": 0.7, "share_b": 0.3}
    chain = {
        "merged": ("MergeReferences", sets),
        "few": ("CompressReferences", {"references": ["merged", 0], "count": 4}),
        "saved": ("SaveReferenceLatents", {"references": ["few", 0], "filename": "styles/mine", "dtype": "float32"}),
    }  # fmt: skip
    graph |= {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in chain.items()}
    guided = graph[ids["MMDGuidedKSampler"]]["inputs"]
    guided["references"] = ["saved", 0]
    first = runner.run(graph, ids)
    assert "Guidance acted at" in first.report
    assert not torch.equal(first.latents["guided"], first.latents["unguided"])
    assert [path.name for path in (tmp_path / "styles").iterdir()] == ["mine.safetensors"]

    for key in (*chain, ids["EncodeReferenceLatents"], ids["LoadReferenceSet"], "references"):
        del graph[key]
    graph["loaded"] = {
        "class_type": "LoadReferenceLatents",
        "inputs": {"file": "styles/mine.safetensors"},
    }
    guided["references"] = ["loaded", 0]
    second = runner.run(graph, ids)
    assert torch.equal(second.latents["guided"], first.latents["guided"])
    assert "towards 4 references" in second.report


@pytest.mark.long
@pytest.mark.parametrize("space", ["low_pass", "channel_stats", "patches", "palette"])
def test_every_feature_space_guides_in_a_graph(runner, space):
    """The report names it, and the batch differs from an unguided one."""
    graph, ids = workflow(kernel=["kernel", 0])
    kernel = {"kernel": "energy", "bandwidth": "median", "bandwidth_value": 100.0}
    kernel |= {"multipliers": "0.5, 1, 2", "prompt_kernel": "none", "prompt_bandwidth": 0.0}
    kernel |= {"feature_space": space, "pool": 2, "patch_size": 2}
    graph["kernel"] = {"class_type": "MMDKernel", "inputs": kernel}
    drawn = runner.run(graph, ids)
    assert f"by {space}" in drawn.report and "Guidance acted at" in drawn.report
    assert torch.isfinite(drawn.latents["guided"]).all()
    assert not torch.equal(drawn.latents["guided"], drawn.latents["unguided"])
