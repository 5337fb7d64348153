"""One batch drawn by several processes is the batch that one process draws."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from mmd_pack.mmd_core.comparison.workers import ALONE
from mmd_tests.studies.distributed.cost import Call, table
from mmd_tests.studies.distributed.launch import launch
from mmd_tests.support.packages import TESTS
from safetensors import safe_open

SCRIPTS = TESTS / "studies" / "distributed"
PATIENCE = 1800  # seconds; then workers hang
CASES = (
    "rbf", "polynomial", "no trace", "no limit", "low limit", "companions", "companions with prompts", "prompts",
    "prompts and memory", "memory", "paper", "official", "official with memory", "low_pass", "channel_stats",
    "palette", "patches", "flow matching", "compact", "compact, with memory", "room for some",
)  # fmt: skip


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def drawn(request, tmp_path_factory):
    """What each of 2 or 4 workers has found and said; see cases.py."""
    folder = tmp_path_factory.mktemp("workers")
    launch([SCRIPTS / "cases.py", folder], request.param, PATIENCE)
    workers = []
    for rank in range(request.param):
        with safe_open(folder / f"{rank}.safetensors", "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            workers.append((found, json.loads(file.metadata()["said"])))
    return workers


def off(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def together(drawn, name):
    return torch.cat([found[name] for found, _ in drawn])


def test_every_case_is_looked_at(drawn):
    assert {name.split("/")[0] for name in drawn[0][0]} == {*CASES, "cost"}


@pytest.mark.parametrize("case", CASES)
def test_workers_draw_what_one_draws(case, drawn):
    one = drawn[0][0][f"{case}/one/samples"]
    assert off(together(drawn, f"{case}/coupled/samples"), one) < 1e-5
    assert (
        off(together(drawn, f"{case}/apart/samples"), one) > 1e-2
    )  # and not what each alone draws


@pytest.mark.parametrize(
    "case, other",
    [
        ("low limit", "no limit"), ("compact", "no limit"), ("companions with prompts", "companions"),
        ("prompts", "rbf"), ("prompts and memory", "prompts"), ("memory", "rbf"), ("low_pass", "rbf"),
    ],
)  # fmt: skip
def test_what_cases_differ_in_counts(case, other, drawn):
    """The limit is reached, prompts choose companions, and so on."""
    found = drawn[0][0]
    assert off(found[f"{case}/one/samples"], found[f"{other}/one/samples"]) > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_workers_have_the_trace_of_one(case, drawn):
    one = {part: drawn[0][0][f"{case}/one/{part}"] for part in ("trace", "numbers")}
    assert len(one["trace"]) == (0 if case == "no trace" else 8 + (case != "flow matching"))
    for part, expected in one.items():
        first = drawn[0][0][f"{case}/coupled/{part}"]
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        for found, _ in drawn[1:]:
            torch.testing.assert_close(
                found[f"{case}/coupled/{part}"], first, rtol=0, atol=0, equal_nan=True
            )
    for part in ("nearest", "distances"):
        found = together(drawn, f"{case}/coupled/{part}")
        expected = drawn[0][0][f"{case}/one/{part}"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * (part == "distances"))


@pytest.mark.parametrize("case", CASES)
def test_inner_products_of_references_are_kept_where_all_have_room(case, drawn):
    for found, _ in drawn:
        assert found[f"{case}/coupled/held"].item() == (case not in CASES[-3:])


FAULTS = "samples", "sizes", "sigmas", "prompts", "references", "record", "remembered"


@pytest.mark.parametrize("name", FAULTS)
def test_workers_that_differ_all_raise_the_same_error(name, drawn):
    for _, said in drawn:
        assert f"their {name} differ (" in said[name] and "as many images" in said[name]
    assert len({said[name] for _, said in drawn}) == 1


def test_a_worker_that_ends_early_gets_the_error_of_the_others(drawn):
    assert all("their sigmas differ" in said["end"] for _, said in drawn)
    assert all(said["none"] == "" for _, said in drawn)  # and all goes on


def test_cost_is_that_of_the_model(drawn):
    for found, _ in drawn:
        b, dim, rows, substeps, received, madds = found["cost"].tolist()
        call = Call(len(drawn), b, rows, dim, substeps)
        told = 4 * 4 * len(drawn)  # four numbers in single precision, to agree
        assert substeps > 3
        assert received - told == call.received()
        assert 0.85 < madds / (call.products() + call.flow()) <= 1


def test_64_gpus():
    """The figures of workers.py."""
    call = Call(64, 4, 500, 65_536)
    assert call.products() == pytest.approx(25e9, rel=0.02)
    assert call.flow() == pytest.approx(6.9e9, rel=0.02)
    assert call.received() == pytest.approx(134e6, rel=0.01)
    assert call._replace(rows=5000).flow() == pytest.approx(108e9, rel=0.01)
    assert "| SDXL | 500 | 25.4 G | 6.9 G | 134.2 MB | 8.60 ms |" in table()


def test_one_worker_has_it_all():
    x = torch.zeros(3, 2)
    assert ALONE.gather(x) is x and ALONE.share(x) is x


# ---- the script


def judged(told, workers, batch):
    assert f"{workers} workers with {batch} images each" in told
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in told.splitlines() if " | " in line}  # fmt: skip
    assert float(rows["coupled"][-1]) < 1e-5 < 1e-2 < float(rows["each for itself"][-1])
    assert float(rows["coupled"][-3]) < float(rows["no guidance"][-3])
    assert float(rows["each for itself, no companions"][-2]) < float(rows["coupled"][-2])
    kilobytes = re.search(r"received ([\d.]+) kB per call", told)
    assert float(kilobytes[1]) > 4 * workers * batch * 4 * 8 * 8 / 1e3 / 2  # at half of all calls
    assert "| SDXL | 500 | 25.4 G |" in told  # the table for 64 GPUs


SMALL = "--batch", "4", "--side", "8", "--references", "24", "--seeds", "1"


@pytest.mark.long
def test_script():
    told = launched("--workers", "3")
    judged(told, 3, 4)


@pytest.mark.long
def test_script_under_torchrun():
    told = launched(before=["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])
    judged(told, 2, 4)


def launched(*options, before=()):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *before, str(SCRIPTS / "run.py"), *options, *SMALL]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_a_worker_that_fails_or_hangs_ends_all(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "if os.environ['RANK'] == '1': raise SystemExit('no more')\n"
        "time.sleep(3600)\n"
    )
    with pytest.raises(RuntimeError, match="worker 1 failed with 1:\nno more"):
        launch([script], 2, PATIENCE)
    script.write_text("import time\ntime.sleep(3600)\n")
    with pytest.raises(RuntimeError, match="worker 0 did not end"):
        launch([script], 2, 0.5)
