"""The pictures of the world *shapes*: one disc, square or triangle on a grey ground."""

import math

import torch

KINDS = ("disc", "square", "triangle")
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
SIDE = 32
_OVERSAMPLE = 2


def hue_to_rgb(hue: torch.Tensor) -> torch.Tensor:
    """Fully saturated colors (n, 3) in [0, 1] of hues (n,) counted in sixths of the circle."""
    offsets = torch.tensor([0.0, 4.0, 2.0])
    wheel = (hue[:, None] + offsets) % 6
    return ((wheel - 3).abs() - 1).clamp(0, 1)


def hue_words(hue: torch.Tensor) -> torch.Tensor:
    """The nearest named hue (n,), an index into HUES."""
    return hue.round().long() % len(HUES)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, generator=generator)


def _distance(kind: torch.Tensor, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor):
    """Signed distance (n, S, S) to the outline of each shape, negative inside; sharp corners."""
    disc = torch.sqrt(x * x + y * y) - radius
    square = torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    inradius = 0.78 * radius
    # The centre of the bounding box lies half an inradius above the centre of the triangle.
    below = y - 0.5 * inradius
    triangle = torch.maximum(below, 0.5 * math.sqrt(3) * x.abs() - 0.5 * below) - inradius
    kind = kind.view(-1, 1, 1)
    return torch.where(kind == 0, disc, torch.where(kind == 1, square, triangle))


def draw(
    kind: torch.Tensor,
    hue: torch.Tensor,
    generator: torch.Generator,
    outline: tuple[float, float] | None = None,
    place: tuple[float, float] = (-1.0, 1.0),
) -> torch.Tensor:
    """Pictures (n, 3, 32, 32) in [-1, 1] of the given kinds (n,) and hues (n,) in [0, 6).

    Place, size, outline and ground are drawn at random; the whole shape stays inside the picture.
    A range of `outline` gives all shapes one, as wide as that by their radius; a range of `place` keeps
    them there, from the left (top) edge, −1, to the right (bottom) one, 1.
    """
    n = len(kind)
    radius = _uniform(n, 5.0, 9.5, generator)
    half_width = radius * torch.tensor([1.0, 0.9, 0.78 * math.sqrt(3)])[kind]
    half_height = radius * torch.tensor([1.0, 0.9, 0.78 * 1.5])[kind]
    place = torch.rand(2, n, generator=generator) * (place[1] - place[0]) + place[0]
    center_x = SIDE / 2 + place[0] * (SIDE / 2 - 1 - half_width)
    center_y = SIDE / 2 + place[1] * (SIDE / 2 - 1 - half_height)
    bare = (torch.rand(n, generator=generator) < 0.25) & (outline is None)
    width = _uniform(n, *(outline or (0.08, 0.3)), generator) * radius * ~bare
    ink = _uniform(n, 0.0, 0.1, generator)
    ground = _uniform(n, 0.1, 1.0, generator)

    size = SIDE * _OVERSAMPLE
    axis = (torch.arange(size) + 0.5) / _OVERSAMPLE
    x = axis.view(1, 1, -1) - center_x.view(-1, 1, 1)
    y = axis.view(1, -1, 1) - center_y.view(-1, 1, 1)
    distance = _distance(kind, x, y, radius.view(-1, 1, 1))
    outer = (0.5 - distance * _OVERSAMPLE).clamp(0, 1)
    inner = (0.5 - (distance + width.view(-1, 1, 1)) * _OVERSAMPLE).clamp(0, 1)
    layers = torch.nn.functional.avg_pool2d(torch.stack([outer, inner], 1), _OVERSAMPLE)
    outer, inner = layers[:, :1], layers[:, 1:]

    color = hue_to_rgb(hue).view(-1, 3, 1, 1)
    ground, ink = ground.view(-1, 1, 1, 1), ink.view(-1, 1, 1, 1)
    picture = ground * (1 - outer) + ink * (outer - inner) + color * inner
    return picture * 2 - 1


def draw_random(n: int, generator: torch.Generator):
    """Random pictures (n, 3, 32, 32) with their kinds (n,) and hue words (n,)."""
    kind = torch.randint(len(KINDS), (n,), generator=generator)
    hue = _uniform(n, 0.0, 6.0, generator)
    return draw(kind, hue, generator), kind, hue_words(hue)
