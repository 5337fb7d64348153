"""A batch from a folder of references: with SD1.5, with SDXL, on a small card, in a demo world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
Draws a batch of images that are distributed like your reference images: their look, and how often \
each kind of look occurs. Nothing is trained.

1. Drag a folder of 20 or more pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`.
2. Choose a checkpoint. With SDXL, set width and height to 1024.
3. Write a prompt that fits the references.
4. Run. On the right come images with guidance and, beside them, without it, from the same noise.

**Strength** (in *MMD Guided KSampler*)

- 0 is off, 10 is a nudge, 30 is usual. 100 matches kinds and proportions best.
- Mode keep_prompt (advanced) keeps your prompt; it needs a cfg above 1.
- Too little effect: raise it.
- Images damaged, or too close to single references: lower it, or lower end_percent to 0.5.

**Few pictures** (below 20): set strength to 10 and end_percent to 0.5, or images come near single \
pictures. With captions of things that the model can draw, connect *MMD Base Images* instead.

**Batch** (in *Empty Latent Image*)

The images of a batch are drawn together and balance each other: 16 are good, 8 the least. In \
smaller batches each image follows one reference. micro_batch 4 draws four at a time, so that a small \
card has room; the images stay the same. Out of memory: set it to 1, and mute the group *Without \
guidance*, which draws the whole batch at once.

**Same noise**: both samplers take their seed from *Seed of both*. Keep their steps, cfg, sampler \
and scheduler alike. To save time, mute the group *Without guidance*.
"""
ABOUT_DEMO = """\
A very small diffusion model draws the same noise twice: without guidance and with it.

The nodes *MMD Demo World* and *MMD Demo Latent* are in `tests/demo/pack` of MMD Guidance. \
Link it into `ComfyUI/custom_nodes`, copy `tests/demo/references/digits` to \
`ComfyUI/input/mmd_references`, and run.
"""
ABOUT_SDXL = """\
SDXL draws 16 images that are distributed like your reference images. Nothing is trained.

1. Drag a folder of 20 to 500 reference pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`. They may have any size; at least 1024 pixels is best.
2. Write a prompt that fits the references.
3. Run. Encoding the references takes a while the first time; after that they come from the cache.

**Settings that work**

- Batch 16 and micro_batch 4: all 16 images balance each other, and the card needs the memory of 4. \
Out of memory: micro_batch 1. With 24 GB or more: 8, which is a little faster.
- strength 30. Images too close to single references: 10, or end_percent 0.5.
- 20 to 30 steps, cfg 5 to 7.

**Try next**

- *Compare with and without* shows what guidance did, in numbers, too.
- Set strength to 0 and run again: the same noise without guidance.
"""
ABOUT_SMALL = """\
Draws 32 images that balance each other, on a card with room for two.

1. Drag a folder of 20 or more pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`.
2. Write a prompt that fits the references, and run.

**Two settings save memory** (in *MMD Guided KSampler*)

- **micro_batch** 2 sends two images at a time through the model. Guidance still sees all of them, \
and the images are the same as without it. 1 takes the least memory. It costs a little time, no \
quality: set this first.
- **group_size** 16 draws 16 images to the end before the next 16 begin. Finished ones are \
remembered, so that the next group fills in what is missing. It is for batches of which not even the \
latents fit: take 0 (all at once) if you can, and never less than 8.

**Try next**

- Still out of memory: draw smaller images, and start ComfyUI with `--lowvram`.
- Hundreds of images: raise batch_size only. The memory stays that of one group.
"""


@dataclass(frozen=True)
class Settings:
    """What differs between workflows; widgets not named here keep their defaults."""

    name: str
    checkpoint: str = parts.SD15
    world: str = ""  # a demo world in place of the checkpoint
    folder: str = parts.FOLDER
    positive: str = ""
    many: bool = False  # each line of `positive` is a prompt of its own
    negative: str = ""
    width: int = 512
    height: int = 512
    batch: int = 8
    seed: int = 1
    references: Mapping[str, object] = field(default_factory=dict)  # of LoadReferenceSet
    sampler: Mapping[str, object] = field(default_factory=dict)  # of MMDGuidedKSampler


FIRST = Settings(
    "01 SD1.5 from a folder",
    positive="a painting of a landscape",
    negative=parts.NEGATIVE,
    batch=16,
    sampler={"micro_batch": 4},
)


def first(flow: Workflow) -> None:
    """The workflow to begin with."""
    compare(flow, FIRST)


def describe(settings: Settings, schemas: Mapping[str, Mapping]) -> Workflow:
    """A batch drawn with guidance, and without it from the same noise."""
    flow = Workflow(settings.name, schemas)
    compare(flow, settings)
    return flow


def compare(flow: Workflow, settings: Settings) -> None:
    """The same noise with guidance, and beside it without."""
    flow.group()
    flow.note("How to use this", ABOUT_DEMO if settings.world else ABOUT)
    begun = parts.start(
        flow,
        settings.positive,
        many=settings.many,
        negative=settings.negative,
        checkpoint=settings.checkpoint,
        world=settings.world,
        size=(settings.width, settings.height),
        batch=settings.batch,
        seed=settings.seed,
        seed_title="Seed of both",
    )
    found = parts.references(flow, begun, folder=settings.folder, **settings.references)
    flow.group("3 · With MMD guidance")
    wires = {**begun.wires(), "references": found, **settings.sampler}
    guided = flow.add("MMDGuidedKSampler", **wires)
    parts.report(flow, guided)
    parts.save(flow, "Guided images", "mmd_guided", guided, begun.vae)
    parts.without_guidance(flow, guided, begun)


def sdxl(flow: Workflow) -> None:
    """Large pictures, a few at a time."""
    flow.group()
    flow.note("How to use this", ABOUT_SDXL)
    size = {"checkpoint": parts.SDXL, "size": (1024, 1024), "batch": 16}
    begun = parts.start(flow, "a painting of a landscape", **size)
    _guided(flow, begun, "3 · With MMD guidance, 4 images at a time", micro_batch=4)


def small_card(flow: Workflow) -> None:
    """Many pictures in little memory."""
    flow.group()
    flow.note("How to use this", ABOUT_SMALL)
    begun = parts.start(flow, "a painting of a landscape", batch=32)
    title = "3 · 32 images, 2 at a time, in groups of 16"
    _guided(flow, begun, title, micro_batch=2, group_size=16)


def _guided(flow: Workflow, begun: parts.Start, title: str, **settings: object) -> None:
    found = parts.references(flow, begun)
    flow.group(title)
    guided = flow.add("MMDGuidedKSampler", **begun.wires(), references=found, **settings)
    parts.report(flow, guided)
    parts.save(flow, "Guided images", "mmd_guided", guided, begun.vae)
