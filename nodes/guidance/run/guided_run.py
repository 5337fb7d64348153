"""One sampling run under guidance: it begins, changes every denoised estimate, and finishes.

After the run, only `Session`, `Trace` and `SharedMemory` keep anything of it.
"""

import logging
from typing import Any

from comfy.model_base import BaseModel
from comfy.samplers import CFGGuider, Sampler
from torch import Tensor

from ....mmd_core import Guidance, Memory, RunTrace
from ....mmd_core.files.memory_file import Recalled
from ....mmd_core.guidance.guidance import NotFinite
from ...base.log import log
from ...base.remark import Remark
from ...host.device_memory import room
from ...host.faults import check_latent_image, explained
from ...host.noise_model import noise_model
from ...host.progress import show_text
from ...host.prompts import batch_features, positive_entries
from .checks import fits
from .compared_part import ComparedPart
from .few_references import few_references
from .guidance_of_sizes import GuidanceOfSizes
from .make_guidance import make_schedule, starts_in_noise
from .problems import FEW_IMAGES, NO_NOISE, NO_PROMPT, RISING, other_batch
from .report import ending, remarks, status, summary
from .request import Request
from .run_mask import RunMask
from .session import Session
from .stages import Stages
from .trace import Trace
from .unconditional import Unconditional


