"""What one guidance call costs: python tests/studies/benchmarks/cost.py

Every figure is a ratio to the floor, measured in the same run, the variants taking turns: two bare GEMMs
on the same data, s = x yᵀ and s y with x (B, D) and y (N, D) in fp32. Given are the ratio of the fastest
rounds and the median of the rounds' ratios. A call is `guidance(x0, x, sigma)` as a sampler makes it, on latents of a
mixture with the spectrum of SD's and their exact denoised estimate. Peaks count the tensors that a call makes, in
batches of B·D·4 bytes; those of the set-up are in sets of references of N·D·4 bytes.

"usual" sub-steps are those of the default strength at the middle one of the calls inside of the window,
with 25 karras steps. Batches are coupled in all rows but "companions", however small they are.
geomloss and KeOps take part if they are installed, and plots are drawn if matplotlib is.

    --quick     a small run that shows that everything works
    --out       a folder for cost.md and the plots
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401
import torch
from mmd_pack.mmd_core import KERNELS
from mmd_tests.studies.benchmarks.baselines import BASELINES, trouble
from mmd_tests.studies.benchmarks.cost_plots import draw_plots
from mmd_tests.studies.benchmarks.latent_world import LatentWorld
from mmd_tests.studies.benchmarks.our_call import Call, Setting, set_up, strength_for, usual_sigma
from mmd_tests.studies.benchmarks.peak_memory import tensors_made
from mmd_tests.studies.benchmarks.timing import Ratio, Times, times_in_turns

SIZES = {"sd15": (4, 64, 64), "sdxl": (4, 128, 128), "flux": (16, 128, 128), "tiny": (4, 16, 16)}
COLUMNS = "| | sub-steps | ms | × floor, fastest | × floor, median | peak, batches |LAUNCHES|"
AGAINST = COLUMNS + " × this pack |"
OURS, OFFICIAL = "this pack, rbf, one bandwidth", "this pack, mode official, poly3"
AT_ONCE = 4  # settings: one and several bandwidths, with one sub-step and the usual number
GUESSED = 5.0  # the peak of a set-up in sets of references, until one was measured
FIVE = (0.25, 0.5, 1.0, 2.0, 4.0)


class Figure(NamedTuple):
    """One variant at one size.

    Attributes:
        substeps: How many sub-steps it took; None for what is not a guidance call.
        ratio: To the floor.
        peak: Of the tensors it made, in batches.
        launches: Kernel launches; None where it was not counted, as on a CPU.
    """

    section: str
    size: str
    dim: int
    batch: int
    n: int
    name: str
    substeps: int | None
    times: Times
    ratio: Ratio
    peak: float
    launches: int | None

    def row(self) -> str:
        """As a row of a table."""
        steps = "" if self.substeps is None else self.substeps
        numbers = 1e3 * self.times.least, *self.ratio, self.peak
        cells = [self.name, steps, *(f"{number:.2f}" for number in numbers)]
        cells += [] if self.launches is None else [self.launches]
        return f"| {' | '.join(map(str, cells))} |"


class SetUp(NamedTuple):
    """The set-up of a run: seconds, also by those of the bare GEMM y yᵀ, and bytes of tensors."""

    size: str
    dim: int
    n: int
    seconds: float
    ratio: float
    peak: int
    kept: int

    @property
    def references(self) -> int:
        return 4 * self.n * self.dim

    def sentence(self) -> str:
        peak, kept = self.peak / self.references, self.kept / self.references
        return (
            f"Set-up: {1e3 * self.seconds:.1f} ms, {self.ratio:.2f} × the GEMM y yᵀ; at its peak "
            f"{peak:.2f}, kept {kept:.2f} sets of references."
        )


class Bench:
    """Measures, and tells what was measured."""

    def __init__(self, options):
        self.options, self.gpu = options, options.device != "cpu"
        self.text: list[str] = []
        self.figures: list[Figure] = []
        self.set_ups: list[SetUp] = []
        self.sigma = 0.0  # of the usual call
        sizes, n = options.sizes, options.references
        self.base = "sd15" if "sd15" in sizes else sizes[0]
        self.n = 500 if 500 in n else sorted(n)[len(n) // 2]
        self.batches = [b for b in options.batches if b in (4, 16)] or options.batches[-1:]

    def tell(self, *lines: str) -> None:
        for line in lines:
            self.text.append(line)
            sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def heading(self, title: str, columns: str) -> None:
        columns = columns.replace("LAUNCHES|", "launches |" if self.gpu else "")
        self.tell("", f"### {title}", "", columns, "|" + "---|" * (columns.count("|") - 1))

    def measure(self, section: str, at: "Place", variants: dict[str, Callable]) -> list[Figure]:
        """Time and memory of `variants` and of the floor."""
        x, y = at.x.flatten(1), at.y.flatten(1)
        turns, made = {"floor": lambda: (x @ y.T) @ y, **variants}, {}
        for name, run in turns.items():
            run()  # what is made once per run of a sampler, or by a just-in-time compiler
            made[name] = tensors_made(run, self.gpu).peak / at.batch_bytes
        options = self.options
        times = times_in_turns(turns, options.rounds, options.shortest, options.patience)
        here = section, at.size, x.shape[1], len(x), len(y)
        figures = []
        for name, run in turns.items():
            ours = isinstance(run, Call)
            substeps = run.substeps() if ours else None
            launched = launches(run) if self.gpu else None
            ratio = times[name].by(times["floor"])
            figures.append(Figure(*here, name, substeps, times[name], ratio, made[name], launched))
        self.figures += figures
        return figures


class Place(NamedTuple):
    """Where variants are compared: a size, samples `(B, *)` and references `(N, *)`."""

    size: str
    world: LatentWorld
    x: torch.Tensor
    y: torch.Tensor

    @property
    def batch_bytes(self) -> int:
        return 4 * self.x.numel()


def launches(run: Callable) -> int:
    """How many kernels a call launches on a GPU."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in seen.key_averages() if "LaunchKernel" in event.key)


