"""Images of which a mask keeps a part: references with a similar part are followed more.

The new part has to suit the kept one. Beside a dark sky, references with a dark sky show how the
land looks. So the weight of reference j for image i is multiplied by

    κ_ij = exp(−(d_ij² − m_i²) / max(s, m_i)²)        m_i = min_j d_ij

with d_ij the distance between both at the kept places and s the spacing of the references there
(`nearest.py`). If the kept part is like no reference (m_i above s), distances to references say
less, and the weights become more equal. κ is a prompt weight (`prompts.py`) for kept parts.
"""

import torch
from torch import Tensor

from ..comparison.latents import Latents
from ..comparison.nearest import spacing
from ..comparison.rows import Rows
from ..kernels.precision import full_precision

__all__ = ["alike"]


@full_precision()
def alike(kept: Tensor, references: Latents) -> Tensor | None:
    """κ, with shape `(B, N)`; None if the references are all equal at the kept places.

    Arguments:
        kept: What is kept of each image, with shape `(B, *shape)`.
        references: The same places of the references, with shape `(N, *shape)`.
    """
    rows = Rows(references, budget=0)
    apart = spacing(rows).item()
    if not apart > 0:
        return None
    x = kept.to(rows.centre).flatten(1) - rows.centre
    parts = [torch.cdist(x, part) for _, part in rows.pieces()]
    distances = torch.cat(parts, 1)
    nearest = distances.amin(1, keepdim=True)
    # The difference of squares as a product, because the squares may be far larger.
    further = (distances - nearest) * (distances + nearest)
    return (-further / nearest.clamp_min(apart).square()).exp()
