"""A batch as varied as pictures that the model itself draws to several prompts."""

from __future__ import annotations

from mmd_tests.make.templates import parts
from mmd_tests.support.workflow_format import Workflow

ABOUT = """\
For models that draw the same picture again and again. First the model draws a few pictures to each \
of four prompts that say what is to vary. Then it draws a batch to *your* prompt, spread like these \
pictures. No folder is needed.

1. Write your prompt, as short as you like.
2. Write it four more times in *Draws varied pictures*, each time with other light, place, colors, age or \
distance. This node stands for several: the button at its top right shows them.
3. Run. The varied pictures are drawn once; another *Seed* draws only the batch anew.

**What to expect, honestly**

- A batch becomes as varied as its references, no more. The same prompt with other seeds, or a folder \
of pictures that are all alike, changes nothing.
- Colors, light and layout come over best, kinds of things less, because latents are compared. What \
must vary, name in the prompts.
- No image follows a single one of the four prompts, as with a random prompt for each image: the batch \
as a whole does, and your prompt still counts for all.

**Settings that work**

- 16 images or more; strength 30, and 100 for more variety. If images fade: end_percent 0.5.
- For 4 to 8 steps (distilled models) set the same steps in all three sampling nodes, or draw the varied pictures \
with the full model: it only must have the same VAE.

**Try next**

- More of one kind: raise its share in *Merge References*.
- A folder of varied pictures instead: *Reference Folder* into *Encode Reference Latents*.
- Keep the set: add *Save Reference Latents*.
- No layout from the references: add *MMD Kernel* with feature_space palette.
"""
PROMPT = "a portrait of a person"
VARIED = (
    "a portrait of an old man in a dark room, warm lamp light",
    "a portrait of a young woman in a green forest, seen from afar",
    "a portrait of a child on a bright beach, blue sky",
    "a close portrait of a woman in a red coat, snow, night",
)
EACH = 8


def describe(flow: Workflow) -> None:
    """Four small batches become the references of a large one."""
    flow.group()
    flow.note("How to use this", ABOUT)
    begun = parts.start(flow, PROMPT, seed_title="Seed of both")
    flow.group("2 · Varied pictures, drawn once")
    size = {"width": 512, "height": 512, "batch_size": EACH}
    few = flow.add("EmptyLatentImage", "How many to each prompt", **size)[0]
    with flow.part("Draws varied pictures", wide=400) as part:
        clip = part.take("clip", begun.clip)
        wires = {"model": part.take("model", begun.model)}
        wires |= {"negative": part.take("negative", begun.negative)}
        wires |= {"latent_image": part.take("how many", few)}
        told = []
        for i, text in enumerate(VARIED, 1):
            given = {"clip": clip, "text": part.take(f"variation {i}", text)}
            told.append(flow.add("CLIPTextEncode", f"Variation {i}", colors=parts.GREEN, **given))
        wires |= {name: part.take(name, value) for name, value in parts.CORE.items()}
        flow.column()
        drawn = [
            flow.add("KSampler", f"Draws variation {i}", **wires, positive=prompt[0], seed=i)
            for i, prompt in enumerate(told, 1)
        ]
        flow.column()
        for i, latents in enumerate(drawn, 1):
            title = f"Variation {i} as references"
            encoded = flow.add("EncodeReferenceLatents", title, encoded=latents[0])
            part.give(f"variation {i}", encoded[0])
    flow.column()
    sets = [part[i] for i in range(len(VARIED))]
    named = {f"references_{label}": each for label, each in zip("abcd", sets, strict=True)}
    merged = flow.add("MergeReferences", "All of them, and their shares", **named)[0]
    sheet = flow.add("ReferencePreview", room=210, references=merged, vae=begun.vae)["sheet"]
    flow.add("PreviewImage", "Varied pictures", wide=460, room=460, images=sheet)
    flow.group("3 · Your prompt, as varied as these")
    guided = flow.add("MMDGuidedKSampler", **begun.wires(), references=merged)
    parts.report(flow, guided)
    parts.save(flow, "Varied batch", "mmd_varied", guided, begun.vae)
    parts.without_guidance(flow, guided, begun)
