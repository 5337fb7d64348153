"""Draws runs of fixed seeds through the nodes of the pack, and prints a digest of what each gives.

Two checkouts that do the same print the same, wherever their files lie: nodes are found by their
ids, through the entry point that ComfyUI calls. Nothing else of the pack is imported.

    python fixed_seeds.py --pack BEFORE --write before.json
    python fixed_seeds.py --pack AFTER --against before.json

Digests are comparable on one machine with one ComfyUI and PyTorch. Lines that begin with "words:"
hold texts and pictures with texts in them; --against lists where they differ and does not count it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("MMD_GUIDANCE_CACHE", Path.home() / ".cache" / "mmd-guidance"))
WORDS = "words: "
# Sums must not depend on how many threads there are, or on where memory happens to lie.
SINGLE = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
SINGLE |= {"MKL_CBWR": "COMPATIBLE", "PYTHONHASHSEED": "0"}


# ---- digests


def pieces(value: Any) -> Iterator[bytes]:
    """All numbers, texts and tensors of a value, in order; other objects are left out."""
    import torch

    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        yield f"tensor {tensor.dtype} {tuple(tensor.shape)}".encode()
        yield tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, float):
        yield struct.pack("<d", value)
    elif value is None or isinstance(value, (bool, int, str)):
        yield repr(value).encode()
    elif is_dataclass(value) and not isinstance(value, type):
        yield from pieces([getattr(value, each.name) for each in fields(value)])
    elif isinstance(value, dict):
        yield from pieces([part for key in sorted(value, key=str) for part in (key, value[key])])
    elif isinstance(value, (list, tuple)):
        yield f"{len(value)} parts".encode()
        for part in value:
            yield from pieces(part)


def digest(value: Any) -> str:
    """16 hex digits of a value."""
    found = hashlib.sha256()
    for piece in pieces(value):
        found.update(len(piece).to_bytes(8, "little") + piece)
    return found.hexdigest()[:16]


LATER = ("by_prompt", "along_prompt")  # figures of a trace that older checkouts do not have


def numbers(value: Any) -> Any:
    """What a trace counts and measures, without names and sentences."""
    if hasattr(value, "_fields"):
        value = [getattr(value, name) for name in value._fields if name not in LATER]
    if is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, each.name) for each in fields(value)]
    if isinstance(value, (list, tuple)):
        return [numbers(part) for part in value if not isinstance(part, str) and part is not None]
    return value


def plain(text: str, folder: Path) -> str:
    """A text without timings and places."""
    text = text.replace(str(folder), "FOLDER")
    return re.sub(r"\d[\d.,]*\s?(ms|s|seconds|minutes)\b", "TIME", text)


def file_facts(path: Path) -> list:
    """Tensors and metadata of a .safetensors file, without the version of who wrote it."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = header.pop("__metadata__", {})
    for name in ("pack_version", "digest"):
        about.pop(name, None)
    return [json.dumps([about, header], sort_keys=True), data[8 + size :]]


class Ledger:
    """Digests by name of the case and of its part."""

    def __init__(self) -> None:
        self.cases: dict[str, dict[str, str]] = {}
        self.errors: list[str] = []

    def add(self, case: str, **parts: Any) -> None:
        """Notes parts of a case; a part must have a name of its own."""
        known = self.cases.setdefault(case, {})
        for name, value in parts.items():
            if name in known:
                raise KeyError(f"{case}: {name} is there twice")
            known[name] = digest(value)

    def line(self, case: str) -> str:
        return f"{case}  {digest(self.cases[case])}"


# ---- the pack, as ComfyUI loads it


async def _node_list(module: Any) -> list:
    extension = await module.comfy_entrypoint()
    if hasattr(extension, "on_load"):
        await extension.on_load()
    return await extension.get_node_list()


def load_nodes(folder: Path, name: str) -> dict[str, type]:
    """The node classes of a pack, by node id."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return {node.define_schema().node_id: node for node in asyncio.run(_node_list(module))}


class Many(list):
    """Several values for an input of a node that takes lists."""


class Outputs(dict):
    """What a node gives, by the names of its outputs; `kinds` has their types."""

    kinds: dict[str, str]


def option_list(node: type, name: str) -> list[str]:
    """The choices that a node offers for an input."""
    (found,) = [each for each in node.define_schema().inputs if each.id == name]
    return list(found.options)


def default_inputs(schema: Any) -> dict[str, Any]:
    """What a workflow hands over for widgets that nobody touched."""
    given = {}
    for each in schema.inputs:
        value = getattr(each, "default", None)
        if value is None and getattr(each, "options", None):
            value = each.options[0]
        if value is not None:
            given[each.id] = value
    return given


def execute(node: type, **given: Any) -> Outputs:
    """Runs one node as a workflow would."""
    schema = node.define_schema()
    inputs = {**default_inputs(schema), **given}
    if schema.is_input_list:
        inputs = {k: list(v) if isinstance(v, Many) else [v] for k, v in inputs.items()}
    result = node.execute(**inputs).result or ()
    names = [each.id or each.display_name or str(i) for i, each in enumerate(schema.outputs)]
    outputs = Outputs(zip(names, result, strict=True))
    kinds = [each.get_io_type() for each in schema.outputs]
    outputs.kinds = dict(zip(names, kinds, strict=True))
    return outputs


# ---- small models with random weights

WIDTH = 16  # of a token; core knows another for SD 2
TOKEN = {"SD20": 1024}
CHANNELS = {"SD3": 16, "Flux": 16}
_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [0],
    "transformer_depth_output": [0, 1], "transformer_depth_middle": 1,
    "num_heads": -1, "num_head_channels": 32, "context_dim": WIDTH, "use_spatial_transformer": True,
    "legacy": False, "use_linear_in_transformer": False,
}  # fmt: skip
_WIDE = {**_UNET, "model_channels": 64, "use_linear_in_transformer": True}
NETWORKS = {
    "SD15": _UNET,
    "SD20": {**_WIDE, "context_dim": TOKEN["SD20"]},
    "SDXL": {**_WIDE, "num_classes": "sequential", "adm_in_channels": 1536 + WIDTH},
    "SD3": {
        "input_size": None, "patch_size": 2, "in_channels": 16, "depth": 1, "num_blocks": 2,
        "adm_in_channels": WIDTH, "pos_embed_scaling_factor": None, "pos_embed_max_size": 8,
        "num_patches": 64, "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 64},
        },
    },
    "Flux": {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": WIDTH,
        "context_in_dim": WIDTH, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2,
        "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    },
}  # fmt: skip


def expectation(kind: str, sampling: Any, x: Any, timesteps: Any) -> Any:
    """What a network answers that knows latents of N(0, 1); 0 for v-prediction."""
    t = timesteps.reshape(-1, *[1] * (x.ndim - 1))
    if kind == "EPS":
        sigma = sampling.sigma(t)
        return x * sigma / (sigma.square() + 1).sqrt()
    if kind in ("FLOW", "FLUX"):
        sigma = t / getattr(sampling, "multiplier", 1.0)
        return x * (2 * sigma - 1) / (sigma.square() + (1 - sigma).square())
    return 0.0


def small_model(family: str) -> Any:
    """A MODEL with the architecture, latent format and noise model of a family."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    torch.manual_seed(0)
    cpu, config = torch.device("cpu"), {**NETWORKS[family], "dtype": torch.float32}
    supported = getattr(comfy.supported_models, family)(config)
    if family == "SD20":  # core tells v-prediction by the weights of the checkpoint
        kind = comfy.model_base.ModelType.V_PREDICTION
        model = comfy.model_base.BaseModel(supported, kind, device=cpu)
    else:
        model = supported.get_model({}, device=cpu)
    network = model.diffusion_model
    for tensor in (*network.parameters(), *network.buffers()):
        torch.nn.init.normal_(tensor, std=0.05)
    know_normal(network, model.model_sampling, model.model_type.name)
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def know_normal(network: Any, sampling: Any, kind: str) -> None:
    """Adds `expectation` to what a network answers, in its class, so that copies have it too."""
    plain_class = type(network)
    name = "_forward" if hasattr(network, "_forward") else "forward"

    def answer(self: Any, x: Any, timesteps: Any, *args: Any, **options: Any) -> Any:
        output = getattr(plain_class, name)(self, x, timesteps, *args, **options)
        return output + expectation(kind, sampling, x, timesteps)

    network.__class__ = type(plain_class.__name__, (plain_class,), {name: answer})


