"""Micro-batching: the network processes a few images at a time.

Guidance still sees the whole batch.

Image networks process every image of a batch independently. Parts of a batch therefore give the
same estimates as the whole batch, up to rounding. Only MMD guidance couples the images, and it runs
outside of the network, on the estimates of all parts. A batch is not split if its rows can depend
on each other: several latents packed into one, videos (several frames in one latent), and batches
that are the frames of one video (SVD, AnimateDiff).

Model patches that keep data per image of the batch inside the network do not know about the parts:
Self-Attention Guidance and IP-Adapter with one picture per image need `micro_batch` 0. Prompts with
their own LoRA hooks swap weights once per part: the result is correct, but slow.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import comfy.conds
import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP

from .conditioning_parts import ControlParts
from .groups import take

if TYPE_CHECKING:
    from comfy.conds import CONDRegular
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor
    from comfy.samplers import CFGGuider

AT_ONCE = "mmd_guidance_at_once"  # key in transformer_options: images per network call
# Conditioning that describes the whole batch.
OF_THE_WHOLE_BATCH = ("num_video_frames", "latent_shapes")


def micro_batched(model: ModelPatcher, size: int) -> ModelPatcher:
    """A clone of the model patcher whose network processes `size` images at a time.

    If `size` is 0, this is `model` itself. Micro-batching applies at every guidance strength, also
    at 0: runs with and without guidance need the same memory. Nodes can be chained; the smallest
    size then counts.
    """
    if size == 0:
        return model
    key = f"mmd_guidance_micro_batch_{uuid.uuid4().hex}"  # unique, so that nodes can be chained

    def prepare(
        executor: WrapperExecutor, model: ModelPatcher, noise_shape: Sequence[int],
        *args: Any, **kwargs: Any,
    ) -> tuple[BaseModel, dict[str, list], list]:  # fmt: skip
        # ComfyUI frees memory for this batch size, and unloads weights if necessary.
        if separable(model.model, noise_shape):
            noise_shape = [min(size, noise_shape[0]), *noise_shape[1:]]
        return executor(model, noise_shape, *args, **kwargs)

    def start_run(
        executor: WrapperExecutor, guider: CFGGuider, sigmas: torch.Tensor,
        extra_args: dict[str, Any], *args: Any, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        extra_args["model_options"]["transformer_options"][key] = ControlParts()
        return executor(guider, sigmas, extra_args, *args, **kwargs)

    def in_parts(
        executor: WrapperExecutor, model: BaseModel, conds: list[list[dict] | None],
        x_in: torch.Tensor, timestep: torch.Tensor, model_options: dict[str, Any],
    ) -> list[torch.Tensor]:  # fmt: skip
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


def separable(inner_model: BaseModel, shape: Sequence[int]) -> bool:
    """Whether the network processes the rows of latents with this shape as independent images."""
    dimensions = inner_model.latent_format.latent_dimensions
    if len(shape) != dimensions + 2:  # several latents, packed into one
        return False
    if inner_model.model_config.unet_config.get("use_temporal_attention"):  # SVD
        return False
    return dimensions < 3 or shape[2] == 1


def is_film(conds: list[list[dict] | None], transformer_options: dict[str, Any]) -> bool:
    """Whether the batch is one video, according to the conditioning or to AnimateDiff-Evolved."""
    return "ad_params" in transformer_options or any(
        name in entry["model_conds"]
        for entries in conds
        for entry in entries or ()
        for name in OF_THE_WHOLE_BATCH
    )


def conds_part(
    entries: list[dict] | None, rows: Sequence[int], batch: int, controls: ControlParts
) -> list[dict] | None:
    """Copies of the conditioning entries of one prompt, for images `rows` of `batch` images."""
    return None if entries is None else [entry_part(e, rows, batch, controls) for e in entries]


def entry_part(entry: dict, rows: Sequence[int], batch: int, controls: ControlParts) -> dict:
    """A copy of one conditioning entry, reduced to images `rows`.

    This concerns its mask, its `model_conds` and its ControlNets. Masks and `model_conds` have
    shape `(n, *)`. ComfyUI repeats n < `batch` rows over the batch, so image i uses row i % n.
    """
    part = {
        **entry,
        # Caches that use this id as their key (EasyCache) must not mix the images of different
        # parts.
        "uuid": uuid.uuid5(uuid.NAMESPACE_OID, f"{entry['uuid']} {rows}"),
        "model_conds": {name: cond_part(c, rows) for name, c in entry["model_conds"].items()},
    }
    if "mask" in entry:
        part["mask"] = rows_of(entry["mask"], rows)
    if entry.get("control") is not None:
        part["control"] = controls.part(entry["control"], rows, batch)
    return part


def cond_part(cond: CONDRegular, rows: Sequence[int]) -> CONDRegular:
    """A conditioning of the same class for images `rows`. Constants are returned as they are."""
    if isinstance(cond, comfy.conds.CONDConstant):
        return cond
    if isinstance(cond.cond, list):  # CONDList
        return cond._copy_with([rows_of(tensor, rows) for tensor in cond.cond])
    return cond._copy_with(rows_of(cond.cond, rows))


def rows_of(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The rows of `tensor` for images `rows`. Image i uses row i % n of n rows, as in ComfyUI."""
    if isinstance(rows, range) and rows.stop <= len(tensor):
        # A view: indexing with a list would synchronize with the device.
        return tensor[rows.start : rows.stop]
    return take(tensor, rows)