# ---- all settings at one size


def settings() -> dict[str, Setting]:
    """One thing changed at a time, with one sub-step and with the usual number of them."""
    plain = Setting()
    kinds = {kernel: Setting(kernel) for kernel in KERNELS}
    for kernel in ("rbf", "imq", "laplacian"):
        kinds[f"{kernel}, one bandwidth"] = Setting(kernel, multipliers=(1.0,))
        kinds[f"{kernel}, five bandwidths"] = Setting(kernel, multipliers=FIVE)
    kinds |= {
        "with a trace": replace(plain, record=True),
        "memory of 64": replace(plain, finished=True),
        "prompts": replace(plain, prompts=True),
        "memory and prompts": replace(plain, finished=True, prompts=True),
        "references streamed": replace(plain, budget=0),
        "companions": replace(plain, companions=True),
        "x̂0 in bfloat16": replace(plain, dtype=torch.bfloat16),
        "x̂0 in float16": replace(plain, dtype=torch.float16),
    }
    found = {}
    for name, kind in kinds.items():
        found[f"{name}, one sub-step"] = kind
        if not kind.companions:  # they go gently
            found[f"{name}, usual"] = replace(kind, substeps=None)
    for n in (5, 20):
        found[f"rbf, {n} sub-steps"] = replace(plain, substeps=n)
    for kernel in KERNELS:
        found[f"mode paper, {kernel}"] = Setting(kernel, mode="paper")
        found[f"mode official, {kernel}"] = Setting(kernel, mode="official")
    return found


def our_calls(bench: Bench, at: Place, wanted: dict[str, Setting]) -> dict[str, Call]:
    """A call for each of the settings; those which differ in strength share their set-up."""
    guidances, calls = {}, {}
    for name, setting in wanted.items():
        key = replace(setting, substeps=None, dtype=torch.float32)
        if key not in guidances:
            guidances[key] = set_up(at.world, at.y, setting)
        guidance = guidances[key]

        def call(strength, guidance=guidance, setting=setting):
            return Call(guidance, at.world, setting, len(at.x), bench.sigma, strength)

        # The published modes take one step, whatever their strength.
        substeps = setting.substeps if setting.mode == "flow" else None
        calls[name] = call(strength_for(substeps, call, guidance.config.strength))
    return calls


def all_settings(bench: Bench, at: Place) -> None:
    """A few at a time, each of which keeps references of its own; those of one kernel take turns."""
    bench.heading(f"All settings: {at.size}, B = {len(at.x)}, N = {len(at.y)}", COLUMNS)
    wanted = list(settings().items())
    for first in range(0, len(wanted), AT_ONCE):
        calls = our_calls(bench, at, dict(wanted[first : first + AT_ONCE]))
        for figure in bench.measure("settings", at, calls):
            bench.tell(figure.row())


def growth_with_substeps(bench: Bench, at: Place) -> None:
    bench.heading(f"Sub-steps: {at.size}, B = {len(at.x)}, N = {len(at.y)}", COLUMNS)
    wanted = {f"rbf, {n} at most": Setting(substeps=n) for n in bench.options.substeps}
    for figure in bench.measure("sub-steps", at, our_calls(bench, at, wanted)):
        bench.tell(figure.row())


# ---- other ways to the gradient


