"""Draws the thumbnails of the shipped workflows by running these in the demonstration worlds.

`python tests/make/thumbnails.py` writes all anew; with a word behind, those with the word in their name.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401


from mmd_demo.scenes import shapes_draw
from mmd_tests.make.thumbnail_page import Block, jpeg, page
from mmd_tests.make.workflows import EXAMPLES, ROOT
from mmd_tests.support.demo_lora import write_lora
from mmd_tests.support.engine import get_engine
from mmd_tests.support.server import Server
from mmd_tests.support.stand_in import changed, in_demo_world, without
from PIL import Image, ImageDraw

DEMO = ROOT / "tests" / "demo" / "pack"
DIGITS = ROOT / "tests" / "demo" / "references" / "digits"
SIDE = 32  # of the world's pictures
MASK = (5, 3, 30, 26)  # of the picture to inpaint
PICTURE = "a green disc"
LORA = "triangles.safetensors"
STRENGTHS = (0, 3, 10, 30, 100)  # the world is small: strengths that are weak elsewhere show
RUNS = 3
TRAINING = {"steps_per_sample": 3, "batch_size": 100, "micro_batch": 100, "iterations": 300}
TRAINING |= {"learning_rate": 0.002}  # for a small world
Pictures = dict[str, list[Image.Image]]  # by title of the node that shows them, and "references"


def bands(pictures: Pictures) -> Image.Image:
    """References, and the same noise without guidance and with it."""
    shown = {
        "references": "references",
        "Unguided images": "without guidance",
        "Guided images": "with guidance",
    }
    return page([[Block(title, pictures[name][:14], 7)] for name, title in shown.items()])


def large(pictures: Pictures) -> Image.Image:
    """A few references beside many large pictures."""
    few = Block("references", pictures["references"][:12], 2)
    return page([[few, Block("16 large images", pictures["Guided images"], 4, 3)]])


def two_prompts(pictures: Pictures) -> Image.Image:
    """References of two kinds, mixed, and what each prompt makes of them."""
    mixed = [pair for both in zip(*halves(pictures["references"]), strict=True) for pair in both]
    made = [
        Block(f"“{word}”", pictures[f"{which} prompt: images"][:9], 3, framed=True)
        for word, which in (("triangle", "First"), ("disc", "Second"))
    ]
    return page([[Block("references with captions", mixed[:14], 7)], made])


def halves(pictures: list) -> tuple[list, list]:
    """The first half and the second."""
    half = len(pictures) // 2
    return pictures[:half], pictures[half:]


def groups(pictures: Pictures) -> Image.Image:
    """References, and the groups that are drawn one after the other."""
    names = ("first 16 images", "next 16 images")
    made = zip(names, halves(pictures["Guided images"]), strict=True)
    few = Block("references", pictures["references"][:8], 8)
    return page([[few], [Block(name, each, 4, framed=True) for name, each in made]])


def varied(pictures: Pictures) -> Image.Image:
    """The same prompt, first as the model draws it."""
    names = {"Unguided images": "one prompt", "Varied batch": "the same prompt, more diverse"}
    return page([[Block(name, pictures[title], 8)] for title, name in names.items()])


def filled(pictures: Pictures) -> Image.Image:
    """The picture with its mask, the references, and what was drawn into it."""
    side = 6 * SIDE
    before = base_picture().convert("RGB").resize((side, side), Image.Resampling.NEAREST)
    hole = tuple(6 * edge for edge in MASK)
    veil = Image.new("L", before.size, 0)
    lines = ImageDraw.Draw(veil)
    for x in range(-side, side, 12):
        lines.line((x, side, x + side, 0), 160, 4)
    inside = Image.new("L", before.size, 0)
    inside.paste(veil.crop(hole), hole)
    before.paste((255, 255, 255), (0, 0), inside)
    ImageDraw.Draw(before).rectangle(hole, None, (255, 255, 255), 2)
    few = Block("references", pictures["references"][:9], 3)
    made = Block("filled", pictures["Guided images"], 4, 3)
    return page([[Block("picture, mask", [before], 1, 1), few], [made]])


def base_picture() -> Image.Image:
    """The picture to inpaint, transparent where its mask is."""
    (picture,) = draw(PICTURE, 1, 29)
    kept = Image.new("L", picture.size, 255)
    kept.paste(0, MASK)
    picture.putalpha(kept)
    return picture


def together(pictures: Pictures) -> Image.Image:
    """What the references bring, what the LoRA brings, and both."""
    few = Block("references", pictures["references"][:9], 3)
    lora = Block("LoRA alone", pictures["Without guidance"][:9], 3)
    return page([[few, "+", lora], [Block("both", pictures["Guided images"][:14], 7)]])


def shared(pictures: Pictures) -> Image.Image:
    """A file, and what is drawn with it."""
    kept = Block("my_style.safetensors", pictures["references"][:21], 7, framed=True)
    return page([[kept], ["down"], [Block("", pictures["Guided images"][:14], 7)]])


def compared(pictures: Pictures) -> Image.Image:
    """Both batches, and how MMD² went."""
    (plot,) = pictures["Without and with, and how it went"]
    panel = (14, plot.height - 434, 633, plot.height - 14)  # the left one of MMDPlot
    blocks = [
        Block(f"{name} guidance", pictures[f"Images {name} guidance"][:12], 4, framed=True)
        for name in ("without", "with")
    ]
    return page([blocks, [plot.crop(panel).resize((501, 340), Image.Resampling.LANCZOS)]])


def swept(pictures: Pictures) -> Image.Image:
    """A row for each strength."""
    batch = len(pictures["VAEDecode"]) // len(STRENGTHS)
    rows = [
        [Block(str(strength), pictures["VAEDecode"][i * batch :][:4], 4, 3, beside=True)]
        for i, strength in enumerate(STRENGTHS)
    ]
    return page(rows, close=True)


def run_by_run(pictures: Pictures) -> Image.Image:
    """References, and what each run adds."""
    few = Block("references", pictures["references"][::16], 8)
    images = pictures["Guided images"]
    each = len(images) // RUNS
    made = [Block(f"run {i + 1}", images[i * each :][:each], 8) for i in range(RUNS)]
    return page([[few], *([block] for block in made)])


def steered(pictures: Pictures) -> Image.Image:
    """References, and what is drawn before and after steering."""
    shown = {"references": "references", "Unsteered images": "the model alone"}
    shown["Steered images"] = "steered to their palette"
    return page([[Block(name, pictures[title][:8], 8)] for title, name in shown.items()])


def scored(pictures: Pictures) -> Image.Image:
    """A few images of each batch, and the best of all."""
    rows = {"First batch": "first batch", "Second batch": "second batch"}
    rows |= {"Third batch": "third batch", "Steered images": "the best by your scorer"}
    return page([[Block(name, pictures[title][:8], 8)] for title, name in rows.items()])


def few_steps(pictures: Pictures) -> Image.Image:
    """Digits in few steps before and after training, and others in many."""
    shown = {"Without the LoRA": "3 steps", "With the LoRA": "3 steps, trained"}
    shown["8 of the references"] = "50 steps"
    return page([[Block(name, pictures[title], 5, 8)] for title, name in shown.items()])


def fast_set(pictures: Pictures) -> Image.Image:
    """A set of digits, and few steps before and after training."""
    rows = {"your set": pictures["references"][::10], "3 steps": pictures["Without the LoRA"]}
    rows["3 steps, trained on it"] = pictures["With the LoRA"]
    return page([[Block(name, each, 5, 8)] for name, each in rows.items()])


@dataclass(frozen=True)
class Scene:
    """A workflow in a world, and how its pictures are laid out."""

    references: Sequence[str]  # prompts; of digits there is one set
    page: Callable[[Pictures], Image.Image]
    changes: Mapping[str, Mapping] = field(default_factory=dict)  # as for in_demo_world
    cfg: float = 1.0
    prompted: bool = False
    watched: str = ""  # a node whose images are saved as well
    off: Mapping[str, Mapping] = field(default_factory=dict)  # changes for "Without guidance"
    runs: int = 1  # each with another seed
    world: str = "shapes"
    left_out: Sequence[str] = ()  # nodes that wait for a file


SCENES = {
    "SD1.5 from a folder": Scene(["blue triangle"], bands, {"MMDDemoLatent": {"batch_size": 16}}),
    "SDXL from a folder": Scene(["red yellow disc"], large),
    "Prompt-aware with captions": Scene(
        ["blue triangle", "red disc"],
        two_prompts,
        {
            "Prompt": {"text": "a triangle"},
            "Second prompt": {"text": "a disc"},
            "MMDDemoLatent": {"batch_size": 16},
        },
        prompted=True,
    ),
    "Small card": Scene(["cyan magenta square"], groups),
    "More diverse batch": Scene(
        [],
        varied,
        {
            "Prompt": {"text": "a green disc"},
            "EmptyLatentImage": {"batch_size": 24},
            "Variation 1": {"text": "a yellow disc"},
            "Variation 2": {"text": "a green square"},
            "Variation 3": {"text": "a cyan disc"},
            "Variation 4": {"text": "a green triangle"},
        },
        cfg=7.0,
        prompted=True,
    ),
    "Inpainting": Scene(["blue magenta triangle"], filled),
    "With LoRA and ControlNet": Scene(
        ["yellow"],
        together,
        {
            "MMDDemoLatent": {"batch_size": 16},
            "LoraLoaderModelOnly": {"lora_name": LORA},
            "ApplyMMDGuidance": {"strength": 10.0},
        },
        off={"ApplyMMDGuidance": {"strength": 0.0}},
    ),
    "Share a style set": Scene(["green square"], shared, {"MMDDemoLatent": {"batch_size": 16}}),
    "Compare with and without": Scene(["magenta disc"], compared),
    "Strength sweep": Scene(
        ["cyan square"],
        swept,
        {
            "MMDDemoLatent": {"batch_size": 16},
            "MMDStrengths": {"strengths": ", ".join(map(str, STRENGTHS))},
        },
        watched="VAEDecode",
    ),
    "One batch over many runs": Scene(
        ["blue triangle", "red disc"],
        run_by_run,
        {"MMDDemoLatent": {"batch_size": 16}},
        runs=RUNS,
    ),
    "Steer towards a set (TRI-TSMC)": Scene(["blue triangle"], steered),
    "Steer by your own scorer (TRI-TSMC)": Scene([], scored),
    "Few steps (MMD-DDM)": Scene(
        [],
        few_steps,
        {
            "MMDPrompts": {"text": "any digit"},
            "MMDDemoLatent": {"batch_size": 10},
            "MMDMakeReferences": {"count": 500, "micro_batch": 500, "cfg": 1.0},
            "LatentFromBatch": {"length": 10},
            "MMDTrainLoRA": TRAINING,
            "KSampler": {"steps": 3},
        },
        prompted=True,
        world="digits",
        left_out=("LoraLoaderModelOnly", "MMDLoRAInfo"),
    ),
    "Your set in few steps (MMD-DDM)": Scene(
        [],
        fast_set,
        {
            "MMDDemoLatent": {"batch_size": 10},
            "MMDTrainLoRA": {**TRAINING, "iterations": 600},
            "KSampler": {"steps": 3},
        },
        world="digits",
    ),
}


def draw(prompt: str, count: int, seed: int) -> list[Image.Image]:
    """True pictures of the world."""
    return [
        Image.fromarray(pixels.mul(255).round().byte().numpy())
        for pixels in shapes_draw(prompt, count, seed)
    ]


def write_inputs(base: Path, scene: Scene) -> list[Image.Image]:
    """Put what the workflow reads where it looks for it, and return the references."""
    folder, found = base / "input" / "mmd_references", []
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for prompt in scene.references:
        for i, picture in enumerate(draw(prompt, 64, 0)):
            picture.save(folder / f"{prompt} {i:03}.png")
            (folder / f"{prompt} {i:03}.txt").write_text(f"a {prompt}", "utf-8")
            found.append(picture)
    if scene.world == "digits":
        for path in sorted(DIGITS.glob("*.png")):
            found.append(Image.open(path).convert("RGB"))
            found[-1].save(folder / path.name)
    base_picture().save(base / "input" / "example.png")
    write_lora(base / "models" / "loras" / LORA, "triangle")
    return found


def run(server: Server, prompt: dict) -> Pictures:
    """The pictures that nodes save or show."""
    found = {}
    for number, output in server.run(prompt)["outputs"].items():
        files = server.outputs({"outputs": {number: output}})
        found[prompt[number]["_meta"]["title"]] = [Image.open(f).convert("RGB") for f in files]
    return found


def thumbnail(server: Server, title: str, scene: Scene) -> Image.Image:
    """Run the workflow, and lay out what it draws."""
    references = write_inputs(server.base, scene)
    twin = json.loads((EXAMPLES / "api" / f"MMD Guidance - {title}.json").read_text("utf-8"))
    kinds = {node["class_type"] for node in twin.values()}
    changes = {"Negative prompt": {"text": ""}, **scene.changes}
    if not scene.prompted:
        changes["Prompt"] = {"text": ""}
    for kind in {"KSampler", "MMDGuidedKSampler", "CFGGuider"} & kinds:
        changes[kind] = {**changes.get(kind, {}), "cfg": scene.cfg}
    prompt = in_demo_world(twin, scene.world, changes)
    for kind in scene.left_out:
        prompt = without(prompt, kind)
    if scene.watched:
        (number,) = [n for n, node in prompt.items() if node["class_type"] == scene.watched]
        inputs = {"images": [number, 0], "filename_prefix": "watched"}
        meta = {"title": scene.watched}
        prompt["watched"] = {"class_type": "SaveImage", "inputs": inputs, "_meta": meta}
    if "LoadReferenceLatents" in kinds:  # the file must be there before it is loaded
        run(server, without(prompt, "LoadReferenceLatents"))
    pictures = {"references": references, **run(server, prompt)}
    for i in range(1, scene.runs):
        more = run(server, changed(prompt, {"Seed": {"value": 1 + i}}))
        pictures["Guided images"] += more["Guided images"]
    if scene.off:
        plain = run(server, changed(prompt, scene.off))
        pictures["Without guidance"] = plain["Guided images"]
    return scene.page(pictures)


def main() -> int:
    """Draw them all, or those that are named."""
    asked = " ".join(sys.argv[1:]).lower()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with (
        tempfile.TemporaryDirectory() as base,
        Server(
            get_engine(), [("mmd-guidance", ROOT), ("mmd-demo", DEMO)], base=Path(base)
        ) as server,
    ):
        for title, scene in SCENES.items():
            if asked in title.lower():
                path = EXAMPLES / f"MMD Guidance - {title}.jpg"
                path.write_bytes(jpeg(thumbnail(server, title, scene)))
                sys.stdout.write(f"{path.relative_to(ROOT)} {path.stat().st_size}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
