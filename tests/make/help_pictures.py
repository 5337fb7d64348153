"""Draws the pictures of the help pages, by really running guidance in the demo world of shapes.

`python tests/make/help_pictures.py` writes all of them to nodes/web/docs/pictures, with names only those.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401

    if "--in-comfyui" not in sys.argv:  # run by any Python: go on in ComfyUI's
        from mmd_tests.support.launcher import engine_or_exit, go_on

        sys.exit(go_on(engine_or_exit(None), [__file__, "--in-comfyui", *sys.argv[1:]]))


import torch
from mmd_demo.drawing import HUES, draw
from mmd_demo.judge import Judge
from mmd_tests.demo.picture import FAINT, INK, PAPER
from mmd_tests.studies.quality import comfyui
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

OUT = Path(__file__).absolute().parents[2] / "nodes" / "web" / "docs" / "pictures"
DISC, SQUARE, TRIANGLE = range(3)
BLUES, REDS = (TRIANGLE, 4), (DISC, 0)  # kinds and hues
MIXTURE = [BLUES] * 6 + [REDS] * 2
COUNTED = ((52, 72, 214), (214, 52, 44), (176, 176, 176))  # colors of blues, reds and others
STEPS, SEED = 25, 1
TILE, GAP, EDGE = 64, 3, 20  # pixels; a picture of the world has 32
FRAME = (205, 205, 205)
ORANGE, BLUE, PATH = (238, 122, 20), (30, 84, 214), (120, 120, 120)
PAGE = 900  # width: help is read in a narrow panel, where all shrinks by half


# --- what is drawn --------------------------------------------------------------------------------


def shapes(kinds_and_hues: Sequence[tuple[int, int]], blocks: int, seed: int = 0) -> Tensor:
    """Pictures `(n, 3, 32, 32)` of these kinds and hues, so many times over, each time in another order."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.tensor(kinds_and_hues)
    labels = torch.cat([labels[torch.randperm(len(labels), generator=rng)] for _ in range(blocks)])
    spread = (torch.rand(len(labels), generator=rng) - 0.5) * 0.6  # of a hue word
    return draw(labels[:, 0], (labels[:, 1] + spread) % len(HUES), rng).clamp(-1, 1)


def drawn(
    pictures: Tensor, batch: int, strength: float = 100.0, kernel=None, weights=None
) -> tuple[Tensor, object]:
    """A batch `(n, 3, 32, 32)` drawn by MMDGuidedKSampler towards pictures, and its trace."""
    from mmd_demo.worlds import load_world
    from mmd_pack.mmd_core import References
    from mmd_pack.nodes.guidance.mmd_guided_ksampler import MMDGuidedKSampler

    model, clip, _ = load_world("shapes")
    nothing = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    latent, trace, _ = MMDGuidedKSampler.execute(
        model=model,
        references=References(pictures, weights),
        seed=SEED,
        steps=STEPS,
        cfg=1.0,
        sampler_name="euler_ancestral",
        scheduler="karras",
        positive=nothing,
        negative=nothing,
        latent_image={"samples": torch.zeros(batch, 3, 32, 32)},
        denoise=1.0,
        strength=strength,
        start_percent=0.0,
        end_percent=0.75,
        mode="flow",
        kernel=kernel,
    ).result
    return latent["samples"].clamp(-1, 1), trace


def guided(*given, **options) -> Tensor:
    """The images alone."""
    return drawn(*given, **options)[0]


def counted(pictures: Tensor) -> list[int]:
    """How many blue triangles, red discs and others an independent classifier sees."""
    found = Judge("shapes").probabilities(pictures.movedim(1, -1) / 2 + 0.5).argmax(1)
    known = [int((found == kind * len(HUES) + hue).sum()) for kind, hue in (BLUES, REDS)]
    return [*known, len(found) - sum(known)]


# --- how it is laid out ---------------------------------------------------------------------------


def font(size: float):
    return ImageFont.load_default(size=size)


def tile(picture: Tensor, side: int = TILE) -> Image.Image:
    """A picture `(3, h, w)` of the world, enlarged without blur, in 33 shades: others only fill the disk."""
    shades = ((picture.movedim(0, -1) + 1) * 16).round() * 8
    pixels = shades.clamp_max(255).byte().numpy()
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def sheet(pictures: Sequence[Tensor], columns: int, side: int = TILE) -> Image.Image:
    """Pictures in rows."""
    rows = math.ceil(len(pictures) / columns)
    size = [n * (side + GAP) + GAP for n in (columns, rows)]
    page = Image.new("RGB", size, FRAME)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        page.paste(tile(picture, side), (GAP + column * (side + GAP), GAP + row * (side + GAP)))
    return page


