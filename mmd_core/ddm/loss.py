"""The loss: the unbiased MMD² between features of all samples and of all references, and its gradient.

    MMD²_U = Σ_{i≠i'} κ k(x_i, x_i') / (n (n − 1)) + const − 2/n Σ_ij q_j κ k(x_i, y_j)

with κ of the prompts of the two, 1 without prompts. The references' own part is a constant, computed once.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ..config import KernelConfig
from ..kernels import Gram
from ..mmd import centred_rows, mmd2_from_values, mmd2_grad, uniform
from ..prompt import caption_bandwidth, prompt_weights

__all__ = ["DEFAULT_KERNEL", "MMDLoss", "MOST"]

DEFAULT_KERNEL = KernelConfig(multipliers=(0.25, 0.5, 1.0, 2.0), prompt_kernel="rbf")
MOST = 2048  # references compared at once; of more, so many are drawn anew each time


class MMDLoss:
    """Compares features of samples with those of references.

    Arguments:
        features: Of the references, with shape `(m, F)`.
        config: The kernel; its feature space is not used.
        weights: Of the references, with shape `(m,)`, not negative; without, all count alike.
        prompts: Features of their captions, with shape `(m, E)`; None compares no prompts.
        like: Another one whose bandwidths are taken, so that both measure the same.

    Raises:
        ValueError: Fewer than two references that count.
    """

    def __init__(
        self, features: Tensor, config: KernelConfig, weights: Tensor | None = None, prompts: Tensor | None = None,
        like: "MMDLoss | None" = None,
    ):  # fmt: skip
        q = uniform(len(features), features) if weights is None else weights.to(features)
        kept = q > 0
        if kept.sum() < 2:
            raise ValueError(
                f"{int(kept.sum())} reference: the unbiased MMD² needs at least 2 with a weight above 0"
            )
        self.features, self.weights = features[kept], q[kept] / q[kept].sum()
        self.prompts = None
        self.config = config
        if prompts is not None and config.prompt_kernel != "none":
            self.prompts = prompts[kept.to(prompts.device)].to(features)
            if not config.prompt_bandwidth:
                self.config = replace(config, prompt_bandwidth=caption_bandwidth(self.prompts))
        self._constant = None
        if like is not None:
            self.config, self.kernel = like.config, like.kernel
            return
        y, _ = self._some(torch.Generator().manual_seed(0))
        y = y - y.mean(0) if config.radial else y
        self.kernel = config.resolve(y @ y.T, y.shape[1])

    def __call__(
        self, x: Tensor, prompts: Tensor | None = None, random: torch.Generator | None = None
    ) -> tuple[float, Tensor]:
        """MMD²_U and ∂MMD²_U/∂x.

        Arguments:
            x: Features of samples, with shape `(n, F)`, n ≥ 2.
            prompts: Of their prompts, with shape `(n, E)`, where the references have some.
            random: Chooses among very many references.
        """
        y, index = self._some(random)
        pairs, own = None, None
        if self.prompts is not None:
            p, r = prompts.to(y), self.prompts[index]
            pairs, own = (self._kappa(p, p), self._kappa(p, r)), self._kappa(r, r)
        weights = self.weights[index]
        weights = weights / weights.sum()
        rows, refs = centred_rows(x, y, self.kernel)
        kxx = self.kernel.values(Gram.within(rows @ rows.T))
        kxy = self.kernel.values(Gram.of(rows, refs))
        if self._constant is None or len(index) < len(self.features):
            kyy = self.kernel.values(Gram.within(refs @ refs.T))
            self._constant = kyy if own is None else kyy * own
        if pairs is not None:
            kxx, kxy = kxx * pairs[0], kxy * pairs[1]
        value = mmd2_from_values(kxx, kxy, self._constant, uniform(len(x), kxx), weights, True)
        return value.item(), mmd2_grad(x, y, self.kernel, weights, unbiased=True, pairs=pairs)

    def _kappa(self, p: Tensor, r: Tensor) -> Tensor:
        return prompt_weights(self.config.prompt_kernel, p, r, self.config.prompt_bandwidth)

    def _some(self, random: torch.Generator | None) -> tuple[Tensor, Tensor]:
        m = len(self.features)
        index = torch.arange(m)
        if m > MOST:
            index = torch.randperm(m, generator=random)[:MOST]
        index = index.to(self.features.device)
        return self.features[index], index
