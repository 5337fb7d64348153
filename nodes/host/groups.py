"""Draws some images of a batch in a run of their own, as in a run of the whole batch.

ComfyUI prepares such a run for the whole batch: conditioning, hints, masks and latents. Right
before the sampler starts, all of it is cut down to the images of the group. So each image uses what
it uses in the whole batch, whatever a model or another node makes of the conditioning.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_patcher
import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .conditioning_parts import conds_part, rows_of
from .control_parts import ControlParts
from .coupled_images import SHARED, coupling
from .micro_batch import is_film
from .trial import called, is_time_for_trials

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor
    from comfy.samplers import CFGGuider

__all__ = ["Group", "group_indices"]


def group_indices(batch: int, group_size: int) -> list[list[int]]:
    """The image indices of each group; one group if `group_size` is 0."""
    size = group_size or batch
    return [list(range(i, min(i + size, batch))) for i in range(0, batch, size)]


@dataclass(frozen=True, eq=False)
class Group:
    """Some images of a batch, drawn in a run of their own.

    Arguments:
        rows: Their indices in the batch.
        batch: The number of images of the batch.
        node: The name of the node, for messages.
        cure: What to do if the batch cannot be divided, for example "set group_size to 0".
        noise: The noise of these images, if that of the run is a placeholder for the whole batch.
        seed: The seed of the sampler, if it is not that of the run.
        whole: The names of the prompts that are given for the whole batch, such as "negative". The
            others are given for these images. None: all are given for the whole batch.
        check: Is called with the prompts of the whole batch, as ComfyUI prepared them, or None.
    """

    rows: Sequence[int]
    batch: int
    node: str
    cure: str
    noise: Tensor | None = None
    seed: int | None = None
    whole: tuple[str, ...] | None = None
    check: Callable[[dict[str, list[dict]]], None] | None = None

    def of_model(self, model: ModelPatcher) -> ModelPatcher:
        """A clone of the model patcher, whose runs of the batch draw these images only."""
        model = model.clone()
        self._add_to(model.model_options)
        return model

    def of_guider(self, guider: CFGGuider) -> CFGGuider:
        """A copy of the guider, whose runs of the batch draw these images only."""
        guider = copy.copy(guider)
        guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
        self._add_to(guider.model_options)
        return guider

    def _add_to(self, model_options: dict[str, Any]) -> None:
        """Adds wrappers to model options. They are around all wrappers of the model patcher."""
        key = f"mmd_guidance_group_{uuid.uuid4().hex}"
        wrappers = {WrappersMP.SAMPLER_SAMPLE: self._sample}
        if len(self.rows) < self.batch:
            wrappers[WrappersMP.PREPARE_SAMPLING] = self._prepare
            wrappers[WrappersMP.CALC_COND_BATCH] = self._checked()
        for kind, wrapper in wrappers.items():
            comfy.patcher_extension.add_wrapper_with_key(
                kind, key, wrapper, model_options, is_model_options=True
            )

    def _prepare(
        self,
        executor: WrapperExecutor,
        model: ModelPatcher,
        noise_shape: Sequence[int],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[BaseModel, dict[str, list], list]:
        """Around `prepare_sampling`, which makes room for the images of the group."""
        return executor(model, [len(self.rows), *noise_shape[1:]], *args, **kwargs)

    def _sample(
        self,
        executor: WrapperExecutor,
        guider: CFGGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Around the sampler, which gets the images of the group."""
        of_batch, controls = guider.conds, ControlParts()
        if self.check is not None:
            self.check(of_batch)
        noise = rows_of(noise, self.rows) if self.noise is None else self.noise.to(noise)
        if self.seed is not None:
            extra_args = {**extra_args, "seed": self.seed}
        try:
            guider.conds = {
                name: conds_part(entries, self.rows, self.batch, controls)
                if self.whole is None or name in self.whole
                else entries
                for name, entries in of_batch.items()
            }
        except ValueError as error:
            raise ValueError(f"{self.node}: {error}: {self.cure}") from error
        try:
            return executor(
                guider, sigmas, extra_args, callback, noise, self._cut(latent_image),
                self._cut(denoise_mask), disable_pbar,
            )  # fmt: skip
        finally:
            guider.conds = of_batch  # ComfyUI cleans up what it prepared

    def _cut(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else rows_of(tensor, self.rows)

    def _checked(self) -> Callable[..., list[Tensor]]:
        """Goes around the calls of the network, and refuses images that depend on each other."""
        calls = 0

        def checked(
            executor: WrapperExecutor, model: BaseModel, conds: list[list[dict] | None],
            x_in: Tensor, timestep: Tensor, model_options: dict[str, Any],
        ) -> list[Tensor]:  # fmt: skip
            nonlocal calls
            calls += 1
            options = model_options.get("transformer_options", {})
            if calls == 1:
                if is_film(conds, options, ("num_video_frames",)):
                    self._refuse("the images of this batch are the frames of one video")
                if coupled := coupling(model.current_patcher, model_options, self.batch):
                    self._refuse(coupled)
            found: list[bool] = []
            given = model, conds, x_in, timestep, model_options
            if not is_time_for_trials(calls):
                return executor(*given)
            estimates = called(executor, *given, found)
            if found:
                self._refuse(SHARED)
            return estimates

        return checked

    def _refuse(self, cause: str) -> None:
        raise ValueError(
            f"{self.node}: this batch cannot be drawn in parts, because {cause}: {self.cure}"
        )
