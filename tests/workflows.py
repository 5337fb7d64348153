"""The workflows that this pack ships and that its demo runs; standard library only.

`python tests/workflows.py` writes the shipped files anew, with node schemas asked of ComfyUI.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

if __package__:
    from .workflow_format import Workflow
else:
    from workflow_format import Workflow

ROOT = Path(__file__).absolute().parent.parent
EXAMPLES = ROOT / "example_workflows"
NODE_TYPES = (  # all that a description here uses
    "CheckpointLoaderSimple",
    "CLIPTextEncode",
    "EmptyLatentImage",
    "EncodeReferenceLatents",
    "KSampler",
    "LoadReferenceSet",
    "MMDGuidedKSampler",
    "PreviewAny",
    "PrimitiveInt",
    "SaveImage",
    "SaveLatent",
    "VAEDecode",
)
DEMO_TYPES = ("MMDDemoWorld", "MMDDemoLatent")
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
SD15_FROM = "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
GREEN, RED = ("#232", "#353"), ("#322", "#533")
SAME_FOR_BOTH = ("steps", "cfg", "sampler_name", "scheduler", "denoise")

ABOUT = """\
Draws a batch of images that are distributed like your reference images: their look, and how often \
each kind of look occurs. Nothing is trained.

1. Put reference images, 20 or more, into `ComfyUI/input/mmd_references`. Or use any other folder \
under `input` and name it in *Load Reference Set*.
2. Choose a checkpoint. With SDXL, set width and height to 1024.
3. Write a prompt that fits the references.
4. Run. On the right come images with guidance and, below, without it, from the same noise.

**Strength** (in *MMD Guided KSampler*)

- 0 is off, 10 is a nudge, 30 to 100 is usual.
- Too little effect: raise it.
- Images damaged, or too close to single references: lower it, or lower end_percent to 0.5.

**Batch** (in *Empty Latent Image*)

The images of a batch are drawn together and balance each other: 16 are good, 8 the least. In \
smaller batches each image follows one reference. Out of memory: set micro_batch to 4 or 1, the images stay the same, and mute the group *Without \
guidance*, which draws the whole batch at once.

**Same noise**: both samplers take their seed from *Seed of both*. Keep their steps, cfg, sampler \
and scheduler alike. To save time, mute the group *Without guidance*.
"""
ABOUT_DEMO = """\
A very small diffusion model draws the same noise twice: without guidance and with it.

The nodes *MMD Demo World* and *MMD Demo Latent* are in `tests/demo/pack` of MMD Guidance. Copy or \
link that folder into `ComfyUI/custom_nodes`, copy the references from `tests/demo/references` into \
`ComfyUI/input/mmd_references`, then change the strength and run.
"""


@dataclass(frozen=True)
class Settings:
    """What differs between our workflows; widgets not named here keep their defaults."""

    name: str
    checkpoint: str = SD15
    world: str = ""  # a demo world in place of the checkpoint
    folder: str = "mmd_references"
    positive: str = ""
    negative: str = ""
    width: int = 512
    height: int = 512
    batch: int = 8
    seed: int = 1
    references: Mapping[str, object] = field(default_factory=dict)  # of LoadReferenceSet
    sampler: Mapping[str, object] = field(default_factory=dict)  # of MMDGuidedKSampler


SHIPPED = (
    Settings(
        "MMD Guidance - SD1.5 from a folder",
        positive="a painting of a landscape",
        negative="text, watermark, frame",
    ),
)


def describe(settings: Settings, schemas: Mapping[str, Mapping]) -> Workflow:
    """A batch drawn with guidance, and without it from the same noise."""
    flow = Workflow(settings.name, schemas)
    flow.group()
    flow.note("How to use this", ABOUT_DEMO if settings.world else ABOUT, 460, 520)

    flow.group("1 · Model, size, prompt, seed")
    if settings.world:
        model = flow.add("MMDDemoWorld", "Model", world=settings.world)
        empty = flow.add("MMDDemoLatent", world=settings.world, batch_size=settings.batch)
    else:
        model = flow.add("CheckpointLoaderSimple", ckpt_name=settings.checkpoint)
        if settings.checkpoint == SD15:
            model.models = [{"name": SD15, "url": SD15_FROM + SD15, "directory": "checkpoints"}]
        size = {"width": settings.width, "height": settings.height}
        empty = flow.add("EmptyLatentImage", **size, batch_size=settings.batch)
    texts = (("Prompt", settings.positive, GREEN), ("Negative prompt", settings.negative, RED))
    positive, negative = (
        flow.add("CLIPTextEncode", title, colors=colors, clip=model["clip"], text=text)
        for title, text, colors in texts
    )
    seed = flow.add("PrimitiveInt", "Seed of both", value=settings.seed)

    flow.group("2 · Reference images")
    images = flow.add("LoadReferenceSet", room=280, folder=settings.folder, **settings.references)
    references = flow.add(
        "EncodeReferenceLatents",
        vae=model["vae"],
        reference_set=images["reference_set"],
        target=empty["latent"],
    )

    wires = {"model": model["model"], "seed": seed[0], "latent_image": empty["latent"]}
    wires |= {"positive": positive[0], "negative": negative[0]}
    flow.group("3 · With MMD guidance")
    wires_guided = {**wires, "references": references["references"], **settings.sampler}
    guided = flow.add("MMDGuidedKSampler", **wires_guided)
    flow.add("PreviewAny", "Report", room=190, source=guided["report"])
    _save(flow, "Guided images", "mmd_guided", guided, model)

    flow.group("Without guidance (same seed) · mute to save time", below=True)
    same = {name: guided.value(name) for name in SAME_FOR_BOTH}
    plain = flow.add("KSampler", **wires, **same)
    _save(flow, "Unguided images", "mmd_unguided", plain, model)
    return flow


def _save(flow: Workflow, title: str, prefix: str, sampler, model) -> None:
    flow.column()
    decoded = flow.add("VAEDecode", wide=560, samples=sampler["latent"], vae=model["vae"])
    flow.add("SaveImage", title, wide=560, room=380, images=decoded[0], filename_prefix=prefix)


def shipped_files(schemas: Mapping[str, Mapping]) -> dict[Path, str]:
    """The files in example_workflows, and what must be in them."""
    files = {}
    for settings in SHIPPED:
        flow = describe(settings, schemas)
        for folder, content in ((EXAMPLES, flow.ui()), (EXAMPLES / "api", flow.api())):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            files[folder / f"{settings.name}.json"] = text
    return files


def main() -> int:
    """Write the shipped files."""
    from engine import get_engine  # beside this script
    from server import Server

    with (
        tempfile.TemporaryDirectory() as base,
        Server(get_engine(), [("mmd-guidance", ROOT)], base=Path(base)) as server,
    ):
        schemas = {name: server.object_info(name) for name in NODE_TYPES}
    for path, text in shipped_files(schemas).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
