"""Prompt kernels: the similarity between the prompt of a sample and the caption of a reference.

The kernel between pairs of latent and prompt is the product k((x, p), (z, r)) = k(x, z) ·
k_prompt(p, r). Prompts do not change while sampling, so the prompt kernel only gives each pair a
constant weight (equations 10 and 11 of https://arxiv.org/abs/2601.08379).
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .bandwidth import median_distance
from .kernels import Gram, RadialKernel
from .quoted import quoted

__all__ = ["PROMPT_KERNELS", "balanced", "caption_bandwidth", "prompt_weights"]


def _cosine(p: Tensor, r: Tensor, bandwidth: float) -> Tensor:
    # Opposite prompts get the weight 0: a negative weight would turn attraction into repulsion.
    return (normalize(p, dim=1) @ normalize(r, dim=1).T).clamp_min(0)


def _rbf(p: Tensor, r: Tensor, bandwidth: float) -> Tensor:
    return RadialKernel("rbf", (bandwidth,)).values(Gram.of(p, r))


PROMPT_KERNELS = {"cosine": _cosine, "rbf": _rbf}


def caption_bandwidth(captions: Tensor) -> float:
    """The median distance between different captions.

    Arguments:
        captions: Caption features, with shape `(N, E)`.
    """
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
        ValueError: The name is unknown, or `p` and `r` have different numbers of features.
    """
    if name not in PROMPT_KERNELS:
        raise ValueError(
            f"unknown prompt kernel {quoted(name)}: choose one of {', '.join(PROMPT_KERNELS)}"
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
    """Prompt weights, scaled so that attraction and repulsion of a sample have equal total weight.

    The product kernel assumes that prompts and captions have the same distribution; in that case
    the weights do not change. Otherwise repulsion can exceed attraction. Example: all samples have
    one prompt, and half of the references have other captions. Then only half of the references
    attract, but all samples repel each other, and the images diverge.

    Therefore each row of `pr` is scaled until its total weight equals that of the same row of `pp`.
    `rr` is scaled by how much the samples use each reference. A sample whose prompt is similar to
    no caption has weight 0 in its rows of `pp` and `pr`, so guidance does not move it.

    Arguments:
        pp, pr, rr: Prompt weights κ between samples, between samples and references, and between
            references, with shapes `(B, B)`, `(B, N)`, `(N, N)`.
        p, q: Weights of samples and references, with shapes `(B,)` and `(N,)`, each with sum 1.

    Returns:
        The new `pp`, `pr` and `rr`, with the same shapes.
    """
    pushed, pulled = pp @ p, pr @ q
    known = pulled > torch.finfo(pulled.dtype).tiny
    scale = torch.where(known, pushed / pulled.where(known, torch.ones_like(pulled)), 0)
    pp, pr = pp * known[:, None], pr * scale[:, None]
    asked = p @ pr  # how much all samples use each reference
    total = (asked @ q).clamp_min(torch.finfo(pulled.dtype).tiny)
    rr = rr * asked[:, None] * asked
    return pp, pr, rr * (total / (q @ rr @ q).clamp_min(torch.finfo(pulled.dtype).tiny))
