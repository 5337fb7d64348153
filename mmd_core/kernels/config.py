"""The choice of kernels, bandwidths and feature space, checked before sampling starts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .bandwidth import distance_numbers, from_numbers
from .kernels import (
    RADIAL_PROFILES,
    DotKernel,
    Kernel,
    RadialKernel,
    polynomial,
)
from .prompts import PROMPT_KERNELS
from .quoted import quoted

__all__ = ["BANDWIDTHS", "FEATURE_SPACES", "KERNELS", "KernelConfig"]

KERNELS = (*RADIAL_PROFILES, "polynomial", "linear")
BANDWIDTHS = ("median", "fixed")
FEATURE_SPACES = ("latent", "low_pass", "channel_stats", "patches", "palette")
MOST_MULTIPLIERS = 32
LEAST, MOST = 1e-6, 1e6  # of bandwidths and multipliers: their squares then stay within fp32


@dataclass(frozen=True)
class KernelConfig:
    """Which kernel compares latents, and which compares prompts.

    Arguments:
        kernel: One of `KERNELS`.
        bandwidth: `median` is the median distance between references, `fixed` is
            `bandwidth_value`.
        bandwidth_value: The length scale h of `fixed`, in units of the model's latents.
        multipliers: The kernel is the average over these multiples of the bandwidth. Only radial
            kernels other than `energy` use them.
        prompt_kernel: One of `PROMPT_KERNELS`, or `none`.
        prompt_bandwidth: Length scale of the prompt kernel `rbf`; 0 stands for the median distance
            between captions.
        feature_space: The features of the latents that are compared, one of `FEATURE_SPACES`.
        pool: The factor by which `low_pass` reduces each spatial axis, at least 1.
        patch_size: The side length of `patches`, in latent pixels, at least 1.

    Raises:
        ValueError: A name is unknown, or a number is out of its range.
    """

    kernel: str = "rbf"
    bandwidth: str = "median"
    bandwidth_value: float = 1.0
    multipliers: tuple[float, ...] = (0.5, 1.0, 2.0)
    prompt_kernel: str = "none"
    prompt_bandwidth: float = 0.0
    feature_space: str = "latent"
    pool: int = 4
    patch_size: int = 3

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kernel", self.kernel, KERNELS),
            ("bandwidth", self.bandwidth, BANDWIDTHS),
            ("prompt_kernel", self.prompt_kernel, ("none", *PROMPT_KERNELS)),
            ("feature_space", self.feature_space, FEATURE_SPACES),
        ):
            if value not in known:
                raise ValueError(
                    f"unknown {name} {quoted(value)}: choose one of {', '.join(known)}"
                )
        if not 0 < len(self.multipliers) <= MOST_MULTIPLIERS:
            raise ValueError(
                f"multipliers must be 1 to {MOST_MULTIPLIERS} numbers, not "
                f"{len(self.multipliers)}: write for example 0.5, 1, 2"
            )
        scales = [("multipliers", each, "write for example 0.5, 1, 2") for each in self.multipliers]
        if self.bandwidth == "fixed":
            advice = "change it, or set bandwidth to median"
            scales.append(("bandwidth_value", self.bandwidth_value, advice))
        if self.prompt_bandwidth != 0:
            scales.append(("prompt_bandwidth", self.prompt_bandwidth, "0 takes the median"))
        for name, value, advice in scales:
            if not LEAST <= value <= MOST:
                raise ValueError(
                    f"{name} must lie between {LEAST:g} and {MOST:.0f}, not {value}: {advice}"
                )
        for name, value in (("pool", self.pool), ("patch_size", self.patch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")

    @property
    def radial(self) -> bool:
        """Whether the kernel depends on distances only."""
        return self.kernel in RADIAL_PROFILES

    def resolve(
        self,
        gram: Tensor,
        dim: int,
        centre: Tensor | None = None,
        read: Callable[[Tensor], Tensor] = Tensor.cpu,
    ) -> Kernel:
        """The kernel with its bandwidth, which is computed from the references.

        Arguments:
            gram: Inner products of the references, with shape `(N, N)`.
            dim: The number of entries of a reference.
            centre: What was subtracted from the references, with shape `(dim,)`; None for nothing.
            read: How the host reads a tensor of the device.
        """
        if self.kernel == "linear":
            return DotKernel()
        if self.kernel == "polynomial":
            return polynomial(dim, sq_norm=read(gram.diagonal().mean()).item())
        h = self.bandwidth_value
        if self.bandwidth == "median":
            offset = gram.new_zeros(()) if centre is None else centre.norm().to(gram.device)
            numbers = read(torch.cat([distance_numbers(gram), offset[None]])).tolist()
            h = from_numbers(*numbers, torch.finfo(gram.dtype).eps)
        # The energy distance has no length scale. Several bandwidths would only change the unit.
        multipliers = (1.0,) if self.kernel == "energy" else self.multipliers
        return RadialKernel(self.kernel, tuple(h * m for m in multipliers)).on(gram)
