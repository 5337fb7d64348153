"""Writes what a demo run gave: a picture, a report and all images drawn."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import torch
from mmd_tests.demo import report
from mmd_tests.demo.picture import Panel, compose, compose_rows, spread
from mmd_tests.support.server import Server, WorkflowError
from mmd_tests.support.workflow_format import Workflow
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file

LATENTS = ("reference latents", "unguided latents", "guided latents")  # nodes that save them
IMAGES = ("Unguided images", "Guided images")
ABOUT_MMD = "MMD² is 0 for equal distributions; its unbiased estimate can fall a little below."
SHOWN = ("steps", "cfg", "sampler_name", "scheduler", "strength", "mode")


class Outputs:
    """What the nodes of a finished workflow gave, by type or title of the node."""

    def __init__(self, flow: Workflow, server: Server, entry: dict) -> None:
        self.flow, self.server, self.nodes = flow, server, entry["outputs"]

    def files(self, node: str) -> list[Path]:
        number = str(self.flow[node].id)
        if number not in self.nodes:  # ComfyUI runs the valid part of a workflow
            told = re.findall(r"^ *- (.+)", self.server.log_text(), re.M)
            raise WorkflowError(f"ComfyUI could not run the workflow: {'; '.join(told)}.")
        return self.server.outputs({"outputs": {number: self.nodes[number]}})

    def latents(self, node: str) -> torch.Tensor:
        return load_file(self.files(node)[0])["latent_tensor"]

    def text(self, node: str) -> str:
        return self.nodes[str(self.flow[node].id)]["text"][0]


def write(
    outputs: Outputs,
    world: str,
    references: Sequence[Path],
    out: Path,
    workflow: dict,
    told: str,
) -> tuple[Path, str]:
    """Write the results to the folder `out`: the picture's path, and the report."""
    flow = outputs.flow
    name = world or Path(flow["CheckpointLoaderSimple"].value("ckpt_name")).stem
    copy_images(outputs, out / name)
    sets = [read(paths) for paths in (spread(references, 200), *map(outputs.files, IMAGES))]
    latents, *drawn = map(outputs.latents, LATENTS)
    before, after = (report.squared_mmd(each, latents) for each in drawn)

    titles = (f"{len(latents)} references", *report.SETS[1:])
    lines = ("", f"squared MMD {before:.4f}", f"squared MMD {after:.4f}")
    counts = (len(latents), *map(len, drawn))
    panels = [Panel(*each) for each in zip(titles, sets, lines, counts, strict=True)]
    if world == "emoji":
        picture = compose_rows(panels, flow["MMDPrompts"].value("text").splitlines())
    else:
        picture = compose(panels)
    info = PngInfo()  # so that the picture can be dropped into ComfyUI as a workflow
    info.add_text("workflow", json.dumps(workflow))
    picture.save(out / f"{name}.png", pnginfo=info)

    rows = report.judge_rows(world, sets) if world in report.JUDGED else []
    table = report.table([*rows, report.mmd_row(before, after)])
    settings = [f"{key} {flow['MMDGuidedKSampler'].value(key)}" for key in SHOWN]
    settings.insert(0, f"seed {flow['PrimitiveInt'].value('value')}")
    used = f"Settings: {', '.join(settings)}."
    text = "\n\n".join([table, ABOUT_MMD, outputs.text("PreviewAny"), used, told])
    page = f"# {flow.name}\n\n![{', '.join(report.SETS)}]({quote(name)}.png)\n\n{text}\n"
    (out / f"{name}.md").write_text(page, "utf-8")
    return out / f"{name}.png", text


def read(paths: Sequence[Path]) -> list[Image.Image]:
    """The pictures in these files, without files that cannot be read, as the node leaves them out."""
    pictures = []
    for path in paths:
        with suppress(OSError), Image.open(path) as picture:
            pictures.append(ImageOps.exif_transpose(picture).convert("RGB"))
    return pictures


def copy_images(outputs: Outputs, folder: Path) -> None:
    """Copy the images drawn into `folder`, in place of those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, node in zip(("unguided", "guided"), IMAGES, strict=True):
        for old in folder.glob(f"{name}_*.png"):
            old.unlink()
        for number, path in enumerate(outputs.files(node), 1):
            shutil.copyfile(path, folder / f"{name}_{number:03}.png")
