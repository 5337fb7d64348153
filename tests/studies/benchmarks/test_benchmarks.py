"""The benchmarks run, and what they compare with computes the same. Times are for people to judge."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmd_pack.mmd_core import KERNELS, mmd2_grad
from mmd_pack.mmd_core.kernels.kernels import RadialKernel, polynomial
from mmd_tests.studies.benchmarks.baselines import BASELINES, NEEDS, trouble
from mmd_tests.studies.benchmarks.peak_memory import tensors_made
from mmd_tests.studies.benchmarks.timing import Times, times_in_turns

SCRIPTS = Path(__file__).parent
PATIENCE = 1800  # seconds; each takes some


def output_of(script: str, *arguments, codes=(0,)) -> str:
    """What a benchmark prints."""
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *map(str, arguments)],
        env=env, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode in codes, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def rows(text: str) -> dict[str, list[str]]:
    """The cells of all tables by the first one."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells}


# ---- what is compared with


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_is_the_gradient_of_mmd2(name, rng):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    x, y = (torch.randn(n, 12, generator=rng, dtype=torch.float64) + n / 9 for n in (5, 9))
    kernel = polynomial(12) if "poly3" in name else RadialKernel("rbf", (3.0,))
    expected = mmd2_grad(x, y, kernel)
    assert expected.norm() > 0.01
    torch.testing.assert_close(BASELINES[name](x, y, 3.0), expected, rtol=1e-6, atol=1e-9)


def test_what_cannot_run_is_named():
    assert "GB" in trouble("broadcasting + autograd", 64, 5000, 262_144, 20e9)
    assert trouble("broadcasting + autograd", 4, 500, 16_384, 20e9) is None
    assert trouble("official code, rbf", 64, 5000, 262_144, 20e9) is None
    for name, package in NEEDS.items():
        if find_spec(package) is None:
            assert trouble(name, 4, 50, 64, 1e9) == f"not installed: pip install {package}"


# ---- how it is measured


def test_peaks_count_what_is_made_and_not_what_was_there():
    a = torch.zeros(1000)

    def run():
        view = a[:500].reshape(10, 50)  # nothing new
        b = a + 1  # 4000 bytes, soon gone
        c = b[:250] * 2  # 1000 bytes
        del b
        return view, c, a.add_(0)

    made = tensors_made(run, on_gpu=False)
    assert (made.peak, made.kept) == (5000, 1000)


def test_ratios_are_those_of_rounds_that_took_turns():
    order = []
    times = times_in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == list("ababab") and len(times["a"].rounds) == 3
    ratio = Times((2.0, 8.0, 3.0)).by(Times((1.0, 2.0, 3.0)))
    assert ratio == (2.0, 2.0)  # 2 / 1; the median of 2, 4 and 1
    stopped = times_in_turns({"a": lambda: None}, 10, shortest=0.01, patience=0.0)
    assert len(stopped["a"].rounds) == 1 and stopped["a"].least >= 0


# ---- the scripts


def test_cost(tmp_path):
    found = rows(output_of("cost.py", "--quick", "--out", tmp_path))
    for kernel in KERNELS:
        assert found[f"{kernel}, one sub-step"][0] == "1"
        assert int(found[f"{kernel}, usual"][0]) > 1
    assert found["companions, one sub-step"][0] == "1"
    for name in BASELINES:
        assert name in found
    for name in ("official code, rbf", "cdist + autograd", "rbf, usual", "B = 8, usual"):
        assert all(float(cell) > 0 for cell in found[name][1:])
    written = {path.name for path in tmp_path.iterdir()}
    plots = {"cost_growth.png", "cost_against.png"} if find_spec("matplotlib") else set()
    assert written == {"cost.md", *plots}
    text = (tmp_path / "cost.md").read_text("utf-8")
    assert text.count("Set-up: ") == 2 and rows(text).keys() == found.keys()


def test_cost_leaves_out_what_does_not_fit():
    told = output_of("cost.py", "--quick", "--references", 20, 40, "--memory", 0.0007)
    assert "Left out: tiny with N = 40" in told and "tiny, N = 20" in told


def test_substeps():
    found = rows(
        output_of("substeps.py", "--batch", 2, "--references", 20, "--rounds", 1, "--reaches", 2)
    )
    assert float(found["Gram space, 20"][0]) > 0


def test_tsmc():
    told = output_of("tsmc.py", "--batch", 2, "--references", 6, "--base", 4, "--rounds", 1)
    assert float(rows(told)["a steered step"][0]) > 0
    errors = re.findall(r"The gradient is (\S+) off", told)
    assert len(errors) == 2 and max(map(float, errors)) < 1e-5


def test_compress():
    told = output_of("compress.py", "--large", 60, "--count", 8)
    assert re.search(r"of a random subset .*, ratio \d", told)


def test_gpu(tmp_path):
    told = rows(output_of("gpu.py", "--pretend", "--quick", "--json", tmp_path / "gpu.json"))
    for name, waits in {"held": "0", "held, with trace": "1", "streamed": "0"}.items():
        operators, waited, *_ = told[name]
        assert int(operators) > 100 and waited == waits
    figures = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    for size in ("SD1.5", "SDXL"):
        assert all(row["equal"] and row["from CPU"] < 0.01 for row in figures[size].values())
        assert figures[size]["streamed"]["held MB"] < figures[size]["held"]["held MB"] / 2


@pytest.mark.comfy
def test_whole_run():
    found = rows(output_of("whole_run.py", "--quick"))
    assert found["4"][3] == "1" and int(found["8"][3]) > 1  # sub-steps: companions, coupled
    for batch in ("4", "8"):
        step, slow, share = (float(found[batch][i].rstrip(" s%")) for i in (0, 1, 5))
        assert step > 0 and slow > 0 and 0 < share < 100


@pytest.mark.comfy
def test_micro_batch():
    found = rows(output_of("micro_batch.py", "--batch", 2, "--side", 8, "--rounds", 1))
    assert found["0"][1] == "1.00" and 0 < float(found["1"][3]) < 1


@pytest.mark.comfy
def test_reference_cache():
    # Its exit code tells whether the second run took 2 % of the time, which so few pictures cannot show.
    arguments = "--count", 3, "--added", 1, "--size", 16
    told = output_of("reference_cache.py", *arguments, codes=(0, 1))
    assert rows(told)["second"][1] == "0" and rows(told)["more"][1] == "1"