def prompt(family: str = "SD15", seed: int = 1, rows: int = 1) -> list:
    """A CONDITIONING of random tokens."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, 7, TOKEN.get(family, WIDTH), generator=generator)
    return [[tokens, {"pooled_output": torch.randn(rows, WIDTH, generator=generator)}]]


def empty(family: str = "SD15", batch: int = 8, side: int = 4) -> dict:
    """An empty LATENT."""
    import torch

    return {"samples": torch.zeros(batch, CHANNELS.get(family, 4), side, side)}


def small_vae() -> Any:
    """A VAE of core's around an autoencoder that was never trained: 4 channels, 8 pixels each."""
    import comfy.sd
    import comfy.taesd.taesd as taesd
    import torch

    torch.manual_seed(0)
    model = taesd.TAESD(latent_channels=4)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05) if weight.ndim > 1 else weight.data.fill_(0.01)
    return comfy.sd.VAE(sd=dict(model.state_dict()))


def small_clip_vision() -> Any:
    """A CLIP_VISION of core's with two layers of random weights."""
    import comfy.clip_vision
    import torch

    config = {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_channels": 3, "patch_size": 8,
        "image_size": 32, "hidden_act": "quick_gelu", "projection_dim": 16,
    }  # fmt: skip
    clip_vision = comfy.clip_vision.ClipVisionModel(config)
    torch.manual_seed(0)
    for weight in clip_vision.model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return clip_vision


# ---- what the cases have in common

FILES = {"MMD_REFERENCES"}  # are digested as the file that the pack makes of them
NUMBERS = {"LATENT", "FLOAT", "INT", "IMAGE", "CONDITIONING", "LORA_MODEL", "LOSS_MAP"}
LETTERED = {"sheet", "plot", "nearest"}  # outputs: pictures with texts in them
NAMED = {"captions", "filename"}  # outputs: texts that are data
QUICK = {"steps": 5, "cfg": 2.0, "sampler_name": "euler_ancestral", "scheduler": "karras"}
TRAIN = {
    "steps_per_sample": 2, "sampler_name": "euler", "scheduler": "simple", "cfg": 1.0,
    "batch_size": 4, "micro_batch": 2, "iterations": 2, "learning_rate": 1e-2, "rank": 2,
    "seed": 71, "autosave": "",
}  # fmt: skip
STEER = {"particles": 4, "iterations": 2, "micro_batch": 0}


@dataclass
class Bench:
    """Nodes, models and folders of one run of this script."""

    nodes: dict[str, type]
    folder: Path
    ledger: Ledger = field(default_factory=Ledger)
    made: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made only once."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def __call__(self, node_id: str, **given: Any) -> Outputs:
        return execute(self.nodes[node_id], **given)

    def options(self, node_id: str, name: str) -> list[str]:
        return option_list(self.nodes[node_id], name)

    def note(self, case: str, outputs: Outputs) -> Outputs:
        """Notes all that a node gave: words apart from the rest."""
        for name, value in outputs.items():
            kind = outputs.kinds[name]
            if kind == "STRING" and name not in NAMED:
                self.ledger.add(WORDS + case, **{name: plain(str(value), self.folder)})
            elif name in LETTERED:
                self.ledger.add(WORDS + case, **{name: value})
            elif kind == "MMD_TRACE":
                self.ledger.add(case, **{name: numbers(value)})
            elif kind in FILES:
                self.ledger.add(case, **{name: self.saved(value)})
            elif kind in NUMBERS or name in NAMED:
                blocked = type(value).__name__ == "ExecutionBlocker"
                self.ledger.add(case, **{name: "nothing" if blocked else value})
        return outputs

    def try_to(self, case: str, call: Callable[[], Outputs]) -> None:
        """Notes what a call gives, or that it is refused: the sentence of a refusal may change."""
        try:
            self.note(case, call())
        except ValueError as error:
            self.ledger.add(case, refused="ValueError")
            self.ledger.add(WORDS + case, refused=plain(str(error), self.folder))

    def saved(self, references: Any) -> list:
        """What a file of references holds."""
        path = self.folder / "models" / "mmd_references" / "digested.safetensors"
        path.unlink(missing_ok=True)
        self("SaveReferenceLatents", references=references, filename="digested")
        return file_facts(path)

    # -- models and references

    def model(self, family: str = "SD15") -> Any:
        return self.once(family, lambda: small_model(family))

    def world(self, name: str) -> list:
        """MODEL, CLIP and VAE of a demo world."""
        return self.once(name, lambda: list(self("MMDDemoWorld", world=name).values()))

    def demo_latent(self, name: str, batch: int) -> dict:
        return next(iter(self("MMDDemoLatent", world=name, batch_size=batch).values()))

    def encode_text(self, name: str, text: str) -> list:
        clip = self.world(name)[1]
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def references(
        self,
        family: str = "SD15",
        count: int = 12,
        side: int = 4,
        seed: int = 1,
        prompts: bool = False,
    ) -> Any:
        """References around 0.7 in the space of the model, half as wide as what it draws."""
        import torch

        shape = empty(family, count, side)["samples"].shape
        clean = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 2 + 0.7
        latents = self.model(family).model.latent_format.process_out(clean)
        more = (
            {"conditioning": Many(prompt(family, i % 3) for i in range(count))} if prompts else {}
        )
        return self("EncodeReferenceLatents", encoded={"samples": latents}, **more)["references"]

    def kernel(self, **settings: Any) -> Any:
        return self("MMDKernel", **settings)["kernel"]

    def draw(self, family: str = "SD15", batch: int = 8, side: int = 4, **given: Any) -> Outputs:
        """MMDGuidedKSampler on a small model."""
        given.setdefault("references", self.references(family, side=side))
        given.setdefault("latent_image", empty(family, batch, side))
        given.setdefault("positive", prompt(family, 1))
        given.setdefault("negative", prompt(family, 2))
        given = {"model": self.model(family), "seed": 5, **QUICK, **given}
        return self.guided("MMDGuidedKSampler", **given)

    def guided(self, node_id: str, **given: Any) -> Outputs:
        """A node of guidance, with the settings that workflows hold since the first version."""
        return self(node_id, **{"strength": 100.0, "mode": "flow", **given})

    def core_draw(self, model: Any, family: str = "SD15", batch: int = 8, **given: Any) -> dict:
        """Core's KSampler."""
        import nodes

        given = {"seed": 5, "denoise": 1.0, **QUICK, **given}
        given.setdefault("latent_image", empty(family, batch))
        given.setdefault("positive", prompt(family, 1))
        given.setdefault("negative", prompt(family, 2))
        return nodes.KSampler().sample(model, **given)[0]

    def pictures(self) -> str:
        """The name of a folder of pictures, with captions of all kinds, in the input folder."""
        return self.once("pictures", lambda: draw_pictures(self.folder / "input"))

    def picture_set(self) -> Any:
        return self.once("set", lambda: self("LoadReferenceSet", folder=self.pictures()))[
            "reference_set"
        ]

    def vae(self) -> Any:
        return self.once("vae", small_vae)

    def clip_vision(self) -> Any:
        return self.once("clip_vision", small_clip_vision)


