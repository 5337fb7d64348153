"""A few-step sampler as a linear map.

The inputs u_k that a sampler gives to the model, and its final sample, are linear in the initial
noise, in the model's estimates x̂0 so far, and in the noise that the sampler adds between calls:

    u_k = Σ_l C_kl b_l,   b = (x_0, D_0, …, D_{K−1}, ξ_0, …),   D_k = D_θ(u_k, σ_k)

Euler is u_{k+1} = (σ'/σ) u_k + (1 − σ'/σ) D_k. Multi-step, second-order and ancestral samplers have
other coefficients. The coefficients are measured: the sampler runs once on basis vectors, and once
on random numbers to check that it is linear. So one adjoint (`adjoint.py`) gives the gradient
through every linear sampler of ComfyUI.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

__all__ = ["LinearChain"]

Sampler = Callable[[Callable, Tensor, Callable], Tensor]
"""`(model, x, noise_sampler)` to the sample.

`model(x, sigma)` gives x̂0, and `noise_sampler(σ, σ')` gives standard normal numbers.
"""

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the linearity check


@dataclass(frozen=True, eq=False)
class LinearChain:
    """The coefficients C of a sampler that calls the model K times.

    Row k is for u_k, and row K for the final sample.

    Attributes:
        sigmas: σ_k, the noise level of each call.
        of_start: The coefficients of x_0, with shape `(K + 1,)`.
        of_estimates: The coefficients of the estimates D_l, with shape `(K + 1, K)`; 0 for l ≥ k.
        of_noise: The coefficients of the noise ξ between calls, with shape `(K + 1, R)`.
    """

    sigmas: tuple[float, ...]
    of_start: Tensor
    of_estimates: Tensor
    of_noise: Tensor

    def __len__(self) -> int:
        return len(self.sigmas)

    @property
    def draws(self) -> int:
        """R, how many times the sampler draws noise."""
        return self.of_noise.shape[1]

    def state(self, k: int, start: Tensor, estimates: list[Tensor], noise: list[Tensor]) -> Tensor:
        """u_k, or the final sample for k = K.

        Arguments:
            k: The number of the call, from 0.
            start: x_0, with shape `(b, *)`.
            estimates: The estimates of the earlier calls, each with the shape of `start`.
            noise: The noise between calls, each with the shape of `start`.
        """
        total = float(self.of_start[k]) * start
        for shares, parts in ((self.of_estimates[k], estimates), (self.of_noise[k], noise)):
            for share, part in zip(shares.tolist(), parts, strict=False):
                if share != 0:
                    total = total + share * part
        return total

    @classmethod
    def of(
        cls, sampler: Sampler, max_calls: int, dtype: torch.dtype = torch.float64
    ) -> "LinearChain":
        """Measures the coefficients of a sampler.

        Arguments:
            sampler: The sampler.
            max_calls: The largest number of calls, and of noise draws.
            dtype: The dtype of x; float32 for samplers that do not compute in float64.

        Raises:
            ValueError: The sampler is not linear in its inputs, exceeds `max_calls`, needs more
                from the model than x̂0, or draws noise that is not independent.
        """
        probe = _Probe(max_calls, dtype)
        rows = _run(sampler, probe, probe.basis(0)).flatten(1)
        k, r = len(probe.sigmas), probe.draws
        chain = cls(
            tuple(probe.sigmas),
            rows[:, 0].double(),
            rows[:, 1 : 1 + k].double(),
            rows[:, 1 + max_calls : 1 + max_calls + r].double(),
        )
        check = _Probe(max_calls, dtype, torch.Generator().manual_seed(0))
        start = check.basis(0)
        again = _run(sampler, check, start)
        same = check.sigmas == probe.sigmas and check.draws == r
        tolerance = TOLERANCES[dtype]
        if not same or not all(
            torch.allclose(
                found,
                chain.state(i, start, check.estimates, check.noise),
                rtol=tolerance,
                atol=tolerance,
            )
            for i, found in enumerate(again)
        ):
            raise ValueError("the sampler is not linear in the estimates of the model")
        for one, other in combinations(probe.intervals, 2):
            if min(one[1], other[1]) > max(one[0], other[0]) * (1 + TOLERANCES[torch.float64]):
                raise ValueError("the sampler draws noise that depends on what it drew before")
        return chain


def _run(sampler: Sampler, probe: "_Probe", start: Tensor) -> Tensor:
    """The inputs of all calls of the model and, last, the final sample: shape `(K + 1, *)`."""
    try:
        found = sampler(probe.model, start.clone(), probe.noise_sampler)
        return torch.stack([*probe.inputs, found]).reshape(len(probe.inputs) + 1, *start.shape)
    except (RuntimeError, TypeError, AttributeError, IndexError, KeyError, NameError) as error:
        raise ValueError(f"the sampler needs more than x̂0 from the model ({error})") from error


class _Probe:
    """A model whose outputs, and noise, are basis vectors; with `random`, random numbers."""

    def __init__(
        self, max_calls: int, dtype: torch.dtype, random: torch.Generator | None = None
    ) -> None:
        self.max_calls, self.dtype, self.random = max_calls, dtype, random
        self.sigmas, self.inputs, self.estimates = [], [], []
        self.noise, self.intervals = [], []

    @property
    def draws(self) -> int:
        return len(self.noise)

    def basis(self, i: int) -> Tensor:
        """The i-th vector, with the shape of a latent: `(1, 1, 1, 1 + 2 · max_calls)`."""
        n = 1 + 2 * self.max_calls
        if self.random is not None:
            return torch.randn(1, 1, 1, n, generator=self.random, dtype=self.dtype)
        if i >= n:
            raise ValueError("the sampler draws noise too often")
        return torch.eye(n, dtype=self.dtype)[i].reshape(1, 1, 1, n)

    def model(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        k = len(self.sigmas)
        if k >= self.max_calls:
            raise ValueError("the sampler calls the model too often")
        self.inputs.append(x.clone())
        self.sigmas.append(float(torch.as_tensor(sigma, dtype=torch.float64).flatten()[0]))
        self.estimates.append(self.basis(1 + k))
        return self.estimates[-1].clone()  # samplers may modify it in place

    def noise_sampler(self, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
        self.intervals.append(tuple(sorted((float(sigma), float(sigma_next)))))
        self.noise.append(self.basis(1 + self.max_calls + self.draws))
        return self.noise[-1].clone()
