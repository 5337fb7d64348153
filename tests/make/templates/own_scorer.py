"""Steering by a scorer that is itself made of nodes, step by step."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
Steers a checkpoint by scores of your own nodes (TRI-TSMC): anything that makes one number of an image, \
higher is better.

1. Write a prompt, and run. As it is, dark images score high.
2. Then put your scorer in place of the three *TSMC Score Images*: it takes the images of VAE Decode, and gives a \
list of FLOATs, one for each image in their order, to `scores` of *TSMC Update*. Aesthetic scorers, \
detectors, image-text likeness: its scale does not matter.

**What happens**

- *TSMC Propose* draws a batch, the scorer scores it, *TSMC Update* learns from the scores. Three times.
- The first batch is the model's own and has twice as many images: a regression of its scores turns the \
images of the next ones (feature: surrogate). Nothing needs a gradient.
- *TSMC Select* takes the best of all 64.

**Settings that work**

- One more round: copy a group with its three nodes, and wire it in. Each costs 16 images.
- mode resample in *TSMC Select*: samples of the tilted model, in place of its best.
- reward_scale 2 to 3 in *TSMC Init*. At more, images please the scorer and nobody else: look at them.
- The first batch is cached: change what comes after it, and it is not drawn again.

**Good to know**: scores alone tell less than a gradient does. Where the report shows hardly more reward \
in the second batch than in the first, this is no better than the best of so many images.
"""
BATCHES = ("First batch: the model alone", "Second batch", "Third batch")


def describe(flow: Workflow) -> None:
    """Three times: draw, score, learn."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, "a photo of a street in a city", batch=1, seed=1)
    wires = parts.chain(flow, begun, "2 · Noise, prompts, schedule, run", steps=20)
    guider = wires.pop("guider")
    settings = {"iterations": len(BATCHES) - 1}
    state = flow.add("TSMCInit", **wires, latent=begun.latent, **settings)["state"]
    flow.group("3 · What counts · your scorer in its place")
    stats = {"statistic": "brightness", "direction": "less"}
    reward = flow.add("TSMCRewardImageStats", vae=begun.vae, **stats)["reward"]
    for number, title in enumerate(BATCHES, 4):
        flow.group(f"{number} · {title}")
        drawn = flow.add("TSMCPropose", state=state, guider=guider)
        images = flow.add("VAEDecode", samples=drawn["latent"], vae=begun.vae)[0]
        flow.add("PreviewImage", title.partition(":")[0], room=200, images=images)
        scores = flow.add("TSMCScoreImages", images=images, reward=reward)["scores"]
        learned = flow.add("TSMCUpdate", state=drawn["state"], scores=scores)
        state = learned["state"]
    flow.group("7 · The best of all")
    chosen = flow.add("TSMCSelect", state=state, count=8)
    parts.report(flow, chosen, room=440, wide=460)
    images = parts.save(flow, "Steered images", "tsmc_steered", chosen, begun.vae)
    flow.column()
    plot = flow.add("TSMCPlot", wide=800, room=220, state=state, images=images)
    shown = {"images": plot["plot"], "filename_prefix": "tsmc_plot"}
    flow.add("SaveImage", "Images and how it went", wide=800, room=460, **shown)
