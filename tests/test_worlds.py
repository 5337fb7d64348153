"""Whether guidance does what it is for, in two worlds with known truth, through the sampler node.

Figures are means over draws of references (digits) or seeds (shapes), against held-out pictures; shown
by `python tests/run.py tests/test_worlds.py -s`. What the references themselves reach is the limit of
any method that sees nothing else.
"""

import sys

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.comfy

DIGITS = {3: 0.5, 8: 0.3, 1: 0.2}
DRAWS = range(4)


class Bench:
    """One world: draws pictures through MMDGuidedKSampler and judges them."""

    def __init__(self, name: str, batch: int, steps: int):
        from mmd_demo.judge import Judge
        from mmd_demo.worlds import WORLDS, load_world

        import nodes

        self.world, self.batch, self.steps = WORLDS[name], batch, steps
        self.model, clip, self.vae = load_world(name)
        self.judge = Judge(name)
        (self.prompt,) = nodes.CLIPTextEncode().encode(clip, "")

    def draw(self, references, seed: int, **settings):
        from mmd_pack.mmd_core import GuidanceConfig, References
        from mmd_pack.nodes.mmd_guided_ksampler import MMDGuidedKSampler

        config, side = GuidanceConfig(**settings), self.world.side
        empty = torch.zeros(self.batch, self.world.channels, side, side)
        latent, *_ = MMDGuidedKSampler.execute(
            self.model, References(self.vae.encode(references)), seed, self.steps, 1.0,
            "euler_ancestral", "karras", self.prompt, self.prompt, {"samples": empty}, 1.0,
            config.strength, config.start_percent, config.end_percent, config.mode,
        ).result  # fmt: skip
        return self.vae.decode(latent["samples"])

    def figures(self, pictures, held_out, references) -> dict[str, float]:
        from mmd_demo.judge import frechet_distance
        from mmd_pack.mmd_core import KernelConfig, mmd2

        x, truth, y = (self.vae.encode(p) for p in (pictures, held_out, references))
        flat = (truth - truth.mean(0)).flatten(1)
        kernel = KernelConfig().resolve(flat @ flat.T, flat.shape[1])
        exact = "donot_use_mm_for_euclid_dist"  # or a picture's distance to itself is not quite 0
        nearest = torch.cdist(x.flatten(1), y.flatten(1), compute_mode=exact)
        nearest[nearest < 1e-3] = float("inf")  # the references themselves
        features = self.judge.features
        return {
            "confidence": self.judge.confidence(pictures),
            "FD": frechet_distance(features(pictures), features(held_out)),
            "MMD²": mmd2(x, truth, kernel).item(),
            "nearest reference": nearest.min(1)[0].mean().item(),
        }


def means(rows: list[dict[str, float]], label: str) -> dict[str, float]:
    """The mean of every figure, shown with its standard deviation."""
    found = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    spread = {name: float(np.std([row[name] for row in rows])) for name in rows[0]}
    cells = [f"{name} {found[name]:.4g} ± {spread[name]:.2g}" for name in found]
    sys.stdout.write(f"\n{label}: {' · '.join(cells)}")
    return found


def test_digits_come_as_close_to_the_truth_as_their_references():
    """Target 3/8/1 at .5/.3/.2, 100 references, 128 samples, euler_ancestral, 40 steps."""
    from mmd_demo.digits import digits_draw
    from mmd_demo.judge import total_variation

    bench, target = Bench("digits", batch=128, steps=40), np.zeros(10)
    target[list(DIGITS)] = list(DIGITS.values())
    rows = {"references": [], "unguided": [], "published": [], "default": [], "guided": []}
    for seed in DRAWS:
        references, held_out = digits_draw(DIGITS, 100, seed)
        sets = (
            references,
            bench.draw(references, seed, strength=0.0),
            bench.draw(references, seed, strength=0.05, mode="official", end_percent=1.0),
            bench.draw(references, seed),
            bench.draw(references, seed, strength=200.0),
        )
        for label, pictures in zip(rows, sets, strict=True):
            tv = total_variation(bench.judge.proportions(pictures), target)
            rows[label].append({"TV": tv, **bench.figures(pictures, held_out, references)})
    found = {label: means(figures, label) for label, figures in rows.items()}
    references, unguided, published, guided = (
        found[label] for label in ("references", "unguided", "published", "guided")
    )
    assert unguided["TV"] > 0.5
    assert guided["TV"] < published["TV"] < unguided["TV"]
    assert guided["TV"] <= 0.20
    assert guided["confidence"] >= unguided["confidence"]
    assert guided["FD"] <= 1.6 * references["FD"]
    assert guided["MMD²"] <= references["MMD²"] + 0.002
    assert guided["nearest reference"] > 0.7 * references["nearest reference"], "copies"


def test_shapes_take_the_hue_and_kind_of_their_references():
    """64 references of blue triangles, 32 samples, defaults; places and sizes stay varied."""
    from mmd_demo.judge import hue_shares, kind_shares, total_variation
    from mmd_demo.scenes import shapes_draw

    bench = Bench("shapes", batch=32, steps=25)
    blue, triangle = np.eye(6)[4], np.eye(3)[2]
    rows = {"references": [], "unguided": [], "guided": []}
    for seed in DRAWS:
        references, held_out = (
            shapes_draw("a blue triangle", n, s) for n, s in ((64, seed), (256, 99))
        )
        sets = references, bench.draw(references, seed, strength=0.0), bench.draw(references, seed)
        for label, pictures in zip(rows, sets, strict=True):
            shares = bench.judge.proportions(pictures)
            hue, kind = hue_shares(shares), kind_shares(shares)
            rows[label].append(
                {
                    "hue TV": total_variation(hue, blue),
                    "kind TV": total_variation(kind, triangle),
                    **bench.figures(pictures, held_out, references),
                }
            )
    references, unguided, guided = (means(found, label) for label, found in rows.items())
    assert unguided["hue TV"] > 0.5 and unguided["kind TV"] > 0.4
    assert guided["hue TV"] <= 0.20
    assert guided["kind TV"] <= 0.35
    assert guided["confidence"] >= unguided["confidence"]
    assert guided["nearest reference"] > 0.5 * references["nearest reference"], "copies"
