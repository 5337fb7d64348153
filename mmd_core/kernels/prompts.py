"""Prompt kernels: how much the prompt of a sample and the caption of a reference have in common.

In the product kernel k((x, p), (z, r)) = k(x, z) · k_prompt(p, r) prompts are fixed, so a prompt kernel
only weights pairs (equations 10 and 11 of arXiv 2601.08379).
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .bandwidth import median_distance
from .kernels import Gram, RadialKernel

__all__ = ["PROMPT_KERNELS", "balanced", "caption_bandwidth", "prompt_weights"]


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


def balanced(
    pp: Tensor, pr: Tensor, rr: Tensor, p: Tensor, q: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt weights with which references pull a sample as much as samples push it, whatever the captions are.

    The product kernel takes it that prompts are distributed like captions: there nothing changes. But who draws a
    batch with one prompt, from references of two kinds, has half of them pull and all samples push, and images
    burst. A sample's references are therefore scaled until they weigh as much as the samples that it sees, and
    those that prompts do not ask for are left out of the references' own similarity. A sample whose prompt
    has nothing in common with any caption is let alone.

    Arguments:
        pp, pr, rr: Prompt weights κ between samples, of samples and references, and between references, with shapes
            `(B, B)`, `(B, N)`, `(N, N)`.
        p, q: Weights of samples and references, each with sum 1.
    """
    pushed, pulled = pp @ p, pr @ q
    known = pulled > torch.finfo(pulled.dtype).tiny
    scale = torch.where(known, pushed / pulled.where(known, torch.ones_like(pulled)), 0)
    pp, pr = pp * known[:, None], pr * scale[:, None]
    asked = p @ pr  # of each reference, by all samples
    total = (asked @ q).clamp_min(torch.finfo(pulled.dtype).tiny)
    rr = rr * asked[:, None] * asked
    return pp, pr, rr * (total / (q @ rr @ q).clamp_min(torch.finfo(pulled.dtype).tiny))
