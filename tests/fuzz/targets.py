"""All that is fuzzed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st
from mmd_tests.fuzz import (
    cache_files,
    caption_files,
    folders,
    memory_files,
    pictures,
    reference_files,
)
from mmd_tests.fuzz.edits import Case


class Target(NamedTuple):
    """A reader under attack.

    Attributes:
        share: Of all files, in proportion.
        cases: Makes the strategy that draws changed files.
        check: Reads them in an empty folder and gives an outcome for each: "refused", "same" as the original,
            or "other". Raises Crash or Misread.
        files: How many a case has on average.
    """

    share: float
    cases: Callable[[], st.SearchStrategy[Case]]
    check: Callable[[Case, Path], list[str]]
    files: int = 1


PICTURES = {
    "png": 18,
    "jpeg": 9,
    "webp": 7,
    "gif": 7,
    "bmp": 5,
    "tiff": 12,
    "avif": 3,
    "large jpeg": 1,
}

TARGETS = {
    kind: Target(share, partial(pictures.cases, kind), pictures.check)
    for kind, share in PICTURES.items()
    if pictures.pool(kind)
} | {
    "folders": Target(12, folders.cases, folders.check, 3),
    "captions": Target(8, caption_files.cases, caption_files.check, 2),
    "references": Target(12, reference_files.cases, reference_files.check),
    "cache": Target(6, cache_files.cases, cache_files.check),
    "memory": Target(6, memory_files.cases, memory_files.check),
}
