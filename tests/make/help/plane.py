"""Pull and push in the plane: a drawing of the mathematics, which no photo could show; really computed."""

from __future__ import annotations

import torch
from mmd_pack.mmd_core import KernelConfig
from mmd_pack.mmd_core.kernels.mmd import mmd2_grad
from mmd_tests.make.help.sheets import EDGE, FAINT, INK, PAGE, PAPER, font
from PIL import Image, ImageDraw
from torch import Tensor

ORANGE, BLUE, PATH = (238, 122, 20), (30, 84, 214), (120, 120, 120)


def pull_and_push() -> Image.Image:
    """Points that really follow the gradient of MMD² in the plane; each is a picture of its place."""
    rng = torch.Generator().manual_seed(6)

    def around(x: float, y: float, n: int, apart: float) -> Tensor:
        """Places within 0.21 of (x, y), so far apart that their pictures do not hide each other."""
        places: list[Tensor] = []
        while len(places) < n:
            away = (2 * torch.rand(2, generator=rng) - 1) * 0.21
            place = torch.tensor([x, y]) + away
            if away.norm() < 0.21 and all((place - other).norm() > apart for other in places):
                places.append(place)
        return torch.stack(places)

    references = torch.cat([around(0.26, 0.28, 8, 0.1), around(0.74, 0.72, 4, 0.1)])
    start = around(0.53, 0.47, 12, 0.05)
    side = (PAGE - 3 * EDGE) // 2
    page = Image.new("RGB", (PAGE, EDGE + 44 + side + 40 + EDGE), PAPER)
    write = ImageDraw.Draw(page)
    for number, (title, push) in enumerate(
        (("only pulled", False), ("pulled and pushed apart", True))
    ):
        left = EDGE + number * (side + EDGE)
        path = followed(start, references, push)
        write.text((left + side / 2, EDGE + 26), title, INK, font(28), anchor="ms")
        page.paste(plane(references, path, side), (left, EDGE + 44))
        near = (path[-1][:, None] - path[-1]).norm(dim=2) < 0.01
        line = (
            "pale: your pictures, framed: the batch"
            if push
            else f"all {int(near[0].sum())} become one"
        )
        write.text((left + side / 2, EDGE + 44 + side + 32), line, FAINT, font(20), anchor="ms")
    return page


def followed(points: Tensor, references: Tensor, push: bool, steps: int = 3000) -> Tensor:
    """The path `(steps + 1, n, 2)` down the gradient of MMD², or down its attraction alone."""
    centred = references - references.mean(0)
    kernel = KernelConfig().resolve(centred @ centred.T, 2)
    path = [points]
    for _ in range(steps):
        x = path[-1]
        if push:
            grad = mmd2_grad(x, references, kernel) * len(x)
        else:  # alone, a point has none to be pushed away from
            grad = torch.cat([mmd2_grad(point[None], references, kernel) for point in x])
        path.append(x - 0.003 * grad)
    return torch.stack(path)


def plane(references: Tensor, path: Tensor, side: int) -> Image.Image:
    """A map of pictures: the color says how far to the right they are, the size how far down."""
    fine = 3  # drawn so much larger, for smooth edges
    page = Image.new("RGB", (side * fine, side * fine), (240, 240, 238))
    write = ImageDraw.Draw(page)

    def at(point) -> tuple[float, float]:
        return tuple(float(v) * side * fine for v in point)

    def picture(point, half: float, pale: float, border, width: float) -> None:
        (x, y), half = at(point), half * fine
        share = min(max(float(point[0]), 0), 1)
        color = [round(a + (b - a) * share) for a, b in zip(ORANGE, BLUE, strict=True)]
        color = tuple(round(c + (255 - c) * pale) for c in color)
        box = (x - half, y - half, x + half, y + half)
        write.rounded_rectangle(box, 5 * fine, PAPER, border, round(width * fine))
        r = half * (0.2 + 0.65 * min(max(float(point[1]), 0), 1))
        write.ellipse((x - r, y - r, x + r, y + r), color)

    for point in references:
        picture(point, 18, 0.5, (200, 200, 200), 1)
    for line in path.transpose(0, 1):
        write.line([at(point) for point in line[::5]], PATH, 2 * fine, "curve")
        x, y = at(line[0])
        write.ellipse((x - 4 * fine, y - 4 * fine, x + 4 * fine, y + 4 * fine), PATH)
    for point in path[-1]:
        picture(point, 18, 0.0, INK, 2.5)
    return page.resize((side, side), Image.Resampling.LANCZOS)
