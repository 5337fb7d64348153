"""A LoRA with which a model draws in few steps what it draws in many: references, training, drawing, file."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

KEPT = "mmd_few_steps"
FILE = f"{KEPT}_00001_.safetensors"
PROMPTS = """\
a photo of a mountain lake
a photo of a street at night
a portrait of an old sailor
a watercolor of flowers in a vase
a photo of a dog in the snow
a castle on a hill, oil painting
a plate of fruit on a table
a robot in a garden, illustration
"""
ABOUT = """\
**Try this first, it costs nothing**: sampler_name dpmpp_2m with scheduler kl_optimal. On our small model of digits, 5 steps \
then come closer to real digits (MMD² .0010) than a LoRA trained for euler (.0058). *5 steps with nothing trained* draws so: \
mute groups 2 and 3 and the LoRA's, and look. With cfg 4 to 7 each step calls the model twice. At 2 steps training pays: .0370 with \
the best sampler, .0032 with a LoRA.

Otherwise train a LoRA for 5 steps (MMD-DDM). The references are the checkpoint's own images of 50 steps, so that it \
becomes faster and nothing else.

1. Choose your checkpoint. Write prompts like those you will draw, one per line: the more different, \
the better.
2. Run. It draws 256 references, saves them, trains, saves the LoRA in `ComfyUI/output/loras`, and draws \
8 images in 5 steps with it and without.
3. Later: press R, choose the file in both nodes of group 5, select that group and press Ctrl+M, which \
switches it on. Switch the other groups off the same way. Or load the file anywhere like any LoRA.

**What it costs**: one update draws 32 images in 5 steps and goes back through all of them, about 640 \
forward passes of the model. 300 updates take as long as drawing 3840 images in 50 steps at cfg 1: hours \
rather than minutes. To see whether all works, run it once with 20 iterations and 32 references.

**Settings to start from**

- SD1.5: as they are. Out of memory: micro_batch 1. Room left: micro_batch 4 or 8 is faster; the result \
stays the same.
- SDXL: width and height 1024, micro_batch 1, features unet.
- learning_rate 0.0001. If MMD² of held-out images (blue in the plot) rises: 0.00003. If it does not move: \
0.0003.
- 256 references or more: few are learned by heart.

**Good to know**

- The LoRA is good for just these steps, sampler, scheduler and cfg. *MMD LoRA Info* tells them, hands steps \
and cfg on, and warns.
- cfg 1 is meant: what cfg 7 does to images is learned from the references.
- MMD² below 0 is possible: an estimate of a small number. Look at the images.
- If you stop it, the best LoRA so far is `mmd_ddm_autosave` in the same folder.
- The saved references can be used again: *Load Reference Latents* in place of *MMD Make References*.
"""


def describe(flow: Workflow) -> None:
    """References of many steps, a training, few steps with and without it, and the file for later."""
    flow.group()
    flow.note("How to use this", ABOUT)
    title = "1 · Model, size, prompts, seed"
    begun = parts.start(flow, PROMPTS, batch=8, many=True, title=title)
    flow.group("2 · References: its own images of 50 steps")
    wires = {"positive": begun.positive, "negative": begun.negative, "latent_image": begun.latent}
    made = flow.add("MMDMakeReferences", model=begun.model, **wires)
    kept = flow.add("SaveReferenceLatents", references=made["references"], filename=KEPT)
    parts.report(flow, kept, "Where they are", room=80)
    some = flow.add("LatentFromBatch", samples=made["latents"], batch_index=0, length=8)
    parts.save(flow, "8 of the references", "mmd_references", some, begun.vae)
    training = parts.trained(flow, begun, kept["references"], KEPT)
    parts.in_few_steps(flow, begun, training["lora"])
    flow.group("5 · Later: draw with the file (muted until there is one)", muted=True)
    given = {name: parts.FEW[name] for name in ("sampler_name", "scheduler")}
    told = flow.add("MMDLoRAInfo", room=80, lora_name=FILE, **given)
    parts.report(flow, told, "What it was trained for", room=160)
    loaded = flow.add("LoraLoaderModelOnly", model=begun.model, lora_name=FILE)
    few = {**given, "steps": told["steps"], "cfg": told["cfg"]}
    drawn = flow.add("KSampler", **{**begun.wires(), "model": loaded[0]}, **few)
    parts.save(flow, "With the file", "mmd_with_file", drawn, begun.vae)
