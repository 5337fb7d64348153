"""Guidance on a GPU: python tests/studies/benchmarks/gpu.py

For the latents of SD1.5 and SDXL, with references that are held, held in half precision, and streamed: milliseconds of
a call by CUDA events and by the host, kernels launched, how often the host waits, bytes at most against what the budget
promises, whether two runs are equal bit by bit, how far the result is from that of the CPU, and x̂0 in half precision.
About five minutes; no ComfyUI.

    --pretend   on a machine without a GPU: counts operators, waits and bytes on the device of
                tests/support/pretended_device.py, and estimates what they take on three cards (`CARDS`)
    --quick     small latents, to see that everything works
    --json      a file for the figures, with machine and versions
"""

import argparse
import contextlib
import json
import math
import platform
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_tests.studies.benchmarks.cost import launches
from mmd_tests.support.device_runs import Run
from mmd_tests.support.pretended_device import PretendedDevice, on_device, on_host

SHAPES = {"SD1.5": (4, 64, 64), "SDXL": (4, 128, 128)}
BATCH, REFERENCES, ROUNDS = 16, 500, 20
STRENGTH = 30.0  # five sub-steps at the step that is measured, as in the middle of 25 steps


class Card(NamedTuple):
    """What is assumed of a card: bytes, fp32 and fp16 operations per second, seconds of an operator.

    The makers' figures, of which products reach half; an operator takes at least what launching it takes.
    """

    bandwidth: float
    single: float
    half: float
    launch: float = 5e-6

    def call(self, operators) -> float:
        """Seconds of a guidance call with these operators, one after the other."""
        return sum(
            max(self.launch, op.bytes / self.bandwidth, 4 * op.products / self.single)
            for op in operators
        )

    def step(self, size: str) -> float:
        """Seconds of a model call for a batch, with and without prompt."""
        return 2 * BATCH * PASS[size] / (self.half / 2)


CARDS = {
    "RTX 3060": Card(0.36e12, 12.7e12, 51e12),
    "RTX 4090": Card(1.008e12, 82.6e12, 165e12),
    "H100": Card(3.35e12, 67e12, 989e12),
}
PASS = {"SD1.5": 0.8e12, "SDXL": 6e12}  # operations of the network for one image, assumed


def runs(shape: tuple[int, ...], references: int) -> dict[str, Run]:
    """The ways to keep references, with the budget that just allows each; and half precision."""
    numbers, grams = references * math.prod(shape), 4 * references**2
    held = Run(
        batch=BATCH, references=references, shape=shape, strength=STRENGTH, record=False,
        budget=4 * numbers + grams,
    )  # fmt: skip
    return {
        "held": held,
        "held, with trace": replace(held, record=True),
        "held as fp16": replace(held, budget=2 * numbers + grams),
        "streamed": replace(held, budget=grams),
        "x̂0 in bf16": replace(held, dtype=torch.bfloat16),
        "x̂0 in fp16": replace(held, dtype=torch.float16),
    }


def inputs(run: Run, place):
    """Guidance, and the arguments of the call that is measured: the third of the schedule."""
    sigma = run.sigmas[2]
    x0, noise, prompts = run.samples(place)
    return run.make(place), (x0, x0 + sigma * noise, sigma, prompts)


def distance(found: torch.Tensor, expected: torch.Tensor, x0: torch.Tensor) -> float:
    """How far two results are apart, by how far guidance moves."""
    found, expected, x0 = (each.cpu().double() for each in (found, expected, x0))
    return ((found - expected).norm() / (expected - x0).norm()).item()


def on_the_cpu(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """The guided estimates and the estimates before, in float32."""
    guidance, given = inputs(replace(run, dtype=torch.float32, budget=math.inf), lambda t: t)
    return guidance(*given), given[0]


@torch.inference_mode()
def measured(run: Run) -> dict[str, float]:
    """A run on the GPU."""

    def place(tensor):
        return tensor.to("cuda")

    expected, before = on_the_cpu(run)
    torch.cuda.synchronize()
    began = torch.cuda.memory_allocated()
    guidance, given = inputs(run, place)
    guidance(*given)
    torch.cuda.reset_peak_memory_stats()
    own = torch.cuda.memory_allocated() - sum(t.nbytes for t in given[:2])
    first = guidance(*given)
    peak = torch.cuda.max_memory_allocated() - began
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(ROUNDS + 1)]
    host = time.perf_counter()
    ends[0].record()
    for end in ends[1:]:
        guidance(*given)
        end.record()
    host = time.perf_counter() - host  # what queueing takes: nothing waits without a trace
    torch.cuda.synchronize()
    with waits_counted() as waited:
        guidance(*given)
    again, same = inputs(run, place)
    again(*same)
    return {
        "ms": min(a.elapsed_time(b) for a, b in zip(ends, ends[1:], strict=False)),
        "host ms": 1e3 * host / ROUNDS,
        "operators": launches(lambda: guidance(*given)),
        "waits": len(waited),
        "peak MB": peak / 2**20,
        "held MB": (own - began) / 2**20,
        "budget MB": run.budget / 2**20,
        "equal": float(torch.equal(first, again(*same))),
        "from CPU": distance(first, expected, before),
    }


@contextlib.contextmanager
def waits_counted():
    """The warnings of torch where the host waits."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


@torch.inference_mode()
def pretended(run: Run, size: str) -> dict[str, float]:
    """A run on the device that is not there, and estimates for three cards."""
    expected, before = on_the_cpu(run)
    with PretendedDevice() as device:
        guidance, given = inputs(run, on_device)
        beside = device.bytes - sum(t.nbytes for t in given[:2])
        guidance(*given)
        device.forget()
        first = guidance(*given)
        operators, waits, peak = list(device.operators), len(device.waits), device.peak
        again, same = inputs(run, on_device)
        again(*same)
        equal = torch.equal(on_host(first), on_host(again(*same)))
    found = {
        "operators": len(operators),
        "waits": waits,
        "peak MB": peak / 2**20,
        "held MB": beside / 2**20,
        "budget MB": run.budget / 2**20,
        "equal": float(equal),
        "from CPU": distance(on_host(first), expected, before),
    }
    for name, card in CARDS.items():
        seconds = card.call(operators)
        found[f"{name} ms"] = 1e3 * seconds
        found[f"{name} % of a step"] = 100 * seconds / card.step(size)
    return found


def table(rows: dict[str, dict[str, float]]) -> str:
    """The figures of all runs, in Markdown."""
    names = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for label, row in rows.items():
        lines.append(f"| {label} | {' | '.join(f'{row[name]:.3g}' for name in names)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretend", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if not options.pretend and not torch.cuda.is_available():
        parser.error("there is no CUDA device: take --pretend to count without one")
    card = "pretended" if options.pretend else torch.cuda.get_device_name()
    figures = {
        "card": card, "torch": torch.__version__, "python": platform.python_version(),
        "system": platform.platform(),
    }  # fmt: skip
    sys.stdout.write(" · ".join(figures.values()) + "\n")
    for size, shape in SHAPES.items():
        if options.quick:
            shape = (4, 8, 8)
        some = runs(shape, 20 if options.quick else REFERENCES)
        figures[size] = {
            label: pretended(run, size) if options.pretend else measured(run)
            for label, run in some.items()
        }
        sys.stdout.write(f"\n{size}: B = {BATCH}\n\n{table(figures[size])}\n")
        sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), "utf-8")
    return figures


if __name__ == "__main__":
    main()
