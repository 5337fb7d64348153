r"""Finished samples in a folder that queue runs and machines share.

A memory is a folder, and each append writes one small file into it, a part, under a name that nobody else
takes. Not one file for all: two machines that write into one file need a lock, which network drives keep badly
and dead writers never give back, and every append would write everything anew. A part is complete before it
gets its name, so writers need not know of each other, and who dies in the middle leaves a draft and no part.

Version 1 of the format, for whoever writes another reader or writer. A part is called `TIME_COUNT_ID.safetensors`:
the time in nanoseconds since 1970, in 20 decimals; how many samples it holds, in 5 decimals; 32 random lower-case
hex digits. Parts in the order of their names are in the order in which they were drawn, as far as clocks agree.
Tensors, none of them empty:

    latents   (m, C, *)  F32  raw VAE latents, finite, with 1 to 4 dimensions after C
    prompts   (m, E)     F32  features of the samples' prompts, finite; may be missing

Metadata, each a string:

    format    mmd_memory
    version   1; higher where a reader of version 1 would misread the file
    kind      the latent format: letters, digits and _, 64 at most, such as SD15
    digest    finds damage; described in `tensor_file.py`

A writer gives the file its name when it is complete (`os.replace`); drafts end with .tmp, and those older than a
day may be removed. Whoever appends removes the oldest parts beyond the newest `KEPT` samples, or as many as he
wants to remember if these are more.
"""

import errno
import json
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from .reference_file import NOT_IN_NAMES
from .tensor_file import abandoned, digest, file_bytes, remove, write_whole

__all__ = ["KEPT", "Recalled", "append", "parts", "recall", "reset"]

FORMAT, VERSION = "mmd_memory", "1"
KEPT = 1024  # samples that stay whoever appends
ENDING = ".safetensors"
PART = re.compile(r"\d{20}_(\d{5})_[0-9a-f]{32}\.safetensors")
KIND = re.compile(r"\w{1,64}", re.ASCII)
MAX_SAMPLES = 99_999  # of a part
MAX_SIDE = 2**31 - 1  # of a tensor
MAX_HEADER = 2**16  # bytes
NAMED = 3  # files that a notice names


class Recalled(NamedTuple):
    """What a memory holds.

    Attributes:
        latents: The samples, oldest first, with shape `(m, C, *)`, float32; None if there are none.
        prompts: Their prompt features, with shape `(m, E)`, if these were asked for.
        kind: Their latent format, "" if there are none.
        notices: What does not count, and why, in sentences.
    """

    latents: Tensor | None
    prompts: Tensor | None
    kind: str
    notices: tuple[str, ...]


class _Unfit(Exception):
    """A whole part that does not count for this run: why, and how many samples it holds."""

    def __init__(self, samples: int, why: str):
        super().__init__(why)
        self.samples, self.why = samples, why


class _Damaged(Exception):
    """What is not as this module wrote it, or was never written by it: why."""


def parts(folder: Path) -> list[str]:
    """The names of all parts, oldest first; none if there is no such folder.

    Raises:
        OSError: The folder cannot be read.
    """
    return sorted(name for name in _files(folder) if PART.fullmatch(name))


def append(
    folder: Path, latents: Tensor, kind: str, prompts: Tensor | None = None, limit: int = 0
) -> str:
    """Adds samples as one part, and removes what is too old to count.

    Arguments:
        folder: The memory; it is made where it is missing.
        latents: Raw VAE latents, with shape `(m, C, *)`.
        kind: Their latent format.
        prompts: Their prompt features, with shape `(m, E)`, or None.
        limit: How many samples must stay, if more than `KEPT`.

    Returns:
        The name of the part.

    Raises:
        ValueError: What a reader would refuse, such as NaN.
        OSError: The part cannot be written; nothing of it is left.
    """
    given = {"latents": latents} | ({} if prompts is None else {"prompts": prompts})
    tensors = {name: tensor.detach().float().cpu() for name, tensor in given.items()}
    trouble = _trouble(kind, {name: list(tensor.shape) for name, tensor in tensors.items()})
    if trouble or not _finite(tensors):
        raise ValueError(trouble or "they contain NaN or infinite numbers")
    metadata = {"format": FORMAT, "version": VERSION, "kind": kind}
    stored = {name: (tensor, torch.float32) for name, tensor in tensors.items()}
    name = f"{time.time_ns():020d}_{len(latents):05d}_{uuid.uuid4().hex}{ENDING}"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, file_bytes(metadata, stored))
    with suppress(OSError):  # the part is written; the next one tidies
        _remove_old(folder, max(limit, KEPT))
        _remove_drafts(folder)
    return name


