"""Sending a batch through the network a few images at a time: the memory of few, guidance of all.

Networks of images work on every image of a batch by itself, so parts of a batch give what the whole
gives, up to rounding. What couples the images, MMD guidance, acts on the finished estimates outside.
Sent whole, because there the images of a batch do see each other: latents of several kinds at once,
films (several frames in one latent), and batches that are the frames of one film (SVD, AnimateDiff).

Patches that collect or hand out something per image of the batch within the network know nothing of
the parts: Self-Attention Guidance and IP-Adapter with one picture per image need `micro_batch` 0.
Prompts with LoRA hooks of their own swap weights once per part: right, but slow.
"""

import uuid
from collections.abc import Sequence

import comfy.conds
import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP

from .conditioning_parts import ControlParts
from .groups import take

AT_ONCE = "mmd_guidance_at_once"  # among transformer_options: how many images the network works on
OF_THE_WHOLE_BATCH = "num_video_frames", "latent_shapes"  # conditioning that parts would contradict


def micro_batched(model, size: int):
    """A clone of `model` whose network works on `size` images at a time; the model itself if 0.

    It does so at every strength of guidance, 0 included: who compares with and without guidance has
    the same small card. Nodes can be chained, the smallest size then counts.
    """
    if size == 0:
        return model
    key = f"mmd_guidance_micro_batch_{uuid.uuid4().hex}"  # unique, so that nodes can be chained

    def prepare(executor, model, noise_shape, *args, **kwargs):
        # Core frees memory for all that it believes is drawn at once, unloading weights if it must.
        if separable(model.model, noise_shape):
            noise_shape = [min(size, noise_shape[0]), *noise_shape[1:]]
        return executor(model, noise_shape, *args, **kwargs)

    def start_run(executor, guider, sigmas, extra_args, *args, **kwargs):
        extra_args["model_options"]["transformer_options"][key] = ControlParts()
        return executor(guider, sigmas, extra_args, *args, **kwargs)

    def in_parts(executor, model, conds, x_in, timestep, model_options):
        options = model_options.get("transformer_options", {})
        batch = len(x_in)
        if batch <= size or not separable(model, x_in.shape) or is_film(conds, options):
            return executor(model, conds, x_in, timestep, model_options)
        controls = options.get(key) or ControlParts()
        parts = []
        for start in range(0, batch, size):
            comfy.model_management.throw_exception_if_processing_interrupted()
            rows = range(start, min(start + size, batch))
            part = [conds_part(entries, rows, batch, controls) for entries in conds]
            x, t = rows_of(x_in, rows), rows_of(timestep, rows)
            parts.append(executor(model, part, x, t, model_options))
        return [torch.cat(estimates) for estimates in zip(*parts, strict=True)]

    model = model.clone()
    options = model.model_options["transformer_options"]
    options[AT_ONCE] = min(size, options.get(AT_ONCE, size))
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, key, prepare)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, start_run)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, key, in_parts)
    return model


def separable(inner_model, shape) -> bool:
    """Whether the rows of latents of `shape` are images that the network never lets see each other."""
    dimensions = inner_model.latent_format.latent_dimensions
    if len(shape) != dimensions + 2:  # several latents, packed into one
        return False
    if inner_model.model_config.unet_config.get("use_temporal_attention"):  # SVD
        return False
    return dimensions < 3 or shape[2] == 1


def is_film(conds: list, transformer_options: dict) -> bool:
    """Whether the conditioning or AnimateDiff-Evolved says that the batch is one thing."""
    return "ad_params" in transformer_options or any(
        name in entry["model_conds"]
        for entries in conds
        for entry in entries or ()
        for name in OF_THE_WHOLE_BATCH
    )


def conds_part(entries: list[dict] | None, rows: Sequence[int], batch: int, controls: ControlParts):
    """What images `rows` of `batch` use of the entries of one prompt; the entries stay as they are."""
    return None if entries is None else [entry_part(e, rows, batch, controls) for e in entries]


def entry_part(entry: dict, rows: Sequence[int], batch: int, controls: ControlParts) -> dict:
    """One entry: its mask [n, ...], its `model_conds` of [n, ...], and its ControlNets.

    Core repeats n < `batch` rows over the batch, so image i uses row i % n.
    """
    part = {
        **entry,
        # Caches that go by the entry (EasyCache) must not take one part's images for another's.
        "uuid": uuid.uuid5(uuid.NAMESPACE_OID, f"{entry['uuid']} {rows}"),
        "model_conds": {name: cond_part(c, rows) for name, c in entry["model_conds"].items()},
    }
    if "mask" in entry:
        part["mask"] = rows_of(entry["mask"], rows)
    if entry.get("control") is not None:
        part["control"] = controls.part(entry["control"], rows, batch)
    return part


def cond_part(cond, rows: Sequence[int]):
    """The same kind of conditioning for images `rows`; constants belong to no image."""
    if isinstance(cond, comfy.conds.CONDConstant):
        return cond
    if isinstance(cond.cond, list):  # CONDList
        return cond._copy_with([rows_of(tensor, rows) for tensor in cond.cond])
    return cond._copy_with(rows_of(cond.cond, rows))


def rows_of(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The rows that images `rows` use of a tensor that ComfyUI repeats over the batch."""
    if isinstance(rows, range) and rows.stop <= len(tensor):
        return tensor[rows.start : rows.stop]  # a view: an index would wait for the device
    return take(tensor, rows)
