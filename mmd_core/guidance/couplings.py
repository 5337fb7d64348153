"""The weights of samples and of all rows in MMD² and in a contrast, for the batches of one run."""

import torch
from torch import Tensor

from ..comparison.by_features import FeatureComparison
from ..comparison.coupling import Coupling
from ..kernels.prompts import balanced, caption_bandwidth, prompt_weights
from ..kernels.transfers import placed
from .config import GuidanceConfig
from .contrast import Base, Contrast, shares
from .memory import Memory

__all__ = ["Couplings"]


class Couplings:
    """The couplings of one run, or its contrasts; the last ones are cached.

    Arguments:
        config: What the user set.
        weights: The weights of the references, with shape `(N,)`.
        captions: The prompt features of the references, with shape `(N, E)`, or None.
        memory: The finished samples, or None.
        base: The base images, or None.
        alike: How alike the kept part of each sample is to the references (`kept.py`), with shape
            `(B, N)`, or None.
    """

    def __init__(
        self,
        config: GuidanceConfig,
        weights: Tensor,
        captions: Tensor | None = None,
        memory: Memory | None = None,
        base: Base | None = None,
        alike: Tensor | None = None,
    ) -> None:
        self.kernel, self.mode = config.kernel_config, config.rules
        self.alike = alike if self.mode.balanced else None
        self.weights, self.captions, self.memory, self.base = weights, captions, memory, base
        self._cached: list[tuple[int, Tensor | None, Coupling]] = []
        self._contrasts: list[tuple[Tensor | None, Contrast]] = []

    def of(self, batch: int, prompts: Tensor | None) -> Coupling:
        """The coupling of a batch.

        Arguments:
            batch: The number of samples, B.
            prompts: Their prompt features, with shape `(B, E)`, or None.
        """
        for b, known, coupling in self._cached:
            if b == batch and _equal(known, prompts):
                return coupling
        coupling = self._new(batch, prompts)
        if self.base is not None:  # base images do not count in MMD²
            coupling = coupling.padded(len(self.base.latents))
        self._cached = [(batch, prompts, coupling)]
        return coupling

    def _new(self, batch: int, prompts: Tensor | None) -> Coupling:
        finished = 0 if self.memory is None else len(self.memory.latents)
        p, s = self.mode.memory_weights(batch, finished)
        p = self.weights.new_full((batch,), p)
        s = torch.cat([-self.weights, self.weights.new_full((finished,), s)])
        if self.kernel.prompt_kernel != "none" and prompts is not None:
            dd, dc, cc = self._by_prompts(prompts)
        elif self.alike is not None:
            n, drawn = len(self.weights), batch + finished
            shapes = (drawn, drawn), (drawn, n), (n, n)
            dd, dc, cc = (self.weights.new_ones(shape) for shape in shapes)
        else:
            return Coupling(p, s)
        if self.alike is not None:
            others = self.alike.mean(0).expand(finished, -1)  # what they keep is not known any more
            dc = dc * torch.cat([self.alike, others]).to(dc)
        if self.mode.balanced:
            both = torch.cat([p, s[len(self.weights) :]])
            dd, dc, cc = balanced(dd, dc, cc, both, self.weights)
        across = dc[batch:].T
        zz = torch.cat([torch.cat([cc, across], 1), torch.cat([across.T, dd[batch:, batch:]], 1)])
        return Coupling(
            p, s, dd[:batch, :batch], torch.cat([dc[:batch], dd[:batch, batch:]], 1), zz
        )

    def _by_prompts(self, prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt weights between all samples, samples and references, and references."""
        name, memory = self.kernel.prompt_kernel, self.memory
        drawn = prompts if memory is None else torch.cat([prompts, memory.prompts.to(prompts)])
        drawn, captions = (placed(each, self.weights) for each in (drawn, self.captions))
        bandwidth = self.kernel.prompt_bandwidth or caption_bandwidth(self.captions)
        pairs = (drawn, drawn), (drawn, captions), (captions, captions)
        dd, dc, cc = (prompt_weights(name, a, b, bandwidth) for a, b in pairs)
        return dd, dc, cc

    def contrast(self, prompts: Tensor | None, comparison: FeatureComparison) -> Contrast:
        """The contrast of references and base images.

        Arguments:
            prompts: Prompt features of the samples, with shape `(B, E)`, or None.
            comparison: The references, then finished samples, then base images.
        """
        for known, contrast in self._contrasts:
            if _equal(known, prompts):
                return contrast
        name, similar = self.kernel.prompt_kernel, (None, None)
        if name != "none" and prompts is not None:
            captions = self.captions.to(self.weights.dtype)
            bandwidth = self.kernel.prompt_bandwidth or caption_bandwidth(captions)
            drawn = placed(prompts, self.weights)
            both = (placed(each, self.weights) for each in (captions, self.base.captions))
            similar = tuple(prompt_weights(name, drawn, each, bandwidth) for each in both)
        u = shares(self.weights, similar[0])
        t = shares(placed(self.base.weights, self.weights), similar[1])
        contrast = Contrast.between(comparison.space, comparison.kernel, u, t, self.base.partners)
        self._contrasts = [(prompts, contrast)]
        return contrast


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
