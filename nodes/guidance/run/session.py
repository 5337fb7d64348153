"""How memory enters a sampling run: finished samples of this node, and those that other runs share with it."""

import torch

from ....mmd_core import Memory
from ....mmd_core.files.memory_file import Recalled
from .shared_memory import SharedMemory

NOTHING = Recalled(None, None, "", ())


class Session:
    """What consecutive runs of one batch share: how memory enters a run.

    Arguments:
        shared: A memory that it shares with other sessions, or None.

    Attributes:
        finished: The samples finished so far that `shared` will not recall, in the space of the model, or None.
        runs: How many runs have been started.
    """

    def __init__(self, shared: SharedMemory | None = None):
        self.shared = shared
        self.finished: Memory | None = None
        self.runs = 0

    def recall(
        self, inner_model, noise: torch.Tensor, prompts: int | None
    ) -> tuple[Memory | None, Recalled]:
        """What counts as drawn together with the next samples, and what of it is shared.

        Arguments:
            noise: That of the next samples, with shape `(B, *shape)`.
            prompts: The number of prompt features that count, or None.

        Raises:
            ValueError: The shared memory cannot be read.
        """
        if self.shared is None or not self.shared.loads:
            return self.finished, NOTHING
        raw = inner_model.process_latent_out(noise[:1].float())
        kind = type(inner_model.latent_format).__name__
        found = self.shared.recall(raw.shape[1:], kind, prompts)
        if found.latents is None:
            return self.finished, found
        latents = inner_model.process_latent_in(found.latents.to(noise.device))
        earlier = Memory(latents, found.prompts)
        return earlier.followed_by(self.finished) if self.finished else earlier, found

    def seeded(self, extra_args: dict) -> dict:
        """A sampler's arguments for the next run: stochastic samplers draw other noise for each group."""
        seed = ((extra_args.get("seed") or 0) + self.runs) % 2**64
        extra_args = {**extra_args, "seed": seed} if self.runs else extra_args
        self.runs += 1
        return extra_args

    def keep(self, inner_model, samples: torch.Tensor, prompts: torch.Tensor | None) -> str | None:
        """Remembers finished samples if they are finite; a sentence if the shared memory could not take them."""
        samples = samples.detach().float()
        shared, trouble = self.shared, None
        if shared is not None and shared.appends:
            kind = type(inner_model.latent_format).__name__
            trouble = shared.append(inner_model.process_latent_out(samples), kind, prompts)
            if trouble is None and shared.loads:
                return None  # the next run finds them there
        if not samples.isfinite().all():
            return trouble  # they would spoil the next run
        finished = Memory(samples, prompts)
        self.finished = self.finished.followed_by(finished) if self.finished else finished
        return trouble