def bar(counts: Sequence[int], width: int, height: int = 30) -> Image.Image:
    """A bar of parts as long as their counts, which are written into it."""
    page, x = Image.new("RGB", (width, height), PAPER), 0
    write = ImageDraw.Draw(page)
    for color, n, seen in zip(COUNTED, counts, accumulate(counts), strict=True):
        right = round(width * seen / sum(counts))
        if n:
            write.rectangle((x, 0, right - 1, height), color)
            write.text(((x + right) / 2, height / 2 + 1), f"{n}", PAPER, font(20), anchor="mm")
        x = right
    return page


def side_by_side(panels: Sequence[tuple[str, Tensor]], columns: int = 4) -> Image.Image:
    """Sheets beside each other, each under a title and above a bar of what they show."""
    sheets = [sheet(pictures, columns) for _, pictures in panels]
    width, height = sheets[0].size
    gap = (PAGE - 2 * EDGE - len(panels) * width) // (len(panels) - 1)
    top = EDGE + 44
    page = Image.new("RGB", (PAGE, top + height + 8 + 30 + EDGE), PAPER)
    write = ImageDraw.Draw(page)
    for number, ((title, pictures), part) in enumerate(zip(panels, sheets, strict=True)):
        left = EDGE + number * (width + gap)
        page.paste(part, (left, top))
        page.paste(bar(counted(pictures), width), (left, top + height + 8))
        write.text((left + width / 2, EDGE + 26), title, INK, font(28), anchor="ms")
    return page


def rows_of(
    rows: Sequence[tuple[str, Tensor]], columns: int, bars: bool = False, apart: int = 0
) -> Image.Image:
    """Rows of pictures behind their labels, the first `apart` of them a little away from the rest.

    Arguments:
        rows: Labels, and pictures of which `columns` are shown.
        bars: Whether to show under a row what all its pictures show.
    """
    width = columns * (TILE + GAP) + GAP
    height, pitch = TILE + 2 * GAP, TILE + 2 * GAP + 10 + bars * 34
    left = PAGE - EDGE - width
    page = Image.new("RGB", (PAGE, EDGE + len(rows) * pitch - 10 + 16 * (apart > 0) + EDGE), PAPER)
    write = ImageDraw.Draw(page)
    for number, (label, pictures) in enumerate(rows):
        y = EDGE + number * pitch + 16 * (0 < apart <= number)
        page.paste(sheet(pictures[:columns], columns), (left, y))
        write.text((left - 16, y + height / 2), label, INK, font(24), anchor="rm")
        if bars:
            page.paste(bar(counted(pictures), width, 26), (left, y + height + 2))
    return page


# --- the pictures ---------------------------------------------------------------------------------


def with_and_without() -> Image.Image:
    """A set that is three quarters this and one quarter that; a batch without guidance, and with it."""
    references, batch = shapes(MIXTURE, 8), 24
    return side_by_side(
        [
            ("your pictures", references[:batch]),
            ("without guidance", guided(references, batch, 0.0)),
            ("with guidance", guided(references, batch)),
        ]
    )


def strengths() -> Image.Image:
    """The same noise at several strengths."""
    references = shapes(MIXTURE, 8)
    rows = [("your pictures", references)]
    for strength in (0, 10, 30, 100, 300):
        label = f"{strength}" if strength else "strength 0"
        rows.append((label, guided(references, 32, strength)))
    return rows_of(rows, 10, apart=1)


def plot() -> Image.Image:
    """What MMDPlot makes of several strengths, narrower than on the node."""
    from mmd_pack.nodes.guidance import mmd_plot

    references = shapes(MIXTURE, 8)
    traces = [drawn(references, 32, strength)[1] for strength in (0, 10, 30, 100, 300)]
    mmd_plot.WIDTH, mmd_plot.HEIGHT = PAGE, 360
    return mmd_plot.plot(traces, [None for _ in traces])


