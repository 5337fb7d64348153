"""One folder with captions, and prompts that each follow the references meant by them."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
One folder with pictures of several kinds, and two prompts: each follows mostly the references whose \
captions are like it. Without that, every prompt is drawn towards the whole folder.

1. Drag a folder with pictures of two kinds, say landscapes and portraits, 20 or more of each, onto \
*Reference Folder*.
2. Give each picture a caption: a text file of the same name beside it (`01.jpg`, `01.txt`). Short \
captions that name the kind do best. Names of folders do, too: set caption_source to foldername.
3. Write two prompts in the words of the captions, and run.

**What does it**

- *Encode Reference Latents* has `clip` connected, and encodes the captions with it.
- *MMD Kernel* has prompt_kernel cosine. With none, captions are not used.

**Try next**

- The kinds mix: set prompt_kernel to rbf, and lower prompt_bandwidth.
- One picture per prompt: connect a list of prompts, or draw batches one after the other.
"""
PROMPTS = ("a painting of a landscape", "a portrait of a woman")


def describe(flow: Workflow) -> None:
    """Two prompts, one set."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, PROMPTS[0], batch=8, seed_title="Seed of both")
    second = {"colors": parts.GREEN, "clip": begun.clip, "text": PROMPTS[1]}
    other = flow.add("CLIPTextEncode", "Second prompt", **second)[0]
    found = parts.references(flow, begun, clip=True)
    kernel = flow.add("MMDKernel", prompt_kernel="cosine")["kernel"]
    wires = {**begun.wires(), "references": found, "kernel": kernel}
    for number, which, prompt in ((3, "First", begun.positive), (4, "Second", other)):
        flow.group(f"{number} · {which} prompt, with MMD guidance")
        guided = flow.add("MMDGuidedKSampler", **{**wires, "positive": prompt})
        parts.report(flow, guided)
        name = f"{which} prompt"
        parts.save(flow, f"{name}: images", f"mmd_{which.lower()}", guided, begun.vae)