def against(bench: Bench, at: Place) -> None:
    """One gradient with one bandwidth, next to a whole call of ours."""
    (batch, n), dim = (len(at.x), len(at.y)), at.x[0].numel()
    bench.heading(f"Other ways: {at.size}, B = {batch}, N = {n}", AGAINST)
    variants: dict[str, Callable] = dict(
        our_calls(
            bench,
            at,
            {OURS: Setting(multipliers=(1.0,)), OFFICIAL: Setting("polynomial", mode="official")},
        )
    )
    x, y = at.x.flatten(1), at.y.flatten(1)
    h = float(torch.pdist(y[:50]).median())
    missing = {}
    for name, gradient in BASELINES.items():
        why = trouble(name, batch, n, dim, bench.options.memory * 1e9 - 4 * y.numel())
        if why:
            missing[name] = why
        else:
            variants[name] = lambda gradient=gradient: gradient(x, y, h)
    figures = bench.measure("against", at, variants)
    ours = next(figure for figure in figures if figure.name == OURS)
    for figure in figures:
        by_ours = figure.times.by(ours.times)
        bench.tell(f"{figure.row()} {by_ours.least:.1f} |")
    for name, why in missing.items():
        bench.tell(f"| {name} | {why} |" + " |" * (AGAINST.count("|") - 3))


# ---- sizes × batches × references


def cube(bench: Bench, size: str, world: LatentWorld) -> None:
    """One sub-step and the usual number with the default kernel, and the set-up, at one size."""
    options, dim = bench.options, world.dim
    counts, left_out = fitting(bench, dim)
    references = world.references(max(counts)) if counts else None
    for n in counts:
        y = references[:n]
        guidance, done = timed_set_up(bench, size, world, y)
        bench.heading(f"{size}, N = {n}", COLUMNS)
        for batch in options.batches:
            x0, _ = world.call(batch, bench.sigma)
            at = Place(size, world, x0, y)
            full = guidance.config.strength
            calls = {
                name: Call(guidance, world, Setting(), batch, bench.sigma, strength)
                for name, strength in (("one sub-step", full / 1000), ("usual", full))
            }
            for figure in bench.measure("cube", at, calls):
                bench.tell(figure._replace(name=f"B = {batch}, {figure.name}").row())
        bench.tell("", done.sentence())
    for n, need in left_out:
        bench.tell("", f"Left out: {size} with N = {n} needs about {need:.0f} GB.")


def fitting(bench: Bench, dim: int) -> tuple[list[int], list[tuple[int, float]]]:
    """The numbers of references whose set-up fits the memory, and the others with what they need in GB."""
    largest = max(bench.set_ups, key=lambda done: done.references, default=None)
    peak = largest.peak / largest.references if largest else GUESSED
    needs = {n: 4e-9 * n * dim * (1 + peak) for n in bench.options.references}
    fit = [n for n, need in needs.items() if need <= bench.options.memory]
    return fit, [(n, need) for n, need in needs.items() if n not in fit]


def timed_set_up(bench: Bench, size: str, world: LatentWorld, y: torch.Tensor):
    """A guidance, and what its set-up took."""
    flat = y.flatten(1)
    found = times_in_turns(
        {"set-up": lambda: set_up(world, y, Setting()), "GEMM": lambda: flat @ flat.T},
        bench.options.rounds,
        patience=bench.options.patience / 5,
    )
    made = tensors_made(lambda: set_up(world, y, Setting()), bench.gpu)  # the only one that is kept
    ratio = found["set-up"].by(found["GEMM"]).least
    done = SetUp(size, world.dim, len(y), found["set-up"].least, ratio, made.peak, made.kept)
    bench.set_ups.append(done)
    return made.result, done


# ---- bars


EXTRA = (
    "with a trace",
    "memory",
    "prompts",
    "references",
    "x̂0 in",
    "companions",
)  # than a kernel and sub-steps


