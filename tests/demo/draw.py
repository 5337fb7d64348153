"""Draws with and without guidance on a real ComfyUI server, and compares; started by run.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401


import torch
from mmd_tests.demo.results import LATENTS, Outputs, write
from mmd_tests.demo.run import IMAGES, find_files
from mmd_tests.make.workflows import DEMO_TYPES, NODE_TYPES, SHIPPED, Settings, describe
from mmd_tests.support.engine import Engine
from mmd_tests.support.server import Server, ServerError, WorkflowError
from mmd_tests.support.venvs import say, step
from mmd_tests.support.workflow_format import Workflow

DEMO = Path(__file__).absolute().parent
ROOT = DEMO.parent.parent
UNCONDITIONAL = {"cfg": 1.0, "sampler_name": "euler_ancestral", "scheduler": "karras"}
# Matches kinds and proportions best, and there is no prompt to keep.
PROPORTIONS = {"strength": 100.0, "mode": "flow"}
PROMPTS = (  # none of them is the name of a reference
    "grinning face",
    "cat face",
    "panda",
    "red heart",
    "blue square",
    "soccer ball",
    "tomato",
    "green apple",
    "banana",
    "sunflower",
    "evergreen tree",
    "umbrella",
    "automobile",
    "house",
    "light bulb",
    "ghost",
)
DEMOS = {
    "emoji": Settings(
        "MMD Guidance - demo emoji",
        world="emoji",
        positive="\n".join(PROMPTS),
        many=True,
        batch=16,
        seed=1,
        sampler={**UNCONDITIONAL, "steps": 25, "cfg": 4.0},
    ),
    "shapes": Settings(
        "MMD Guidance - demo shapes",
        world="shapes",
        batch=32,
        seed=1,
        sampler={"steps": 25, **UNCONDITIONAL, **PROPORTIONS},
    ),
    "digits": Settings(
        "MMD Guidance - demo digits",
        world="digits",
        batch=128,
        seed=1,
        sampler={"steps": 40, **UNCONDITIONAL, **PROPORTIONS},
    ),
}
PATIENCE = 24 * 3600.0  # seconds: a checkpoint on a CPU takes its time
CAPTIONS = ("txt", "caption", "jsonl", "json")


def settings_of(options: dict) -> Settings:
    """The workflow's settings: the demo world's or the shipped example's, changed as asked."""
    if options["world"]:
        settings = DEMOS[options["world"]]
    else:
        names = ("positive", "negative", "width", "height")
        own = {name: options[name] for name in names if options.get(name) is not None}
        file = Path(options["checkpoint"])
        own |= {"name": f"MMD Guidance - {file.stem}", "checkpoint": file.name}
        settings = replace(SHIPPED[0], **own)
    changed = {name: options[name] for name in ("batch", "seed") if options.get(name) is not None}
    sampler = {**settings.sampler, **options.get("sampler", {})}
    return replace(settings, sampler=sampler, **changed)


def references_of(options: dict) -> Path:
    """The folder of reference images."""
    return (
        DEMO / "references" / options["world"] if options["world"] else Path(options["references"])
    )


def prepare(base: Path, options: dict) -> tuple[str, ...]:
    """Put what the server needs into its folder, and return the server's arguments."""
    source, target = references_of(options), base / "input" / "mmd_references"
    for path in find_files(source, (*IMAGES, *CAPTIONS)):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(path, copy)
    if options["world"]:
        return ("--cpu",)
    paths = {"demo": {"checkpoints": str(Path(options["checkpoint"]).parent)}}
    (base / "paths.yaml").write_text(json.dumps(paths), "utf-8")  # JSON is YAML
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return (
        "--extra-model-paths-config",
        str(base / "paths.yaml"),
        *(() if has_gpu else ("--cpu",)),
    )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def with_latents_saved(flow: Workflow) -> dict:
    """The workflow in the API format, with nodes that save what the report is computed from."""
    flow.group()
    sources = (
        flow["EncodeReferenceLatents"]["latents"],
        flow["KSampler"]["latent"],
        flow["MMDGuidedKSampler"]["latent"],
    )
    for title, source in zip(LATENTS, sources, strict=True):
        flow.add("SaveLatent", title, samples=source, filename_prefix=title)
    return flow.api()


def how_far(log: str, steps: int) -> tuple[int, int]:
    """Which batch the server is drawing, and at which step it is, both counted from 1."""
    batch = last = 0
    for found in re.finditer(rf"(\d+)/{steps} \[", log):  # of the server's progress bars
        now = int(found[1])
        batch += not batch or now < last
        last = now
    return batch, last


@contextmanager
def progress(server: Server, steps: int) -> Iterator[None]:
    """Show how far the server is, four times for each batch."""
    done = threading.Event()

    def watch() -> None:
        shown = (0, 0)
        while not done.wait(0.5):
            batch, now = how_far(server.log_text(), steps)
            quarter = (batch, 4 * now // steps)
            if quarter > shown and quarter[1]:
                shown = quarter
                say(f"      batch {batch} of 2, step {now} of {steps}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def draw(options: dict, engine: Engine) -> tuple[Path, str]:
    """Draw, and write a picture, a report and all images: the picture's path, the report."""
    settings, world = settings_of(options), options["world"]
    Path(options["out"]).mkdir(parents=True, exist_ok=True)  # before the work, if it fails
    types_ = [*NODE_TYPES, *(DEMO_TYPES if world else ())]
    packs = [("mmd-guidance", ROOT), *([("mmd-demo", DEMO / "pack")] if world else [])]
    with ExitStack() as stack:
        temp = tempfile.TemporaryDirectory(prefix="mmd-demo-", ignore_cleanup_errors=True)
        base = Path(stack.enter_context(temp))
        args = prepare(base, options)
        device = "CPU" if "--cpu" in args else "graphics card"
        with step(f"starting ComfyUI {engine.version} on the {device}"):
            server = stack.enter_context(Server(engine, packs, base=base, args=args))
            flow = describe(settings, {kind: server.object_info(kind) for kind in types_})
        workflow, prompt = flow.ui(), with_latents_saved(flow)
        began = time.monotonic()
        with step(_label(settings)), progress(server, flow["MMDGuidedKSampler"].value("steps")):
            entry = server.wait(server.queue(prompt, workflow), PATIENCE)
        seconds = time.monotonic() - began
        told = f"ComfyUI {engine.version} on the {device}; drawn in {seconds:.0f} s."
        outputs = Outputs(flow, server, entry)
        references = find_files(references_of(options), IMAGES)
        return write(outputs, world, references, Path(options["out"]), workflow, told)


def _label(settings: Settings) -> str:
    size = "" if settings.world else f" of {settings.width}x{settings.height}"
    return f"drawing {settings.batch} pictures{size} twice: without guidance, and with it"


def main() -> int:
    """Draw what the first argument, in JSON, asks for, and show the report."""
    began, options = time.monotonic(), json.loads(sys.argv[1])
    engine = {**options["engine"]}
    engine |= {key: Path(engine[key]) for key in ("path", "python")}
    try:
        picture, text = draw(options, Engine(**engine))
    except (ServerError, WorkflowError, OSError, ValueError) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    say(f"all done in {time.monotonic() - began:.0f} s\n")
    report = picture.with_suffix(".md")
    sys.stdout.write(f"{text}\n\nPicture: {picture}\nReport: {report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