class GuidedRun:
    """Guidance of one sampling run.

    Arguments:
        request: What the node asks for.
        session: What the run shares with other runs of its batch.
        inner_model: ComfyUI's model, loaded for this run.
        part: What of the latents is compared with the references.
        latent_image: The latents from which the run starts, with shape `(B, *shape)`, or None.
        mask: What a mask keeps of `latent_image`, or None.

    Attributes:
        guidance: None if the strength is 0 and the references do not fit: then nothing is done.
        prompts: The features of the prompts that act now, with shape `(B, E)`, or None.
        earlier: Samples finished earlier that count as drawn together with this batch, or None.
        stages: What an earlier run of these images left; None where `guidance` is.
        broken: Whether an estimate was not finite, so that nothing more is recorded.
        sizes: Makes the guidance for images of a size; None where `guidance` is.
        batch: The number of images of the run.

    A deep copy is the run itself: samplers that copy the model options for each call still guide
    this run.
    """

    def __init__(
        self,
        request: Request,
        session: Session,
        inner_model: BaseModel,
        part: ComparedPart,
        latent_image: Tensor | None,
        mask: RunMask | None,
    ) -> None:
        self.request, self.session, self.inner_model = request, session, inner_model
        self.part = part
        self.latent_image, self.mask = latent_image, mask
        self.guidance: Guidance | None = None
        self.prompts: Tensor | None = None
        self.earlier: Memory | None = None
        self.stages: Stages | None = None
        self.broken, self.batch = False, 0
        self.sizes: GuidanceOfSizes | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "GuidedRun":
        return self

    def begin(
        self,
        guider: CFGGuider,
        sampler: Sampler,
        sigmas: Tensor,
        noise: Tensor,
        options: dict[str, Any],
    ) -> None:
        """Checks the references, reads the memory, and makes the guidance.

        Arguments:
            guider: ComfyUI's guider of this run.
            sampler: ComfyUI's sampler of this run.
            sigmas: The noise schedule, with shape `(steps + 1,)`.
            noise: With shape `(B, *shape)`.
            options: The transformer options of the run.

        Raises:
            ValueError: The references do not fit the run, `latent_image` is not finite, or the
                memory cannot be read.
        """
        request, trace = self.request, self.request.trace
        self.batch = max(len(noise), 0 if self.latent_image is None else len(self.latent_image))
        if trace is not None:
            trace.begin(self.part.frames, masked=self.part.open is not None)
        if request.guides:
            check_latent_image(self.latent_image, request.node)
        drawn, entries = self.part.whole(noise), positive_entries(guider)
        if not fits(request, drawn, self.inner_model.latent_format, entries):
            return
        model = noise_model(self.inner_model.model_sampling)
        hopeless = NO_NOISE if model is None else None
        if request.compares_prompts and not entries:
            hopeless = NO_PROMPT
        if hopeless is not None:
            if request.guides:
                request.tell(hopeless)
            return
        prompts = request.references.prompts.shape[1] if request.compares_prompts else None
        try:
            self.earlier, recalled = self.session.recall(
                self.inner_model, self.part, noise, prompts
            )
        except ValueError as error:
            if request.guides:
                raise ValueError(f"{request.node}: memory: {error}") from error
            recalled = Recalled(None, None, "", (str(error),))
        unfinished = request.references.unfinished
        full = starts_in_noise(self.inner_model, model, sigmas)
        self.stages = Stages(unfinished, self.part, noise, self.latent_image, full)
        self.mask = self.stages.of_mask(self.mask)
        schedule = make_schedule(
            self.inner_model, model, request.config, sampler, sigmas, self.stages.goes_on
        )
        if schedule.rises and request.guides:
            request.tell(RISING)
        budget = room(self.inner_model, noise, options)
        self.sizes = GuidanceOfSizes(
            self.inner_model, request, schedule, self.part, self.earlier, budget,
            self.stages.known, self.mask and self.mask.latents, self.stages.pictures,
        )  # fmt: skip
        self.guidance = self.sizes.at(drawn)
        few_images = self.guidance.config.companions
        if few_images and request.guides:
            log.warning("%s: %s", request.node, FEW_IMAGES.text)
        if problem := few_references(request, few_images):
            request.tell(problem)
            show_text(f"⚠ {problem.short}", request.node_id)
        for notice in recalled.notices:
            self.request.tell(Remark("memory", notice))
        if trace is not None and not trace.runs and recalled.latents is not None:
            trace.remembered = len(recalled.latents)

    @property
    def compares_with_prompt(self) -> bool:
        """Whether guidance needs to know how the prompt moves the images."""
        wanted = self.request.trace is not None or self.request.config.rules.keeps_prompt
        return wanted and self.request.guides

    def ask_prompts(self, guider: CFGGuider, batch: int, sigma: float) -> None:
        """Reads the prompts that act at the noise level `sigma`, which lie on the device.

        Arguments:
            guider: ComfyUI's guider of this run.
            batch: The number of images of the call.
            sigma: The noise level.
        """
        if self.guidance is None or self.guidance.captions is None:
            return
        if batch == self.batch:
            active = batch_features(positive_entries(guider), batch, sigma)
            self.prompts = self.prompts if active is None else active

    def denoised(
        self,
        x0: Tensor,
        x: Tensor,
        sigma: float,
        guider: CFGGuider,
        unconditional: Unconditional,
    ) -> Tensor:
        """The guided estimate, with the shape of `x0`.

        A call for another number of images than the run has is not guided.

        Arguments:
            x0: The denoised estimates, with shape `(b, *shape)`.
            x: The noisy latents, with the same shape.
            sigma: The noise level.
            guider: ComfyUI's guider of this run.
            unconditional: The estimate of this call without the prompt.

        Raises:
            ValueError: An estimate is not finite. Guidance would make all images NaN.
        """
        if self.guidance is None or self.broken:
            return x0
        try:
            return self._guided(x0, x, sigma, guider, unconditional)
        except NotFinite as error:
            trouble = explained(error, x)
            if self.request.guides:
                raise ValueError(f"{self.request.node}: {trouble}.") from error
            self.broken = True  # with strength 0 the run goes on, but is not recorded
            self.request.tell(Remark("not finite", f"Strength is 0, but {trouble}."))
            return x0

    def finish(self, samples: Tensor, sigmas: Tensor) -> None:
        """Records and remembers finished samples; notes those in which noise is left.

        Arguments:
            samples: With shape `(B, *shape)`.
            sigmas: The noise schedule, with shape `(steps + 1,)`.
        """
        trace, guidance = self.request.trace, self.guidance
        if sigmas[-1] > 0:
            record = None
            if guidance is not None:
                self.stages.leave(samples, guidance.chosen)
                record = guidance.unfinished(len(samples))
            if (memory := self.request.memory) is not None and memory.appends:
                log.info("%s: noise is left, so they are not remembered", self.request.node)
        else:
            samples = samples if self.mask is None else self.mask.finished(samples)
            # Recorded before they are remembered: an error here then leaves the memory unchanged.
            record = self._judged(samples) if trace is not None and guidance is not None else None
            if record is not None and self.stages.finish() and trace.finished:
                record = record._replace(again=True)
            if trouble := self.session.keep(self.inner_model, self.part, samples, self.prompts):
                self.request.tell(Remark("not remembered", trouble), logging.ERROR)
        if trace is not None and record is not None:
            trace.runs.append(record)
            self._show_end(trace)

    def _judged(self, samples: Tensor) -> RunTrace:
        """The record of a run with finished samples."""
        finished = Memory(self.part.of(samples).detach().float(), self.prompts)
        earlier = self.sizes.earlier_at(self.part.whole(samples))
        together = earlier.followed_by(finished) if earlier else finished
        return self.guidance.finished(finished.latents, together.latents)

    def _guided(
        self,
        x0: Tensor,
        x: Tensor,
        sigma: float,
        guider: CFGGuider,
        unconditional: Unconditional,
    ) -> Tensor:
        if not self._follows(self.part.whole(x0)):
            return x0
        seen, mask, kept = x0, None, None
        if self.mask is not None:
            mask, kept = self.mask.at(x, sigma, guider), self.mask.latents
            seen = x0 * mask + kept * (1 - mask)
        seen, by_prompt = self.part.of(seen), unconditional.by_prompt(x0, mask, self.part)
        noise = self.guidance.noise
        level = noise.deviation(sigma) if self.stages.goes_on else None
        x = self.part.noisy(x, kept, noise.signal(sigma), level)
        guided = self.guidance(seen, x, sigma, self.prompts, by_prompt)
        if rows := self.guidance.trace:
            show_text(status(rows[-1]), self.request.node_id)
        if self.mask is None and self.part.is_all:
            self.stages.estimates = guided
            return guided
        moved = self.part.moved(x0, (guided - seen).to(x0.dtype))
        self.stages.estimates = moved if mask is None else moved * mask + kept * (1 - mask)
        return moved

    def _follows(self, pictures: Tensor) -> bool:
        """Whether there is guidance for images of this shape, which samplers may change in a run.

        Raises:
            ValueError: There is none for their size, and the strength is not 0.
        """
        if len(pictures) != self.batch:
            if self.request.guides:
                self.request.tell(other_batch(len(pictures), self.batch))
            return False
        if (trouble := self.sizes.trouble(pictures)) is None:
            self.guidance = self.sizes.at(pictures, self.guidance)
            return True
        if self.request.guides:
            raise ValueError(f"{self.request.node}: {trouble}.")
        self.guidance = None  # with strength 0 the run goes on, but is not recorded
        self.request.tell(Remark("size changed", f"Not recorded: {trouble}."))
        return False

    def _show_end(self, trace: Trace) -> None:
        """Logs and shows how the run ended."""
        log.info("%s: %s.", self.request.node, summary(trace))
        for remark in remarks(trace) if trace.runs[-1].finished else ():
            if remark != FEW_IMAGES and remark not in trace.problems:  # these are logged already
                log.warning("%s: %s", self.request.node, remark.text)
        show_text(ending(trace), self.request.node_id)
