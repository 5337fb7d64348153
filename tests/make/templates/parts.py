"""What several workflows have in common: the model and what is wired to it, references, results."""

from __future__ import annotations

from dataclasses import dataclass

from mmd_tests.support.workflow_format import Link, Node, Workflow

HUGGING_FACE = "https://huggingface.co/"
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
SDXL = "sd_xl_base_1.0.safetensors"
CHECKPOINTS = {  # where the frontend offers to download them from
    SD15: f"{HUGGING_FACE}Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{SD15}",
    SDXL: f"{HUGGING_FACE}stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{SDXL}",
}
FOLDER = "mmd_references"
NEGATIVE = "text, watermark, frame"
GREEN, RED = ("#232", "#353"), ("#322", "#533")
SAME_FOR_BOTH = ("steps", "cfg", "sampler_name", "scheduler", "denoise")
CORE = {"steps": 25, "cfg": 7.0, "sampler_name": "euler_ancestral", "scheduler": "karras"}
FEW = {"steps": 5, "cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform"}
FREE = {**FEW, "sampler_name": "dpmpp_2m", "scheduler": "kl_optimal"}  # the best without training
RESULT = {"wide": 560, "room": 380}  # of a node that shows a batch


@dataclass
class Start:
    """What every sampler is wired to."""

    model: Link
    clip: Link
    vae: Link
    positive: Link
    negative: Link
    seed: Link
    latent: Link | None = None  # where there is none, the workflow makes it itself

    def wires(self) -> dict[str, Link]:
        """The inputs that KSampler and MMDGuidedKSampler have in common."""
        wires = {"model": self.model, "seed": self.seed, "latent_image": self.latent}
        return wires | {"positive": self.positive, "negative": self.negative}


def start(
    flow: Workflow,
    positive: str,
    *,
    negative: str = NEGATIVE,
    checkpoint: str = SD15,
    world: str = "",
    lora: tuple[str, str] | None = None,
    size: tuple[int, int] = (512, 512),
    batch: int = 16,
    many: bool = False,
    seed: int = 1,
    title: str = "1 · Model, size, prompt, seed",
    seed_title: str = "Seed",
) -> Start:
    """The first group: a checkpoint or a demo `world`, a LoRA (name, source), and what they draw.

    Where `batch` is 0 there are no empty latents: the workflow has others. With `many` each line of `positive` is a
    prompt of its own.
    """
    flow.group(title)
    latent = None
    if world:
        model = flow.add("MMDDemoWorld", "Model", world=world)
        latent = flow.add("MMDDemoLatent", world=world, batch_size=batch)[0]
    else:
        model = flow.add("CheckpointLoaderSimple", ckpt_name=checkpoint)
        if checkpoint in CHECKPOINTS:
            offer(model, checkpoint, CHECKPOINTS[checkpoint], "checkpoints")
        if batch:
            width, height = size
            latent = flow.add("EmptyLatentImage", width=width, height=height, batch_size=batch)[0]
    vae = model["vae"]
    if lora:
        model = flow.add("LoraLoader", model=model[0], clip=model[1], lora_name=lora[0])
        offer(model, *lora, "loras")
    clip = model["clip"]
    prompt = ("MMDPrompts", "Prompts, one per line") if many else ("CLIPTextEncode", "Prompt")
    told = [
        flow.add(kind, name, colors=colors, clip=clip, text=text)[0]
        for kind, name, text, colors in (
            (*prompt, positive, GREEN),
            ("CLIPTextEncode", "Negative prompt", negative, RED),
        )
    ]
    seeded = flow.add("PrimitiveInt", seed_title, value=seed)[0]
    return Start(model["model"], clip, vae, *told, seeded, latent)


def offer(node: Node, name: str, url: str, directory: str) -> None:
    """Let the frontend offer a file for download where it is missing."""
    node.models = [{"name": name, "url": url, "directory": directory}]


