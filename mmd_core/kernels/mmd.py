"""The squared Maximum Mean Discrepancy between samples and references, and its gradient.

    MMD²(P, Q) = Σ p_i p_i' k(x_i, x_i') + Σ q_j q_j' k(y_j, y_j') − 2 Σ p_i q_j k(x_i, y_j)

with weights p (of the samples) and q (of the references) that sum to one. With equal weights this
is the biased V-statistic of equation 5 in Gretton et al. (2012). The unbiased estimate (their
equation 3) omits the terms k(x_i, x_i) and k(y_j, y_j), and may be slightly negative.

References:
    Gretton et al., A Kernel Two-Sample Test, JMLR 2012. https://jmlr.org/papers/v13/gretton12a.html
"""

import torch
from torch import Tensor

from .kernels import Gram, Kernel
from .precision import full_precision

__all__ = ["mmd2", "mmd2_from_values", "mmd2_grad"]


def uniform(n: int, like: Tensor) -> Tensor:
    """n equal weights that sum to one."""
    return like.new_full((n,), 1 / n)


def _self_similarity(values: Tensor, weights: Tensor, unbiased: bool) -> Tensor:
    if not unbiased:
        return weights @ values @ weights
    off_diagonal = values - torch.diag(values.diagonal())
    return weights @ off_diagonal @ weights / (1 - weights.square().sum())


def mmd2_from_values(
    kxx: Tensor, kxy: Tensor, kyy: Tensor, p: Tensor, q: Tensor, unbiased: bool = False
) -> Tensor:
    """MMD² from kernel values, a scalar.

    Arguments:
        kxx: k(x_i, x_i'), with shape `(B, B)`.
        kxy: k(x_i, y_j), with shape `(B, N)`.
        kyy: k(y_j, y_j'), with shape `(N, N)`.
        p: Weights of the samples, with shape `(B,)`, sum 1.
        q: Weights of the references, with shape `(N,)`, sum 1.
        unbiased: Whether to omit k(x_i, x_i) and k(y_j, y_j); needs at least 2 of each.
    """
    return (
        _self_similarity(kxx, p, unbiased) + _self_similarity(kyy, q, unbiased) - 2 * (p @ kxy @ q)
    )


@full_precision()
def mmd2(
    x: Tensor, y: Tensor, kernel: Kernel, weights: Tensor | None = None, unbiased: bool = False
) -> Tensor:
    """MMD² between samples and references, a scalar.

    Arguments:
        x: Samples, with shape `(B, *)`.
        y: References, with shape `(N, *)`.
        kernel: The kernel between flattened latents.
        weights: Weights of the references, with shape `(N,)`, not negative; they are normalised
            here. None stands for equal weights.
        unbiased: Whether to take the unbiased estimate; needs at least 2 of each.

    Raises:
        ValueError: The unbiased estimate was requested with fewer than 2 samples or references.
    """
    if unbiased and min(len(x), len(y)) < 2:
        raise ValueError("the unbiased MMD² needs at least 2 samples and 2 references")
    x, y = centred_rows(x, y, kernel)
    q = uniform(len(y), y) if weights is None else (weights / weights.sum()).to(y)
    grams = Gram.within(x @ x.T), Gram.of(x, y), Gram.within(y @ y.T)
    kxx, kxy, kyy = map(kernel.values, grams)
    return mmd2_from_values(kxx, kxy, kyy, uniform(len(x), x), q, unbiased)


@full_precision()
def mmd2_grad(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    weights: Tensor | None = None,
    unbiased: bool = False,
    pairs: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """∂MMD²/∂x_i in closed form, with the shape of `x`.

    Arguments:
        x: Samples, with shape `(B, *)`.
        y: References, with shape `(N, *)`.
        kernel: The kernel between flattened latents.
        weights: Weights of the references, with shape `(N,)`, not negative; they are normalised
            here. None stands for equal weights.
        unbiased: Whether to take the gradient of the unbiased estimate; needs at least 2 samples.
        pairs: Prompt weights, which multiply the kernel values. The first are between samples and
            symmetric, with shape `(B, B)`; the second are between samples and references, with
            shape `(B, N)`. None stands for 1.
    """
    rows, refs = centred_rows(x, y, kernel)
    q = uniform(len(refs), refs) if weights is None else (weights / weights.sum()).to(refs)
    grams = Gram.within(rows @ rows.T), Gram.of(rows, refs)
    return grad_of_rows(rows, refs, grams, kernel, q, unbiased, pairs).reshape(x.shape).to(x.dtype)


def grad_of_rows(
    rows: Tensor,
    refs: Tensor,
    grams: tuple[Gram, Gram],
    kernel: Kernel,
    q: Tensor,
    unbiased: bool = False,
    pairs: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`mmd2_grad` for rows from `centred_rows`; the result has the shape `(B, D)`.

    Arguments:
        rows: Samples, with shape `(B, D)`.
        refs: References, with shape `(N, D)`.
        grams: Inner products of `rows` with `rows`, and of `rows` with `refs`.
        kernel: The kernel between rows.
        q: Weights of the references, with shape `(N,)`, sum 1.
        unbiased, pairs: As in `mmd2_grad`.
    """
    repel = self_pulls(kernel, grams[0]) / (len(rows) - unbiased)  # (B, B)
    if unbiased:
        repel = repel - torch.diag(repel.diagonal())
    attract = kernel.pulls(grams[1]) * q  # (B, N)
    if pairs is not None:
        repel, attract = repel * pairs[0], attract * pairs[1]
    grad = repel @ rows - attract @ refs  # (B, D)
    if kernel.radial:
        grad = grad - (repel.sum(1) - attract.sum(1))[:, None] * rows
    return grad * 2 / len(rows)


def self_pulls(kernel: Kernel, gram: Gram, in_units: bool = False) -> Tensor:
    """`kernel.pulls` between rows and themselves, with shape `(n, n)`.

    For a radial kernel the diagonal is set to 0: a row exerts no pull on itself, but a singular
    kernel would give rounding noise at distance 0.
    """
    pulls = kernel.pulls(gram, in_units)
    return pulls - torch.diag(pulls.diagonal()) if kernel.radial else pulls


def centred_rows(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """`x` and `y` as rows `(B, D)` and `(N, D)`, in fp32 or better.

    For a radial kernel, the mean of `y` is subtracted from both. This does not change distances,
    and it reduces the rounding error of distances that are computed from inner products.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = x.flatten(1).to(dtype), y.flatten(1).to(dtype)
    if kernel.radial:
        centre = y.mean(0)
        x, y = x - centre, y - centre
    return x, y
