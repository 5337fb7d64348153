"""Prompt kernels: how much the prompt of a sample and the caption of a reference have in common.

In the product kernel k((x, p), (z, r)) = k(x, z) · k_prompt(p, r) prompts are fixed, so a prompt kernel
only weights pairs (equations 10 and 11 of arXiv 2601.08379).
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .bandwidth import median_distance
from .kernels import Gram, RadialKernel

__all__ = ["PROMPT_KERNELS", "caption_bandwidth", "prompt_weights"]


def _cosine(p: Tensor, r: Tensor, bandwidth: float) -> Tensor:
    # Opposite prompts have nothing in common: a negative weight would turn attraction into repulsion.
    return (normalize(p, dim=1) @ normalize(r, dim=1).T).clamp_min(0)


def _rbf(p: Tensor, r: Tensor, bandwidth: float) -> Tensor:
    return RadialKernel("rbf", (bandwidth,)).values(Gram.of(p, r))


PROMPT_KERNELS = {"cosine": _cosine, "rbf": _rbf}


def caption_bandwidth(captions: Tensor) -> float:
    """The median distance between different captions, with features of shape `(N, E)`."""
    distinct = torch.unique(captions, dim=0)
    distinct = distinct - distinct.mean(0)
    return median_distance(distinct @ distinct.T)


def prompt_weights(name: str, p: Tensor, r: Tensor, bandwidth: float = 1.0) -> Tensor:
    """k_prompt(p_i, r_j), with shape `(n, m)`.

    Arguments:
        name: One of `PROMPT_KERNELS`.
        p: Prompt features, with shape `(n, E)`.
        r: Caption features, with shape `(m, E)`.
        bandwidth: Length scale of `rbf`, above 0.

    Raises:
        ValueError: An unknown name, or features of different length.
    """
    if name not in PROMPT_KERNELS:
        raise ValueError(
            f"unknown prompt kernel {name!r}: choose one of {', '.join(PROMPT_KERNELS)}"
        )
    if p.shape[1] != r.shape[1]:
        raise ValueError(
            f"the prompts have {p.shape[1]} features and the captions {r.shape[1]}: encode the "
            "captions with the text encoder (clip) of the checkpoint that draws"
        )
    return PROMPT_KERNELS[name](p, r, bandwidth)
