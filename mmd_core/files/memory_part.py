r"""The file format of a memory: finished samples in parts, one small file for each append.

Version 1 of the format, for authors of other readers and writers. A part is called
`ORDER_COUNT_ID.safetensors`:

    ORDER  a number that grows with each append, in 20 decimal digits, below 2^63: the nanoseconds
           since 1970, or one more than that of the newest part in the folder if this is larger
    COUNT  the number of samples in it, in 5 decimal digits
    ID     32 random hexadecimal digits, in lower case

So parts sorted by name are in the order in which they were added, even if clocks disagree. Readers
take the number of samples from the content, because files can be renamed. Tensors, none of them
empty, together at most 512 MiB:

    latents   (m, C, *)  F32  raw VAE latents, finite, with 1 to 4 dimensions after C
    prompts   (m, E)     F32  features of the prompts of the samples, finite; optional

Metadata, each a string:

    format    mmd_memory
    version   1; higher if a reader of version 1 would misread the file
    kind      the latent format, such as SD15: 1 to 64 letters, digits and _
    digest    detects damage; described in `tensor_file.py`

A writer renames a part to its final name when it is complete (`os.replace`). Until then its name is
`.ID.tmp`. Files with such names that are older than a day may be removed. A writer also removes the
oldest parts, but not its own, and keeps at least the newest 1024 samples of each group: of each
latent format, shape and number of prompt features.
"""

import re
import time
import uuid
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from . import limits
from .tensor_file import file_bytes
from .tensor_reader import BadFile, Header, read_header, read_tensors

__all__ = [
    "ENDING", "DamagedPart", "Group", "Part", "UnfitPart", "ahead", "new_name", "order_of",
    "part_bytes", "read_group", "read_part", "samples_in", "samples_per_part",
]  # fmt: skip

FORMAT, VERSION = "mmd_memory", "1"
ENDING = ".safetensors"
NAME = re.compile(r"(\d{20})_(\d{5})_[0-9a-f]{32}\.safetensors", re.ASCII)
KIND = re.compile(r"\w{1,64}", re.ASCII)
MAX_ORDER = 2**63 - 1


class Part(NamedTuple):
    """The content of a part.

    Attributes:
        latents: The samples, with shape `(m, C, *)`, float32.
        prompts: Their prompt features, with shape `(m, E)`; None if the part has none.
        kind: Their latent format.
    """

    latents: Tensor
    prompts: Tensor | None
    kind: str

    @property
    def size(self) -> int:
        """The number of bytes of all samples."""
        return self.latents.nbytes + (0 if self.prompts is None else self.prompts.nbytes)


class Group(NamedTuple):
    """What samples have in common that count together.

    Attributes:
        kind: Their latent format.
        shape: The shape of one, `(C, *)`.
        prompts: The number of prompt features of one, E; None if there are none.
    """

    kind: str
    shape: tuple[int, ...]
    prompts: int | None


class UnfitPart(Exception):
    """The samples of an undamaged part cannot be used in this run.

    Arguments:
        samples: How many samples the part has.
        reason: Why they cannot be used.
    """

    def __init__(self, samples: int, reason: str) -> None:
        super().__init__(reason)
        self.samples, self.reason = samples, reason


class DamagedPart(Exception):
    """The file is damaged, or is no part of version 1. The message is the reason."""


def samples_in(name: str) -> int | None:
    """The number of samples that a file name of a part tells; None if this is no name of a part."""
    found = NAME.fullmatch(name)
    return int(found[2]) if found and int(found[1]) <= MAX_ORDER else None


def order_of(name: str) -> int:
    """The place of a part in the order of appending, from its file name."""
    return int(name[:20])


def ahead(name: str) -> float:
    """How many seconds the time in the file name of a part is ahead of this machine's clock."""
    return (order_of(name) - time.time_ns()) / 1e9


def new_name(samples: int, last: int) -> str:
    """The file name of a new part.

    Arguments:
        samples: The number of samples in it.
        last: The largest `order_of` a part in the folder; 0 if there is none.
    """
    order = min(max(time.time_ns(), last + 1), MAX_ORDER)
    return f"{order:020d}_{samples:05d}_{uuid.uuid4().hex}{ENDING}"


