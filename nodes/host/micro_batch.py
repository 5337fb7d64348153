"""Micro-batching: the network processes a few images at a time.

Guidance still sees the whole batch.

Image networks process every image of a batch independently. Parts of a batch therefore give the
same estimates as the whole batch, up to rounding. Only MMD guidance couples the images, and it runs
outside of the network, on the estimates of all parts. A batch is not split if its rows can depend
on each other: several latents packed into one, videos (several frames in one latent), and batches
that are the frames of one video (SVD, AnimateDiff).

With some patches of a model, an image depends on the others of its batch (`coupled_images.py`). The
whole batch then goes through the network at once, and the user is told. Prompts with their own LoRA
hooks swap weights once per part: the result is correct, but slow.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP

from ..base.log import log
from .conditioning_parts import conds_part, rows_of
from .control_parts import ControlParts
from .coupled_images import SHARED, coupling, kept_between_calls, kept_for_later
from .trial import called, is_time_for_trials

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor
    from comfy.samplers import CFGGuider

AT_ONCE = "mmd_guidance_at_once"  # key in transformer_options: images per network call
# Conditioning that describes the whole batch.
OF_THE_WHOLE_BATCH = ("num_video_frames", "latent_shapes")


@dataclass
class Run:
    """What is known in one sampling run.

    Attributes:
        controls: The control objects of each part.
        calls: The number of calls of the network for a whole batch.
        coupled: Whether an image depends on the others, so that the batch is not split.

    A deep copy is this object itself: some samplers copy the model options for each call.
    """

    controls: ControlParts = field(default_factory=ControlParts)
    calls: int = 0
    coupled: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self


def micro_batched(
    model: ModelPatcher, size: int, told: Callable[[str], None] | None = None
) -> ModelPatcher:
    """A clone of the model patcher whose network processes `size` images at a time.

    If `size` is 0, this is `model` itself. Micro-batching applies at every guidance strength, also
    at 0: runs with and without guidance need the same memory. Nodes can be chained; the smallest
    size then counts.

    Arguments:
        told: Is called with a sentence for the user if a run is not split because an image depends
            on the others. It is logged anyway.
    """
    if size == 0:
        return model
    key = f"mmd_guidance_micro_batch_{uuid.uuid4().hex}"  # unique, so that nodes can be chained

    def prepare(
        executor: WrapperExecutor, model: ModelPatcher, noise_shape: Sequence[int],
        conds: dict[str, list], model_options: dict[str, Any] | None = None, **kwargs: Any,
    ) -> tuple[BaseModel, dict[str, list], list]:  # fmt: skip
        # ComfyUI frees memory for this batch size, and unloads weights if necessary.
        coupled = known_coupling(model, model_options or {}, noise_shape[0])
        if separable(model.model, noise_shape) and not coupled:
            noise_shape = [min(size, noise_shape[0]), *noise_shape[1:]]
        return executor(model, noise_shape, conds, model_options=model_options, **kwargs)

    def start_run(
        executor: WrapperExecutor, guider: CFGGuider, sigmas: torch.Tensor,
        extra_args: dict[str, Any], *args: Any, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        extra_args["model_options"]["transformer_options"][key] = Run()
        return executor(guider, sigmas, extra_args, *args, **kwargs)

    def in_parts(
        executor: WrapperExecutor, model: BaseModel, conds: list[list[dict] | None],
        x_in: torch.Tensor, timestep: torch.Tensor, model_options: dict[str, Any],
    ) -> list[torch.Tensor]:  # fmt: skip
        options = model_options.get("transformer_options", {})
        batch = len(x_in)
        run = options.get(key) or Run()

        def at_once(coupled: str | None = None) -> list[torch.Tensor]:
            if coupled is not None:
                run.coupled = True
                text = (
                    f"micro_batch has no effect, because {coupled}: all {batch} images go through "
                    "the model at once."
                )
                log.warning(text)
                if told is not None:
                    told(text)
            return executor(model, conds, x_in, timestep, model_options)

        if batch <= size or not separable(model, x_in.shape) or is_film(conds, options):
            return at_once()
        if run.coupled:
            return at_once()
        if run.calls == 0:
            coupled = known_coupling(model.current_patcher, model_options, batch)
            if coupled:
                return at_once(coupled)
        run.calls += 1
        found: list[bool] = []
        parts = []
        for start in range(0, batch, size):
            comfy.model_management.throw_exception_if_processing_interrupted()
            rows = range(start, min(start + size, batch))
            try:
                part = [conds_part(entries, rows, batch, run.controls) for entries in conds]
            except ValueError as error:
                raise ValueError(f"{error}: set micro_batch to 0") from error
            x, t = rows_of(x_in, rows), rows_of(timestep, rows)
            if start == 0 and is_time_for_trials(run.calls):
                parts.append(called(executor, model, part, x, t, model_options, found))
            else:
                parts.append(executor(model, part, x, t, model_options))
            if found:
                return at_once(SHARED)
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


def is_film(
    conds: list[list[dict] | None],
    transformer_options: dict[str, Any],
    names: Sequence[str] = OF_THE_WHOLE_BATCH,
) -> bool:
    """Whether the batch is one video, according to the conditioning or to AnimateDiff-Evolved.

    Arguments:
        names: The conditioning that tells.
    """
    return "ad_params" in transformer_options or any(
        name in entry["model_conds"]
        for entries in conds
        for entry in entries or ()
        for name in names
    )


def known_coupling(patcher: ModelPatcher, model_options: dict[str, Any], batch: int) -> str | None:
    """How images depend on each other if they are not in one call, in words, or None."""
    return (
        coupling(patcher, model_options, batch)
        or kept_for_later(model_options)
        or kept_between_calls(patcher, model_options)
    )
