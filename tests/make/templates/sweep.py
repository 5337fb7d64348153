"""One batch at several strengths, in one picture."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
Draws the same noise at five strengths and puts all into one picture: a row of images for each \
strength, and curves below.

1. Drag a folder of 20 or more pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`.
2. Write a prompt that fits the references, and run. It takes as long as five runs.

**How to read it**

- Look down a column: the same noise, more and more like the references.
- Left curves: MMD² to the references, lower is closer. Where two strengths end alike, the weaker one \
is enough.
- Right curves: the size of guidance, by that of the sampler's own step.
- "nearest" beside each row: how near images come to single references. 0 is a copy, 1 as far as \
references are from each other.

**Choose** the least strength that does what you want, and use it in *MMD Guided KSampler* elsewhere.

**Try next**

- Other strengths in *Strength Sweep (MMD)*: "50, 70, 100, 140". 0 is the batch without guidance.
- 8 images at 20 steps are enough to choose. For a large card and a surer choice: 16.
"""


def describe(flow: Workflow) -> None:
    """A list of strengths makes the sampler, and what follows it, run once for each."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, "a painting of a landscape", batch=8)
    found = parts.references(flow, begun)
    flow.group("3 · Once with each strength")
    strength = flow.add("MMDStrengths")["strength"]
    wires = {**begun.wires(), "references": found, "strength": strength, "steps": 20}
    sampler = flow.add("MMDGuidedKSampler", **wires)
    parts.report(flow, sampler, "Reports")
    flow.group("4 · All in one picture")
    wide = {"wide": 800}
    images = flow.add("VAEDecode", samples=sampler["latent"], vae=begun.vae, **wide)[0]
    plot = flow.add("MMDPlot", room=220, trace=sampler["trace"], images=images, **wide)["plot"]
    flow.add("SaveImage", "The grid", room=680, images=plot, filename_prefix="mmd_sweep", **wide)