def references(
    flow: Workflow,
    begun: Start,
    *,
    title: str = "2 · Reference images",
    folder: str = FOLDER,
    clip: bool = False,
    **settings: object,
) -> Link:
    """A group with references from a folder, of the size being drawn, and captions if `clip`."""
    flow.group(title)
    images = flow.add("LoadReferenceSet", room=340, folder=folder, **settings)
    encoded = flow.add(
        "EncodeReferenceLatents",
        vae=begun.vae,
        reference_set=images["reference_set"],
        **({"clip": begun.clip} if clip else {}),
        target=begun.latent,
    )
    return encoded["references"]


def chain(flow: Workflow, begun: Start, title: str, steps: int = 25, cfg: float = 7.0) -> dict:
    """A group with what core's custom samplers are wired to: noise, guider and schedule."""
    flow.group(title)
    noise = flow.add("RandomNoise", noise_seed=begun.seed)
    prompts = {"positive": begun.positive, "negative": begun.negative}
    guider = flow.add("CFGGuider", model=begun.model, **prompts, cfg=cfg)
    sigmas = flow.add("BasicScheduler", model=begun.model, scheduler="karras", steps=steps)
    return {"noise": noise[0], "guider": guider[0], "sigmas": sigmas[0]}


def report(
    flow: Workflow, node: Node, title: str = "Report", room: int = 260, wide: int = 340
) -> Node:
    """What a node tells, shown in words."""
    return flow.add("PreviewAny", title, room=room, wide=wide, source=node["report"])


def save(flow: Workflow, title: str, prefix: str, sampler: Node, vae: Link) -> Link:
    """A new column in which the images drawn are decoded and saved: these images."""
    flow.column()
    wide = RESULT["wide"]
    images = flow.add("VAEDecode", wide=wide, samples=sampler["latent"], vae=vae)[0]
    small = vae.node.type == "MMDDemoWorld"  # the frontend shows pictures no larger than they are
    if small:
        method = {"upscale_method": "nearest-exact", "scale_by": 8.0}
        large = flow.add("ImageScaleBy", wide=wide, image=images, **method)[0]
        flow.add("PreviewImage", f"{title}, enlarged", **RESULT, images=large)
    shown = {"wide": wide, "room": 200} if small else RESULT
    flow.add("SaveImage", title, **shown, images=images, filename_prefix=prefix)
    return images


def without_guidance(flow: Workflow, guided: Node, begun: Start) -> Node:
    """A group more: the same noise drawn by KSampler, as the guided one is set."""
    flow.group("Without guidance (same seed) · mute to save time")
    same = {name: guided.value(name) for name in SAME_FOR_BOTH}
    plain = flow.add("KSampler", **begun.wires(), **same)
    save(flow, "Unguided images", "mmd_unguided", plain, begun.vae)
    return plain


def trained(flow: Workflow, begun: Start, found: Link, kept: str) -> Node:
    """A group that trains a LoRA for few steps, saves it as `kept`, and tells how it went."""
    settings = {name: FEW[name] for name in ("cfg", "sampler_name", "scheduler")}
    flow.group("3 · Train for 5 steps")
    training = flow.add(
        "MMDTrainLoRA",
        wide=400,
        model=begun.model,
        positive=begun.positive,
        references=found,
        steps_per_sample=FEW["steps"],
        **settings,
    )
    flow.column()
    flow.add(
        "MMDSaveLoRA", lora=training["lora"], prefix=f"loras/{kept}", report=training["report"]
    )
    report(flow, training, "How it went", room=400)
    return training


def in_few_steps(flow: Workflow, begun: Start, lora: Link) -> None:
    """Two groups: the same noise in few steps, with a trained LoRA and with what costs nothing."""
    flow.group("4 · 5 steps with the LoRA")
    model = flow.add("LoraModelLoader", model=begun.model, lora=lora)["model"]
    drawn = flow.add("KSampler", **{**begun.wires(), "model": model}, **FEW)
    save(flow, "With the LoRA", "mmd_with_lora", drawn, begun.vae)
    flow.group("5 steps with nothing trained (same seed)", below=True)
    plain = flow.add("KSampler", **begun.wires(), **FREE)
    save(flow, "Without the LoRA", "mmd_without_lora", plain, begun.vae)
