"""The weights of samples, references and finished samples in MMD², for the batches of one run."""

import torch
from torch import Tensor

from ..comparison.coupling import Coupling
from ..kernels.prompts import balanced, caption_bandwidth, prompt_weights
from .config import GuidanceConfig
from .memory import Memory

__all__ = ["Couplings"]


class Couplings:
    """The couplings of one run; the last one is cached.

    Arguments:
        config: What the user set.
        weights: The weights of the references, with shape `(N,)`.
        captions: The prompt features of the references, with shape `(N, E)`, or None.
        memory: The finished samples, or None.
    """

    def __init__(
        self,
        config: GuidanceConfig,
        weights: Tensor,
        captions: Tensor | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.kernel, self.mode = config.kernel_config, config.rules
        self.weights, self.captions, self.memory = weights, captions, memory
        self._cached: list[tuple[int, Tensor | None, Coupling]] = []

    def of(self, batch: int, prompts: Tensor | None) -> Coupling:
        """The coupling of a batch.

        Arguments:
            batch: The number of samples, B.
            prompts: Their prompt features, with shape `(B, E)`, or None.
        """
        for b, known, coupling in self._cached:
            same = known is prompts or (
                None not in (known, prompts) and torch.equal(known, prompts)
            )
            if b == batch and same:
                return coupling
        coupling = self._new(batch, prompts)
        self._cached = [(batch, prompts, coupling)]
        return coupling

    def _new(self, batch: int, prompts: Tensor | None) -> Coupling:
        finished = 0 if self.memory is None else len(self.memory.latents)
        p, s = self.mode.memory_weights(batch, finished)
        p = self.weights.new_full((batch,), p)
        s = torch.cat([-self.weights, self.weights.new_full((finished,), s)])
        name = self.kernel.prompt_kernel
        if name == "none" or prompts is None:
            return Coupling(p, s)
        drawn = prompts if not finished else torch.cat([prompts, self.memory.prompts.to(prompts)])
        drawn, captions = drawn.to(self.weights), self.captions.to(self.weights)
        bandwidth = self.kernel.prompt_bandwidth or caption_bandwidth(self.captions)
        pairs = (drawn, drawn), (drawn, captions), (captions, captions)
        dd, dc, cc = (prompt_weights(name, a, b, bandwidth) for a, b in pairs)
        if self.mode.balanced:
            shares = torch.cat([p, s[len(captions) :]])
            dd, dc, cc = balanced(dd, dc, cc, shares, self.weights)
        across = dc[batch:].T
        zz = torch.cat([torch.cat([cc, across], 1), torch.cat([across.T, dd[batch:, batch:]], 1)])
        return Coupling(
            p, s, dd[:batch, :batch], torch.cat([dc[:batch], dd[:batch, batch:]], 1), zz
        )
