"""Draws the pictures of the help pages, by really running the nodes in demonstration worlds.

`python tests/make/help_pictures.py` writes all of them to nodes/web/docs/pictures, with names only those.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
    import support.packages  # noqa: F401

    if "--in-comfyui" not in sys.argv:  # run by any Python: go on in ComfyUI's
        from mmd_tests.support.launcher import engine_or_exit, go_on

        sys.exit(go_on(engine_or_exit(None), [__file__, "--in-comfyui", *sys.argv[1:]]))

from mmd_tests.studies.quality import comfyui
from PIL import Image

OUT = Path(__file__).absolute().parents[2] / "nodes" / "web" / "docs" / "pictures"
COLORS = 96  # so many do, and a page of help stays small
THREADS = 2


def makers() -> dict[str, Callable[[], Image.Image]]:
    """What draws each picture; needs ComfyUI on the path."""
    from mmd_tests.make.help import charts, digits, guidance, plane, shapes

    return {
        "with-and-without": guidance.with_and_without,
        "pull-and-push": plane.pull_and_push,
        "strengths": guidance.strengths,
        "feature-spaces": shapes.feature_spaces,
        "shares": guidance.shares,
        "plot": charts.plot,
        "tsmc-plot": shapes.tsmc_plot,
        "few-steps": digits.few_steps,
        "ddm-plot": digits.ddm_plot,
    }


def main(names: Sequence[str]) -> None:
    """Draw them all, or those that are named."""
    comfyui.start(THREADS)
    OUT.mkdir(parents=True, exist_ok=True)
    pictures = makers()
    for name in names or pictures:
        page = pictures[name]()
        page = page.quantize(COLORS, dither=Image.Dither.NONE)
        page.save(OUT / f"{name}.png", optimize=True)
        sys.stdout.write(f"{name}.png: {(OUT / f'{name}.png').stat().st_size / 1000:.0f} kB\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != "--in-comfyui"])
