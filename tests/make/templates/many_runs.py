"""One batch over many queue runs, or over several machines."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
Draws 8 images at a time, as often as you like, and all of them together are distributed like your \
reference images: each run fills in what the runs before it left out.

1. Drag a folder of 20 or more pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`.
2. Write a prompt that fits the references.
3. Set the number beside *Run* to 4 or more, and run. *Seed* changes by itself with each run.

**MMD Memory** keeps the finished images of the memory that it names.

- **load and append** counts what is remembered, and adds what is drawn.
- **load** adds nothing; **append** counts nothing.
- **reset**, run once, forgets all. Do so, or take another name, for other references, another size \
or another prompt.

**Several machines**: name the same folder on a network drive as `mmd_memories` in \
`extra_model_paths.yaml` of each, and give the memory the same name.

**Try next**

- Out of memory: micro_batch 4 or 1. Take 8 images or more per run: fewer follow one reference each, \
one that those remembered lack.
- The output *latents* of *MMD Memory* is all that is remembered: decode it to see the whole batch.
"""


def describe(flow: Workflow) -> None:
    """What is drawn is remembered, and counts in the next run."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, "a painting of a landscape", batch=8)
    begun.seed.node.control = "randomize"
    found = parts.references(flow, begun)
    flow.group("3 · 8 more images, together with all so far")
    memory = flow.add("MMDMemory", name="my_batch")
    guided = flow.add(
        "MMDGuidedKSampler", **begun.wires(), references=found, memory=memory["memory"]
    )
    parts.report(flow, guided)
    parts.save(flow, "Guided images", "mmd_guided", guided, begun.vae)
