"""A LoRA with which a model draws like the user's own pictures, and in few steps."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
Trains a LoRA with which a checkpoint draws like your pictures, and in 5 steps at once (MMD-DDM). The pictures \
need no captions.

**Only faster?** Try what costs nothing first: sampler_name dpmpp_2m with scheduler kl_optimal, as *5 steps with nothing trained* \
draws. On our small model of digits that beats a LoRA trained for euler.

1. Drag a folder of some hundred pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`. A set saved as a file: *Load Reference Latents* in place of group 2.
2. Write the prompt that you will draw with, and run. It trains, saves the LoRA in `ComfyUI/output/loras`, and draws \
8 images in 5 steps with it and without.

**What is learned**: to draw batches that, as a whole, look like your set: colors, layout, kinds, and how often each \
occurs. No image is to copy a certain picture, as in other LoRA training.

**Settings to start from**

- SD1.5: as they are. SDXL: width and height 1024, micro_batch 1, features unet.
- features latent follows colors and layout closely. features unet follows more what is shown, \
and less where. pyramid lies between.
- learning_rate 0.0001; 300 iterations. The report and the plot tell whether held-out pictures were matched \
better, and from which update on worse: that one is kept.
- Out of memory: micro_batch 1.

**Few pictures?** Below 200 or so it learns them by heart: images come out like single pictures, in their exact shares. \
Then take guidance instead, which trains nothing (*SD1.5 from a folder*).

**Several prompts**: *MMD Prompts* in place of the prompt; *Encode Reference Latents* with captions and clip, so that \
each prompt is matched with its own pictures.

**Good to know**

- The LoRA is good for just these steps, sampler, scheduler and cfg.
- Training costs about 640 forward passes an update: as long as drawing 13 images in 50 steps at cfg 1.
- If you stop it, the best LoRA so far is `mmd_ddm_autosave` in `ComfyUI/output/loras`.
- A LoRA on *model* counts while training: put *Load LoRA* before it, and use both afterwards.
"""


def describe(flow: Workflow) -> None:
    """The user's pictures, a training, few steps with and without it."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, "a painting of a landscape", batch=8)
    found = parts.references(flow, begun)
    training = parts.trained(flow, begun, found, "mmd_fast_set")
    parts.in_few_steps(flow, begun, training["lora"])
