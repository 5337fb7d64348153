"""The study on digits in words and tables; pure functions."""

from mmd_tests.studies.tables import (
    chosen,
    facts,
    mean,
    spread,
    table_head,
    table_row,
    unique,
    verdict,
)

BAR = 0.7  # of the gap to 50 steps
STEPS, MANY = 5, 50
ALONE = "model alone"
FREE = "nothing trained"  # how the names of rows begin whose sampler and schedule were chosen
COMMAND = "python tests/studies/finetuning/digits.py"
HEAD = """A learned model of digits in a real ComfyUI, through nodes only: MMDMakeReferences, MMDTrainLoRA, MMDSaveLoRA, and core's
LoraLoaderModelOnly and KSampler. All LoRAs are trained at cfg 1 and, but for two sections, for 5 steps of the karras schedule, for which the model was
learned; rank 8, batch_size 128, learning_rate 0.003, 100 updates (240 for the subset), all else as the node has it. These
settings, and what else was tried, are of tuning seeds (7900 on); training and judging have other ones."""
MEASURED = """520 images (4 batches of 130) for each figure, with the same noise for every method of a seed. "real": against about 600 real
digits from the half that the model was not learned from; "50 steps": against 1200 images that the model draws with 50 steps, of
another seed than the references. Figures as in the quality benchmark ([RESULTS.md](../quality/RESULTS.md)): MMD² (times 1000)
and variances of pictures; FD, coverage, density, Vendi of features of a classifier that no training has seen; TV and confidence by
that classifier. FD 128: of 128 images, Vendi: relative to the truth, var: variance within classes in three frequency bands
relative to the truth, nearest: distance to the nearest reference, relative to that of images that were held out (much below 1
would be copying), p and rejected: permutation tests of 128 images. ms: of one core for an image, without waiting for
other programs. ± is the standard deviation over trainings, each with its own references, truth and noise."""
SECTIONS = {
    ("euler", "real"): "Faster: euler, no prompt, against real digits",
    ("euler", "50 steps"): "The same, against images of 50 steps",
    ("euler", "other steps"): "The same LoRA with other numbers of steps, against real digits",
    ("dpmpp_2m", "real"): "Faster: dpmpp_2m, no prompt, against real digits",
    ("dpmpp_2m", "50 steps"): "The same, against images of 50 steps",
    ("kl_optimal", "real"): "Trained for dpmpp_2m with kl_optimal, no prompt, against real digits",
    ("kl_optimal", "50 steps"): "The same, against images of 50 steps",
    ("2 to 4 calls", "real"): "Two to four calls, no prompt, against real digits",
    ("2 to 4 calls", "50 steps"): "The same, against images of 50 steps",
    ("prompts", "real"): "Faster: euler, ten prompts, against real digits",
    ("prompts", "50 steps"): "The same, against images of 50 steps",
    ("prompts", "other cfg"): "The same LoRA, trained at cfg 1, with other cfg, against real digits",
    ("subset", "real"): "Faster and different: 3s, 8s and 1s (5 : 3 : 2), no prompt",
}  # fmt: skip
SPREAD = ("MMD2", "FD", "TV", "confidence", "agreement")
COLUMNS = {
    "MMD2": ("MMD²", 1000, 1),
    "FD": ("FD", 1, 1),
    "TV": ("TV", 1, 3),
    "confidence": ("confidence", 1, 3),
    "agreement": ("as prompted", 1, 3),
    "FD equal": ("FD 128", 1, 0),
    "coverage": ("coverage", 1, 3),
    "density": ("density", 1, 2),
    "vendi": ("Vendi", 1, 2),
    "var low": ("var low", 1, 2),
    "var mid": ("mid", 1, 2),
    "var high": ("high", 1, 2),
    "nearest by fresh": ("nearest", 1, 2),
    "p": ("p", 1, 2),
    "rejected": ("rejected", 1, 2),
    "calls": ("calls", 1, 0),
    "seconds": ("ms", 1000, 2),
}


def label(row: dict) -> tuple[str, ...]:
    """What is drawn, in words."""
    steps = f"{row['steps']} steps" if row["steps"] else ""
    cfg = f"cfg {row['cfg']:g}" if row.get("cfg", 1.0) != 1 else ""
    return tuple(filter(None, (row["model"], steps, cfg)))


def table(rows: list[dict]) -> str:
    """All figures of rows that belong together, one line for each thing that is drawn."""
    kept = {name: column for name, column in COLUMNS.items() if any(name in each for each in rows)}
    lines = [table_head("drawn by", *(title for title, _, _ in kept.values()))]
    for name in unique(map(label, rows)):
        own, cells = [each for each in rows if label(each) == name], []
        for figure, (_, scale, digits) in kept.items():
            found = [scale * each[figure] for each in own if figure in each]
            if not found or (figure in ("seconds", "calls") and not any(found)):
                cells.append("")
            elif figure in SPREAD:
                cells.append(spread(found, digits))
            else:
                cells.append(f"{mean(found):.{digits}f}")
        lines.append(table_row(", ".join(name), *cells))
    return "\n".join(lines)


