"""The fuzzing itself, inside ComfyUI's Python; started by run.py, which knows the options."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401


from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Flaky
from mmd_tests.fuzz.edits import Case
from mmd_tests.fuzz.limits import Crash, Misread
from mmd_tests.fuzz.run import make_parser
from mmd_tests.fuzz.targets import TARGETS, Target

OUTCOMES = ("refused", "same", "other")
HANG = 1800  # seconds


@dataclass
class Result:
    """What came out for one target."""

    outcomes: Counter = field(default_factory=Counter)
    seen: set[bytes] = field(default_factory=set)
    seconds: float = 0.0
    fault: tuple[Case, Exception] | None = None  # the smallest

    def add(self, case: Case, outcomes: list[str]) -> None:
        """Counts each file once."""
        for data, outcome in zip(case.files, outcomes, strict=True):
            key = hashlib.sha256(data).digest()
            if key not in self.seen:
                self.seen.add(key)
                self.outcomes[outcome] += 1


def fuzz(
    target: Target,
    n: int,
    place: Path,
    number: int | None = None,
    before: Callable[[Case], object] = lambda case: None,
    shrink: bool = True,
) -> Result:
    """Tries `n` different files, or without a `number` about so many, and always the same.

    Arguments:
        place: An empty folder to work in.
        number: Each draws other files.
        before: Is called with each case.
        shrink: Looks for the smallest case of a fault, which takes a while.
    """
    result = Result()

    def try_one(case):
        before(case)
        try:
            outcomes = target.check(case, place)
        except (Crash, Misread) as error:
            result.fault = case, error
            raise
        result.add(case, outcomes)

    start = time.perf_counter()
    for attempt in range(1 if number is None else 9):  # among what is drawn, some come twice
        missing = n - len(result.seen)
        if missing > 0 and not result.fault:
            rules = settings(
                max_examples=-(-missing // target.files),
                deadline=None,
                database=None,
                derandomize=number is None,
                report_multiple_bugs=False,
                phases=(Phase.generate, *[Phase.shrink] * shrink),
                suppress_health_check=list(HealthCheck),
            )
            attack = rules(given(target.cases())(try_one))
            with contextlib.suppress(Crash, Misread, Flaky):  # what is slow may be faster again
                (attack if number is None else seed(f"{number} {attempt}")(attack))()
    result.seconds = time.perf_counter() - start
    return result


def table(results: dict[str, Result]) -> str:
    """In Markdown."""
    counted = ("files", "refused", "read as the original", "read as another", "crashes", "misreads")
    rows = [("target", *counted)]
    for name, result in results.items():
        fault = result.fault and type(result.fault[1])
        counts = [result.outcomes[outcome] for outcome in OUTCOMES]
        rows.append((name, sum(counts), *counts, int(fault is Crash), int(fault is Misread)))
    rows.append(("all", *(sum(row[i] for row in rows[1:]) for i in range(1, 7))))
    lines = [
        "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) + " |"
        for row in rows
    ]
    return "\n".join([lines[0], "|---|" + "--:|" * 6, *lines[1:]])


def keep(case: Case, out: Path) -> None:
    """Writes the files of a case, for a look."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    out.joinpath("about.txt").write_text(repr(case.about), "utf-8", "backslashreplace")
    for i, data in enumerate(case.files):
        out.joinpath(f"{i}.bin").write_bytes(data)


def main() -> int:
    """Run the targets, print what came out, and return 1 if anything is wrong."""
    options = make_parser().parse_args()
    from mmd_tests.studies.quality import comfyui

    comfyui.start()
    names = options.targets or list(TARGETS)
    unknown = set(names) - set(TARGETS)
    if unknown:
        sys.exit(f"There is no target {', '.join(unknown)}: choose among {', '.join(TARGETS)}.")
    total = sum(TARGETS[name].share for name in names)
    results = {}
    # libtiff writes to the console what it thinks of each file.
    console = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    faulthandler.enable(console)

    def say(line):
        console.write(f"{line}\n")
        console.flush()

    def before(case):
        faulthandler.dump_traceback_later(HANG, exit=True, file=console)
        keep(case, options.out / "last")

    for name in names:
        n = round(options.examples * TARGETS[name].share / total)
        with tempfile.TemporaryDirectory() as place:
            result = results[name] = fuzz(TARGETS[name], n, Path(place), options.seed, before)
        faulthandler.cancel_dump_traceback_later()
        say(f"{name}: {sum(result.outcomes.values())} files in {result.seconds:.0f} s")
        if result.fault:
            case, error = result.fault
            keep(case, options.out / name)
            say(f"  {type(error).__name__}, see {options.out / name}: {error}")
    shutil.rmtree(options.out / "last", ignore_errors=True)
    sys.stdout.write(table(results) + "\n")
    return int(any(result.fault for result in results.values()))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # ComfyUI leaves threads behind
