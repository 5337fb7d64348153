"""Other ways to the same gradient, ∂MMD²/∂x of samples x `(B, D)` and references y `(N, D)`.

All but `official_poly3` take the kernel exp(−‖x − y‖²/2h²) with one bandwidth h. They are written as
their users would write them, and in float64 they agree with `mmd2_grad` (tests/test_benchmarks.py).

The authors' code (https://github.com/matinamehdizadeh/MMD-Guidance) takes the gradient for one sample of the
batch at a time. Here are its formulas, with as many products and temporaries for a sample; a
batch is as many of them.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

Gradient = Callable[[Tensor, Tensor, float], Tensor]


def official_poly3(x: Tensor, y: Tensor, h: float) -> Tensor:
    """The authors' formula for (x·y/D + 1)³, sample by sample."""
    (b, d), n = x.shape, len(y)

    def towards(rows: Tensor, sample: Tensor) -> Tensor:
        slopes = rows.matmul(sample) / d + 1.0
        return rows.t().matmul(3.0 * (slopes * slopes))

    return torch.stack([2 / (b * d) * (towards(x, s) / b - towards(y, s) / n) for s in x])


def official_rbf(x: Tensor, y: Tensor, h: float) -> Tensor:
    """The authors' formula for the RBF kernel, sample by sample."""
    b, n = len(x), len(y)

    def towards(rows: Tensor, sample: Tensor) -> Tensor:
        values = torch.exp((rows - sample).pow(2).sum(1, keepdim=True) / (-2 * h * h))
        return values.t() @ rows - values.sum() * sample

    grads = [2 / (b * h * h) * (towards(x, s[None]) / b - towards(y, s[None]) / n) for s in x]
    return torch.cat(grads)


def cdist_autograd(x: Tensor, y: Tensor, h: float) -> Tensor:
    """torch.cdist and autograd."""
    return _autograd(x, y, lambda a, b: torch.exp(torch.cdist(a, b).square() / (-2 * h * h)))


def broadcasting_autograd(x: Tensor, y: Tensor, h: float) -> Tensor:
    """All differences at once, `(B, N, D)`, and autograd."""

    def values(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp((a[:, None] - b[None]).square().sum(2) / (-2 * h * h))

    return _autograd(x, y, values)


def geomloss_autograd(x: Tensor, y: Tensor, h: float) -> Tensor:
    """geomloss, whose loss is half of MMD², and autograd."""
    from geomloss import SamplesLoss

    rows = x.detach().requires_grad_()
    loss = SamplesLoss("gaussian", blur=h, backend="tensorized")(rows, y)
    return 2 * torch.autograd.grad(loss, rows)[0]


def keops_autograd(x: Tensor, y: Tensor, h: float) -> Tensor:
    """KeOps, which sums up without storing kernel values, and autograd."""
    import pykeops
    from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)  # or it tells of every kernel that it compiles
    rows = x.detach().requires_grad_()

    def mean(a: Tensor, b: Tensor) -> Tensor:
        d2 = ((LazyTensor(a[:, None]) - LazyTensor(b[None])) ** 2).sum(-1)
        return (d2 / (-2 * h * h)).exp().sum(1).sum() / (len(a) * len(b))

    return torch.autograd.grad(mean(rows, rows) - 2 * mean(rows, y), rows)[0]


def _autograd(x: Tensor, y: Tensor, values: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The references' own similarity, which has no gradient, is not even computed."""
    rows = x.detach().requires_grad_()
    loss = values(rows, rows).mean() - 2 * values(rows, y).mean()
    return torch.autograd.grad(loss, rows)[0]


BASELINES: dict[str, Gradient] = {
    "official code, poly3": official_poly3,
    "official code, rbf": official_rbf,
    "cdist + autograd": cdist_autograd,
    "broadcasting + autograd": broadcasting_autograd,
    "geomloss, tensorized": geomloss_autograd,
    "KeOps": keops_autograd,
}
NEEDS = {"geomloss, tensorized": "geomloss", "KeOps": "pykeops"}
KEOPS_LIMIT = 16_384  # KeOps keeps a row on the stack of every thread


def trouble(name: str, batch: int, n: int, dim: int, memory: float) -> str | None:
    """Why a baseline cannot run at that size within `memory` bytes; None if it can."""
    package = NEEDS.get(name)
    if package and find_spec(package) is None:
        return f"not installed: pip install {package}"
    if name == "broadcasting + autograd":
        need = 3 * 4 * batch * (batch + n) * dim  # differences, their squares, and the gradient
        if need > memory:
            return f"needs {need / 1e9:.0f} GB"
    if name == "KeOps" and dim > KEOPS_LIMIT:
        return f"not above D = {KEOPS_LIMIT}"
    return None
