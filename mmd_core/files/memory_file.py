"""A memory: a folder of finished samples that several runs and machines share.

Each append writes small files, parts (see `memory_part.py`), with unique names. A single file
for all samples would need a lock, which is unreliable on network drives and remains if a writer
dies, and each append would rewrite everything. Parts are complete when they get their names, so
writers do not disturb each other, and an interrupted writer leaves a draft, but no part.
`memory_folder.py` removes old parts.
"""

import errno
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import limits
from .memory_folder import KEPT, TRASH, disk_use, file_names, parts, remove_old, reset
from .memory_part import (
    ENDING,
    DamagedPart,
    Part,
    UnfitPart,
    ahead,
    new_name,
    order_of,
    part_bytes,
    read_part,
    samples_in,
    samples_per_part,
)
from .reference_file import NOT_IN_NAMES
from .tensor_file import write_whole

__all__ = ["KEPT", "TRASH", "Recalled", "append", "disk_use", "parts", "recall", "reset"]

NAMED = 3  # the maximum number of files that a notice names
CLOCKS_DIFFER = 300  # seconds; those of machines that set them by the network differ by less


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


def append(
    folder: Path, latents: Tensor, kind: str, prompts: Tensor | None = None, limit: int = 0
) -> str:
    """Adds samples, as one part if they fit, and removes old parts, but never those of this call.

    The newest `limit` samples of each group stay, and at least `KEPT`.

    Arguments:
        folder: The memory; it is created if it does not exist.
        latents: Raw VAE latents, with shape `(m, C, *)`.
        kind: Their latent format.
        prompts: Their prompt features, with shape `(m, E)`, or None.
        limit: How many samples to keep, if this is more than `KEPT`.

    Returns:
        The file name of the last part.

    Raises:
        ValueError: A reader would refuse a part, for example because of NaN.
        OSError: A part cannot be written. No draft of it remains.
    """
    size = samples_per_part(latents, prompts)
    pieces = latents.split(size)
    features = [None] * len(pieces) if prompts is None else prompts.split(size)
    contents = [
        (len(some), part_bytes(some, kind, their))
        for some, their in zip(pieces, features, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    last, own = 0, []
    with suppress(OSError):  # then the time alone is the order
        last = max(map(order_of, parts(folder)), default=0)
    for samples, content in contents:
        own.append(new_name(samples, last))
        last = order_of(own[-1])
        write_whole(folder / own[-1], content)
    with suppress(OSError):  # the parts are written; the next append tries again
        remove_old(folder, max(limit, KEPT), own)
    return own[-1]


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
    names = sorted(name for name in file_names(folder) if name.endswith(ENDING))
    damaged = {name: "no part of a memory" for name in names if samples_in(name) is None}
    found: list[Part] = []
    unfit, gone, missing, room = Counter(), 0, limit, limits.RECALLED
    wanted = None if shape is None else tuple(shape)
    for name in reversed(names):
        if name in damaged:
            continue
        if missing == 0:
            break
        try:
            part = read_part(folder / name, wanted, kind, prompts, room)
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
            room -= part.size
    early = [name for name in names if name not in damaged and ahead(name) > CLOCKS_DIFFER]
    notices = _notices(unfit, damaged, gone, early)
    if not found:
        return Recalled(None, None, "", notices)
    found.reverse()
    features = None if prompts is None else torch.cat([part.prompts for part in found])
    return Recalled(torch.cat([part.latents for part in found]), features, kind, notices)


def _notices(
    unfit: Counter[str], damaged: dict[str, str], gone: int, early: list[str]
) -> tuple[str, ...]:
    """Sentences about what does not count, and about clocks.

    Arguments:
        unfit: The number of samples that cannot be used, by reason.
        damaged: The reason for each file that is not a part, by file name.
        gone: The number of parts that were removed after they were listed.
        early: The parts with a time in the future, oldest first.
    """
    notices = [f"Remembered images that do not count: {n} ({why})." for why, n in unfit.items()]
    if damaged:
        some = [f"{NOT_IN_NAMES.sub(chr(0xFFFD), n)[:80]} ({why})" for n, why in damaged.items()]
        more = f", and {len(some) - NAMED} more" if len(some) > NAMED else ""
        notices.append(f"Files of the memory that are left out: {', '.join(some[:NAMED])}{more}.")
    if gone:
        notices.append(f"Files of the memory that were removed while it was read: {gone}.")
    if early:
        notices.append(
            f"Files of the memory with a time in the future: {len(early)}, the last by "
            f"{ahead(early[-1]) / 60:.0f} minutes. Set the clocks of all machines that use the "
            "memory. No image is lost by this."
        )
    return tuple(notices)