def recall(
    folder: Path,
    limit: int,
    shape: Sequence[int] | None = None,
    kind: str | None = None,
    prompts: int | None = None,
) -> Recalled:
    """The newest `limit` samples that fit.

    Arguments:
        folder: The memory; one that is missing is empty.
        limit: How many samples to recall at most.
        shape: The shape of a sample, `(C, *)`; None takes that of the newest.
        kind: The latent format; None takes that of the newest.
        prompts: The number of prompt features, E, that each sample must have; None asks for none.

    Raises:
        OSError: The folder or a part cannot be read.
    """
    names = sorted(name for name in _files(folder) if name.endswith(ENDING))
    damaged = {name: "no part of a memory" for name in names if not PART.fullmatch(name)}
    found: list[tuple[Tensor, Tensor | None]] = []
    unfit, gone, missing = Counter(), 0, limit
    wanted = None if shape is None else tuple(shape)
    for name in reversed(names):
        if name in damaged:
            continue
        if missing == 0:
            break
        try:
            latents, features, is_kind = _read(folder / name, wanted, kind, prompts)
        except _Unfit as error:
            unfit[error.why] += error.samples
        except _Damaged as error:
            damaged[name] = str(error)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            gone += 1
        else:
            wanted, kind = tuple(latents.shape[1:]), is_kind
            found.append((latents[-missing:], None if features is None else features[-missing:]))
            missing -= len(found[-1][0])
    notices = [f"{n} remembered images do not count: {why}." for why, n in unfit.items()]
    if damaged:
        some = [f"{NOT_IN_NAMES.sub(chr(0xFFFD), n)[:80]} ({why})" for n, why in damaged.items()]
        more = f", and {len(some) - NAMED} more" if len(some) > NAMED else ""
        notices.append(f"Files of the memory left out: {', '.join(some[:NAMED])}{more}.")
    if gone:
        notices.append(f"Files of the memory that vanished while it was read: {gone}.")
    if not found:
        return Recalled(None, None, "", tuple(notices))
    latents, features = zip(*reversed(found), strict=True)
    together = None if prompts is None else torch.cat(features)
    return Recalled(torch.cat(latents), together, kind, tuple(notices))


def reset(folder: Path) -> int:
    """Removes all parts, and the drafts of dead writers; returns how many samples there were.

    Raises:
        OSError: The folder cannot be read, or a part not removed.
    """
    forgotten = 0
    for name in _files(folder):
        if found := PART.fullmatch(name):
            (folder / name).unlink(missing_ok=True)
            forgotten += int(found[1])
    _remove_drafts(folder)
    return forgotten


def _files(folder: Path) -> list[str]:
    """The names of what is a file there, links left out."""
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
            remove(folder / name)  # or somebody else did
        samples += int(PART.fullmatch(name)[1])


def _remove_drafts(folder: Path) -> None:
    """Removes what dead writers left behind."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if abandoned(entry):
                    remove(entry.path)


def _read(
    path: Path, shape: tuple[int, ...] | None, kind: str | None, prompts: int | None
) -> tuple[Tensor, Tensor | None, str]:
    """The latents, prompt features and latent format of a part.

    Raises:
        OSError, _Unfit, _Damaged: It cannot be read, or does not count.
    """
    # Read, not memory-mapped: who maps a file that is removed on a network drive may be killed.
    with open(path, "rb") as file:
        try:
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), MAX_HEADER))
            about = json.loads(header)
            metadata, shapes = about.pop("__metadata__"), {n: t["shape"] for n, t in about.items()}
            if metadata["format"] == FORMAT and metadata["version"] != VERSION:
                raise _Damaged("made by a newer version of this pack")
            if metadata["format"] != FORMAT or _trouble(metadata["kind"], shapes):
                raise _Damaged("damaged")
        except (OSError, _Damaged):
            raise
        except Exception:  # for what is no part, parsers raise nearly anything
            raise _Damaged("damaged") from None
        _check_fit(metadata["kind"], shapes, shape, kind, prompts)
        data = length + header + file.read()
    try:
        tensors = safetensors.torch.load(data)
        stored = {name: (tensor, tensor.dtype) for name, tensor in tensors.items()}
        whole = metadata["digest"] == digest(metadata, stored) and _finite(tensors)
    except Exception:  # as above
        whole = False
    if not whole or {tensor.dtype for tensor in tensors.values()} != {torch.float32}:
        raise _Damaged("damaged")
    return tensors["latents"], tensors.get("prompts"), metadata["kind"]


def _check_fit(has_kind, shapes, shape, kind, prompts) -> None:
    """Raises _Unfit if a part does not count."""
    samples, *has = shapes["latents"]
    if kind not in (None, has_kind):
        raise _Unfit(samples, f"they are latents of {has_kind}, those being drawn of {kind}")
    if shape is not None and tuple(has) != shape:
        have, want = ("×".join(map(str, size)) for size in (has, shape))
        raise _Unfit(samples, f"their latents are {have}, those being drawn {want}")
    if prompts is None:
        return
    if "prompts" not in shapes:
        raise _Unfit(samples, "they were drawn without a prompt kernel, so no prompts are known")
    if shapes["prompts"][1] != prompts:
        raise _Unfit(samples, "their prompts come from another text encoder")


def _trouble(kind: str, shapes: dict[str, list[int]]) -> str | None:
    """What a reader would refuse, judged by shapes."""
    if not KIND.fullmatch(kind):
        return "their latent format has no usable name"
    if not {"latents"} <= set(shapes) <= {"latents", "prompts"}:
        return "they are not latents and prompts"
    latents, prompts = shapes["latents"], shapes.get("prompts")
    sides = [*latents, *(prompts or ())]
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        return "they are empty"
    if not 3 <= len(latents) <= 6 or latents[0] > MAX_SAMPLES:
        return f"they have shape {tuple(latents)}"
    if prompts is not None and (len(prompts) != 2 or prompts[0] != latents[0]):
        return f"their prompt features have shape {tuple(prompts)}"
    return None


def _finite(tensors: dict[str, Tensor]) -> bool:
    return all(torch.isfinite(tensor).all() for tensor in tensors.values())
