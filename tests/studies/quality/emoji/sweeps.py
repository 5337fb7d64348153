"""What each setting of our guidance does, one at a time, with a set of varied things in one style."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from mmd_pack.mmd_core import GuidanceConfig, KernelConfig
from mmd_pack.mmd_core.kernels.config import FEATURE_SPACES
from mmd_tests.studies.quality.emoji.cases import BATCH, SET, Atlas, shuffled, varied
from mmd_tests.studies.quality.emoji.easel import Drawn, Easel
from mmd_tests.studies.quality.emoji.methods import NODE_STRENGTH
from mmd_tests.studies.quality.emoji.results import Row
from mmd_tests.studies.quality.emoji.tasks import Gauge, Setup, make_easel, opened
from mmd_tests.studies.quality.emoji.trial import Shown, Trial

STYLE = "fluent"
UNGUIDED = "no guidance"
KEEPING, FLOW = "keep_prompt", "flow"
BOTH = {KEEPING: {}, FLOW: {"strength": 100.0, "mode": "flow"}}
"""The lines of most sweeps: as new nodes begin, and as they began before."""


@dataclass(frozen=True)
class Setting:
    """How images are drawn.

    Attributes:
        strength: 0 draws without guidance.
        references, batch: How many pictures, and how many images, guidance compares.
        steps: 0 stands for those of the run.
    """

    strength: float = NODE_STRENGTH
    mode: str = "keep_prompt"
    start_percent: float = GuidanceConfig.start_percent
    end_percent: float = GuidanceConfig.end_percent
    feature_space: str = KernelConfig.feature_space
    references: int = SET
    batch: int = BATCH
    cfg: float = Trial.cfg
    steps: int = 0

    @property
    def config(self) -> GuidanceConfig | None:
        """The settings of guidance."""
        if self.strength == 0:
            return None
        kernel = KernelConfig(feature_space=self.feature_space)
        kernel = None if kernel == GuidanceConfig().kernel_config else kernel
        window = self.start_percent, self.end_percent
        return GuidanceConfig(self.strength, *window, self.mode, kernel)


@dataclass(frozen=True)
class Sweep:
    """One setting and its values.

    Attributes:
        about: What to say of it.
        points: By the name of each value, what it sets.
        lines: By the name of each line, what else is set.
        everywhere: Whether the value also changes images without guidance.
    """

    about: str
    points: dict[str, dict]
    lines: dict[str, dict]
    everywhere: bool = False

    @property
    def settings(self) -> Iterator[tuple[str, str, Setting]]:
        """The name of the line, that of the value, and the setting; "" for any value."""
        names = list(self.points) if self.everywhere else [""]
        for name in names:
            yield UNGUIDED, name, Setting(**{**self.points.get(name, {}), "strength": 0.0})
        for line, more in self.lines.items():
            for name, point in self.points.items():
                yield line, name, Setting(**{**point, **more})


def values_of(name: str, *values: float) -> dict[str, dict]:
    """The points of a setting that is a number."""
    return {f"{value:g}": {name: value} for value in values}


WINDOWS = ((0, 0.25), (0, 0.5), (0, 0.75), (0, 1), (0.25, 1), (0.5, 1))
SWEEPS = {
    "strength": Sweep(
        "Both modes at each strength; all other settings are the defaults.",
        values_of("strength", 1, 3, 10, 30, 100, 300),
        {KEEPING: {}, FLOW: {"mode": "flow"}},
    ),
    "window": Sweep(
        "From start_percent to end_percent.",
        {f"{a:g}-{b:g}": {"start_percent": a, "end_percent": b} for a, b in WINDOWS},
        BOTH,
    ),
    "features": Sweep(
        "What of the latents is compared; one strength is not equally much in all of them.",
        {name: {"feature_space": name} for name in FEATURE_SPACES},
        BOTH,
    ),
    "references": Sweep(
        "Each set holds the smaller ones. The first 85 pictures are of things that the model has"
        " never seen, the next 32 of things that it knows in other styles only. From the larger"
        " sets' further pictures it has learned.",
        values_of("references", 8, 16, 32, 64, 128, 256, 512),
        BOTH,
    ),
    "batch": Sweep(
        "How many of the 16 images are drawn together; at 64, with 48 others that are not measured."
        " Below 8 images each follows one reference, as the nodes do it.",
        values_of("batch", 1, 4, 16, 64),
        BOTH,
    ),
    "cfg": Sweep(
        "Classifier-free guidance by the prompt.", values_of("cfg", 1, 2, 4, 8), BOTH, True
    ),
    "steps": Sweep("Euler steps.", values_of("steps", 4, 8, 15, 25, 50), BOTH, True),
}


def row_name(line: str, value: str) -> str:
    """The method of a row."""
    return f"{line}: {value}" if value else line


def larger_set(atlas: Atlas, trial: Trial, count: int) -> Shown:
    """The first pictures of the set; further ones of the style where it has too few.

    Further pictures are first those that the model has not seen; none shows a thing of the prompts.
    """
    parts = [shuffled(atlas.rows(split="val_name", style=STYLE), "set", STYLE, trial.seed)]
    for split in ("val_pair", "train"):
        rows = atlas.rows(split=split, style=STYLE)
        rows = rows[~np.isin(atlas.table["name"][rows], trial.prompts)]
        parts.append(shuffled(rows, "set", split, trial.seed))
    return atlas.show(np.concatenate(parts)[:count])


def more_prompts(atlas: Atlas, trial: Trial, count: int) -> tuple[str, ...]:
    """The prompts, and others that the set does not show."""
    names = atlas.names_in(atlas.rows(split="train", style=STYLE))
    names = names[~np.isin(names, trial.prompts + trial.given.names)]
    others = shuffled(names, "batch", trial.seed)[: max(0, count - len(trial.prompts))]
    return trial.prompts + tuple(others.tolist())


def draw(atlas: Atlas, easel: Easel, setting: Setting) -> Drawn:
    """The images of the trial's prompts with these settings."""
    trial = replace(easel.trial, cfg=setting.cfg)
    trial = replace(trial, prompts=more_prompts(atlas, trial, setting.batch))
    steps = setting.steps or easel.steps
    easel = replace(easel, trial=trial, steps=steps, together=setting.batch)
    latents, time = easel.draw(setting.config)
    return Drawn(latents[:BATCH], time)


def run_sweep(setup: Setup, name: str, seed: int) -> list[Row]:
    """All rows of one sweep at one seed."""
    atlas, world = opened(setup)
    base, easels, rows = varied(atlas, STYLE, seed), {}, []
    for line, value, setting in SWEEPS[name].settings:
        count = setting.references
        if count not in easels:
            trial = replace(base, case=name, given=larger_set(atlas, base, count))
            easel = make_easel(world, trial, setup)
            easels[count] = easel, Gauge(easel)
        easel, gauge = easels[count]
        rows.append(gauge.of_drawn(row_name(line, value), draw(atlas, easel, setting)))
    return rows