def closed(rows: list[dict], model: str, figure: str) -> list[float]:
    """The share of the gap between 5 and 50 steps of the model alone that 5 steps of `model` close, for each training."""

    def of(model: str, steps: int) -> list[float]:
        return [
            each[figure]
            for each in chosen(rows, model=model, steps=steps)
            if each.get("cfg", 1) == 1
        ]

    three = zip(of(ALONE, STEPS), of(model, STEPS), of(ALONE, MANY), strict=True)
    return [(before - after) / (before - fifty) for before, after, fifty in three]


def bars(rows: list[dict]) -> str:
    """The bar of each LoRA that is to be faster and no different."""
    lines = [
        table_head(
            "LoRA, 5 steps",
            "against",
            "gap closed: MMD²",
            "FD",
            "confidence before",
            "after",
            "bar",
        )
    ]
    for study, against in SECTIONS:
        own = chosen(rows, study=study, against=against)
        if study in ("subset", "kl_optimal", "2 to 4 calls") or against.startswith("other"):
            continue
        for model in unique(each["model"] for each in own):
            if not model.startswith("LoRA"):
                continue
            mmd2, fd = (closed(own, model, figure) for figure in ("MMD2", "FD"))
            sure = [
                [each["confidence"] for each in chosen(own, model=name, steps=STEPS)]
                for name in (ALONE, model)
            ]
            parts = {
                "MMD²": mean(mmd2) >= BAR,
                "FD": mean(fd) >= BAR,
                "confidence": mean(sure[1]) >= mean(sure[0]),
            }
            missed = ", ".join(name for name, met in parts.items() if not met)
            lines.append(table_row(
                f"{study}, {model.removeprefix('LoRA, ')}", against, spread(mmd2, 2), spread(fd, 2), spread(sure[0], 3),
                spread(sure[1], 3), f"{verdict(False)}: {missed}" if missed else verdict(True),
            ))  # fmt: skip
    return "\n".join(lines)


def trainings(rows: list[dict]) -> str:
    """How long trainings took."""
    lines = [table_head("training", "seconds of one core")]
    seen: dict[tuple[str, str], dict[int, float]] = {}
    for each in rows:
        if each.get("training") and each["model"] != ALONE and "and guidance" not in each["model"]:
            seen.setdefault((each["study"], each["model"]), {})[each["seed"]] = each["training"]
    for (study, model), seconds in seen.items():
        lines.append(table_row(f"{study}: {model}", spread(seconds.values(), 0)))
    return "\n".join(lines)


def against_free(rows: list[dict]) -> str:
    """Each LoRA that is to be faster, next to what costs nothing."""
    lines = [table_head("5 calls", "against", "MMD²: nothing trained, LoRA", "FD", "confidence", "LoRA is better")]  # fmt: skip
    for study, against in SECTIONS:
        own = chosen(rows, study=study, against=against)
        if study == "2 to 4 calls" or against.startswith("other"):
            continue
        free = [row for row in own if row["model"].startswith(FREE)]
        for model in unique(each["model"] for each in own):
            if not free or not model.startswith("LoRA"):
                continue
            lora, better, cells = chosen(own, model=model, steps=STEPS), [], []
            for figure, sign in (("MMD2", -1), ("FD", -1), ("confidence", 1)):
                title, scale, digits = COLUMNS[figure]
                before, after = (mean([scale * row[figure] for row in of]) for of in (free, lora))
                cells.append(f"{before:.{digits}f}, {after:.{digits}f}")
                if sign * (after - before) > 0:
                    better.append(title)
            name = f"{study}, {model.removeprefix('LoRA, ')}"
            lines.append(table_row(name, against, *cells, ", ".join(better) or "**in nothing**"))
    return "\n".join(lines)


def page(about: dict, rows: list[dict], by_hand: str) -> str:
    """Everything as Markdown.

    Arguments:
        by_hand: What people wrote about it, put behind it.
    """
    parts = ["# MMD-DDM on digits", f"`{COMMAND}`. {HEAD}", MEASURED]
    parts += [facts(about), "![What each draws](digits.png)"]
    parts += [
        "## Next to what costs nothing",
        "The first figure is that of the model alone with the best of all samplers and schedules at as many calls, chosen on "
        "tuning seeds ([FREE.md](FREE.md)); **try that first**. It is the first row of each table below.",
        against_free(rows),
        "## The bar",
        f"At least {BAR:.0%} of the gap between 5 and 50 steps of the model alone closed, in MMD² and in FD, and confidence "
        "no lower than that of its 5 steps, with the sampler and the karras schedule that it was trained for.",
        bars(rows),
    ]
    for (study, against), title in SECTIONS.items():
        own = chosen(rows, study=study, against=against)
        if own:
            parts += [f"## {title}", table(own)]
    parts += ["## What training costs", trainings(rows)]
    parts.append(by_hand.strip())
    return "\n\n".join(parts) + "\n"
