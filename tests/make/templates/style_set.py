"""References as one file: made here, used anywhere."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Link, Workflow

ABOUT = """\
Turns a folder of pictures into one small file, and draws with such a file. Who has the file does not \
need the pictures.

**Make a set**

1. Drag a folder of pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`.
2. Run. *Save Reference Latents* tells the name of the file, in `ComfyUI/models/mmd_references`.

**Use a set**, yours or somebody else's

1. Put the file into `ComfyUI/models/mmd_references`, press R, and choose it in *Load Reference \
Latents*.
2. Select the group *4 · Draw with a set* and press Ctrl+M, which switches it on. Switch groups 2 \
and 3 off the same way.
3. Write a prompt, and run.

**Good to know**

- A set is for one family of models (its VAE) and one size of image. Set width and height of *Empty \
Latent Image* to those of the set, which its report names.
- The file holds latents, captions and very small previews of the pictures. Share it only if you may \
share the pictures. It holds no code: nothing in it can run.
- dtype float16 halves the file.

**Try next**

- *Merge References* joins two sets by share; *Compress References* makes thousands of pictures a \
hundred.
"""


def describe(flow: Workflow) -> None:
    """A half that saves, and a half, muted at first, that loads."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, "a painting of a landscape", batch=8)
    found = parts.references(flow, begun)
    flow.group("3 · Save them as one file")
    saved = flow.add("SaveReferenceLatents", references=found, filename="my_style")
    parts.report(flow, saved, "Where it is", room=80)
    _sheet(flow, saved["references"], "What was saved")
    flow.group("4 · Draw with a set (muted until there is one)", muted=True)
    loaded = flow.add("LoadReferenceLatents", file="my_style.safetensors")
    parts.report(flow, loaded, "What is in it", room=80)
    _sheet(flow, loaded["references"], "What was loaded")
    flow.column()
    # The set may be from anybody: the VAE tells whether it fits.
    wires = {**begun.wires(), "references": loaded["references"], "vae": begun.vae}
    guided = flow.add("MMDGuidedKSampler", **wires)
    parts.report(flow, guided)
    parts.save(flow, "Guided images", "mmd_guided", guided, begun.vae)


def _sheet(flow: Workflow, references: Link, title: str) -> None:
    sheet = flow.add("ReferencePreview", room=210, references=references)["sheet"]
    flow.add("PreviewImage", title, room=300, images=sheet)
