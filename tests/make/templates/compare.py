"""The same noise without guidance and with it: pictures, curves and scores."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
Draws the same noise without guidance and with it, and shows what the difference is: pictures, curves \
and a score for each.

1. Drag a folder of 20 or more pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`.
2. Write a prompt that fits the references, and run.

**What it tells**

- **MMD²** says how far a batch is from the references as a whole: colors, layout, kinds, and how \
often each occurs. 0 is ideal; an estimate may fall below it. Compare the two scores, not one with \
that of another set.
- **p-value**: how often chance alone would make as great a difference. Below 0.05 the batch can be \
told from the references.
- **Nearest**: each image above the reference nearest to it. If they look like copies, lower strength \
or end_percent.
- The curves show MMD² and the size of guidance from the first step to the last. *Without guidance* is \
the gray one.

**Settings that work**

- Keep both samplers alike but for strength, which is 0 in one of them.
- 16 images or more: scores of smaller batches jump.

**Try next**

- Other settings in place of *Without guidance*: strength 100 against 30, or another end_percent. Up \
to four runs fit into one plot.
"""


def describe(flow: Workflow) -> None:
    """Two samplers, one plot, two scores."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, "a painting of a landscape", seed_title="Seed of both")
    found = parts.references(flow, begun)
    runs = []
    for title, short, strength in (("With", "with", 30.0), ("Without", "without", 0.0)):
        flow.group(f"{len(runs) + 3} · {title} guidance (strength {strength:g})")
        wires = {**begun.wires(), "references": found, "strength": strength}
        sampler = flow.add("MMDGuidedKSampler", f"{title} guidance", **wires)
        parts.report(flow, sampler)
        images = parts.save(flow, f"Images {short} guidance", f"mmd_{short}", sampler, begun.vae)
        runs.append((title, sampler, images))
    (_, guided, images), (_, plain, unguided) = runs
    flow.group("5 · What the difference is")
    plot = flow.add(
        "MMDPlot",
        wide=720,
        room=220,
        trace=plain["trace"],
        images=unguided,
        trace_2=guided["trace"],
        images_2=images,
    )
    shown = {"images": plot["plot"], "filename_prefix": "mmd_comparison"}
    flow.add("SaveImage", "Without and with, and how it went", wide=720, room=620, **shown)
    flow.column()
    for title, sampler, pictures in runs:
        score = flow.add(
            "MMDScore",
            f"Score {title.lower()} guidance",
            wide=460,
            room=300,
            references=found,
            latent=sampler["latent"],
            images=pictures,
        )
        parts.report(flow, score, f"In words: {title.lower()} guidance", room=140, wide=460)
