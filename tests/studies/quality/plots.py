"""Figures of all that was measured: one for each world, one for each study."""

import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator
from mmd_tests.studies.quality.report import COLUMNS, Rows, values
from mmd_tests.studies.tables import unique

METHOD_COLORS = {
    "ideal": "#4d4d4d",
    "references": "#999999",
    "none": "#d95f02",
    "guided": "#1b7837",
    "prompt-blind": "#7fbf7b",
    "official": "#2166ac",
    "paper": "#67a9cf",
    "best-of-4": "#8c6bb1",
    "universal": "#c51b7d",
}
LINES = plt.get_cmap("tab10").colors
PANELS = {  # of each world's figure
    "ring": ("TV", "FD", "on-manifold", "MMD2"),
    "digits": ("TV", "FD", "confidence", "MMD2"),
    "latents": ("TV", "FD", "on-manifold", "var low", "var mid", "MMD2"),
    "shapes": ("hue TV", "kind TV", "FD", "confidence", "MMD2"),
    "prompt-digits": ("three recovered", "eight recovered", "accuracy", "FD", "MMD2"),
    "prompt-shapes": ("triangle recovered", "disc recovered", "accuracy", "FD", "MMD2"),
}
TITLES = {
    "TV": "TV of proportions",
    "FD": "Fréchet distance",
    "MMD2": "MMD² · 10³",
    "nearest by fresh": "nearest reference\nby a fresh sample's",
    "var low": "variance, low band",
    "var mid": "variance, middle band",
    "var high": "variance, high band",
}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
}


def title_of(figure: str) -> str:
    return TITLES.get(figure, COLUMNS[figure].heading)


def spread(found: list[float], factor: float = 1.0) -> tuple[float, float]:
    """Mean and standard deviation, which is 0 of a single value."""
    some = np.array([v * factor for v in found if math.isfinite(v)])
    if not len(some):
        return math.nan, 0.0
    return float(some.mean()), float(some.std(ddof=1)) if len(some) > 1 else 0.0


def _broken(target: str) -> str:
    """A name in short lines."""
    return target.replace(", ", ",\n")


def short(case: tuple[str, str]) -> str:
    world, target = case
    return f"{world}\n{_broken(target)}"


def save(figure, out: Path, name: str) -> None:
    figure.savefig(out / f"{name}.png")
    plt.close(figure)


# --- worlds ---------------------------------------------------------------------------------------


def world_figure(rows: Rows, world: str, methods: Iterable[str], out: Path) -> None:
    """TV, FD, confidence and MMD² of each method; a row of panels for each target."""
    rows = [row for row in rows if row["world"] == world]
    targets = unique(row["target"] for row in rows)
    names = [name for name in methods if any(row["method"] == name for row in rows)]
    panels = [name for name in PANELS[world] if values(rows, name)]
    size = (3.1 * len(panels) + 1.2, (0.24 * len(names) + 0.75) * len(targets) + 0.5)
    figure, axes = plt.subplots(
        len(targets), len(panels), figsize=size, squeeze=False, sharey=True, sharex="col"
    )
    for i, target in enumerate(targets):
        for j, panel in enumerate(panels):
            column = COLUMNS[panel]
            axis, places = axes[i, j], range(len(names))
            pairs = [
                spread(values(rows, panel, target=target, method=name), column.factor)
                for name in names
            ]
            means, errors = zip(*pairs, strict=True)
            colors = [METHOD_COLORS.get(name, "#333333") for name in names]
            axis.barh(places, means, xerr=errors, color=colors, height=0.72, ecolor="#222222")
            if "references" in names:
                axis.axvline(means[names.index("references")], color="#555555", ls="--", lw=1)
            if panel == "FD" and max(means) > 10 * min(means):
                decades = math.log10(max(means) / min(means))
                axis.set_xscale("log")
                subs = (1.0,) if decades > 2 else (1.0, 3.0)
                axis.xaxis.set_major_locator(LogLocator(subs=subs))
                axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
                axis.minorticks_off()
            if panel == "MMD2":
                axis.set_xscale("symlog", linthresh=3, linscale=1.5)
                axis.set_xticks([-10, -2, 0, 2, 10, 100], ["−10", "−2", "0", "2", "10", "100"])
                axis.minorticks_off()
            if panel.startswith("var") or panel.endswith("recovered"):
                axis.axvline(1.0, color="#000000", lw=1, ls=":")
            if panel in ("confidence", "on-manifold", "accuracy"):
                lowest = min((m - e for m, e in pairs if math.isfinite(m)), default=0)
                low = min(axis.get_xlim()[0] if i else 1.0, max(0.0, lowest - 0.02))
                axis.set_xlim(low, 1.0)
            axis.grid(axis="y", visible=False)
            axis.set_yticks(list(places), names)
            axis.invert_yaxis() if not axis.yaxis_inverted() else None
            if i == 0:
                axis.set_title(title_of(panel))
        axes[i, 0].set_ylabel(_broken(target), fontsize=10)
    figure.suptitle(
        f"{world}: mean over seeds ± standard deviation; dashed: the references themselves"
    )
    save(figure, out, f"world_{world}")


