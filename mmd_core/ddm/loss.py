"""The loss: the unbiased MMD² between the features of samples and of references, and its gradient.

    MMD²_U = Σ_{i≠i'} κ k(x_i, x_i') / (n (n − 1)) + const − 2/n Σ_ij q_j κ k(x_i, y_j)

where κ is the prompt kernel of the two prompts, or 1 without prompts. The constant is the term
between references. It is computed once, unless a random subset of the references is used.
"""

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import Gram
from ..kernels.mmd import grad_of_rows, mmd2_from_values, uniform
from ..kernels.precision import full_precision
from ..kernels.prompts import caption_bandwidth, prompt_weights

__all__ = ["DEFAULT_KERNEL", "MAX_REFERENCES", "MMDLoss"]

DEFAULT_KERNEL = KernelConfig(multipliers=(0.25, 0.5, 1.0, 2.0), prompt_kernel="rbf")
MAX_REFERENCES = 2048  # in one comparison; of more, each comparison draws a random subset


class MMDLoss:
    """Compares features of samples with those of references.

    Arguments:
        features: The features of the references, with shape `(m, F)`.
        config: The kernel; its feature space is not used.
        weights: The weights of the references, with shape `(m,)`, not negative; None means equal
            weights.
        prompts: The features of the captions, with shape `(m, E)`; None means that prompts are not
            compared.
        like: Another loss whose kernel and bandwidths are used, so that both losses are comparable.

    Raises:
        ValueError: Fewer than two references have a weight above 0.

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 2012.
        https://jmlr.org/papers/v13/gretton12a.html
    """

    @full_precision()
    def __init__(
        self, features: Tensor, config: KernelConfig, weights: Tensor | None = None,
        prompts: Tensor | None = None, like: "MMDLoss | None" = None,
    ) -> None:  # fmt: skip
        q = uniform(len(features), features) if weights is None else weights.to(features)
        kept = q > 0
        if kept.sum() < 2:
            raise ValueError(
                f"{int(kept.sum())} references have a weight above 0, the unbiased MMD² needs at "
                "least 2: connect more"
            )
        self.weights = q[kept] / q[kept].sum()
        # Distances computed from inner products lose digits far from the origin, so the features
        # are centred.
        self.centre = features[kept].mean(0) if config.radial else features.new_zeros(())
        self.features = features[kept] - self.centre
        self.prompts, self.config = None, config
        if prompts is not None and config.prompt_kernel != "none":
            self.prompts = prompts[kept.to(prompts.device)].to(features)
            if not config.prompt_bandwidth:
                self.config = replace(config, prompt_bandwidth=caption_bandwidth(self.prompts))
        if like is not None:
            self.config, self.kernel = like.config, like.kernel
            return
        y = self._subset(torch.Generator().manual_seed(0))[0]
        self.kernel = config.resolve(y @ y.T, y.shape[1], self.centre)

    @full_precision()
    def __call__(
        self, x: Tensor, prompts: Tensor | None = None, random: torch.Generator | None = None
    ) -> tuple[float, Tensor]:
        """MMD²_U, and ∂MMD²_U/∂x with the shape of `x`.

        Arguments:
            x: The features of the samples, with shape `(n, F)`, n ≥ 2.
            prompts: The features of their prompts, with shape `(n, E)`; needed if prompts are
                compared.
            random: The generator for the random subset of references.
        """
        refs, q, captions = self._subset(random)
        rows = x.to(refs) - self.centre
        grams = Gram.within(rows @ rows.T), Gram.of(rows, refs)
        kxx, kxy = map(self.kernel.values, grams)
        pairs = None
        if captions is not None:
            p = prompts.to(captions)
            pairs = self._kappa(p, p), self._kappa(p, captions)
            kxx, kxy = kxx * pairs[0], kxy * pairs[1]
        all_of_them = len(refs) == len(self.features)
        kyy = self._kyy_of_all if all_of_them else self._kyy(refs, captions)
        value = mmd2_from_values(kxx, kxy, kyy, uniform(len(x), kxx), q, unbiased=True)
        return value.item(), grad_of_rows(rows, refs, grams, self.kernel, q, True, pairs)

    @cached_property
    def _kyy_of_all(self) -> Tensor:
        return self._kyy(self.features, self.prompts)

    def _kyy(self, refs: Tensor, captions: Tensor | None) -> Tensor:
        """κ k(y_j, y_j') between references, with shape `(m, m)`."""
        kyy = self.kernel.values(Gram.within(refs @ refs.T))
        return kyy if captions is None else kyy * self._kappa(captions, captions)

    def _kappa(self, p: Tensor, r: Tensor) -> Tensor:
        return prompt_weights(self.config.prompt_kernel, p, r, self.config.prompt_bandwidth)

    def _subset(self, random: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The references, their weights (sum 1) and their captions.

        These are all of them, or a random subset of `MAX_REFERENCES`.
        """
        if len(self.features) <= MAX_REFERENCES:
            return self.features, self.weights, self.prompts
        index = torch.randperm(len(self.features), generator=random)[:MAX_REFERENCES]
        index = index.to(self.features.device)
        q = self.weights[index]
        captions = None if self.prompts is None else self.prompts[index]
        return self.features[index], q / q.sum(), captions
