"""The API twins of the shipped workflows run on a real server, in a demonstration world or whole."""

import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from comfy.cli_args import args
from mmd_demo.scenes import shapes_draw
from mmd_tests.make.templates import TEMPLATES
from mmd_tests.make.templates.lora_controlnet import CONTROLNET, LORA
from mmd_tests.make.templates.parts import SD15
from mmd_tests.make.workflows import EXAMPLES, ROOT
from mmd_tests.support import demo_lora, random_controlnet
from mmd_tests.support.engine import Engine
from mmd_tests.support.random_checkpoint import write_checkpoint
from mmd_tests.support.server import Server
from mmd_tests.support.stand_in import changed, in_demo_world, without
from PIL import Image

pytestmark = pytest.mark.comfy
FULL = "09 With LoRA and ControlNet"
STYLES = "10 Share a style set"
TRAINED = "13 Few steps (MMD-DDM)"
PLOTS = {"MMDPlot": 0.6, "MMDTrainLoRA": 0.5, "TSMCPlot": 0.4}  # how high they are, by their width
SHOW = ("PreviewAny", "PreviewImage", "SaveImage")  # and what of ours is shown on its node
QUICK = {"steps": 4}
FEW = {"particles": 8, "iterations": 1}
SHORT = {"steps_per_sample": 4, "batch_size": 4, "micro_batch": 4, "iterations": 2, "rank": 2}
SHORT |= {"learning_rate": 0.03, "ema": 0.0, "keep": "last"}  # it learns something that shows
CHANGES = {  # in words and files of the world
    "05 Prompt-aware with captions": {
        "Prompt": {"text": "a triangle"},
        "Second prompt": {"text": "a disc"},
    },
    FULL: {"LoraLoaderModelOnly": {"lora_name": "triangles.safetensors"}},
    "14 Steer towards a set (TRI-TSMC)": {"TRITSMCSampler": FEW},
    "15 Steer by your own scorer (TRI-TSMC)": {"TSMCInit": FEW},
    TRAINED: {
        "MMDPrompts": {"text": "a blue triangle\na red disc"},
        "MMDMakeReferences": {"count": 12, "micro_batch": 12},
        "MMDTrainLoRA": SHORT,
    },
    "12 Your set in few steps (MMD-DDM)": {"MMDTrainLoRA": SHORT},
}
RANDOM = {  # all that is changed where weights are random
    "EmptyLatentImage": {"width": 64, "height": 64, "batch_size": 2},
    "LoadReferenceSet": {"folder": "noise"},  # as far apart as random weights draw
    "KSampler": {"steps": 2},
}


def twin(name: str) -> dict:
    return json.loads((EXAMPLES / "api" / f"{name}.json").read_text("utf-8"))


def pictures(prompt: str, count: int) -> list:
    return [
        Image.fromarray(pixels.mul(255).round().byte().numpy())
        for pixels in shapes_draw(prompt, count, seed=1)
    ]


def write_inputs(folder: Path) -> None:
    """Captioned references, and a picture with a mask where the templates name one."""
    references = folder / "mmd_references"
    references.mkdir(parents=True)
    for caption in ("a blue triangle", "a red disc"):
        for i, picture in enumerate(pictures(caption, 8)):
            picture.save(references / f"{caption} {i}.png")
            (references / f"{caption} {i}.txt").write_text(caption, "utf-8")
    (folder / "noise").mkdir()
    generator = np.random.default_rng(0)
    for i in range(8):
        pixels = generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "noise" / f"{i}.png")
    (picture,) = pictures("a green square", 1)
    kept = Image.new("L", picture.size, 255)
    kept.paste(0, (8, 8, 24, 24))
    picture.putalpha(kept)
    picture.save(folder / "example.png")


def comfyui(base: Path, *args: str) -> Server:
    """ComfyUI with our pack and the worlds, and what the templates ask users to put there."""
    write_inputs(base / "input")
    demo_lora.write_lora(base / "models" / "loras" / "triangles.safetensors", "triangle")
    engine = Engine(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), "under test")
    packs = [("mmd-guidance", ROOT), ("mmd-demo", ROOT / "tests" / "demo" / "pack")]
    return Server(engine, packs, base=base, args=("--cpu", *args))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with comfyui(tmp_path_factory.mktemp("templates")) as running:
        yield running


def run(server, prompt: dict) -> dict[str, list]:
    """The pictures, or else the texts, that each node shows or saves, by its title."""
    shown = {}
    for number, output in server.run(prompt)["outputs"].items():
        node = prompt[number]
        files = server.outputs({"outputs": {number: output}})
        found = [Image.open(file).convert("RGB") for file in files] or output["text"]
        shown[node["_meta"]["title"]] = found
    ends = {n["_meta"]["title"] for n in prompt.values() if n["class_type"] in SHOW}
    assert ends <= set(shown)
    return shown


def quick(name: str) -> dict:
    """The shipped file in the world of shapes, with few steps."""
    prompt = in_demo_world(twin(name), "shapes", CHANGES.get(name))
    for node in prompt.values():
        node["inputs"] |= QUICK if isinstance(node["inputs"].get("steps"), int) else {}
    return prompt


