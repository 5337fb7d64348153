r"""References in one `.safetensors` file, so that a reference set can be shared like a LoRA.

Version 1 of the format, for authors of other readers and writers. Tensors, none of them empty:

    latents     (N, C, *)    F32 or F16  raw VAE latents, finite, with 1 to 4 dimensions after C;
                                         N is at most 1 000 000
    weights     (N,)         F32         their weights: not negative, sum 1
    prompts     (N, E)       F32         features of the captions, finite; optional
    thumbnails  (N, 3, h, w) U8          the images at the size of the latents, RGB; optional

A reader refuses any other tensor. Metadata, each a string:

    format        mmd_references
    version       1; higher if a reader of version 1 would misread the file
    names         JSON: the names of the N images, each of at most 4096 characters
    captions      JSON: their captions, each of at most 65536 characters, "" for none
    sizes         JSON: N pairs [width, height] in pixels, before resizing; [0, 0] if unknown
    size          JSON: [width, height] in pixels at which they were encoded; [0, 0] if unknown
    vae           a fingerprint of the VAE, "" if unknown
    pack_version  the version of the pack that wrote the file; readers ignore it
    digest        detects damage (see `tensor_file.py`); it does not prove who made the file

A reader ignores other keys. Names, captions and `vae` are shown to users, so they must not contain
characters that could garble or forge a message: U+0000-001F, 007F-009F, 2028-202E, 2066-2069,
D800-DFFF. Tabs and line ends (U+0009, 000A, 000D) are allowed in captions. Widths and heights are
below 2^31.

The file contains no time and no path, so equal references make equal files.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..references.references import References
from . import limits
from .json_text import outline
from .tensor_file import PIECE, Stored, file_bytes, write_new, write_whole
from .tensor_reader import BadFile, Header, read_header, read_tensors

__all__ = ["DTYPES", "NOT_IN_NAMES", "PACK_VERSION", "ReferenceFileError", "holds", "read", "write"]

PACK_VERSION = "0.1.0"  # as in pyproject.toml; a test checks that they are equal
DTYPES = {"float32": torch.float32, "float16": torch.float16}  # of the latents

FORMAT, VERSION = "mmd_references", "1"
TENSORS = {  # the allowed tensors and their types
    "latents": ("F32", "F16"),
    "weights": ("F32",),
    "prompts": ("F32",),
    "thumbnails": ("U8",),
}
MAX_SIDE = 2**31 - 1
FORGING = r"\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
NOT_IN_NAMES = re.compile(rf"[\x00-\x1f{FORGING}]")
NOT_IN_CAPTIONS = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f{FORGING}]")


class ReferenceFileError(ValueError):
    """The file cannot be read as references. The message is the reason."""


def write(
    references: References, path: str | Path, dtype: str = "float32", replace: bool = True
) -> None:
    """Writes a complete file. If this fails, an existing file at `path` is unchanged.

    Forbidden characters in names and captions are replaced by "\ufffd". Thumbnails are rounded to 8
    bits. Float32 latents are stored exactly.

    Arguments:
        references: The references.
        path: The file, in a folder that exists.
        dtype: The type of the latents in the file, one of `DTYPES`.
        replace: Whether an existing file or link at `path` is replaced. If not, of several
            processes that write to `path` at once, one succeeds.

    Raises:
        FileExistsError: Something is at `path`, and must not be replaced.
        ValueError: Latents exceed the range of float16, texts are too long, or the references
            cannot be represented in this format.
        OSError: The file cannot be written.
    """
    (write_whole if replace else write_new)(Path(path), _pieces_of_file(references, dtype))


def holds(path: str | Path, references: References, dtype: str = "float32") -> bool:
    """Whether the file has exactly the bytes that `write` would write. Raises the same errors."""
    with open(path, "rb") as file:
        pieces = _pieces_of_file(references, dtype)
        return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)


def read(
    path: str | Path, allocate: Callable[[tuple[int, ...]], Tensor] = torch.empty
) -> References:
    """The references in the file. They do not change if the file changes later.

    Arguments:
        path: The file.
        allocate: Returns an uninitialized float32 tensor on the CPU for a shape.

    Raises:
        ReferenceFileError: The file cannot be read, is damaged, or holds no references.
    """
    metadata, tensors = _content_of(path, allocate)
    n = len(tensors["latents"])
    examples = {"names": [""] * n, "captions": [""] * n, "sizes": [[0, 0]] * n, "size": [0, 0]}
    texts = {key: _parse(metadata.get(key, ""), key, like) for key, like in examples.items()}
    content = {**dict.fromkeys(TENSORS), **tensors, **texts, "vae": metadata.get("vae")}
    problem = next(_problems(**content), None)
    if problem:
        raise ReferenceFileError(f"the file holds no usable references: {problem}")
    if tensors.get("thumbnails") is not None:
        content["thumbnails"] = tensors["thumbnails"].float().div_(255)
    content["sizes"] = tuple(map(tuple, content["sizes"]))
    content["size"] = tuple(content["size"])
    try:
        return References(**content)
    except ValueError as error:
        raise ReferenceFileError(f"the file holds no usable references: {error}") from error


def _content_of(
    path: str | Path, allocate: Callable[[tuple[int, ...]], Tensor]
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a reference file; arguments and errors as in `read`."""
    try:
        with open(path, "rb") as file:
            header = read_header(file, limits.SET_HEADER, limits.SET_ENTRIES)
            _check(header)
            tensors, found = read_tensors(file, header, allocate)
    except OSError as error:
        raise ReferenceFileError(f"the file cannot be read ({error.strerror or error})") from error
    except BadFile as error:
        detail = NOT_IN_NAMES.sub("\ufffd", str(error))  # it may quote the file
        raise ReferenceFileError(
            "this is no .safetensors file, or an incomplete one: copy or download it again "
            f"({detail})"
        ) from None
    if header.metadata.get("digest") != found:
        raise ReferenceFileError("the file is damaged (wrong digest): copy or download it again")
    return header.metadata, tensors