def tsmc_plot() -> Image.Image:
    """What TSMCPlot makes of a run with the defaults, narrower than on the node."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
    from mmd_demo.worlds import load_world
    from mmd_pack.mmd_core import References
    from mmd_pack.nodes.tsmc import tsmc_plot
    from mmd_pack.nodes.tsmc.reward_reference import TSMCRewardReference
    from mmd_pack.nodes.tsmc.tri_tsmc_sampler import TRITSMCSampler

    model, clip, _ = load_world("shapes")
    nothing = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(nothing, nothing)
    guider.set_cfg(1.0)
    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "karras", STEPS
    )
    reward = TSMCRewardReference.execute(References(shapes(MIXTURE, 8))).result[0]
    latent = {"samples": torch.zeros(1, 3, 32, 32)}
    *_, state = TRITSMCSampler.execute(
        Noise_RandomNoise(SEED), guider, sigmas, latent, reward, particles=16, iterations=3,
        reward_scale=2.0, standardize_reward=True, feature="auto", micro_batch=0,
    ).result  # fmt: skip
    tsmc_plot.WIDTH, tsmc_plot.HEIGHT = 1100, 360
    return tsmc_plot.plot(state)


@cache
def finetuned() -> tuple[list[Tensor], Image.Image]:
    """Digits in 3 steps before and after training for them, in 50 before and after: the same noise. And MMDTrainLoRA's plot."""
    from comfy.sd import load_lora_for_models
    from mmd_demo.worlds import load_world
    from mmd_pack.nodes.ddm.mmd_make_references import MMDMakeReferences
    from mmd_pack.nodes.ddm.mmd_train_lora import MMDTrainLoRA

    import nodes

    model, clip, _ = load_world("digits")
    nothing = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    settings = {"cfg": 1.0, "sampler_name": "euler", "scheduler": "sgm_uniform"}
    references = MMDMakeReferences.execute(
        model, nothing, nothing, {"samples": torch.zeros(1, 1, 8, 8)}, 500, steps=50, seed=0, micro_batch=500, **settings
    ).result[0]  # fmt: skip
    lora, *_, picture = MMDTrainLoRA.execute(
        model, nothing, references, 3, batch_size=100, micro_batch=100, iterations=300, learning_rate=0.002, rank=8,
        targets="all", features="latent", seed=0, autosave="", **settings,
    ).result  # fmt: skip
    trained = load_lora_for_models(model, None, lora, 1.0, 0)[0]

    def draw(model, steps: int) -> Tensor:
        empty = {"samples": torch.zeros(10, 1, 8, 8)}
        given = *settings.values(), nothing, nothing, empty
        (drawn,) = nodes.KSampler().sample(model, SEED, steps, *given)
        return drawn["samples"].clamp(-1, 1).repeat(1, 3, 1, 1)

    drawn = [draw(each, steps) for steps in (3, 50) for each in (model, trained)]
    return drawn, Image.fromarray((picture[0] * 255).round().byte().numpy())


def few_steps() -> Image.Image:
    """What training does, and that it does it for its own number of steps."""
    names = ("3 steps", "trained: 3 steps", "50 steps", "trained: 50 steps")
    return rows_of([*zip(names, finetuned()[0], strict=True)], 10)


def ddm_plot() -> Image.Image:
    """What MMDTrainLoRA makes of that training."""
    return finetuned()[1]


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
    from mmd_pack.mmd_core import KernelConfig
    from mmd_pack.mmd_core.kernels.mmd import mmd2_grad

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


def feature_spaces() -> Image.Image:
    """The same noise for each of what can be compared: wide outlines in one corner, red and blue."""
    from mmd_pack.mmd_core import KernelConfig
    from mmd_tests.studies.quality.shapes_worlds import CornerCase

    references = CornerCase().draw_references(SEED).latents
    spaces = {
        "latent": {},
        "low_pass": {"pool": 8},
        "channel_stats": {},
        "patches": {"patch_size": 5, "kernel": "energy"},
    }
    rows = [("references", references), ("no guidance", guided(references, 32, 0.0))]
    for space, options in spaces.items():
        kernel = KernelConfig(feature_space=space, **options)
        rows.append((space, guided(references, 32, kernel=kernel)))
    return rows_of(rows, 10, apart=1)


def shares() -> Image.Image:
    """Two sets, mixed by share."""
    from mmd_pack.mmd_core import References
    from mmd_pack.mmd_core.references.merge import merge

    sets = [References(shapes([one], 32)) for one in (BLUES, REDS)]
    rows = []
    for a, b in ((1, 0), (0.7, 0.3), (0.3, 0.7), (0, 1)):
        merged = merge(sets, (a, b))
        pictures = guided(merged.latents, 32, weights=merged.weights)
        rows.append((f"{a:g} : {b:g}", pictures))
    return rows_of(rows, 11, bars=True)


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "with-and-without": with_and_without,
    "pull-and-push": pull_and_push,
    "strengths": strengths,
    "feature-spaces": feature_spaces,
    "shares": shares,
    "plot": plot,
    "tsmc-plot": tsmc_plot,
    "few-steps": few_steps,
    "ddm-plot": ddm_plot,
}
FLAT = ("pull-and-push", "plot", "tsmc-plot", "ddm-plot")  # of few colors: 128 of them do


def main(names: Sequence[str]) -> None:
    comfyui.start()
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names or PICTURES:
        page = PICTURES[name]()
        if name in FLAT:
            page = page.quantize(128, dither=Image.Dither.NONE)
        page.save(OUT / f"{name}.png", optimize=True)
        sys.stdout.write(f"{name}.png: {(OUT / f'{name}.png').stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != "--in-comfyui"])