def bars(bench: Bench) -> list[str]:
    """What is asked for on a CPU and whether it is met, as far as it was measured."""
    large = [f for f in bench.figures if f.dim >= 16_384 and f.n >= 500]
    calls = [f for f in large if f.section in ("settings", "cube") and f.substeps]
    plain = [f for f in calls if not f.name.startswith(EXTRA)]
    at = {(f.section, f.name, f.size, f.batch, f.n): f for f in large}

    def beside(figure: Figure, name: str, other: str) -> Figure:
        """The figure measured in the same turns, with another name."""
        key = figure.section, figure.name.replace(name, other), *figure[1:2], *figure[3:5]
        return at[key]

    def by(figure: Figure, other: Figure) -> float:
        return figure.times.by(other.times).least

    one = [f for f in plain if "one sub-step" in f.name]
    usual = [f for f in plain if "usual" in f.name]
    five = [f for f in plain if "five bandwidths" in f.name]
    against = [f for f in large if f.section == "against"]
    peaks = []
    for f in (f for f in calls if f.section == "cube"):
        done = next(s for s in bench.set_ups if (s.size, s.n) == (f.size, f.n))
        batch = 4 * f.batch * f.dim
        most = max(done.peak, done.kept + f.peak * batch)
        peaks.append((most - 3 * batch) / done.references)
    substeps: dict[tuple, dict[int, float]] = {}  # the cost of one by D, by N and batch
    for f in (f for f in usual if f.section == "cube" and f.substeps > 1):
        pairs = zip(f.times.rounds, beside(f, "usual", "one sub-step").times.rounds, strict=True)
        cost = median(many - one for many, one in pairs) / (f.substeps - 1)
        substeps.setdefault((f.n, f.batch), {})[f.dim] = cost
    growth = [
        by_dim[max(by_dim)] / max(by_dim[min(by_dim)], 1e-9)
        for by_dim in substeps.values()
        if len(by_dim) > 1
    ]
    most = {
        "one sub-step, × floor": ([f.ratio.least for f in one], 1.25),
        "the same, the median of rounds": ([f.ratio.median for f in one], 1.25),
        "usual sub-steps, × floor": ([f.ratio.least for f in usual], 1.6),
        "the same, the median": ([f.ratio.median for f in usual], 1.6),
        "five bandwidths, × one": (
            [by(f, beside(f, "five bandwidths", "one bandwidth")) for f in five],
            1.15,
        ),
        "a sub-step at the largest D, × at the smallest": (growth, 1.25),
        "peak of set-up and call less 3 batches, in sets of references": (peaks, 1.0),
    }
    least = {
        f"{name}, × our call": ([by(f, beside(f, name, ours)) for f in against if f.name == name], bar)
        for name, ours, bar in (
            ("geomloss, tensorized", OURS, 10),
            ("official code, rbf", OURS, 3),
            ("official code, poly3", OFFICIAL, 3),
        )
    }  # fmt: skip
    lines = []
    for sign, worst, asked in (("≤", max, most), ("≥", min, least)):
        for name, (values, bar) in asked.items():
            if values:
                value = worst(values)
                met = value <= bar if sign == "≤" else value >= bar
                kept = sum(v <= bar if sign == "≤" else v >= bar for v in values)
                told = f"{'Met' if met else 'MISSED'}: {name} {sign} {bar}"
                lines.append(f"* {told}; worst {value:.2f}, kept by {kept} of {len(values)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["sd15", "sdxl", "flux"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--references", nargs="+", type=int, default=[50, 500, 5000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--patience", type=float, default=60, help="seconds for one table's rounds")
    parser.add_argument("--threads", type=int, help="that torch uses")
    parser.add_argument("--memory", type=float, default=20, help="GB that may be used")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder for cost.md and the plots")
    options = parser.parse_args()
    options.shortest, options.substeps = 0.005, (1, 2, 5, 10, 20, 50)
    if options.quick:
        options.sizes, options.batches, options.references = ["tiny"], [2, 8], [20, 40]
        options.rounds, options.shortest, options.substeps = 1, 0.0, (1, 5)
    if options.threads:
        torch.set_num_threads(options.threads)
    bench, begin = Bench(options), time.perf_counter()
    bench.tell(machine(options.device))
    run(bench)
    bench.tell("", "### Bars", "")
    bench.tell(*bars(bench))
    bench.tell("", f"{(time.perf_counter() - begin) / 60:.1f} minutes.")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        bench.tell(*draw_plots(bench.figures, bench.base, bench.n, bench.batches[-1], options.out))
        (options.out / "cost.md").write_text("\n".join(bench.text) + "\n", "utf-8")


def run(bench: Bench) -> None:
    options = bench.options
    for size in options.sizes:
        world = LatentWorld(SIZES[size], options.device)
        if size == options.sizes[0]:
            few = world.references(min(options.references))
            bench.sigma = usual_sigma(world, few, 8, Setting())
        counts, _ = fitting(bench, world.dim)
        if bench.n in counts:
            y = world.references(bench.n)
            for batch in bench.batches:
                at = Place(size, world, world.call(batch, bench.sigma)[0], y)
                if size == bench.base:
                    all_settings(bench, at)
                    growth_with_substeps(bench, at)
                against(bench, at)
        cube(bench, size, world)


def machine(device: str) -> str:
    """Where and with what it ran."""
    name = torch.cuda.get_device_name() if device != "cpu" else platform.processor()
    return f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads".lstrip(", ")


if __name__ == "__main__":
    main()
