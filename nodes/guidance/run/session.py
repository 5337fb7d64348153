"""The finished samples that count in a run: earlier groups of the batch, and a shared memory."""

from typing import Any

from comfy.model_base import BaseModel
from torch import Tensor

from ....mmd_core import Memory
from ....mmd_core.files.memory_file import Recalled
from .compared_part import ComparedPart
from .shared_memory import SharedMemory

NOTHING = Recalled(None, None, "", ())


class Session:
    """The state that consecutive runs of one batch share.

    Arguments:
        shared: A memory that is shared with other sessions, or None.

    Attributes:
        finished: The samples finished so far that `shared` will not return, in the space of the
            model, or None.
        runs: The number of runs that were started.
    """

    def __init__(self, shared: SharedMemory | None = None) -> None:
        self.shared = shared
        self.finished: Memory | None = None
        self.runs = 0

    def recall(
        self, inner_model: BaseModel, part: ComparedPart, noise: Tensor, prompts: int | None
    ) -> tuple[Memory | None, Recalled]:
        """The samples that count as drawn together with the next ones.

        Arguments:
            inner_model: ComfyUI's model.
            part: What of the latents is compared.
            noise: The noise of the next samples, with shape `(B, *)`.
            prompts: The number of prompt features if the kernel compares prompts, or None.

        Returns:
            What is compared of all samples, in the space of the model, or None, and the samples
            of the shared memory.

        Raises:
            ValueError: The shared memory cannot be read.
        """
        if self.shared is None or not self.shared.loads:
            return self.finished, NOTHING
        raw = inner_model.process_latent_out(part.pictures(noise[:1]).float())
        kind = type(inner_model.latent_format).__name__
        found = self.shared.recall(raw.shape[1:], kind, prompts)
        if found.latents is None:
            return self.finished, found
        latents = inner_model.process_latent_in(found.latents.to(noise.device))
        earlier = Memory(part.still(latents), found.prompts)
        return earlier.followed_by(self.finished) if self.finished else earlier, found

    def seeded(self, extra_args: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the sampler for the next run.

        Each run has another seed, so that stochastic samplers draw other noise for each group.
        """
        seed = ((extra_args.get("seed") or 0) + self.runs) % 2**64
        extra_args = {**extra_args, "seed": seed} if self.runs else extra_args
        self.runs += 1
        return extra_args

    def keep(
        self, inner_model: BaseModel, part: ComparedPart, samples: Tensor, prompts: Tensor | None
    ) -> str | None:
        """Remembers finished samples if they are finite.

        Arguments:
            inner_model: ComfyUI's model.
            part: What of the latents is compared.
            samples: In the space of the model, with shape `(B, *)`.
            prompts: Their prompt features, with shape `(B, E)`, or None.

        Returns:
            A sentence if the shared memory could not store them, else None.
        """
        samples = part.pictures(samples).detach().float()
        shared, trouble = self.shared, None
        if shared is not None and shared.appends:
            kind = type(inner_model.latent_format).__name__
            trouble = shared.append(inner_model.process_latent_out(samples), kind, prompts)
            if trouble is None and shared.loads:
                return None  # the next run finds them there
        if not samples.isfinite().all():
            return trouble  # they would make the next run NaN
        finished = Memory(part.still(samples), prompts)
        self.finished = self.finished.followed_by(finished) if self.finished else finished
        return trouble