def drawn(prompt: dict, shown: dict) -> list[list]:
    """The batches that are saved; not the plots."""
    return [
        shown[node["_meta"]["title"]]
        for node in prompt.values()
        if node["class_type"] == "SaveImage"
        and prompt[node["inputs"]["images"][0]]["class_type"] == "VAEDecode"
    ]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in (STYLES, TRAINED)])
def test_api_twin_runs(server, name):
    prompt = quick(name)
    shown = run(server, prompt)
    batches = drawn(prompt, shown)
    pixels = [np.stack([np.asarray(picture, int) for picture in batch]) for batch in batches]
    assert all(each.shape[1:] == (32, 32, 3) and each.std() > 10 for each in pixels)
    named = ("batch_size", "amount", "out_count", "count")
    sizes = {n["inputs"][name] for n in prompt.values() for name in named if name in n["inputs"]}
    assert {len(each) for each in pixels} <= sizes
    for plot in (n for n in prompt.values() if n["class_type"] in PLOTS):
        (picture,) = shown[plot["_meta"]["title"]]  # with rows of images above the curves
        assert picture.height > picture.width * PLOTS[plot["class_type"]]
        assert np.asarray(picture).std() > 10
    for one, other in itertools.pairwise(pixels):
        assert np.abs(one - other).mean() > 1, "what is compared is not the same picture twice"


def test_saved_style_set_draws_elsewhere(server):
    prompt = quick(STYLES)
    made = run(server, without(prompt, "LoadReferenceLatents"))  # what the frontend runs at first
    assert "my_style.safetensors" in made["Where it is"][0]
    used = run(server, without(prompt, "LoadReferenceSet"))
    assert "16 references" in used["What is in it"][0]
    assert len(used["Guided images"]) == 8


def test_trained_lora_draws_elsewhere(server):
    """What the file draws, loaded by other nodes, is what the LoRA drew as it was trained."""
    prompt = quick(TRAINED)
    shown = run(server, without(without(prompt, "LoraLoaderModelOnly"), "MMDLoRAInfo"))
    assert "mmd_few_steps.safetensors" in shown["Where they are"][0]
    plain, made = (
        np.stack([np.asarray(picture, int) for picture in shown[f"{which} the LoRA"]])
        for which in ("Without", "With")
    )
    assert made.shape == (8, 32, 32, 3) and np.abs(made - plain).mean() > 1
    used = run(server, without(prompt, "MMDMakeReferences"))
    assert "For 4 steps of euler, sgm_uniform, cfg 1." in used["MMDLoRAInfo"][0]
    again = np.stack([np.asarray(picture, int) for picture in used["With the file"]])
    assert np.abs(again - made).max() <= 1


def test_inpainting_keeps_what_is_not_masked(server):
    prompt = quick("08 Inpainting")
    shown = run(server, prompt)
    before = np.asarray(Image.open(server.base / "input" / "example.png").convert("RGB"), int)
    for batch in drawn(prompt, shown):
        change = np.abs(np.stack([np.asarray(picture, int) for picture in batch]) - before)
        masked = change[:, 8:24, 8:24].mean()
        change[:, 7:25, 7:25] = 0
        assert masked > 20 > 2 > change.max()


@pytest.mark.long
def test_lora_and_controlnet_act_on_a_whole_model(server):
    """The file is as it is shipped but for size and steps, and no weight is left out."""
    models = server.base / "models"
    (models / "checkpoints").mkdir(exist_ok=True)
    write_checkpoint(models / "checkpoints" / SD15)
    random_controlnet.write_controlnet(models / "controlnet" / CONTROLNET)
    random_controlnet.write_lora(models / "loras" / LORA)
    prompt = changed(twin(FULL), RANDOM)
    alone = {"strength_model": 0.0, "strength_clip": 0.0}
    off = {
        "LoraLoader": alone,
        "ControlNetApplyAdvanced": {"strength": 0.0},
        "ApplyMMDGuidance": {},
    }
    off["ApplyMMDGuidance"]["strength"] = 0.0
    batches = [run(server, prompt)["Guided images"]]
    batches += [
        run(server, changed(prompt, {kind: values}))["Guided images"]
        for kind, values in off.items()
    ]
    pixels = [np.stack([np.asarray(picture, int) for picture in batch]) for batch in batches]
    assert pixels[0].shape == (2, 64, 64, 3)
    for other, kind in zip(pixels[1:], off, strict=True):
        assert np.abs(pixels[0] - other).mean() > 1, f"{kind} does nothing"
    told = server.log_text().lower()
    assert not any(sign in told for sign in ("not loaded", "leftover", "missing"))


@pytest.mark.long
def test_half_precision_between_nodes(tmp_path):
    """A server that hands latents and pictures on as float16 (--fp16-intermediates) draws, plots and scores."""
    if not hasattr(args, "fp16_intermediates"):
        pytest.skip("this ComfyUI has no --fp16-intermediates")
    name = "03 Compare with and without"
    with comfyui(tmp_path, "--fp16-intermediates") as half:
        prompt = quick(name)
        shown = run(half, prompt)
    batches = [np.stack([np.asarray(p) for p in batch]) for batch in drawn(prompt, shown)]
    assert len(batches) == 2 and not np.array_equal(*batches)
    assert all(batch.std() > 10 for batch in batches)
