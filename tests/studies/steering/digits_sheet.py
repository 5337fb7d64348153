"""The contact sheet of the study on digits: what each method handed out."""

from pathlib import Path

from mmd_tests.studies.contact_sheet import draw_sheet
from mmd_tests.studies.steering.digits_report import TITLES

SHOWN = {
    "unsteered": "unsteered",
    "best of 64: best": "best of 64",
    "FK steering: resample": "FK steering",
    "TRI-TSMC: best": "TRI-TSMC, best",
    "TRI-TSMC: resample": "TRI-TSMC, resample",
    "tilted model": "the tilted model itself",
}


def draw(rows, case, path: Path) -> None:
    """Arguments: rows of (reward, method, samples `(16, 1, 8, 8)`)."""
    sections = {}
    for world, method, samples in rows:
        if method in SHOWN:
            images = case.pictures(case.samples(samples))[..., 0].numpy()
            sections.setdefault(TITLES[world], []).append((SHOWN[method], images))
    draw_sheet(sections, path, left=220)
