"""What a demo run achieved, in numbers, and as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmd_demo.judge import Judge, frechet_distance, hue_shares, kind_shares, total_variation
from mmd_pack.mmd_core import KernelConfig, mmd2
from PIL import Image

JUDGED = ("shapes", "digits")  # worlds with a classifier
SETS = ("references", "without guidance", "with MMD guidance")
Row = tuple[str, list[str]]  # a label and one text for each of SETS


def squared_mmd(samples: torch.Tensor, references: torch.Tensor) -> float:
    """MMD² between latents: three RBF kernels around the median distance of the references.

    Unbiased, hence about 0 for equal distributions, where there are enough samples for that.
    """
    samples, references = samples.float(), references.float()
    rows = (references - references.mean(0)).flatten(1)
    kernel = KernelConfig().resolve(rows @ rows.T, rows.shape[1])
    unbiased = min(len(samples), len(references)) > 1
    return float(mmd2(samples, references, kernel, unbiased=unbiased))


def judge_rows(world: str, sets: Sequence[Sequence[Image.Image]]) -> list[Row]:
    """How an independent classifier sees the pictures of each set."""
    judge = Judge(world)
    images = [pixels(pictures) for pictures in sets]
    proportions = [judge.proportions(each) for each in images]
    rows: list[Row] = []
    if world == "shapes":  # "<hue> <kind>", kind by kind
        hues = [name.split()[0] for name in judge.class_names[:6]]
        kinds = [name.split()[1] for name in judge.class_names[::6]]
        rows += _share_rows("kind", kinds, [kind_shares(each) for each in proportions])
        rows += _share_rows("hue", hues, [hue_shares(each) for each in proportions])
    else:
        rows += _share_rows("digit", judge.class_names, proportions)
    features = [judge.features(each) for each in images]
    distances = [frechet_distance(each, features[0]) for each in features[1:]]
    rows.append(("Fréchet distance (features)", ["", *map("{:.2f}".format, distances)]))
    rows.append(("confidence of the classifier", [f"{judge.confidence(x):.1%}" for x in images]))
    return rows


def _share_rows(what: str, names: Sequence[str], shares: Sequence[np.ndarray]) -> list[Row]:
    """A row for each class, and one for how far each set is from the references, from 0 to 1."""
    rows = [(name, [f"{each[i]:.0%}" for each in shares]) for i, name in enumerate(names)]
    distances = [f"{total_variation(each, shares[0]):.2f}" for each in shares[1:]]
    rows.append((f"total variation, {what}", ["", *distances]))
    return rows


def pixels(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Pictures of one size as an array (n, height, width, 3) in [0, 1]."""
    arrays = [np.asarray(picture.convert("RGB"), np.float32) for picture in pictures]
    return np.stack(arrays) / 255


def mmd_row(before: float, after: float) -> Row:
    """MMD² of both batches."""
    return ("MMD² (latents)", ["", f"{before:.4f}", f"{after:.4f}"])


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, padded so that it can be read in a terminal as well."""
    lines = [["", *SETS], *([label, *cells] for label, cells in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(SETS) + 1)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    texts = []
    for first, *cells in [lines[0], rule, *lines[1:]]:
        cells = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        texts.append(f"| {' | '.join([first.ljust(widths[0]), *cells])} |")
    return "\n".join(texts)