# --- studies --------------------------------------------------------------------------------------


def curve(axis, rows: Rows, figure: str, key, **style) -> None:
    """One figure of rows along `key(row)`, with error bars."""
    column = COLUMNS[figure]
    xs = sorted({key(row) for row in rows})
    pairs = [spread(values([r for r in rows if key(r) == x], figure), column.factor) for x in xs]
    means, errors = zip(*pairs, strict=True) if pairs else ((), ())
    axis.errorbar(xs, means, yerr=errors, capsize=2, ms=4, lw=1.5, **style)


def level(axis, rows: Rows, figure: str, **style) -> None:
    """One figure of rows as a horizontal line."""
    found = spread(values(rows, figure), COLUMNS[figure].factor)[0]
    if math.isfinite(found):
        axis.axhline(found, lw=1.2, **style)


def by_case(rows: Rows) -> list[tuple[tuple[str, str], Rows]]:
    cases = unique((row["world"], row["target"]) for row in rows)
    return [(case, [r for r in rows if (r["world"], r["target"]) == case]) for case in cases]


def curves(rows: Rows, out: Path, name: str, title: str, figures, key, label, ticks=None) -> None:
    """A row of panels for each case: guided along `key`, and other methods as levels."""
    cases = by_case(rows)
    shown = [[f for f in figures if values(own, f)] for _, own in cases]
    width = max(map(len, shown))
    figure, axes = plt.subplots(
        len(cases), width, figsize=(2.9 * width + 0.6, 2.3 * len(cases) + 0.8), squeeze=False
    )
    colors = {"none": "#d95f02", "references": "#777777", "ideal": "#222222"}
    for (case, own), names, line in zip(cases, shown, axes, strict=True):
        guided = [row for row in own if row["method"] == "guided"]
        for axis in line[len(names) :]:
            axis.set_axis_off()
        for axis, panel in zip(line, names, strict=False):
            for method, color in colors.items():
                some = [row for row in own if row["method"] == method]
                if some and len({key(row) for row in some}) > 1:
                    curve(axis, some, panel, key, color=color, marker="s", ls="--", label=method)
                elif some:
                    level(axis, some, panel, color=color, ls="--", label=method)
            curve(axis, guided, panel, key, color="#1b7837", marker="o", label="guided")
            if ticks != "linear":
                axis.set_xscale("log")
                places = sorted({key(row) for row in guided})
                axis.set_xticks(places, [f"{p:g}" for p in places])
                axis.minorticks_off()
            axis.set_title(title_of(panel))
            axis.set_xlabel(label)
        line[0].set_ylabel(short(case))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncol=len(labels), frameon=False)
    figure.suptitle(title, x=0.01, ha="left")
    save(figure, out, f"study_{name}")


def setting(name: str, default=None):
    return lambda row: row["settings"].get(name, default)


def strength_figure(rows: Rows, out: Path) -> None:
    figures = ("TV", "MMD2", "confidence", "on-manifold", "nearest by fresh")
    curves(
        rows, out, "strength", "Strength", figures, setting("strength", 0), "multiple of the default"
    )  # fmt: skip