def _check(header: Header) -> None:
    """Whether a file with this header can be a set of references.

    Raises:
        ReferenceFileError: It cannot.
    """
    if header.metadata.get("format") != FORMAT:
        raise ReferenceFileError(
            "the file is not a set of references (it may be a LoRA or a checkpoint)"
        )
    version = header.metadata.get("version", "")
    if version != VERSION:
        raise ReferenceFileError(
            "the file was made by a newer version of this pack (its format is "
            f"{version[:12]!r}, not {VERSION!r}): update the pack"
        )
    if not {"latents", "weights"} <= set(header.tensors) <= set(TENSORS):
        raise ReferenceFileError("the file has other tensors than a set of references")
    for name, place in header.tensors.items():
        if not 1 <= len(place.shape) <= 6 or 0 in place.shape:
            raise ReferenceFileError(f"the file has {name} of a wrong shape")
        if place.dtype not in TENSORS[name]:
            raise ReferenceFileError(f"the file has {name} of the wrong type {place.dtype}")
        if place.shape[0] > limits.SET:
            raise ReferenceFileError(f"the file has more than {limits.SET} references")


def _parse(text: str, key: str, like: list) -> list:
    """The value in a JSON text that must have the same structure as `like`."""
    try:
        # Checked first, because parsed empty lists take twenty times the memory of their text.
        whole = _json(like)
        wanted = outline(whole, len(like), len(whole))
        if outline(text, len(like), len(wanted)) != wanted:
            raise ValueError("wrong number or structure")
        # Cut, because parsing a number of a million digits takes minutes. It is too large anyway.
        return json.loads(text, parse_int=lambda digits: int(digits[:12]))
    except ValueError as error:
        raise ReferenceFileError(f"the file holds no usable {key}: {error}") from error


