"""The guidance of one run for the size of its images, which some samplers change in the run."""

from comfy.model_base import BaseModel
from torch import Tensor

from ....mmd_core import Guidance, Memory, Schedule
from ...host.fit_latent import fit_latents
from .compared_part import ComparedPart
from .make_guidance import make_guidance
from .request import Request


class GuidanceOfSizes:
    """Makes the guidance of one run, for images of any size.

    Arguments:
        inner_model: ComfyUI's model.
        request: What the node asks for.
        schedule: The noise levels of the run.
        part: What of the latents is compared with the references.
        earlier: Samples finished earlier, or None.
        budget: How many bytes of device memory the references may use.
        known: As in `Guidance`.
        latent_image: The latents of which a mask keeps a part, or None.
        begun: The pictures from which the run starts, as `ComparedPart.whole` has them, or None.

    Attributes:
        shape: The shape of the images for which guidance was made last.
    """

    def __init__(
        self,
        inner_model: BaseModel,
        request: Request,
        schedule: Schedule,
        part: ComparedPart,
        earlier: Memory | None,
        budget: float,
        known: Tensor | None = None,
        latent_image: Tensor | None = None,
        begun: Tensor | None = None,
    ) -> None:
        self.inner_model, self.request, self.schedule = inner_model, request, schedule
        self.part, self.earlier, self.budget = part, earlier, budget
        self.known, self.latent_image, self.begun = known, latent_image, begun
        self.shape: tuple[int, ...] = ()

    def trouble(self, pictures: Tensor) -> str | None:
        """Why images of this shape cannot be guided in the run that has begun, else None."""
        have, want = (f"{shape[-1]}×{shape[-2]}" for shape in (self.shape, pictures.shape))
        if have == want or self.request.resizes:
            return None
        return (
            f"the sampler changed the size of the latents from {have} to {want}: set other_sizes "
            "to resize, or take another sampler"
        )

    def at(self, pictures: Tensor, before: Guidance | None = None) -> Guidance:
        """The guidance for images of this shape.

        Arguments:
            pictures: Latents as `ComparedPart.whole` has them, with shape `(B, C, *)`.
            before: The guidance of this run so far, from which the new one goes on, or None.
        """
        if before is not None and self.shape == pictures.shape[1:]:
            return before
        self.shape = pictures.shape[1:]
        if before is not None and len(before.chosen):
            self.known = before.chosen
        begun = self.begun
        if begun is not None and (begun.shape[1:] != self.shape or self.known is not None):
            begun = None  # of another size than the images are now
        guidance = make_guidance(
            self.inner_model,
            self.request,
            self.schedule,
            self.part,
            pictures,
            self.earlier_at(pictures),
            self.budget,
            self.known,
            self.latent_image,
            begun,
        )
        if before is not None:
            guidance.trace, guidance.course = before.trace, before.course
        return guidance

    def earlier_at(self, pictures: Tensor) -> Memory | None:
        """What is compared of the samples finished earlier, at the size of the pictures."""
        if self.earlier is None:
            return None
        latents = self.earlier.latents
        if latents.shape[1:] != pictures.shape[1:]:
            fitting = list(latents.cpu().split(1))
            fitting = fit_latents(fitting, *pictures.shape[-2:], antialias=False)
            latents = fitting.to(latents)
        return self.earlier._replace(latents=self.part.cut(latents))