def draw_pictures(inputs: Path) -> str:
    """Discs and triangles of several sizes and kinds of files."""
    import numpy as np
    from PIL import Image, ImageDraw

    noise, folder = np.random.default_rng(0), inputs / "drawn"
    (folder / "3_discs").mkdir(parents=True)
    for i in range(12):
        w, h = 40 + 8 * (i % 3), 40 + 12 * (i % 2)
        picture = Image.fromarray(noise.integers(150, 220, (h, w, 3)).astype(np.uint8))
        fill = tuple(noise.integers(0, 256, 3).tolist())
        pen, disc = ImageDraw.Draw(picture), i % 4 == 0
        if disc:
            pen.ellipse((6, 6, 30, 30), fill=fill)
        else:
            pen.polygon([(8, 32), (20, 6), (34, 30)], fill=fill)
        picture = picture.convert("RGBA") if i == 5 else picture.convert("L") if i == 6 else picture
        place = folder / "3_discs" if disc else folder
        picture.save(place / f"{i:02}.{'bmp' if i == 7 else 'png'}")
        if i % 3:
            kind = "caption" if i == 4 else "txt"
            text = "a red disc" if disc else f"a blue triangle {i % 2}"
            (place / f"{i:02}.{kind}").write_text(text, "utf-8")
    lines = [{"file_name": f"{i:02}.png", "text": f"line {i}"} for i in range(1, 4)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    (folder / "captions.json").write_text(json.dumps({"01.png": "one", "02.png": "two"}), "utf-8")
    (folder / "broken.png").write_bytes(b"no picture")
    return "drawn"


CASES: list[tuple[str, Callable[[Bench], None]]] = []


def cases(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
    """Marks a function that draws some cases."""
    CASES.append((function.__name__, function))
    return function


def masked(latent: dict) -> dict:
    """The latent, of which the left half stays."""
    import torch

    samples = latent["samples"]
    mask = torch.zeros(1, 1, *samples.shape[-2:])
    mask[..., samples.shape[-1] // 2 :] = 1
    return {**latent, "noise_mask": mask}


def noise_like(latent: dict, seed: int = 9) -> dict:
    """A LATENT of that shape that something was drawn in."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {"samples": torch.randn(latent["samples"].shape, generator=generator)}


# ---- cases: what nodes look like


def input_facts(each: Any) -> list:
    """What an input takes, without its tooltip."""
    names = ("default", "min", "max", "step", "round")
    options = getattr(each, "options", None)
    options = [] if callable(options) else list(options or [])
    bounds = [repr(getattr(each, name, None)) for name in names]
    return [each.id, each.get_io_type(), bool(each.optional), bounds, options]


@cases
def schemas(bench: Bench) -> None:
    for node_id, node in sorted(bench.nodes.items()):
        schema = node.define_schema()
        inputs = [input_facts(each) for each in schema.inputs]
        outputs = [(o.id, o.get_io_type(), bool(o.is_output_list)) for o in schema.outputs]
        kinds = bool(schema.is_output_node), bool(schema.is_input_list)
        bench.ledger.add(f"schema {node_id}", inputs=inputs, outputs=outputs, kinds=kinds)
        texts = [schema.display_name, schema.category, schema.description]
        texts += [getattr(each, "tooltip", None) for each in (*schema.inputs, *schema.outputs)]
        bench.ledger.add(f"{WORDS}schema {node_id}", texts=texts)


# ---- cases: guidance


@cases
def worlds(bench: Bench) -> None:
    for name, told, steps in (("digits", "three", 12), ("shapes", "a blue triangle", 6)):
        model, _, vae = bench.world(name)
        made = bench(
            "MMDMakeReferences", model=model, positive=bench.encode_text(name, told),
            negative=bench.encode_text(name, ""), latent_image=bench.demo_latent(name, 1), count=12,
            steps=steps, cfg=1.0, seed=2, micro_batch=6,
        )  # fmt: skip
        bench.note(f"world {name} own references", made)
        drawn = bench(
            "MMDGuidedKSampler", model=model, references=made["references"], seed=1, steps=steps,
            cfg=1.0, positive=bench.encode_text(name, ""), negative=bench.encode_text(name, ""),
            latent_image=bench.demo_latent(name, 16 if name == "digits" else 8),
        )  # fmt: skip
        bench.note(f"world {name} guided by default settings", drawn)
        pictures = vae.decode(drawn["latent"]["samples"])
        bench.ledger.add(f"world {name} pictures", images=pictures)
        bench.note(f"world {name} plot", bench("MMDPlot", trace=drawn["trace"], images=pictures))


@cases
def modes(bench: Bench) -> None:
    for mode in bench.options("MMDGuidedKSampler", "mode"):
        for batch in (4, 8):
            bench.note(f"mode {mode} batch {batch}", bench.draw(batch=batch, mode=mode))
        bench.note(f"mode {mode} on a flow model", bench.draw("SD3", mode=mode))
        for space in bench.options("MMDKernel", "feature_space"):
            kernel = bench.kernel(feature_space=space, pool=2)
            draw = partial(bench.draw, mode=mode, kernel=kernel)
            bench.try_to(f"mode {mode} by {space}", draw)


@cases
def kernels(bench: Bench) -> None:
    for name in bench.options("MMDKernel", "kernel"):
        mild = {"strength": 1e-3} if name == "polynomial" else {}
        for bandwidth in bench.options("MMDKernel", "bandwidth"):
            for space in bench.options("MMDKernel", "feature_space"):
                kernel = bench.kernel(
                    kernel=name,
                    bandwidth=bandwidth,
                    bandwidth_value=8.0,
                    feature_space=space,
                    pool=2,
                )
                draw = partial(bench.draw, side=6, kernel=kernel, **mild)
                bench.try_to(f"kernel {name} {bandwidth} {space}", draw)
    for multipliers in ("1", "0.25, 1, 4, 16"):
        drawn = bench.draw(kernel=bench.kernel(multipliers=multipliers))
        bench.note(f"kernel multipliers {multipliers}", drawn)
    for size in (1, 2, 4):
        kernel = bench.kernel(feature_space="patches", patch_size=size)
        bench.note(f"kernel patches of {size}", bench.draw(side=6, kernel=kernel))


@cases
def prompt_kernels(bench: Bench) -> None:
    references = bench.references(prompts=True)
    for name in bench.options("MMDKernel", "prompt_kernel"):
        for width in (0.0, 1.5):
            kernel = bench.kernel(prompt_kernel=name, prompt_bandwidth=width)
            for rows in (1, 8):
                drawn = bench.draw(
                    references=references, kernel=kernel, positive=prompt(seed=0, rows=rows)
                )
                bench.note(f"prompts {name} {width} rows {rows}", drawn)
        few = bench.draw(batch=4, references=references, kernel=kernel, positive=prompt(seed=0))
        bench.note(f"prompts {name} few images", few)
        patches = bench.kernel(prompt_kernel=name, feature_space="patches")
        bench.note(f"prompts {name} patches", bench.draw(references=references, kernel=patches))


@cases
def settings(bench: Bench) -> None:
    for batch in (1, 2, 4, 7, 8, 13):
        bench.note(f"batch {batch}", bench.draw(batch=batch))
    window = {"start_percent": 0.3, "end_percent": 0.6}
    strong = {"strength": 1000.0, "end_percent": 1.0}
    changes = {
        "strength 0": {"strength": 0.0},
        "strength 1000": {"strength": 1000.0},
        "window": window,
        "never in the window": {"start_percent": 0.99, "end_percent": 0.991},
        "preserve 0": {"preserve": 0.0},
        "preserve 1": {"preserve": 1.0},
        "preserve nothing, strong": {"preserve": 0.0, **strong},
        "preserve half, strong": {"preserve": 0.5, **strong},
        "preview": {"preview_batch": True},
        "another vae": {"vae": bench.vae()},
        "denoise half": {"denoise": 0.5, "latent_image": noise_like(empty())},
        "mask": {"latent_image": masked(noise_like(empty()))},
        "mask of few images": {"latent_image": masked(noise_like(empty(batch=2)))},
        "cfg 1": {"cfg": 1.0},
    }
    for name, change in changes.items():
        bench.note(name, bench.draw(**change))


@cases
def samplers(bench: Bench) -> None:
    names = ("euler", "euler_ancestral_cfg_pp", "dpmpp_2m", "dpmpp_2m_sde", "heun", "lcm", "uni_pc")
    for name in names:
        bench.note(f"sampler {name}", bench.draw(sampler_name=name, scheduler="normal"))
    for name in ("euler", "dpmpp_2s_ancestral"):
        drawn = bench.draw("SD3", sampler_name=name, scheduler="simple")
        bench.note(f"sampler {name} on a flow model", drawn)


@cases
def families(bench: Bench) -> None:
    for family in NETWORKS:
        bench.note(f"family {family}", bench.draw(family))
        bench.note(f"family {family} one image", bench.draw(family, batch=1))
        space = bench.kernel(feature_space="channel_stats")
        bench.note(f"family {family} channel_stats", bench.draw(family, kernel=space))


@cases
def parts_of_a_batch(bench: Bench) -> None:
    for size in (1, 2, 3, 0):
        bench.note(f"micro_batch {size}", bench.draw(micro_batch=size))
    rows = {"positive": prompt(seed=1, rows=8), "micro_batch": 3}
    bench.note("micro_batch with a prompt for each", bench.draw(**rows))
    for size in (2, 3, 8):
        bench.note(f"group_size {size} of 16", bench.draw(batch=16, group_size=size))
    grouped = {"positive": prompt(seed=1, rows=16), "micro_batch": 2, "group_size": 8}
    bench.note("groups with a prompt for each", bench.draw(batch=16, **grouped))
    for mode in bench.options("MMDGuidedKSampler", "mode"):
        for batch, size in ((16, 8), (6, 2), (112, 8)):
            drawn = bench.draw(batch=batch, group_size=size, mode=mode, strength=300.0)
            bench.note(f"mode {mode} groups of {size}, {batch} images", drawn)
        memory = bench("MMDMemory", name=f"mode/{mode}")["memory"]
        for seed in (1, 2):
            drawn = bench.draw(mode=mode, seed=seed, memory=memory)
            bench.note(f"mode {mode} with a memory, run {seed}", drawn)
    latent = masked(noise_like(empty(batch=16)))
    bench.note("groups with a mask", bench.draw(latent_image=latent, group_size=8))


@cases
def memories(bench: Bench) -> None:
    for batch in (2, 8):
        for run in (1, 2, 3):
            memory = bench("MMDMemory", name=f"batch/{batch}")
            bench.note(f"memory batch {batch} before run {run}", memory)
            drawn = bench.draw(batch=batch, seed=run, memory=memory["memory"])
            bench.note(f"memory batch {batch} run {run}", drawn)
    for action in bench.options("MMDMemory", "action"):
        memory = bench("MMDMemory", name="batch/8", action=action, limit=12)
        bench.note(f"memory {action}", memory)
        drawn = bench.draw(seed=7, memory=memory["memory"], group_size=4)
        bench.note(f"memory {action} run", drawn)
    folder = bench.folder / "models" / "mmd_memories"
    files = sorted(folder.rglob("*.safetensors"))
    bench.ledger.add("memory files", files=[file_facts(path) for path in files])
    kernel = bench.kernel(prompt_kernel="cosine")
    for run in (1, 2):
        memory = bench("MMDMemory", name="prompts")["memory"]
        given = {"references": bench.references(prompts=True), "kernel": kernel, "memory": memory}
        bench.note(f"memory with prompts run {run}", bench.draw(seed=run, **given))


@cases
def strengths(bench: Bench) -> None:
    found = bench("MMDStrengths", strengths="0, 10, 100")
    bench.note("strengths", found)
    traces, pictures = Many(), Many()
    for strength in found["strength"]:
        drawn = bench.note(f"strength {strength:g} of a sweep", bench.draw(strength=strength))
        traces.append(drawn["trace"])
        pictures.append(bench.vae().decode(drawn["latent"]["samples"][:4]))
    bench.note("plot of a sweep", bench("MMDPlot", trace=traces, images=pictures))
    both = {"trace": traces[1], "trace_2": traces[2], "images_2": pictures[2]}
    bench.note("plot of two", bench("MMDPlot", **both))


@cases
def applied(bench: Bench) -> None:
    import comfy_extras.nodes_custom_sampler as core

    for family in ("SD15", "SD20", "SD3"):
        for micro_batch in (0, 2):
            given = {"model": bench.model(family), "references": bench.references(family)}
            out = bench.guided("ApplyMMDGuidance", micro_batch=micro_batch, **given)
            latent = bench.core_draw(out["model"], family)
            case = f"applied to {family} micro_batch {micro_batch}"
            bench.ledger.add(case, latent=latent, trace=numbers(out["trace"]))
    model, memory = bench.model(), bench("MMDMemory", name="applied")["memory"]
    out = bench.guided(
        "ApplyMMDGuidance", model=model, references=bench.references(), memory=memory
    )
    again = {"model": out["model"], "references": bench.references(seed=4)}
    twice = bench.guided("ApplyMMDGuidance", strength=20.0, end_percent=0.5, **again)["model"]
    guider = core.CFGGuider.execute(twice, prompt(seed=1), prompt(seed=2), 3.0)[0]
    sigmas = core.BasicScheduler.execute(model, "karras", 5, 1.0)[0]
    sampler = core.KSamplerSelect.execute("euler_ancestral")[0]
    noise = core.RandomNoise.execute(3)[0]
    drawn = core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, empty())
    bench.ledger.add("applied twice in a guider", latents=list(drawn.result))
    bench.note("memory of an applied run", bench("MMDMemory", name="applied"))


# ---- cases: references


@cases
def reference_sets(bench: Bench) -> None:
    folder = bench.pictures()
    for source in bench.options("LoadReferenceSet", "caption_source"):
        found = bench("LoadReferenceSet", folder=folder, caption_source=source)
        bench.note(f"folder captions {source}", found)
    for selection in bench.options("LoadReferenceSet", "selection"):
        found = bench("LoadReferenceSet", folder=folder, max_images=5, selection=selection, seed=3)
        bench.note(f"folder selection {selection}", found)
    bench.note("folder alone", bench("LoadReferenceSet", folder=folder, recursive=False))


@cases
def encoding(bench: Bench) -> None:
    import torch

    found, vae = bench.picture_set(), bench.vae()
    size = {"width": 40, "height": 32}
    for fit in bench.options("EncodeReferenceLatents", "fit"):
        for when in ("first", "again"):
            out = bench("EncodeReferenceLatents", vae=vae, reference_set=found, fit=fit, **size)
            bench.note(f"encoded {fit} {when}", out)
    _, clip, pixel_vae = bench.world("shapes")
    given = {"vae": pixel_vae, "clip": clip, "reference_set": found}
    target = bench.demo_latent("shapes", 2)
    out = bench("EncodeReferenceLatents", target=target, cache=False, **given)
    bench.note("encoded with captions", out)
    generator = torch.Generator().manual_seed(0)
    images = Many(torch.rand(n, 32, 40, 3, generator=generator) for n in (1, 3))
    out = bench("EncodeReferenceLatents", vae=vae, images=images, captions="a thing", **size)
    bench.note("encoded images", out)
    latents = Many({"samples": torch.randn(2, 4, s, 5, generator=generator)} for s in (4, 5))
    out = bench("EncodeReferenceLatents", encoded=latents, conditioning=Many([prompt()]))
    bench.note("encoded before", out)


def encoded_pictures(bench: Bench) -> Any:
    given = {"vae": bench.vae(), "reference_set": bench.picture_set(), "width": 32, "height": 32}
    return bench.once("encoded", lambda: bench("EncodeReferenceLatents", **given))["references"]


def encoded_shapes(bench: Bench) -> Any:
    """References of the pictures for the world of shapes, with prompts."""
    _, clip, vae = bench.world("shapes")
    given = {"vae": vae, "clip": clip, "reference_set": bench.picture_set()}
    given["target"] = bench.demo_latent("shapes", 1)
    return bench.once("shapes set", lambda: bench("EncodeReferenceLatents", **given))["references"]


@cases
def reference_files(bench: Bench) -> None:
    import folder_paths

    for dtype in bench.options("SaveReferenceLatents", "dtype"):
        for kind, references in (("set", encoded_pictures), ("prompts", encoded_shapes)):
            name = f"round/{kind}_{dtype}"
            given = {"references": references(bench), "filename": name, "dtype": dtype}
            bench.note(f"saved {kind} {dtype}", bench("SaveReferenceLatents", **given))
            path = bench.folder / "models" / "mmd_references" / f"{name}.safetensors"
            bench.ledger.add(f"saved {kind} {dtype} bytes", file=path.read_bytes())
            folder_paths.filename_list_cache.clear()
            loaded = bench("LoadReferenceLatents", file=f"{name}.safetensors")
            bench.note(f"loaded {kind} {dtype}", loaded)
            drawn = bench.draw(references=loaded["references"]) if kind == "set" else None
            if drawn is not None:
                bench.note(f"guided by loaded {dtype}", drawn)


@cases
def joined_and_compressed(bench: Bench) -> None:
    a, b, c = encoded_pictures(bench), bench.references(seed=4), bench.references(count=5, seed=6)
    out = bench("MergeReferences", references_a=a, references_b=b, share_a=0.7, share_b=0.3)
    bench.note("merged two", out)
    shares = {"share_b": 2.0, "share_c": 0.0, "share_d": 0.5}
    four = {"references_a": b, "references_b": a, "references_c": c, "references_d": c}
    bench.note("merged four", bench("MergeReferences", **four, **shares))
    merged = out["references"]
    for count in (1, 4, 9, 500):
        few = bench("CompressReferences", references=merged, count=count)
        bench.note(f"compressed to {count}", few)
    for name in bench.options("MMDKernel", "kernel"):
        for space in bench.options("MMDKernel", "feature_space"):
            kernel = bench.kernel(kernel=name, feature_space=space, pool=2)
            few = bench("CompressReferences", references=merged, count=5, kernel=kernel)
            bench.note(f"compressed {name} {space}", few)
    kernel = bench.kernel(prompt_kernel="cosine")
    few = bench("CompressReferences", references=encoded_shapes(bench), count=5, kernel=kernel)
    bench.note("compressed with prompts", few)
    many = bench.references(count=600, seed=8)
    few = bench("CompressReferences", references=many, count=20, memory=0.1)
    bench.note("compressed in little memory", few)
    bench.note("guided by weighted references", bench.draw(references=merged))


@cases
def previews(bench: Bench) -> None:
    for name, references, vae in (
        ("pictures", encoded_pictures(bench), None),
        ("decoded", bench.references(), bench.vae()),
        ("latents alone", bench.references("SD3"), None),
    ):
        out = bench("ReferencePreview", references=references, max_images=7, vae=vae)
        bench.note(f"preview {name}", out)


@cases
def scores(bench: Bench) -> None:
    space = bench.model().model.latent_format
    samples = space.process_out(noise_like(empty(batch=10))["samples"] / 2 + 0.6)
    given = {"references": bench.references(), "permutations": 200, "latent": {"samples": samples}}
    for name in bench.options("MMDKernel", "kernel"):
        for space in bench.options("MMDKernel", "feature_space"):
            kernel = bench.kernel(kernel=name, feature_space=space, pool=2)
            bench.note(f"score {name} {space}", bench("MMDScore", kernel=kernel, **given))
    images = bench.vae().decode(samples)
    given |= {"vae": bench.vae(), "seed": 3}
    bench.note("score with pictures", bench("MMDScore", images=images, **given))
    given |= {"references": encoded_pictures(bench), "latent": None}
    bench.note("score of pictures", bench("MMDScore", images=images, **given))


# ---- cases: steering


def chain(
    bench: Bench, family: str = "SD15", steps: int = 5, batch: int = 1, cfg: float = 1.0
) -> dict:
    """NOISE, GUIDER, SIGMAS and LATENT from core's nodes."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, CFGGuider, RandomNoise

    model = bench.model(family)
    guider = CFGGuider.execute(model, prompt(family, 1), prompt(family, 2), cfg)[0]
    return {
        "noise": RandomNoise.execute(5)[0],
        "guider": guider,
        "sigmas": BasicScheduler.execute(model, "karras", steps, 1.0)[0],
        "latent": empty(family, batch),
    }


def image_rewards(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Every reward that scores pictures."""
    vae = bench.vae()
    for statistic in bench.options("TSMCRewardImageStats", "statistic"):
        for direction in bench.options("TSMCRewardImageStats", "direction"):
            given = {"vae": vae, "statistic": statistic, "direction": direction}
            yield f"{direction} {statistic}", bench("TSMCRewardImageStats", **given)["reward"]
    pictures = Many([vae.decode(noise_like(empty(batch=3), 4)["samples"])])
    for mode in bench.options("TSMCRewardCLIPVision", "mode"):
        given = {"clip_vision": bench.clip_vision(), "vae": vae, "reference": pictures}
        yield f"clip {mode}", bench("TSMCRewardCLIPVision", mode=mode, **given)["reward"]


def reference_reward(bench: Bench, family: str = "SD15", **given: Any) -> Any:
    return bench("TSMCRewardReference", references=bench.references(family), **given)["reward"]


def steer(bench: Bench, case: str, given: dict, reward: Any, **changed: Any) -> Outputs:
    outputs = bench("TRITSMCSampler", **given, reward=reward, **{**STEER, **changed})
    return bench.note(f"steered {case}", outputs)


@cases
def steered_by_each_reward(bench: Bench) -> None:
    given = chain(bench)
    for name, reward in image_rewards(bench):
        steer(bench, name, given, reward)
    clip = {"clip_vision": bench.clip_vision(), "vae": bench.vae(), "mode": "MMD witness"}
    images = bench.vae().decode(noise_like(empty(batch=4))["samples"])
    reward = bench("TSMCRewardCLIPVision", reference=images[:2], base=images[2:], **clip)["reward"]
    steer(bench, "clip witness with base", given, reward)
    steer(bench, "references", given, reference_reward(bench))
    base = noise_like(empty(batch=6))
    steer(bench, "references with base", given, reference_reward(bench, base=base))
    for name in bench.options("MMDKernel", "kernel"):
        for space in bench.options("MMDKernel", "feature_space"):
            if space != "patches":  # refused: see `refusals`
                kernel = bench.kernel(kernel=name, feature_space=space, pool=2)
                reward = reference_reward(bench, kernel=kernel)
                steer(bench, f"references {name} {space}", given, reward, iterations=1)


@cases
def steering_settings(bench: Bench) -> None:
    given, reward = chain(bench), reference_reward(bench)
    brightness = dict(image_rewards(bench))["more brightness"]
    for feature in bench.options("TRITSMCSampler", "feature"):
        for final in bench.options("TRITSMCSampler", "final"):
            steer(bench, f"{feature} {final}", given, reward, feature=feature, final=final)
            if feature != "gradient":
                case = f"{feature} {final} by pictures"
                steer(bench, case, given, brightness, feature=feature, final=final)
    changes = {
        "unscaled reward": {"standardize_reward": False, "reward_scale": 20.0},
        "little noise": {"eta": 0.5},
        "blocks": {"time_blocks": 2},
        "micro_batch": {"micro_batch": 3},
        "budgets": {"kl_budget": 0.2, "max_total_kl": 0.5},
        "prior": {"theta_init": 1.0, "theta_prior_sd": 0.1},
    }
    for name, change in changes.items():
        steer(bench, name, given, reward, **change)
    steer(bench, "cfg", chain(bench, cfg=3.0), reward)
    steer(bench, "mask", {**given, "latent": masked(noise_like(empty(batch=1)))}, reward)
    for family in ("SD20", "SD3", "Flux"):
        steer(bench, f"family {family}", chain(bench, family), reference_reward(bench, family))
    guided = bench.guided("ApplyMMDGuidance", model=bench.model(), references=bench.references())[
        "model"
    ]
    given["guider"] = type(given["guider"])(guided)
    given["guider"].set_conds(prompt(seed=1), prompt(seed=2))
    steer(bench, "a guided model", given, reward)


@cases
def steering_steps(bench: Bench) -> None:
    given, brightness = chain(bench), dict(image_rewards(bench))["more brightness"]
    for name, reward in (
        ("scores", None),
        ("reward", brightness),
        ("latents", reference_reward(bench)),
    ):
        guider = given["guider"]
        first = {key: given[key] for key in ("noise", "sigmas", "latent")}
        state = bench("TSMCInit", **first, **STEER)["state"]
        for i in range(3):
            proposed = bench.note(
                f"steps {name} proposed {i}", bench("TSMCPropose", state=state, guider=guider)
            )
            images = bench.vae().decode(proposed["latent"]["samples"])
            told = bench("TSMCScoreImages", images=Many([images]), reward=brightness)
            bench.note(f"steps {name} scored {i}", told)
            by = {"reward": reward} if reward else {"scores": Many(told["scores"])}
            updated = bench("TSMCUpdate", state=proposed["state"], **by)
            state = bench.note(f"steps {name} updated {i}", updated)["state"]
        for mode in bench.options("TSMCSelect", "mode"):
            chosen = bench("TSMCSelect", state=state, mode=mode, count=5)
            bench.note(f"steps {name} selected {mode}", chosen)
        bench.note(f"steps {name} plot", bench("TSMCPlot", state=state))


@cases
def scored_images(bench: Bench) -> None:
    images = bench.vae().decode(noise_like(empty(batch=5))["samples"])
    for name, reward in image_rewards(bench):
        if "witness" not in name:  # knows its scale only while something is drawn
            scored = bench("TSMCScoreImages", images=Many([images, images[:2] / 2]), reward=reward)
            bench.note(f"images scored {name}", scored)
    outputs = steer(bench, "for a plot", chain(bench), reward, final="all")
    pictures = bench.vae().decode(outputs["latent"]["samples"])
    plot = bench("TSMCPlot", state=outputs["state"], images=pictures)
    bench.note("plot of steering with pictures", plot)


@cases
def steered_digits(bench: Bench) -> None:
    from comfy_extras.nodes_custom_sampler import BasicGuider, BasicScheduler, RandomNoise

    model, _, vae = bench.world("digits")
    nothing = bench.encode_text("digits", "")
    reward = bench("TSMCRewardImageStats", vae=vae, statistic="brightness", direction="more")
    given = {
        "noise": RandomNoise.execute(3)[0],
        "guider": BasicGuider.execute(model, nothing)[0],
        "sigmas": BasicScheduler.execute(model, "karras", 10, 1.0)[0],
        "latent": bench.demo_latent("digits", 1),
    }
    steer(bench, "digits", given, reward["reward"], particles=16, micro_batch=4)


# ---- cases: training


def train(bench: Bench, case: str, family: str = "SD3", **changed: Any) -> Outputs:
    changed.setdefault("references", bench.references(family, count=6))
    given = {"model": bench.model(family), "positive": prompt(family, 1), **TRAIN, **changed}
    return bench.note(f"trained {case}", bench("MMDTrainLoRA", **given))


@cases
def prompts(bench: Bench) -> None:
    for name in ("digits", "shapes"):
        text = "three\n\n seven \nnine" if name == "digits" else "a blue disc\nred\ngreen square"
        out = bench("MMDPrompts", clip=bench.world(name)[1], text=text)
        bench.note(f"prompts of {name}", out)
        given = {
            "model": bench.world(name)[0], "positive": out["positive"],
            "negative": bench.encode_text(name, ""), "latent_image": bench.demo_latent(name, 1),
            "count": 5, "steps": 4, "cfg": 2.0, "micro_batch": 2, "seed": 11,
        }  # fmt: skip
        bench.note(f"references made for prompts of {name}", bench("MMDMakeReferences", **given))
    for family in ("SD15", "SD3"):
        given = {
            "model": bench.model(family), "positive": prompt(family, 1, rows=2),
            "negative": prompt(family, 2), "latent_image": empty(family, 1), "count": 5, "steps": 4,
            "sampler_name": "euler_ancestral", "scheduler": "karras", "micro_batch": 2,
        }  # fmt: skip
        bench.note(f"references made by {family}", bench("MMDMakeReferences", **given))


@cases
def trainings(bench: Bench) -> None:
    from comfy_extras.nodes_train import LoraModelLoader

    first = train(bench, "usually")
    model = bench.model("SD3")
    patched = LoraModelLoader.execute(model, first["lora"], 1.0).result[0]
    bench.ledger.add("drawn with a LoRA", latent=bench.core_draw(patched, "SD3", steps=2))
    held_out = bench.references("SD3", count=5, seed=3)
    changes = {
        "cfg": {"cfg": 3.0, "negative": prompt("SD3", 2)},
        "with validation": {"validation": held_out, "validate_every": 1, "iterations": 3},
        "further": {"existing_lora": first["lora"]},
        "jitter": {"step_jitter": 1, "steps_per_sample": 3, "iterations": 3},
        "drift_penalty": {"drift_penalty": 0.1},
        "last step": {"grad_last_k": 1},
        "clipped": {"grad_clip": 0.01, "ema": 0.5, "alpha": 4.0},
        "bf16": {"training_dtype": "bf16"},
        "without checkpointing": {"gradient_checkpointing": False},
        "prompts": {
            "positive": prompt("SD3", 1, rows=3), "kernel": bench.kernel(prompt_kernel="cosine"),
            "references": bench.references("SD3", count=6, prompts=True),
        },
        "autosave": {"autosave": "loras/kept", "validation": held_out, "validate_every": 1},
    }  # fmt: skip
    for name, change in changes.items():
        train(bench, name, **change)
    for name in ("targets", "lr_decay", "keep"):
        for option in bench.options("MMDTrainLoRA", name):
            more = {"iterations": 2 if name == "targets" else 4, "validation": held_out}
            train(bench, f"{name} {option}", **{name: option}, validate_every=1, **more)
    for option in bench.options("MMDKernel", "kernel"):
        train(bench, f"kernel {option}", kernel=bench.kernel(kernel=option), iterations=1)
    for option in ("euler_ancestral", "dpmpp_2m", "lcm", "heun"):
        train(bench, f"sampler {option}", sampler_name=option, steps_per_sample=3, iterations=1)


@cases
def trained_families(bench: Bench) -> None:
    for option in bench.options("MMDTrainLoRA", "features"):
        train(bench, f"SD15 features {option}", "SD15", features=option)
    for family in ("SD20", "SDXL", "Flux"):
        train(bench, family, family)


@cases
def lora_files(bench: Bench) -> None:
    import folder_paths

    lora = train(bench, "for a file", seed=72)["lora"]
    for dtype in bench.options("MMDSaveLoRA", "dtype"):
        name = bench("MMDSaveLoRA", lora=lora, prefix=f"loras/{dtype}", dtype=dtype)
        bench.note(f"LoRA saved {dtype}", name)
        path = bench.folder / "output" / "loras" / name["filename"]
        # Not the bytes: the library that writes LoRAs puts their metadata in any order.
        bench.ledger.add(f"LoRA saved {dtype} file", file=file_facts(path))
    folder_paths.filename_list_cache.clear()
    told = bench("MMDLoRAInfo", lora_name=name["filename"], steps=9, cfg=4.0, sampler_name="heun")
    bench.note("LoRA info", told)


# ---- cases: what is refused, and a graph


@cases
def refusals(bench: Bench) -> None:
    """What is refused must stay so; the sentence may change."""
    given, reference_set = chain(bench), bench.picture_set()
    patches = bench.kernel(feature_space="patches")
    wrong: dict[str, Callable[[], Any]] = {
        "no folder": lambda: bench("LoadReferenceSet", folder="nowhere"),
        "a folder outside": lambda: bench("LoadReferenceSet", folder="../output"),
        "no vae": lambda: bench("EncodeReferenceLatents", reference_set=reference_set),
        "references of another size": lambda: bench.draw(references=bench.references(side=8)),
        "prompt kernel without captions": lambda: bench.draw(
            kernel=bench.kernel(prompt_kernel="cosine")
        ),
        "multipliers": lambda: bench.kernel(multipliers="1, x"),
        "strengths": lambda: bench("MMDStrengths", strengths="1, y"),
        "a file outside": lambda: bench("LoadReferenceLatents", file="../x.safetensors"),
        "a name outside": lambda: bench(
            "SaveReferenceLatents", references=bench.references(), filename="../x"
        ),
        "a memory outside": lambda: bench("MMDMemory", name="../x"),
        "shares": lambda: bench(
            "MergeReferences",
            references_a=bench.references(),
            references_b=bench.references("SD3"),
        ),
        "rewards of patches": lambda: reference_reward(bench, kernel=patches),
        "nothing to score": lambda: bench("MMDScore", references=bench.references()),
        "a final": lambda: steer(bench, "never", given, reference_reward(bench), final="worst"),
        "no prompts": lambda: bench("MMDPrompts", clip=bench.world("digits")[1], text=" \n "),
        "dtype": lambda: bench("MMDSaveLoRA", lora={}, dtype="int8"),
        "no LoRA": lambda: bench("MMDLoRAInfo", lora_name="none.safetensors"),
        "a sampler": lambda: train(bench, "never", sampler_name="euler_cfg_pp"),
        "a learning rate": lambda: train(bench, "never", learning_rate=-1.0),
    }
    for name, call in wrong.items():
        try:
            call()
            kind, text = "nothing", ""
        except Exception as error:  # its kind is noted
            kind, text = type(error).__name__, plain(str(error), bench.folder)
        bench.ledger.add(f"refused {name}", kind=kind)
        bench.ledger.add(f"{WORDS}refused {name}", text=text)


def graph_of_a_world() -> dict:
    """A workflow in the API format: the pictures of the folder guide the world of shapes."""

    def text(words: str) -> dict:
        return {"class_type": "CLIPTextEncode", "inputs": {"clip": ["world", 1], "text": words}}

    return {
        "world": {"class_type": "MMDDemoWorld", "inputs": {"world": "shapes"}},
        "empty": {"class_type": "MMDDemoLatent", "inputs": {"world": "shapes", "batch_size": 8}},
        "positive": text("a blue triangle"),
        "negative": text(""),
        "set": {"class_type": "LoadReferenceSet", "inputs": {
            "folder": "drawn", "recursive": True, "max_images": 0, "selection": "even", "seed": 0,
            "caption_source": "auto",
        }},
        "encoded": {"class_type": "EncodeReferenceLatents", "inputs": {
            "vae": ["world", 2], "clip": ["world", 1], "reference_set": ["set", 0], "width": 32,
            "height": 32, "fit": "crop", "target": ["empty", 0], "cache": True,
        }},
        "kernel": {"class_type": "MMDKernel", "inputs": {
            "kernel": "rbf", "bandwidth": "median", "bandwidth_value": 100.0,
            "multipliers": "0.5, 1, 2", "prompt_kernel": "cosine", "prompt_bandwidth": 0.0,
            "feature_space": "latent", "pool": 4, "patch_size": 3,
        }},
        "strengths": {"class_type": "MMDStrengths", "inputs": {"strengths": "0, 100"}},
        "draw": {"class_type": "MMDGuidedKSampler", "inputs": {
            "model": ["world", 0], "references": ["encoded", 0], "seed": 1, "steps": 5, "cfg": 2.0,
            "sampler_name": "euler_ancestral", "scheduler": "karras", "positive": ["positive", 0],
            "negative": ["negative", 0], "latent_image": ["empty", 0], "denoise": 1.0,
            "strength": ["strengths", 0], "start_percent": 0.0, "end_percent": 0.75, "mode": "flow",
            "group_size": 0, "kernel": ["kernel", 0], "micro_batch": 4, "preserve": 0.5,
            "preview_batch": False,
        }},
        "save": {"class_type": "SaveLatent", "inputs": {
            "samples": ["draw", 0], "filename_prefix": "graph",
        }},
        "pictures": {"class_type": "VAEDecode", "inputs": {
            "samples": ["draw", 0], "vae": ["world", 2],
        }},
        "plot": {"class_type": "MMDPlot", "inputs": {
            "trace": ["draw", 1], "images": ["pictures", 0],
        }},
        "look": {"class_type": "PreviewImage", "inputs": {"images": ["plot", 0]}},
    }  # fmt: skip


@cases
def graph(bench: Bench) -> None:
    """Lists, links and caches as ComfyUI's own executor has them."""
    import execution
    from safetensors.torch import load_file

    import nodes

    bench.pictures()
    nodes.NODE_CLASS_MAPPINGS.update(bench.nodes)
    prompt_graph = graph_of_a_world()
    valid, error, ends, troubles = asyncio.run(
        execution.validate_prompt("fixed", prompt_graph, None)
    )
    if not valid:
        raise RuntimeError(f"{error} {troubles}")
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)
    cache = {"cache_type": execution.CacheType.CLASSIC, "cache_args": defaultdict(int)}
    executor = execution.PromptExecutor(server, **cache)
    executor.execute(prompt_graph, "fixed", {}, ends)
    if not executor.success:
        raise RuntimeError(str(executor.status_messages))
    files = sorted((bench.folder / "output").glob("graph*.latent"))
    latents = [load_file(path)["latent_tensor"] for path in files]
    bench.ledger.add("graph", latents=latents)


# ---- the command line


def find_pack() -> Path:
    """The checkout that this script lies in."""
    for folder in (HERE, *HERE.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "__init__.py").is_file():
            return folder
    sys.exit("This script lies in no checkout of the pack: name one with --pack.")


def find_demo(pack: Path) -> Path:
    """The folder of the demonstration pack below the tests of a checkout."""
    found = [path.parent for path in sorted((pack / "tests").rglob("catalog.py"))]
    found = [path for path in found if (path / "__init__.py").is_file()]
    found.sort(key=lambda path: path.name != "pack")
    if not found:
        sys.exit(f"There is no demonstration pack below {pack / 'tests'}: name it with --demo.")
    return found[0]


def with_torch() -> None:
    """Starts again with the Python of ComfyUI, and with one thread, where that is needed."""
    missing = importlib.util.find_spec("torch") is None
    if not missing and all(os.environ.get(name) == value for name, value in SINGLE.items()):
        return
    pythons = sorted(CACHE.glob("env-*/bin/python"))
    if missing and (not pythons or os.environ.get("FIXED_SEEDS_AGAIN")):
        sys.exit("Run this with the Python of ComfyUI, or run tests/run.py once to have one.")
    python = str(pythons[-1]) if missing else sys.executable
    environment = {**os.environ, **SINGLE, "FIXED_SEEDS_AGAIN": "1"}
    os.execve(python, [python, *sys.argv], environment)


def find_comfyui() -> Path:
    """COMFYUI_PATH, or the newest one in the cache of the pack's tests."""
    if named := os.environ.get("COMFYUI_PATH"):
        return Path(named).expanduser().absolute()
    found = sorted(CACHE.glob("comfyui-*/main.py"))
    if not found:
        sys.exit("There is no ComfyUI: name one with --comfyui, or run tests/run.py once.")
    return found[-1].parent


def start_comfyui(comfyui: Path, folder: Path) -> None:
    """Imports ComfyUI, which reads and writes below `folder` alone, on one thread of the CPU."""
    # Neither this folder nor a checkout's `nodes` may stand before ComfyUI's nodes.py.
    sys.path[:] = [str(comfyui), *(p for p in sys.path if p and Path(p).resolve() != HERE)]
    from comfy.cli_args import args

    args.cpu, args.base_directory = True, str(folder)
    import folder_paths
    import torch

    import nodes

    assert hasattr(nodes, "common_ksampler")
    logging.getLogger().setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    for name in ("input", "output/loras", "temp", "user", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(folder / "output" / "loras"))  # as main.py


@contextmanager
def silence() -> Iterator[None]:
    """Keeps progress bars off the screen."""
    kept = sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stderr = kept


def draw_all(bench: Bench, only: str) -> None:
    """Draws all groups of cases, and prints a line for each case."""
    import torch

    for name, function in CASES:
        if only and only not in name:
            continue
        began, known = time.monotonic(), set(bench.ledger.cases)
        torch.manual_seed(0)
        try:
            with silence(), torch.inference_mode():
                function(bench)
        except Exception as error:
            bench.ledger.errors.append(f"{name}: {type(error).__name__}: {error}")
            say(traceback.format_exc(), sys.stderr)
        for case in bench.ledger.cases:
            if case not in known:
                say(bench.ledger.line(case))
        say(f"  ({name}: {time.monotonic() - began:.1f} s)", sys.stderr)


def say(text: str, where: Any = None) -> None:
    (where or sys.stdout).write(f"{text}\n")
    (where or sys.stdout).flush()


def machine() -> str:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {capability}, torch {torch.__version__}"


def differences(now: dict, before: dict, some: bool) -> Iterable[str]:
    """Cases whose parts differ; with `some`, cases that were not drawn are no difference."""
    for case in {**before, **now}:
        if case not in before:
            yield f"{case}: is new"
        elif case not in now:
            if not some:
                yield f"{case}: is gone"
        else:
            parts = [
                name
                for name in {**before[case], **now[case]}
                if before[case].get(name) != now[case].get(name)
            ]
            if parts:
                yield f"{case}: {', '.join(parts)}"


def compare(ledger: Ledger, file: Path, some: bool) -> int:
    """Lists what differs from an earlier run, and counts all but words."""
    earlier = json.loads(file.read_text("utf-8"))
    if earlier["machine"] != machine():
        say(f"That was on another machine: {earlier['machine']}; this is {machine()}.")
    found = list(differences(ledger.cases, earlier["cases"], some))
    failed = [line for line in found if not line.startswith(WORDS)]
    for line in found:
        say(f"{'reworded' if line.startswith(WORDS) else 'DIFFERS'}  {line}")
    say(f"{len(failed)} differ, {len(found) - len(failed)} reworded, of {len(ledger.cases)} cases.")
    return len(failed)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pack", type=Path, metavar="DIR", help="a checkout of the pack (default: this one)")
    add("--demo", type=Path, metavar="DIR", help="the demonstration pack (default: in its tests)")
    add(
        "--comfyui", type=Path, metavar="DIR", help="ComfyUI (default: COMFYUI_PATH, or the cached)"
    )
    add("--write", type=Path, metavar="FILE", help="write the digests there, as JSON")
    add("--against", type=Path, metavar="FILE", help="compare with digests that were written")
    add("--only", default="", metavar="TEXT", help="draw only groups with this in their name")
    return parser.parse_args()


def main() -> int:
    """Draws, prints, writes and compares; 1 where something failed or differs."""
    given = read_arguments()
    sys.dont_write_bytecode = True  # a checkout stays as it is
    with_torch()
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="fixed-seeds-"))
    pack = (given.pack or find_pack()).resolve()
    demo = (given.demo or find_demo(pack)).resolve()
    try:
        start_comfyui((given.comfyui or find_comfyui()).resolve(), folder)
        nodes = load_nodes(pack, "fixed_seeds_pack") | load_nodes(demo, "fixed_seeds_demo")
        bench = Bench(nodes, folder)
        draw_all(bench, given.only)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ledger = bench.ledger
    words = sum(case.startswith(WORDS) for case in ledger.cases)
    say(f"{len(ledger.cases)} cases, {words} of words, in {time.monotonic() - began:.0f} s.")
    for error in ledger.errors:
        say(f"FAILED  {error}")
    if given.write:
        content = {"machine": machine(), "cases": ledger.cases}
        given.write.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    differ = compare(ledger, given.against, bool(given.only)) if given.against else 0
    return int(bool(differ or ledger.errors))


if __name__ == "__main__":
    sys.exit(main())
