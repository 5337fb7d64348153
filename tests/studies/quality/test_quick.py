"""The quick quality benchmark: guidance is better than none in every world, by generous bounds.

One seed of each target; the whole benchmark, with the bars themselves, is `python tests/studies/quality/run.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfy

BENCH = Path(__file__).with_name("bench.py")
PATIENCE = 3600  # seconds; it takes one minute on two idle cores
VARIANCE = (0.5, 1.6)  # inside modes of latents; euler_ancestral itself leaves .75 in 25 steps
CASES = {
    "ring": 6,
    "latents": 4,
    "digits": 4,
    "shapes": 3,
    "prompt-digits": 1,
    "prompt-shapes": 1,
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """World → target → method → figures."""
    out = tmp_path_factory.mktemp("quality")
    command = [sys.executable, str(BENCH), "--quick", "--no-plots", "--out", str(out)]
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    sys.stdout.write(done.stdout)
    found = {}
    for row in json.loads((out / "results.json").read_text("utf-8"))["rows"]:
        targets = found.setdefault(row["world"], {})
        targets.setdefault(row["target"], {})[row["method"]] = row["figures"]
    return found


@pytest.mark.parametrize("world", CASES)
def test_guidance_comes_closer_to_the_target(figures, world):
    assert len(figures[world]) == CASES[world]
    for target, by_method in figures[world].items():
        none, guided = by_method["none"], by_method["guided"]
        fidelity = "confidence" if "confidence" in none else "on-manifold"
        assert guided["TV"] <= none["TV"] + 0.1, target  # where none is wrong, by chance alone
        if not world.startswith("prompt-"):
            assert guided["MMD2"] < none["MMD2"], target
            assert guided["rejected"] <= none["rejected"], target
        assert guided["FD"] < none["FD"], target
        if world != "latents":  # see the test of their variance, which all of this depends on
            assert guided[fidelity] >= none[fidelity] - 0.05, target
            assert guided["coverage"] > 0.8 * none["coverage"], target
        assert guided["nearest by fresh"] > 0.35, f"{target}: copies"


def test_proportions_are_right_where_they_were_wrong(figures):
    for world in ("ring", "latents", "digits", "shapes"):
        for target, by_method in figures[world].items():
            none, guided = by_method["none"]["TV"], by_method["guided"]["TV"]
            if none > 0.5:
                assert guided < 0.45 * none, (world, target)


def test_digits_come_as_close_as_their_references(figures):
    for target, by_method in figures["digits"].items():
        references, guided = by_method["references"], by_method["guided"]
        assert guided["TV"] <= references["TV"] + 0.2, target
        assert guided["FD"] <= 3 * references["FD"], target
        assert guided["MMD2"] <= references["MMD2"] + 0.015, target
        assert guided["rejected"] <= 0.5, target


def test_shapes_take_hue_kind_and_contrast(figures):
    for target, by_method in figures["shapes"].items():
        guided = by_method["guided"]
        assert guided["hue TV"] <= 0.3 and guided["kind TV"] <= 0.3, target
        assert 0.8 <= guided["contrast"] <= 1.2, target
    outlines = figures["shapes"]["wide outlines"]["guided"]
    assert outlines["style recovered"] > 0.2


def test_latents_keep_their_variance(figures):
    for target, by_method in figures["latents"].items():
        for band in ("var low", "var mid", "var high"):
            assert VARIANCE[0] < by_method["guided"][band] < VARIANCE[1], (target, band)


def test_each_prompt_gets_its_style(figures):
    (digits,), (shapes,) = (figures[world].values() for world in ("prompt-digits", "prompt-shapes"))
    for by_method, names in (
        (digits, ("three recovered", "eight recovered")),
        (shapes, ("triangle recovered", "disc recovered")),
    ):
        aware, blind = by_method["guided"], by_method["prompt-blind"]
        assert all(aware[name] > 0.4 for name in names)
        assert min(aware[name] for name in names) > min(blind[name] for name in names)
        assert aware["accuracy"] > by_method["none"]["accuracy"] - 0.1


def test_guidance_beats_the_published_code_on_most_counts(figures):
    """At its usual setting; the whole benchmark sweeps it."""
    wins = []
    for world in ("ring", "latents", "shapes", "digits"):
        for by_method in figures[world].values():
            guided, official = by_method["guided"], by_method["official"]
            wins.append(guided["TV"] <= official["TV"])
    assert sum(wins) >= 0.75 * len(wins)
