"""FREE.md: which sampler and schedule draws best in few calls when nothing is trained; pure functions."""

from mmd_tests.studies.finetuning.free_samplers import (
    CALLS,
    FINALISTS,
    HELD_OUT,
    TUNING,
    distances,
)
from mmd_tests.studies.tables import chosen, facts, spread, table_head, table_row

SHOWN = 6  # of each number of calls
COMMAND = "python tests/studies/finetuning/free.py"
HEAD = f"""What a sampler and a schedule alone can do in few calls of the model: every sampler of ComfyUI with every
schedule, on the model of digits of [DIGITS.md](DIGITS.md), at cfg 1. Try these before you train anything.

A call is one run of the network for one image: a step of heun takes two, one of a cfg_pp sampler, too. Each pair
gets the most steps that need no more calls than the heading says. Samplers that end in _gpu are left out: they differ only in
where noise is made.

Chosen on tuning seeds ({TUNING[0]} to {TUNING[-1]}): all pairs on the first with 130 images, then the nearest {FINALISTS} of each number
of calls on all with 520 images. The nearest has the least distance: the mean of MMD² and FD against real digits, each relative to
that of 50 steps of euler, so that 1 is as good as these. What was chosen is measured on the seeds of the trainings ({HELD_OUT[0]} to {HELD_OUT[-1]}),
with the truth and the noise of DIGITS.md; its rows of the model alone come out the same here. Below it are dpmpp_2m with
kl_optimal, which is simple to remember and near the best from 4 calls on, and euler with karras. ± is the standard deviation over
these. MMD² is given times 1000."""
TITLES = {"none": "No prompt", "ten": "Ten prompts in turn"}


def page(about: dict, results: dict) -> str:
    """Everything as Markdown.

    Arguments:
        results: For each kind of prompts the rows of `screened`, `finals` and `held out`.
    """
    parts = ["# Few calls, nothing trained", f"`{COMMAND}`. {HEAD}", facts(about)]
    for prompts, title in TITLES.items():
        parts += [f"## {title}: what to try first", best(results[prompts]["held out"])]
    for prompts, title in TITLES.items():
        parts += [
            f"## {title}: the nearest on tuning seeds",
            "In brackets: their distance.",
            nearest(results[prompts]["finals"]),
        ]
    return "\n\n".join(parts) + "\n"


def best(rows: list[dict]) -> str:
    """What was chosen for each number of calls, and below it one simple choice and what is usual."""
    prompted = "agreement" in rows[0]
    titles = ("calls", "sampler, schedule", "steps", "MMD²", "FD", "TV", "confidence")
    lines = [table_head(*titles, *(["as prompted"] if prompted else []))]
    seen = set()
    for calls in (*CALLS, 50):
        for kind in ("chosen", "simple", "usual"):
            own = chosen(rows, kind=kind, allowed=calls)
            if not own:
                continue
            first = own[0]
            name = f"{first['sampler']}, {first['scheduler']}"
            if (calls, name) in seen:
                continue
            seen.add((calls, name))
            figures = [("MMD2", 1000, 1), ("FD", 1, 1), ("TV", 1, 3), ("confidence", 1, 3)]
            figures += [("agreement", 1, 3)] if prompted else []
            lines.append(table_row(
                calls, f"**{name}**" if kind == "chosen" else name, first["steps"],
                *(spread([scale * row[key] for row in own], digits) for key, scale, digits in figures),
            ))  # fmt: skip
    return "\n".join(lines)


def nearest(rows: list[dict]) -> str:
    """The nearest of each number of calls."""
    ranked = distances(rows)
    lines = [table_head("calls", "sampler, schedule, steps")]
    for calls in CALLS:
        own = [(far, row) for far, row in ranked if row["calls"] == calls][:SHOWN]
        names = [
            f"{row['sampler']}, {row['scheduler']}, {row['steps']} ({far:.2f})" for far, row in own
        ]
        lines.append(table_row(calls, "; ".join(names)))
    return "\n".join(lines)