def samples_per_part(latents: Tensor, prompts: Tensor | None) -> int:
    """The number of samples that a part can hold, at least 1."""
    numbers = sum(prod(given.shape[1:]) for given in (latents, prompts) if given is not None)
    return min(limits.PART_SAMPLES, max(1, limits.PART // (4 * max(1, numbers))))


def part_bytes(latents: Tensor, kind: str, prompts: Tensor | None) -> Iterable[bytes]:
    """The content of a new part.

    Arguments:
        latents: Raw VAE latents, with shape `(m, C, *)`.
        kind: Their latent format.
        prompts: Their prompt features, with shape `(m, E)`, or None.

    Raises:
        ValueError: A reader would refuse the part, for example because of NaN.
    """
    given = {"latents": latents} | ({} if prompts is None else {"prompts": prompts})
    tensors = {name: tensor.detach().float().cpu() for name, tensor in given.items()}
    problem = _problem(kind, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if problem or not _finite(tensors):
        raise ValueError(problem or "they contain NaN or infinite numbers")
    metadata = {"format": FORMAT, "version": VERSION, "kind": kind}
    return file_bytes(metadata, {name: (t, torch.float32) for name, t in tensors.items()})


def read_group(path: Path) -> tuple[int, Group]:
    """The number of samples in a part, and their group. Only the header is read.

    Raises:
        OSError: The file cannot be read.
        DamagedPart: The file is damaged, or is no part of version 1.
    """
    with open(path, "rb") as file:
        return _group(_header(file))


def read_part(
    path: Path,
    shape: tuple[int, ...] | None,
    kind: str | None,
    prompts: int | None,
    room: int = limits.RECALLED,
) -> Part:
    """Reads a part whose samples can be used.

    Arguments:
        path: The file.
        shape: The shape that samples must have, `(C, *)`; None allows any.
        kind: The latent format that samples must have; None allows any.
        prompts: The number of prompt features that samples must have, E; None allows any or none.
        room: The maximum number of bytes of all samples.

    Raises:
        OSError: The file cannot be read.
        UnfitPart: The samples have another shape, latent format or number of prompt features, or
            there is no room.
        DamagedPart: The file is damaged, or is no part of version 1.
    """
    with open(path, "rb") as file:
        header = _header(file)
        samples, group = _group(header)
        problem = _misfit(group, shape, kind, prompts)
        if problem is None and sum(place.size for place in header.tensors.values()) > room:
            most = limits.RECALLED / limits.GIGABYTE
            problem = f"with the newer ones they take more than {most:g} GiB"
        if problem is not None:
            raise UnfitPart(samples, problem)
        try:
            tensors, found = read_tensors(file, header)
        except BadFile:
            raise DamagedPart("damaged") from None
    if header.metadata.get("digest") != found or not _finite(tensors):
        raise DamagedPart("damaged")
    return Part(tensors["latents"], tensors.get("prompts"), group.kind)


def _header(file: BinaryIO) -> Header:
    """The header of a part of version 1, whose shapes are possible.

    Raises:
        OSError: The file cannot be read.
        DamagedPart: The file is damaged, or is no part of version 1.
    """
    try:
        header = read_header(file, limits.PART_HEADER, limits.PART_ENTRIES)
    except BadFile:
        raise DamagedPart("damaged") from None
    about = header.metadata
    if about.get("format") == FORMAT and about.get("version") != VERSION:
        raise DamagedPart("made by a newer version of this pack")
    shapes = {name: place.shape for name, place in header.tensors.items()}
    types = {place.dtype for place in header.tensors.values()}
    if about.get("format") != FORMAT or types != {"F32"}:
        raise DamagedPart("damaged")
    if _problem(about.get("kind", ""), shapes):
        raise DamagedPart("damaged")
    return header


def _group(header: Header) -> tuple[int, Group]:
    """The number of samples, and their group."""
    samples, *shape = header.tensors["latents"].shape
    prompts = header.tensors.get("prompts")
    return samples, Group(header.metadata["kind"], tuple(shape), prompts and prompts.shape[1])


def _misfit(
    group: Group, shape: tuple[int, ...] | None, kind: str | None, prompts: int | None
) -> str | None:
    """Why samples of this group cannot be used, or None; the arguments are as in `read_part`."""
    if kind not in (None, group.kind):
        return f"they are latents of {group.kind}, those being drawn of {kind}"
    if shape is not None and group.shape != shape:
        have, want = ("×".join(map(str, sides)) for sides in (group.shape, shape))
        return f"their latents are {have}, those being drawn {want}"
    if prompts is not None and group.prompts is None:
        return "they were drawn without a prompt kernel, so no prompts are known"
    if prompts is not None and group.prompts != prompts:
        return "their prompts come from another text encoder"
    return None


def _problem(kind: str, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Why a reader would refuse a part with this latent format and these shapes; None if not."""
    if not KIND.fullmatch(kind):
        return "their latent format has no usable name"
    if not {"latents"} <= set(shapes) <= {"latents", "prompts"}:
        return "they are not latents and prompts"
    latents, prompts = shapes["latents"], shapes.get("prompts")
    if 0 in (*latents, *(prompts or ())):
        return "they are empty"
    if not 3 <= len(latents) <= 6 or latents[0] > limits.PART_SAMPLES:
        return f"they have shape {latents}"
    if prompts is not None and (len(prompts) != 2 or prompts[0] != latents[0]):
        return f"their prompt features have shape {prompts}"
    size = 4 * sum(map(prod, shapes.values()))
    if size > limits.PART:
        most = limits.PART / limits.GIGABYTE
        return f"{latents[0]} of them take {size / limits.GIGABYTE:.1f} GiB, more than {most:g} GiB"
    return None


def _finite(tensors: dict[str, Tensor]) -> bool:
    return all(torch.isfinite(tensor).all() for tensor in tensors.values())
