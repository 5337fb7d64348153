r"""The file format of a memory: finished samples in parts, one small file for each append.

Version 1 of the format, for authors of other readers and writers. A part is called
`TIME_COUNT_ID.safetensors`:

    TIME   nanoseconds since 1970, in 20 decimal digits
    COUNT  the number of samples in it, in 5 decimal digits
    ID     32 random hexadecimal digits, in lower case

So parts sorted by name are in the order in which they were drawn, as far as the clocks agree.
Tensors, none of them empty:

    latents   (m, C, *)  F32  raw VAE latents, finite, with 1 to 4 dimensions after C
    prompts   (m, E)     F32  features of the prompts of the samples, finite; optional

Metadata, each a string:

    format    mmd_memory
    version   1; higher if a reader of version 1 would misread the file
    kind      the latent format, such as SD15: 1 to 64 letters, digits and _
    digest    detects damage; described in `tensor_file.py`

A writer renames a part to its final name when it is complete (`os.replace`). Until then its
name is `.ID.tmp`. Files with such names that are older than a day may be removed. A writer also
removes the oldest parts, but keeps at least the newest 1024 samples.
"""

import json
import re
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from .tensor_file import digest, file_bytes

__all__ = ["ENDING", "DamagedPart", "Part", "UnfitPart", "make_part", "read_part", "samples_in"]

FORMAT, VERSION = "mmd_memory", "1"
ENDING = ".safetensors"
NAME = re.compile(r"\d{20}_(\d{5})_[0-9a-f]{32}\.safetensors")
KIND = re.compile(r"\w{1,64}", re.ASCII)
MAX_SAMPLES = 99_999  # of a part
MAX_SIDE = 2**31 - 1  # of a tensor
MAX_HEADER = 2**16  # bytes

Shapes = dict[str, list[int]]  # by the name of the tensor


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
    """The number of samples in the part with this file name; None if this is no name of a part."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else None


def make_part(latents: Tensor, kind: str, prompts: Tensor | None) -> tuple[str, Iterable[bytes]]:
    """The file name and the content of a new part.

    Arguments:
        latents: Raw VAE latents, with shape `(m, C, *)`.
        kind: Their latent format.
        prompts: Their prompt features, with shape `(m, E)`, or None.

    Raises:
        ValueError: A reader would refuse the part, for example because of NaN.
    """
    given = {"latents": latents} | ({} if prompts is None else {"prompts": prompts})
    tensors = {name: tensor.detach().float().cpu() for name, tensor in given.items()}
    problem = _problem(kind, {name: list(tensor.shape) for name, tensor in tensors.items()})
    if problem or not _finite(tensors):
        raise ValueError(problem or "they contain NaN or infinite numbers")
    metadata = {"format": FORMAT, "version": VERSION, "kind": kind}
    stored = {name: (tensor, torch.float32) for name, tensor in tensors.items()}
    name = f"{time.time_ns():020d}_{len(latents):05d}_{uuid.uuid4().hex}{ENDING}"
    return name, file_bytes(metadata, stored)


def read_part(
    path: Path, shape: tuple[int, ...] | None, kind: str | None, prompts: int | None
) -> Part:
    """Reads a part whose samples can be used.

    Arguments:
        path: The file.
        shape: The shape that samples must have, `(C, *)`; None allows any.
        kind: The latent format that samples must have; None allows any.
        prompts: The number of prompt features that samples must have, E; None allows any or none.

    Raises:
        OSError: The file cannot be read.
        UnfitPart: The samples have another shape, latent format or number of prompt features.
        DamagedPart: The file is damaged, or is no part of version 1.
    """
    # Not memory-mapped: if a mapped file is removed on a network drive, the process may be killed.
    with open(path, "rb") as file:
        try:
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), MAX_HEADER))
            about = json.loads(header)
            metadata, shapes = about.pop("__metadata__"), {n: t["shape"] for n, t in about.items()}
            if metadata["format"] == FORMAT and metadata["version"] != VERSION:
                raise DamagedPart("made by a newer version of this pack")
            if metadata["format"] != FORMAT or _problem(metadata["kind"], shapes):
                raise DamagedPart("damaged")
        except (OSError, DamagedPart):
            raise
        except Exception:  # parsers raise many exception types for damaged files
            raise DamagedPart("damaged") from None
        _check_fit(metadata["kind"], shapes, shape, kind, prompts)
        data = length + header + file.read()
    try:
        tensors = safetensors.torch.load(data)
        stored = {name: (tensor, tensor.dtype) for name, tensor in tensors.items()}
        whole = metadata["digest"] == digest(metadata, stored) and _finite(tensors)
    except Exception:  # as above
        whole = False
    if not whole or {tensor.dtype for tensor in tensors.values()} != {torch.float32}:
        raise DamagedPart("damaged")
    return Part(tensors["latents"], tensors.get("prompts"), metadata["kind"])


def _check_fit(
    has_kind: str,
    shapes: Shapes,
    shape: tuple[int, ...] | None,
    kind: str | None,
    prompts: int | None,
) -> None:
    """Raises UnfitPart if the samples cannot be used; the arguments are as in `read_part`."""
    samples, *has_shape = shapes["latents"]
    if kind not in (None, has_kind):
        raise UnfitPart(samples, f"they are latents of {has_kind}, those being drawn of {kind}")
    if shape is not None and tuple(has_shape) != shape:
        have, want = ("×".join(map(str, sides)) for sides in (has_shape, shape))
        raise UnfitPart(samples, f"their latents are {have}, those being drawn {want}")
    if prompts is None:
        return
    if "prompts" not in shapes:
        raise UnfitPart(samples, "they were drawn without a prompt kernel, so no prompts are known")
    if shapes["prompts"][1] != prompts:
        raise UnfitPart(samples, "their prompts come from another text encoder")


def _problem(kind: Any, shapes: dict[str, Any]) -> str | None:
    """Why a reader would refuse a part with this latent format and these shapes; None if not.

    The values may come from a damaged file.
    """
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
