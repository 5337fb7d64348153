"""Guidance together with a LoRA and a ControlNet, drawn by core's own sampler."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

LORA = "theovercomer8sContrastFix_sd15.safetensors"
LORA_FROM = "https://civitai.com/api/download/models/10638"
CONTROLNET = "control_v11p_sd15_canny_fp16.safetensors"
CONTROLNET_FROM = (
    f"{parts.HUGGING_FACE}comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/{CONTROLNET}"
)
ABOUT = """\
A LoRA, a ControlNet and references in one picture. *Style Guidance (MMD)* works on the MODEL wire, so \
that any sampler node can follow it.

1. Drag a folder of 20 or more pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`.
2. Choose a LoRA, a ControlNet and a picture whose outlines the images are to follow.
3. Write a prompt that fits all of them, and run.

**Who does what**

- The LoRA brings what it was trained on. It comes before *Style Guidance (MMD)*.
- The ControlNet holds the outlines. It is on the prompts, and guidance does not touch it.
- The references bring colors, light and textures, and how often each occurs in the batch.

**Settings that work**

- ControlNet strength 0.6 to 0.8, end_percent 0.8: so much that outlines hold, so little that the \
references still matter.
- strength 30. If it works against the outlines, add *MMD Kernel* with feature_space \
palette (colors) or patches (strokes): these leave the layout alone.

**Try next**

- Bypass the LoRA, the ControlNet or *Style Guidance (MMD)* (Ctrl+B), one at a time, with the same seed.
- The same MODEL goes into *SamplerCustomAdvanced* and into detailer and upscaler nodes.
"""


def describe(flow: Workflow) -> None:
    """LoRA, then guidance, on the model; ControlNet on the prompts."""
    flow.group()
    flow.note("How to use this", ABOUT)
    title = "1 · Model, LoRA, size, prompt, seed"
    prompt = "a photo of a house by the sea"
    begun = parts.start(flow, prompt, lora=(LORA, LORA_FROM), batch=8, title=title)
    found = parts.references(flow, begun)
    flow.group("3 · ControlNet")
    picture = flow.add("LoadImage", "Picture to follow", room=300, image="example.png")
    edges = flow.add("Canny", "Its outlines", image=picture["image"])
    net = flow.add("ControlNetLoader", control_net_name=CONTROLNET)
    parts.offer(net, CONTROLNET, CONTROLNET_FROM, "controlnet")
    held = flow.add(
        "ControlNetApplyAdvanced",
        positive=begun.positive,
        negative=begun.negative,
        control_net=net[0],
        image=edges[0],
        strength=0.7,
        end_percent=0.8,
    )
    flow.group("4 · Guidance on the model, then any sampler")
    guided = flow.add("ApplyMMDGuidance", model=begun.model, references=found)
    prompts = {"positive": held["positive"], "negative": held["negative"]}
    wires = {**begun.wires(), **prompts, "model": guided["model"]}
    drawn = flow.add("KSampler", **wires, **parts.CORE)
    parts.save(flow, "Guided images", "mmd_guided", drawn, begun.vae)
