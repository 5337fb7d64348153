"""The quality benchmark inside ComfyUI's Python; started by run.py, which knows the options."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401


from mmd_tests.studies.quality import comfyui
from mmd_tests.studies.quality.bars import bars_of, bars_table, study_bars
from mmd_tests.studies.quality.options import ABOUT, make_parser
from mmd_tests.studies.quality.report import LEGEND, main_tables, progress_text, table
from mmd_tests.studies.quality.studies import STUDIES, study_label, study_tasks
from mmd_tests.studies.quality.tasks import Task, run_all
from mmd_tests.studies.tables import unique

TUNING_SEEDS = (1000, 1001)
QUICK = ("ideal", "references", "none", "guided", "prompt-blind", "official")


class Results:
    """All rows, kept in a file as they come."""

    def __init__(self, out: Path, about: dict):
        self.file, self.about, self.rows = out / "results.json", about, []
        self.saved = 0.0

    def add(self, row: dict) -> None:
        self.rows.append(row)
        if time.monotonic() - self.saved > 5:
            self.save()

    def save(self) -> None:
        """Write everything to a new file, and put that in the place of the old one."""
        text = json.dumps({"about": self.about, "rows": self.rows}, indent=1)
        temp = self.file.with_suffix(".tmp")
        temp.write_text(text, "utf-8")
        os.replace(temp, self.file)
        self.saved = time.monotonic()

    def of(self, part: str) -> list[dict]:
        return [row for row in self.rows if row["part"] == part and "error" not in row]


def chosen_cases(options) -> list[tuple[str, str]]:
    """World and target of all cases that the options ask for."""
    from mmd_tests.studies.quality.worlds import registry

    known = registry()
    for world in options.worlds or ():
        if world not in known:
            sys.exit(f"There is no world {world}: choose among {', '.join(known)}.")
    return [
        (world, target)
        for world in options.worlds or known
        for target in known[world]
        if options.targets in target
    ]


def chosen_methods(options) -> list[str]:
    from mmd_tests.studies.quality.methods import METHODS

    names = options.methods or (QUICK if options.quick else tuple(METHODS))
    for name in names:
        if name not in METHODS:
            sys.exit(f"There is no method {name}: choose among {', '.join(METHODS)}.")
    return list(names)


def chosen_studies(options) -> list[str]:
    """The studies named; all of them where none is."""
    names = [name for name in options.studies if name != "only"]
    for name in names:
        if name not in STUDIES:
            sys.exit(f"There is no study {name}: choose among {', '.join(STUDIES)}.")
    return names or list(STUDIES)


def applies(method: str, world: str) -> bool:
    """Whether a method makes sense in a world."""
    return method != "prompt-blind" or world.startswith("prompt-")


def first_tasks(options, cases, methods, seeds) -> list[Task]:
    """Everything but methods that have to be tuned first; these on their tuning seeds."""
    from mmd_tests.studies.quality.methods import METHODS

    tasks = []
    for world, target in cases:
        for name in methods:
            sweep = METHODS[name].sweep
            if sweep and not options.quick:
                tasks += [
                    Task("sweep", world, target, name, seed, settings)
                    for seed in TUNING_SEEDS
                    for settings in sweep
                ]
            elif applies(name, world):
                usual = METHODS[name].usual
                tasks += [Task("main", world, target, name, seed, usual) for seed in seeds]
    return tasks


def best_settings(rows: list[dict], tunes: tuple[str, str]) -> dict:
    """The settings whose ranks in the two figures sum up to the least; lower figures are better.

    Arguments:
        rows: The sweep of one method in one case.
    """
    from mmd_tests.studies.quality.report import mean

    every = unique(json.dumps(row["settings"]) for row in rows)
    own = [[row for row in rows if json.dumps(row["settings"]) == text] for text in every]
    ranks = [0] * len(every)
    for figure in tunes:
        found = [mean(some, figure) for some in own]
        found = [value if value == value else float("inf") for value in found]
        ranks = [r + sum(v < value for v in found) for r, value in zip(ranks, found, strict=True)]
    return json.loads(every[min(range(len(every)), key=lambda i: (ranks[i], found[i]))])


def tuned_tasks(results: Results, cases, methods, seeds) -> list[Task]:
    """The tuned methods at their best settings."""
    from mmd_tests.studies.quality.worlds import tuned_by

    tasks = []
    for world, target in cases:
        for name in methods:
            rows = [
                row
                for row in results.of("sweep")
                if (row["world"], row["target"], row["method"]) == (world, target, name)
            ]
            if rows:
                best = best_settings(rows, tuned_by(world))
                tasks += [Task("main", world, target, name, seed, best) for seed in seeds]
    return tasks


def run(tasks: list[Task], results: Results, jobs: int) -> None:
    """Do the tasks, show each, and keep what they found."""
    for done, row in enumerate(run_all(tasks, jobs) if tasks else (), 1):
        results.add(row)
        part = "" if row["part"] == "main" else f"{row['part']}: "
        sys.stderr.write(f"[{done}/{len(tasks)}] {part}{progress_text(row)}\n")
    results.save()


def report(results: Results, methods: list[str], cases) -> str:
    """Everything as Markdown."""
    order = {case: i for i, case in enumerate(cases)}
    main = [row for row in results.of("main") if (row["world"], row["target"]) in order]
    main.sort(key=lambda row: order[row["world"], row["target"]])
    parts = ["# Quality benchmark"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in results.about.items()))
    if main:
        parts += [LEGEND, main_tables(main, methods), "## Bars", bars_table(bars_of(main))]
    parts += studies_report(results)
    bars = study_bars({name: results.of(name) for name in STUDIES})
    if bars:
        parts += ["## Bars that the studies decide", bars_table(bars)]
    failed = [row for row in results.rows if "error" in row]
    if failed:
        parts += ["## Errors", "\n".join(f"- {progress_text(row)}" for row in failed)]
    return "\n\n".join(parts) + "\n"


def studies_report(results: Results) -> list[str]:
    parts = []
    for name, study in STUDIES.items():
        rows = results.of(name)
        if rows:
            parts += [f"## Study: {name}", study.about]
            for case in unique((row["world"], row["target"]) for row in rows):
                own = [row for row in rows if (row["world"], row["target"]) == case]
                parts += [f"### {' '.join(case)}", table(own, study_label, first="settings")]
    return parts


def about(options, version: str) -> dict:
    """Versions and settings."""
    import numpy
    import torch
    from mmd_pack.mmd_core import GuidanceConfig

    return {
        "ComfyUI": version,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "NumPy": numpy.__version__,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {options.jobs} processes",
        "guided": str(GuidanceConfig()),
        "seeds": f"{options.first_seed} to {options.first_seed + options.seeds - 1}"
        + ("" if options.quick else f", tuned on {TUNING_SEEDS[0]} and {TUNING_SEEDS[-1]}"),
        "command": " ".join(["python tests/studies/quality/run.py", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(parents=[make_parser()], description=ABOUT)
    options = parser.parse_args()
    if options.quick:
        options.seeds = 1
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    began, version = time.monotonic(), comfyui.start()
    cases, methods = chosen_cases(options), chosen_methods(options)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    results = Results(options.out, about(options, version))
    try:
        if options.studies is None or "only" not in options.studies:
            run(first_tasks(options, cases, methods, seeds), results, options.jobs)
            run(tuned_tasks(results, cases, methods, seeds), results, options.jobs)
        if options.studies is not None:
            run(study_tasks(chosen_studies(options), seeds), results, options.jobs)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; what was measured so far is reported.\n")
    results.about["minutes"] = round((time.monotonic() - began) / 60, 1)
    results.save()
    text = report(results, methods, cases)
    (options.out / "report.md").write_text(text, "utf-8")
    if not options.no_plots:
        from mmd_tests.studies.quality.plots import draw_all

        draw_all(results.rows, options.out, methods, [target for _, target in cases])
    sys.stdout.write(f"{text}\n\nResults, report and figures are in {options.out}\n")
    return 1 if any("error" in row for row in results.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