def batches_figure(rows: Rows, out: Path) -> None:
    figures = ("TV", "var low", "var mid", "var high", "confidence", "on-manifold")
    curves(rows, out, "batches", "Batches drawn apart", figures, setting("batch", 0), "batch")


def references_figure(rows: Rows, out: Path) -> None:
    figures = ("TV", "MMD2", "var low", "var mid", "nearest by fresh")
    curves(
        rows, out, "references", "References", figures, lambda row: row["references"], "references"
    )  # fmt: skip


def cfg_figure(rows: Rows, out: Path) -> None:
    figures = ("three recovered", "eight recovered", "accuracy", "confidence", "MMD2")
    title = "Classifier-free guidance"
    curves(rows, out, "cfg", title, figures, setting("cfg"), "cfg", ticks="linear")


def steps_figure(rows: Rows, out: Path) -> None:
    """TV and confidence by steps: guided solid, unguided dashed, a color for each sampler."""
    cases, panels = by_case(rows), ("TV", "confidence")
    figure, axes = plt.subplots(
        len(cases), 2, figsize=(9.5, 2.9 * len(cases) + 0.6), squeeze=False, sharex=True
    )
    for (case, own), line in zip(cases, axes, strict=True):
        for axis, panel in zip(line, panels, strict=True):
            some = [row for row in own if row["method"] == "references"]
            level(axis, some, panel, color="#777777", ls=":", label="references")
            drawn = [row for row in own if "sampler_name" in row["settings"]]
            samplers = unique(row["settings"]["sampler_name"] for row in drawn)
            for color, sampler in zip(LINES, samplers, strict=False):
                for method, style in (("guided", "-"), ("none", "--")):
                    part = [
                        row
                        for row in drawn
                        if (row["settings"]["sampler_name"], row["method"]) == (sampler, method)
                    ]
                    label = sampler if method == "guided" else None
                    style = {"color": color, "ls": style, "marker": "o", "label": label}
                    curve(axis, part, panel, setting("steps"), **style)
            axis.set_xscale("log")
            steps = sorted({row["settings"]["steps"] for row in drawn})
            axis.set_xticks(steps, [str(s) for s in steps])
            axis.minorticks_off()
            axis.set_title(title_of(panel))
        line[0].set_ylabel(short(case))
    for axis in axes[-1]:
        axis.set_xlabel("steps")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle("Steps: guided solid, without guidance dashed (karras)")
    save(figure, out, "study_steps")


def samplers_figure(rows: Rows, out: Path) -> None:
    """Maps of sampler by scheduler: TV, confidence, and confidence without guidance."""
    cases = by_case(rows)
    panels = (("TV", "guided"), ("confidence", "guided"), ("confidence", "none"))
    figure, axes = plt.subplots(
        len(cases), len(panels), figsize=(11.5, 3.5 * len(cases) + 0.5), squeeze=False
    )
    for (case, own), line in zip(cases, axes, strict=True):
        drawn = [row for row in own if "sampler_name" in row["settings"]]
        samplers, schedulers = (
            unique(row["settings"][name] for row in sorted(drawn, key=_listed))
            for name in ("sampler_name", "scheduler")
        )
        for axis, (panel, method) in zip(line, panels, strict=True):
            found = np.array(
                [
                    [
                        spread(
                            [
                                row["figures"][panel]
                                for row in drawn
                                if row["method"] == method
                                and row["settings"]["sampler_name"] == sampler
                                and row["settings"]["scheduler"] == scheduler
                            ]
                        )[0]
                        for scheduler in schedulers
                    ]
                    for sampler in samplers
                ]
            )
            low, high = (0.0, 0.5) if panel == "TV" else (0.8, 1.0)
            colors = "viridis_r" if panel == "TV" else "viridis"
            axis.imshow(found, aspect="auto", cmap=colors, vmin=low, vmax=high)
            axis.grid(visible=False)
            axis.set_xticks(range(len(schedulers)), schedulers, rotation=20)
            axis.set_yticks(range(len(samplers)), samplers)
            for i, j in np.ndindex(found.shape):
                place = (found[i, j] - low) / (high - low)
                dark = place > 0.5 if panel == "TV" else place < 0.5
                color = "white" if dark else "black"
                axis.text(j, i, f"{found[i, j]:.2f}", ha="center", va="center", color=color)
            axis.set_title(f"{panel}, {'guided' if method == 'guided' else 'without guidance'}")
        line[0].set_ylabel(short(case), labelpad=12)
    figure.suptitle("Samplers and schedulers, 20 steps")
    save(figure, out, "study_samplers")


