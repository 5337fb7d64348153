"""Draws the thumbnails of the shipped workflows by running these in the demonstration worlds.

`python tests/make/thumbnails.py` writes all anew; with words behind, those with one of the words in their name.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401

    if "--in-comfyui" not in sys.argv:  # run by any Python: go on in ComfyUI's
        from mmd_tests.support.launcher import engine_or_exit, go_on

        sys.exit(go_on(engine_or_exit(None), [__file__, "--in-comfyui", *sys.argv[1:]]))


from mmd_tests.make.sets.fluent import Named, emoji
from mmd_tests.make.templates import named
from mmd_tests.make.thumbnail.layouts import MASK, Pictures
from mmd_tests.make.thumbnail.page import jpeg
from mmd_tests.make.thumbnail.scenes import LORA, SCENES, Scene
from mmd_tests.make.workflows import EXAMPLES, ROOT
from mmd_tests.support.demo_lora import write_lora
from mmd_tests.support.engine import get_engine
from mmd_tests.support.server import Server
from mmd_tests.support.stand_in import changed, in_demo_world, without
from PIL import Image

DEMO = ROOT / "tests" / "demo" / "pack"


def write_inputs(base: Path, references: list[Named]) -> None:
    """Put what the workflow reads where it looks for it."""
    folder = base / "input" / "mmd_references"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, (picture, name) in enumerate(references):
        picture.save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(name, "utf-8")
    base_picture().save(base / "input" / "example.png")
    write_lora(base / "models" / "loras" / LORA, "cat", "emoji")


def base_picture() -> Image.Image:
    """The picture to inpaint, transparent where its mask is."""
    picture = next(picture for picture, name in emoji("faces") if name == "nerd face").copy()
    kept = Image.new("L", picture.size, 255)
    kept.paste(0, MASK)
    picture.putalpha(kept)
    return picture


def run(server: Server, prompt: dict) -> Pictures:
    """The pictures that nodes save or show."""
    found = {}
    for number, output in server.run(prompt)["outputs"].items():
        files = server.outputs({"outputs": {number: output}})
        found[prompt[number]["_meta"]["title"]] = [Image.open(f).convert("RGB") for f in files]
    return found


def in_world(title: str, scene: Scene) -> dict:
    """The workflow in the API format, as it is run."""
    twin = json.loads((EXAMPLES / "api" / f"{named(title)}.json").read_text("utf-8"))
    kinds = {node["class_type"] for node in twin.values()}
    changes = {"Negative prompt": {"text": ""}, **scene.changes}
    if scene.prompt or "MMDPrompts" not in kinds:
        changes["Prompt"] = {"text": scene.prompt}
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
    return prompt


def thumbnail(server: Server, title: str, scene: Scene) -> Image.Image:
    """Run the workflow, and lay out what it draws."""
    references = scene.references()
    write_inputs(server.base, references)
    prompt = in_world(title, scene)
    if any(node["class_type"] == "LoadReferenceLatents" for node in prompt.values()):
        run(server, without(prompt, "LoadReferenceLatents"))  # the file must be there first
    pictures = {"references": [each.picture for each in references], **run(server, prompt)}
    pictures["Picture to inpaint"] = [base_picture()]
    for i in range(1, scene.runs):
        more = run(server, changed(prompt, {"Seed": {"value": 1 + i}}))
        pictures["Guided images"] += more["Guided images"]
    if scene.off:
        plain = run(server, changed(prompt, scene.off))
        pictures["Without guidance"] = plain["Guided images"]
    return scene.page(pictures)


def main(asked: list[str]) -> int:
    """Draw them all, or those that are named."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    with (
        tempfile.TemporaryDirectory() as base,
        Server(
            get_engine(), [("mmd-guidance", ROOT), ("mmd-demo", DEMO)], base=Path(base)
        ) as server,
    ):
        for title, scene in SCENES.items():
            if not asked or any(word in title.lower() for word in asked):
                path = EXAMPLES / f"{named(title)}.jpg"
                path.write_bytes(jpeg(thumbnail(server, title, scene)))
                sys.stdout.write(f"{path.relative_to(ROOT)} {path.stat().st_size}\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main([word.lower() for word in sys.argv[1:] if word != "--in-comfyui"]))
