"""A memory: a folder of finished samples that several runs and machines share.

Each append writes one small file, a part (see `memory_part.py`), with a unique name. A single file
for all samples would need a lock, which is unreliable on network drives and remains if a writer
dies, and each append would rewrite everything. Parts are complete when they get their names, so
writers do not disturb each other, and an interrupted writer leaves a draft, but no part.
"""

import errno
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .memory_part import ENDING, DamagedPart, Part, UnfitPart, make_part, read_part, samples_in
from .reference_file import NOT_IN_NAMES
from .tensor_file import remove, remove_drafts, write_whole

__all__ = ["KEPT", "Recalled", "append", "parts", "recall", "reset"]

KEPT = 1024  # an append keeps at least this many of the newest samples
NAMED = 3  # the maximum number of files that a notice names


class Recalled(NamedTuple):
    """Samples from a memory.

    Attributes:
        latents: The samples, oldest first, with shape `(m, C, *)`, float32; None if there are none.
        prompts: Their prompt features, with shape `(m, E)`; None if they were not requested.
        kind: Their latent format, "" if there are none.
        notices: Sentences about samples and files that do not count, each with the reason.
    """

    latents: Tensor | None
    prompts: Tensor | None
    kind: str
    notices: tuple[str, ...]


def parts(folder: Path) -> list[str]:
    """The file names of all parts, oldest first; empty if the folder does not exist.

    Raises:
        OSError: The folder cannot be read.
    """
    return sorted(name for name in _files(folder) if samples_in(name) is not None)


def append(
    folder: Path, latents: Tensor, kind: str, prompts: Tensor | None = None, limit: int = 0
) -> str:
    """Adds samples as one part, and removes the oldest parts beyond `limit` and `KEPT`.

    Arguments:
        folder: The memory; it is created if it does not exist.
        latents: Raw VAE latents, with shape `(m, C, *)`.
        kind: Their latent format.
        prompts: Their prompt features, with shape `(m, E)`, or None.
        limit: How many samples to keep, if this is more than `KEPT`.

    Returns:
        The file name of the part.

    Raises:
        ValueError: A reader would refuse the part, for example because of NaN.
        OSError: The part cannot be written. No draft of it remains.
    """
    name, pieces = make_part(latents, kind, prompts)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, pieces)
    with suppress(OSError):  # the part is written; the next append tries again
        _remove_old(folder, max(limit, KEPT))
    return name


def recall(
    folder: Path,
    limit: int,
    shape: Sequence[int] | None = None,
    kind: str | None = None,
    prompts: int | None = None,
) -> Recalled:
    """The newest samples that fit.

    Arguments:
        folder: The memory; it is empty if it does not exist.
        limit: The maximum number of samples.
        shape: The shape of a sample, `(C, *)`; by default that of the newest.
        kind: The latent format; by default that of the newest.
        prompts: The number of prompt features that each sample must have, E. By default none are
            needed, and none are returned.

    Raises:
        OSError: The folder or a part cannot be read.
    """
    names = sorted(name for name in _files(folder) if name.endswith(ENDING))
    damaged = {name: "no part of a memory" for name in names if samples_in(name) is None}
    found: list[Part] = []
    unfit, gone, missing = Counter(), 0, limit
    wanted = None if shape is None else tuple(shape)
    for name in reversed(names):
        if name in damaged:
            continue
        if missing == 0:
            break
        try:
            part = read_part(folder / name, wanted, kind, prompts)
        except UnfitPart as error:
            unfit[error.reason] += error.samples
        except DamagedPart as error:
            damaged[name] = str(error)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            gone += 1
        else:
            wanted, kind = tuple(part.latents.shape[1:]), part.kind
            features = None if part.prompts is None else part.prompts[-missing:]
            found.append(Part(part.latents[-missing:], features, kind))
            missing -= len(found[-1].latents)
    notices = _notices(unfit, damaged, gone)
    if not found:
        return Recalled(None, None, "", notices)
    found.reverse()
    features = None if prompts is None else torch.cat([part.prompts for part in found])
    return Recalled(torch.cat([part.latents for part in found]), features, kind, notices)


def _notices(unfit: Counter[str], damaged: dict[str, str], gone: int) -> tuple[str, ...]:
    """Sentences about what does not count.

    Arguments:
        unfit: The number of samples that cannot be used, by reason.
        damaged: The reason for each file that is not a part, by file name.
        gone: The number of parts that were removed after they were listed.
    """
    notices = [f"Remembered images that do not count: {n} ({why})." for why, n in unfit.items()]
    if damaged:
        some = [f"{NOT_IN_NAMES.sub(chr(0xFFFD), n)[:80]} ({why})" for n, why in damaged.items()]
        more = f", and {len(some) - NAMED} more" if len(some) > NAMED else ""
        notices.append(f"Files of the memory that are left out: {', '.join(some[:NAMED])}{more}.")
    if gone:
        notices.append(f"Files of the memory that were removed while it was read: {gone}.")
    return tuple(notices)


def reset(folder: Path) -> int:
    """Removes all parts and the abandoned drafts; returns how many samples there were.

    Raises:
        OSError: The folder cannot be read, or a part cannot be removed.
    """
    forgotten = 0
    for name in _files(folder):
        samples = samples_in(name)
        if samples is not None:
            (folder / name).unlink(missing_ok=True)
            forgotten += samples
    remove_drafts(folder)
    return forgotten


def _files(folder: Path) -> list[str]:
    """The names of all files in the folder, without links; empty if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _remove_old(folder: Path, kept: int) -> None:
    """Removes the oldest parts beyond the newest `kept` samples."""
    samples = 0
    for name in reversed(parts(folder)):
        if samples >= kept:
            remove(folder / name)
        samples += samples_in(name)
