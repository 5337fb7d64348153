"""True pictures of the world *shapes* on demand, to show as references and to compare with."""

import torch

from .catalog import WORLDS
from .drawing import HUES, KINDS, draw
from .vocabulary import word_indices


def shapes_draw(prompt: str, n: int, seed: int) -> torch.Tensor:
    """Pictures (n, 32, 32, 3) in [0, 1] of what the prompt says; what it leaves open is random."""
    words = word_indices(WORLDS["shapes"], prompt)
    kinds = [w for w in words if w < len(KINDS)] or list(range(len(KINDS)))
    hues = [w - len(KINDS) for w in words if w >= len(KINDS)] or list(range(len(HUES)))
    generator = torch.Generator().manual_seed(seed)

    def choose(options: list[int]) -> torch.Tensor:
        return torch.tensor(options)[torch.randint(len(options), (n,), generator=generator)]

    kind = choose(kinds)
    hue = (choose(hues) + torch.rand(n, generator=generator) - 0.5) % 6
    return draw(kind, hue, generator).movedim(1, -1) / 2 + 0.5