def _problems(
    latents: Tensor,
    weights: Tensor,
    prompts: Tensor | None,
    thumbnails: Tensor | None,
    names: Sequence[str],
    captions: Sequence[str],
    sizes: Sequence[Sequence[int]],
    size: Sequence[int],
    vae: str | None,
) -> Iterator[str]:
    """Why the format cannot represent these values. Each check assumes that those before passed.

    The values may come from a damaged file.
    """

    def is_text(text: Any, forbidden: re.Pattern[str], longest: int) -> bool:
        return isinstance(text, str) and len(text) <= longest and not forbidden.search(text)

    def is_size(pair: Sequence[Any]) -> bool:
        return len(pair) == 2 and all(type(side) is int and 0 <= side <= MAX_SIDE for side in pair)

    def misfit(what: str, tensor: Tensor) -> str:
        have, want = tuple(tensor.shape), tuple(latents.shape)
        return f"the {what} have the shape {have}, the latents {want}"

    n = len(latents)
    if not 3 <= latents.ndim <= 6 or latents.numel() == 0:
        yield f"the latents have the shape {tuple(latents.shape)}"
    if n > limits.SET:
        yield f"there are more than {limits.SET} of them"
    if weights.shape != (n,):
        yield misfit("weights", weights)
    if not (weights >= 0).all() or abs(float(weights.double().sum()) - 1) > 1e-3:
        yield "weights must not be negative and must sum to 1"
    if prompts is not None and (prompts.ndim != 2 or len(prompts) != n or prompts.numel() == 0):
        yield misfit("prompt features", prompts)
    if prompts is not None and not torch.isfinite(prompts).all():
        yield "prompt features are NaN or infinite"
    if thumbnails is not None and (
        thumbnails.ndim != 4 or thumbnails.shape[:2] != (n, 3) or thumbnails.numel() == 0
    ):
        yield misfit("thumbnails", thumbnails)
    for what, values in {"names": names, "captions": captions, "sizes": sizes}.items():
        if len(values) != n:
            yield f"the number of {what} is {len(values)}, that of the latents {n}"
    if not all(is_text(name, NOT_IN_NAMES, limits.NAME) for name in (vae, *names)):
        yield f"names must be texts of at most {limits.NAME} characters on one line"
    if not all(is_text(caption, NOT_IN_CAPTIONS, limits.CAPTION) for caption in captions):
        yield f"captions must be texts of at most {limits.CAPTION} characters"
    if not all(map(is_size, (size, *sizes))):
        yield "sizes must be pairs of whole numbers that are not negative"


def _content(references: References, dtype: str) -> tuple[dict[str, str], Stored]:
    """The metadata without the digest, and the tensors in their order in the file."""
    tensors = {name: getattr(references, name) for name in TENSORS}
    texts = {
        "names": [NOT_IN_NAMES.sub("\ufffd", name) for name in references.names],
        "captions": [NOT_IN_CAPTIONS.sub("\ufffd", caption) for caption in references.captions],
        "sizes": [[int(side) for side in pair] for pair in references.sizes],
        "size": [int(side) for side in references.size],
    }
    vae = NOT_IN_NAMES.sub("\ufffd", references.vae)
    problem = next(_problems(**tensors, **texts, vae=vae), None)
    if problem:
        raise ValueError(f"these references cannot be saved: {problem}")
    pieces = references.latents.flatten().split(PIECE)
    if dtype == "float16" and not all(torch.isfinite(piece.half()).all() for piece in pieces):
        raise ValueError("some latents are too large for float16: choose float32")
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        **{key: _json(value) for key, value in texts.items()},
        "vae": vae,
        "pack_version": PACK_VERSION,
    }
    kinds = {"latents": DTYPES[dtype], "thumbnails": torch.uint8}
    stored = {
        name: (tensor, kinds.get(name, torch.float32))
        for name, tensor in tensors.items()
        if tensor is not None
    }
    # Large types first, as in the safetensors package, so that all numbers are aligned.
    return metadata, dict(sorted(stored.items(), key=lambda item: (-item[1][1].itemsize, item[0])))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _pieces_of_file(references: References, dtype: str) -> Iterator[bytes]:
    return file_bytes(*_content(references, dtype))
