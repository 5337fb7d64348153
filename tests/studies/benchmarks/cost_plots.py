"""Plots of cost.py: how time grows, absolute and by the floor, and other ways to the gradient."""

from importlib.util import find_spec
from pathlib import Path

COLORS = {
    "floor": "black",
    "one sub-step": "#1b7fbd",
    "usual": "#d1495b",
    "by sub-steps": "#6b4c9a",
}


def draw_plots(figures: list, size: str, n: int, batch: int, folder: Path) -> list[str]:
    """Draws growth around one place and the comparison there; tells what was written.

    Arguments:
        figures: What cost.py measured.
        size, n, batch: Where the others lie when one of them grows.
        folder: Where the pictures go.
    """
    if find_spec("matplotlib") is None:
        return ["", "No plots: pip install matplotlib"]
    import matplotlib

    matplotlib.use("Agg")
    _draw_growth(figures, size, n, batch, folder / "cost_growth.png")
    _draw_against(figures, size, n, batch, folder / "cost_against.png")
    return ["", "Plots: cost_growth.png, cost_against.png."]


def _draw_growth(figures: list, size: str, n: int, batch: int, path: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    cube = [f for f in figures if f.section == "cube"]
    panels = {
        "references N": ([f for f in cube if f.size == size and f.batch == batch], "n"),
        "batch B": ([f for f in cube if f.size == size and f.n == n], "batch"),
        "numbers of a latent D": ([f for f in cube if f.n == n and f.batch == batch], "dim"),
        "sub-steps": (
            [f for f in figures if f.section == "sub-steps" and f.batch == batch],
            "substeps",
        ),
    }
    titles = (
        f"{size}, B = {batch}", f"{size}, N = {n}", f"B = {batch}, N = {n}", f"{size}, B = {batch}, N = {n}",
    )  # fmt: skip
    fig, axes = plt.subplots(2, 4, figsize=(17, 7.5), sharex="col", layout="constrained")
    for column, (label, (found, key)) in enumerate(panels.items()):
        above, below = axes[:, column]
        for name, points in _lines(found, key).items():
            xs = sorted(points)
            look = {"color": COLORS[name], "marker": "o", "markersize": 2 if name == "floor" else 6}
            above.plot(xs, [1e3 * points[x].times.least for x in xs], label=name, **look)
            below.plot(xs, [points[x].ratio.least for x in xs], **look)
        above.set(xscale="log", yscale="log", title=titles[column])
        above.yaxis.set_major_formatter("{x:g}")
        above.yaxis.set_minor_formatter("")
        above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        below.set(xscale="log", yscale="log", xlabel=label)
        ticks = sorted({getattr(f, key) for f in found} - {None})
        below.set_xticks(ticks, [f"{tick:,}".replace(",", " ") for tick in ticks])
        high = max((f.ratio.least for f in found), default=1)
        marks = [m for m in (1, 1.25, 1.6, 2, 3, 5, 10, 20, 50, 100) if m < 1.3 * high or m < 2]
        below.set_yticks(marks, [f"{m:g}" for m in marks])
        below.minorticks_off()
        for limit in (1.25, 1.6):
            below.axhline(limit, color="gray", linewidth=0.8, linestyle=":")
        for ax in (above, below):
            ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("ms, fastest round")
    axes[1, 0].set_ylabel("× floor")
    lines = {line.get_label(): line for ax in axes[0] for line in ax.get_lines()}
    fig.legend(lines.values(), lines, loc="outside upper center", ncols=len(lines))
    fig.savefig(path, dpi=110)
    plt.close(fig)


def _lines(found: list, key: str) -> dict[str, dict]:
    """Figures by line and by the place on it."""
    lines: dict[str, dict] = {}
    for f in found:
        if f.name == "floor":
            if key == "substeps":  # it has none: a level line
                lines["floor"] = {k.substeps: f for k in found if k.substeps}
                continue
            line = "floor"
        else:
            line = f.name if f.name in COLORS else "by sub-steps"
        lines.setdefault(line, {})[getattr(f, key)] = f
    return lines


def _draw_against(figures: list, size: str, n: int, batch: int, path: Path) -> None:
    import matplotlib.pyplot as plt

    found = [
        f for f in figures
        if f.section == "against" and (f.size, f.n, f.batch) == (size, n, batch)
    ]  # fmt: skip
    found.sort(key=lambda f: -f.ratio.least)
    fig, ax = plt.subplots(figsize=(8.5, 0.45 * len(found) + 1.4), layout="constrained")
    for row, f in enumerate(found):
        color = COLORS["floor"] if f.name == "floor" else "gray"
        color = COLORS["one sub-step"] if "this pack" in f.name else color
        ax.plot([1, f.ratio.least], [row, row], color=color, linewidth=1)
        ax.plot(f.ratio.least, row, "o", color=color)
        ax.text(f.ratio.least * 1.1, row, f"{f.ratio.least:.2f}", va="center")
    ax.set_yticks(range(len(found)), [f.name for f in found])
    ax.set(xscale="log", xlabel="time of one gradient, × floor")
    ax.set_title(f"{size}, B = {batch}, N = {n}")
    ax.margins(x=0.15)
    ax.grid(axis="x", alpha=0.3)
    fig.savefig(path, dpi=110)
    plt.close(fig)