def _listed(row: dict) -> tuple[int, int]:
    from mmd_tests.studies.quality.studies import SAMPLERS, SCHEDULERS

    settings = row["settings"]
    return SAMPLERS.index(settings["sampler_name"]), SCHEDULERS.index(settings["scheduler"])


def bars_by_label(rows: Rows, out: Path, name: str, title: str, figures) -> None:
    """Horizontal bars, one for each label; a row of panels for each case."""
    from mmd_tests.studies.quality.studies import study_label

    cases = by_case(rows)
    shown = [[f for f in figures if values(own, f)] for _, own in cases]
    counts = [len(unique(map(study_label, own))) for _, own in cases]
    width = max(map(len, shown))
    figure, axes = plt.subplots(
        len(cases), width, squeeze=False, height_ratios=counts,
        figsize=(2.5 * width + 2.4, sum(0.26 * n + 0.75 for n in counts) + 0.4),
    )  # fmt: skip
    colors = {"none": "#d95f02", "ideal": "#4d4d4d", "references": "#999999", "guided": "#1b7837"}
    for (case, own), names, line in zip(cases, shown, axes, strict=True):
        labels = unique(map(study_label, own))
        for axis in line[len(names) :]:
            axis.set_axis_off()
        for axis, panel in zip(line, names, strict=False):
            parts = [[row for row in own if study_label(row) == text] for text in labels]
            pairs = [spread(values(part, panel), COLUMNS[panel].factor) for part in parts]
            means, errors = zip(*pairs, strict=True)
            tints = [colors[part[0]["method"]] for part in parts]
            axis.barh(range(len(labels)), means, xerr=errors, color=tints, height=0.7)
            if panel.startswith("var"):
                axis.axvline(1.0, color="#555555", ls="--", lw=1)
            axis.set_yticks(range(len(labels)), labels if axis is line[0] else [])
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            axis.set_title(title_of(panel))
        line[0].set_ylabel(short(case))
    figure.suptitle(title)
    save(figure, out, f"study_{name}")


def groups_figure(rows: Rows, out: Path) -> None:
    figures = ("TV", "MMD2", "var low", "var mid", "var high")
    bars_by_label(rows, out, "groups", "Groups with memory, and batches without", figures)


def partial_figure(rows: Rows, out: Path) -> None:
    bars_by_label(
        rows, out, "partial", "Denoise below 1, and lower halves", ("TV", "MMD2", "FD", "confidence")
    )  # fmt: skip


def features_figure(rows: Rows, out: Path) -> None:
    figures = ("hue TV", "style recovered", "in the corner", "layout spread", "nearest by fresh")
    bars_by_label(rows, out, "features", "What is compared is what is transferred", figures)


STUDY_FIGURES = {
    "strength": strength_figure,
    "steps": steps_figure,
    "samplers": samplers_figure,
    "batches": batches_figure,
    "groups": groups_figure,
    "references": references_figure,
    "cfg": cfg_figure,
    "partial": partial_figure,
    "features": features_figure,
}


def draw_all(rows: Rows, out: Path, methods: Iterable[str], targets: Iterable[str]) -> None:
    """Every figure that there are rows for; methods and targets in the order to show them."""
    good = [row for row in rows if "error" not in row]
    with plt.rc_context(STYLE):
        main = [row for row in good if row["part"] == "main"]
        order = {name: i for i, name in enumerate(targets)}
        main.sort(key=lambda row: order.get(row["target"], len(order)))
        for world in unique(row["world"] for row in main):
            world_figure(main, world, list(methods), out)
        for name, draw_figure in STUDY_FIGURES.items():
            some = [row for row in good if row["part"] == name]
            if some:
                draw_figure(some, out)
