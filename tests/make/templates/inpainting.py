"""Many ways to fill a hole, distributed like the references."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

BATCH = 8
ABOUT = """\
Fills the masked part of a picture eight times. What is drawn there follows the references; the rest \
of the picture stays.

1. Drag a folder of pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`: whole pictures that show how the result \
should look.
2. Choose a picture in *Load Image*. Right-click it, *Open in Mask Editor*, and paint over what is to \
be drawn anew. Without a mask everything is kept.
3. Write a prompt for the whole picture, and run.

**Settings that work**

- denoise 1 draws the masked part from nothing; 0.6 keeps its rough shape.
- strength 30; 100 for more. The picture around the mask counts in the comparison, so what is drawn fits both it \
and the references.
- Edges that show: a softer mask, or a checkpoint made for inpainting with *InpaintModelConditioning*.

**Try next**

- More ways to fill it: raise amount in *Repeat Latent Batch*. Less than 8 at once, and each \
follows a single reference.
- Only colors and strokes of the references, not their layout: add *MMD Kernel* with feature_space \
patches.
"""


def describe(flow: Workflow) -> None:
    """One picture and its mask, as a batch."""
    flow.group()
    flow.note("How to use this", ABOUT)
    title = "1 · Model, prompt, seed"
    prompt = "a painting of a landscape with a house"
    begun = parts.start(flow, prompt, batch=0, title=title, seed_title="Seed of both")
    flow.group("2 · The picture and its mask")
    loaded = flow.add("LoadImage", "Picture (paint a mask)", room=300, image="example.png")
    scaled = flow.add(
        "ImageScaleToTotalPixels",
        "Size being drawn",
        image=loaded["image"],
        upscale_method="lanczos",
        megapixels=0.25,
    )
    pixels = flow.add("VAEEncode", pixels=scaled[0], vae=begun.vae)
    masked = flow.add("SetLatentNoiseMask", samples=pixels[0], mask=loaded["mask"])
    begun.latent = flow.add("RepeatLatentBatch", samples=masked[0], amount=BATCH)[0]
    found = parts.references(flow, begun, title="3 · Reference images")
    flow.group("4 · With MMD guidance")
    guided = flow.add("MMDGuidedKSampler", **begun.wires(), references=found)
    parts.report(flow, guided)
    parts.save(flow, "Guided images", "mmd_inpainted", guided, begun.vae)
    parts.without_guidance(flow, guided, begun)
