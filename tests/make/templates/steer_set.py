"""Steering towards a set by TRI-TSMC, in one node."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
Steers a checkpoint towards the palette and contrast of your references (TRI-TSMC): images count more the \
likelier they are among the references than among what the model draws by itself. Nothing is trained.

1. Drag a folder of 16 or more pictures onto *Reference Folder*, or put \
it into `ComfyUI/input/mmd_references`.
2. Write a prompt that the references fit, and run. It draws 64 images to hand out 8.

**What happens**

- The first batch of 16 is drawn by the model itself. It fixes the reward: how much likelier an \
image is among the references (MMD witness), in standard deviations.
- Three more batches are steered, each by what all before it taught.
- The 8 of the highest reward are saved (final: best). Below are 8 of the first batch, to compare with.

**Settings that work** (in *Steering Sampler (TRI-TSMC)*)

- reward_scale 2: about as far as the best of 20 images. 3: as the best of 245. Above that raise \
particles too.
- feature_space in *MMD Kernel*: channel_stats compares palette and contrast, low_pass composition too, latent \
everything. The less is compared, the more steering can do.
- The report says what it did and what to change. ESS below 2: lower reward_scale.
- final smc or resample: samples of the tilted model in place of its best. Some may be alike.
- Out of memory: micro_batch 1. The images stay the same.

**This or MMD Guidance?** Here each image is rewarded by itself: a set of several kinds may come out \
as one of them. Guidance makes the whole batch spread like the set, for 16 images in place of 64. Take this \
one where every image must be one that the model itself could draw, with weights you can count on.
"""


def describe(flow: Workflow) -> None:
    """One node, and beside it what the model drew before it was steered."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, "a painting of a landscape", batch=1)
    found = parts.references(flow, begun)
    wires = parts.chain(flow, begun, "3 · Noise, prompts, schedule")
    flow.group("4 · Reward: the palette of the set")
    kernel = flow.add("MMDKernel", feature_space="channel_stats")["kernel"]
    reward = flow.add("TSMCRewardReference", references=found, kernel=kernel)["reward"]
    flow.group("5 · Steered by the reward")
    sampler = flow.add("TRITSMCSampler", **wires, latent=begun.latent, reward=reward, out_count=8)
    flow.column()
    parts.report(flow, sampler, room=440, wide=560)
    images = parts.save(flow, "Steered images", "tsmc_steered", sampler, begun.vae)
    flow.group("The model alone: 8 of the first batch", below=True)
    first = flow.add("LatentFromBatch", samples=sampler["all"], batch_index=0, length=8)
    unsteered = flow.add("VAEDecode", samples=first[0], vae=begun.vae)[0]
    flow.column()
    alone = {"images": unsteered, "filename_prefix": "tsmc_unsteered"}
    flow.add("SaveImage", "Unsteered images", **parts.RESULT, **alone)
    flow.group("6 · How it went")
    plot = flow.add("TSMCPlot", wide=800, room=220, state=sampler["state"], images=images)
    shown = {"images": plot["plot"], "filename_prefix": "tsmc_plot"}
    flow.add("SaveImage", "Images and how it went", wide=800, room=460, **shown)
