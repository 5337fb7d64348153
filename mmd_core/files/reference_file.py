r"""References in one `.safetensors` file, so that a style set can be shared like a LoRA.

Version 1 of the format, for whoever writes another reader or writer. Tensors, none of them empty:

    latents     (N, C, *)    F32 or F16  raw VAE latents, finite, with 1 to 4 dimensions after C
    weights     (N,)         F32         how much each counts: not negative, sum 1
    prompts     (N, E)       F32         features of the captions, finite; may be missing
    thumbnails  (N, 3, h, w) U8          the pictures at latent resolution, RGB; may be missing

A reader refuses any other tensor. Metadata, each a string:

    format        mmd_references
    version       1; higher where a reader of version 1 would misread the file
    names         JSON: the names of the N pictures, each of 4096 characters at most
    captions      JSON: their captions, each of 65536 characters at most, "" for none
    sizes         JSON: N pairs [width, height], in pixels as the pictures came; [0, 0] if unknown
    size          JSON: [width, height] in pixels at which they were encoded; [0, 0] if unknown
    vae           a fingerprint of the VAE, "" if unknown
    pack_version  what wrote the file; not needed to read it
    digest        finds damage; it does not tell who made the file

A reader takes no notice of further keys. Names, captions and `vae` are shown to people, so they hold nothing
that could disturb or forge a message: no characters U+0000-001F, 007F-009F, 2028-202E, 2066-2069, D800-DFFF;
captions may have tabs and line ends (U+0009, 000A, 000D). Sides of pictures are below 2^31.

`digest` is described in `tensor_file.py`.

Nothing of time or place is written: equal references make equal files.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..references.references import References
from .tensor_file import (
    CODES,
    PIECE,
    Stored,
    file_bytes,
    write_whole,
)
from .tensor_file import digest as _digest

__all__ = ["DTYPES", "NOT_IN_NAMES", "PACK_VERSION", "ReferenceFileError", "holds", "read", "write"]

PACK_VERSION = "0.1.0"  # that of pyproject.toml; a test keeps them equal
DTYPES = {"float32": torch.float32, "float16": torch.float16}  # of the latents

FORMAT, VERSION = "mmd_references", "1"
TENSORS = {
    "latents": ("F32", "F16"),
    "weights": ("F32",),
    "prompts": ("F32",),
    "thumbnails": ("U8",),
}
MAX_NAME, MAX_CAPTION, MAX_SIDE = 4096, 65536, 2**31 - 1
FORGING = r"\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
NOT_IN_NAMES = re.compile(rf"[\x00-\x1f{FORGING}]")
NOT_IN_CAPTIONS = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f{FORGING}]")


class ReferenceFileError(ValueError):
    """A file that is not read, and why."""


def write(references: References, path: str | Path, dtype: str = "float32") -> None:
    """Writes the file, or leaves what was there: it is complete before it gets its name.

    What names and captions may not hold is replaced by "\ufffd", thumbnails are rounded to 8 bits.

    Arguments:
        references: What to write; `read` gives it back, float32 latents bit by bit.
        path: The file, in a folder that exists. A link there is replaced, not followed.
        dtype: The type of the latents in the file, one of `DTYPES`. float16 halves the file.

    Raises:
        ValueError: Latents that float16 cannot hold, too much text, or what is no consistent set.
        OSError: The file cannot be written.
    """
    write_whole(Path(path), _pieces_of_file(references, dtype))


def holds(path: str | Path, references: References, dtype: str = "float32") -> bool:
    """Whether the file is, byte for byte, what `write` would write; raises what it would."""
    with open(path, "rb") as file:
        pieces = _pieces_of_file(references, dtype)
        return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)


def read(path: str | Path) -> References:
    """The references in the file.

    float32 latents stay in it, mapped into memory: while they are used, the file may be replaced (not on
    Windows), but must not be written into.

    Raises:
        ReferenceFileError: The file is damaged, is something else, or cannot be read.
    """
    metadata, tensors = _open(path)
    stored = {name: (tensor, tensor.dtype) for name, tensor in tensors.items()}
    if metadata.get("digest") != _digest(metadata, stored):
        raise ReferenceFileError("the file is damaged, its digest does not match: get it again")
    n = len(tensors["latents"])
    examples = {"names": [""] * n, "captions": [""] * n, "sizes": [[0, 0]] * n, "size": [0, 0]}
    texts = {key: _parse(metadata.get(key, ""), key, like) for key, like in examples.items()}
    content = {**dict.fromkeys(TENSORS), **tensors, **texts, "vae": metadata.get("vae")}
    trouble = next(_troubles(**content), None)
    if trouble:
        raise ReferenceFileError(f"the file holds no usable references: {trouble}")
    if tensors.get("thumbnails") is not None:
        content["thumbnails"] = tensors["thumbnails"].float().div_(255)
    content["sizes"] = tuple(map(tuple, content["sizes"]))
    content["size"] = tuple(content["size"])
    try:
        return References(**content)
    except ValueError as error:
        raise ReferenceFileError(f"the file holds no usable references: {error}") from error


def _open(path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of what claims to be references; of the tensors nothing is read yet."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ReferenceFileError(
                    "the file is not a set of references (it may be a LoRA or a checkpoint)"
                )
            version = metadata.get("version", "")
            if version != VERSION:
                raise ReferenceFileError(
                    "the file was made by a newer version of this pack (its format is "
                    f"{version[:12]!r}, not {VERSION!r}): update the pack"
                )
            names = set(file.keys())
            if not {"latents", "weights"} <= names <= set(TENSORS):
                raise ReferenceFileError("the file has other tensors than references have")
            for name in names:
                shape = file.get_slice(name).get_shape()
                if not 1 <= len(shape) <= 6 or 0 in shape:  # an empty one may claim any size
                    raise ReferenceFileError(f"the file has {name} of a wrong shape")
            tensors = {name: file.get_tensor(name) for name in names}
    except ReferenceFileError:
        raise
    except OSError as error:
        raise ReferenceFileError(f"the file cannot be read ({error.strerror or error})") from error
    except Exception as error:  # safetensors and torch raise nearly anything for a broken file
        detail = NOT_IN_NAMES.sub("\ufffd", str(error)[:100])  # it may quote the file
        raise ReferenceFileError(
            f"this is no .safetensors file, or only a part of one ({detail}): get it again"
        ) from None
    for name, tensor in tensors.items():
        if CODES.get(tensor.dtype) not in TENSORS[name]:
            raise ReferenceFileError(f"the file has {name} of the wrong type {tensor.dtype}")
    return metadata, tensors


def _parse(text: str, key: str, like: list) -> list:
    """The JSON value, which has the form of `like`."""
    try:
        # Before it is parsed: empty lists would take twenty times the memory that they have in the file.
        if _outline(text, len(like)) != _outline(_json(like), len(like)):
            raise ValueError("wrong number or form")
        # Cut: a number of a million digits could take minutes, and is too large anyway.
        return json.loads(text, parse_int=lambda digits: int(digits[:12]))
    except ValueError as error:
        raise ReferenceFileError(f"the file holds no usable {key}: {error}") from error


def _outline(text: str, n: int) -> str:
    """JSON without spaces, digits and strings; no more than n + 1 strings are taken out."""
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    return re.sub(r"[0-9\s]+", "", "".join(unescaped.split('"', 2 * n + 2)[::2]))


def _troubles(
    latents, weights, prompts, thumbnails, names, captions, sizes, size, vae
) -> Iterator[str]:
    """What keeps these from being written and read; each check relies on those before."""

    def is_text(text, forbidden, longest) -> bool:
        return isinstance(text, str) and len(text) <= longest and not forbidden.search(text)

    def is_size(pair) -> bool:
        return len(pair) == 2 and all(type(side) is int and 0 <= side <= MAX_SIDE for side in pair)

    n = len(latents)
    if not 3 <= latents.ndim <= 6 or latents.numel() == 0:
        yield f"latents of shape {tuple(latents.shape)}"
    if weights.shape != (n,):
        yield f"weights of shape {tuple(weights.shape)} for {n} latents"
    if not (weights >= 0).all() or abs(float(weights.double().sum()) - 1) > 1e-3:
        yield "weights must not be negative and must sum to 1"
    if prompts is not None and (prompts.ndim != 2 or len(prompts) != n or prompts.numel() == 0):
        yield f"prompt features of shape {tuple(prompts.shape)} for {n} latents"
    if prompts is not None and not torch.isfinite(prompts).all():
        yield "prompt features are NaN or infinite"
    if thumbnails is not None and (
        thumbnails.ndim != 4 or thumbnails.shape[:2] != (n, 3) or thumbnails.numel() == 0
    ):
        yield f"thumbnails of shape {tuple(thumbnails.shape)} for {n} latents"
    for what, values in {"names": names, "captions": captions, "sizes": sizes}.items():
        if len(values) != n:
            yield f"{len(values)} {what} for {n} latents"
    if not all(is_text(name, NOT_IN_NAMES, MAX_NAME) for name in (vae, *names)):
        yield f"names must be texts of up to {MAX_NAME} characters on one line"
    if not all(is_text(caption, NOT_IN_CAPTIONS, MAX_CAPTION) for caption in captions):
        yield f"captions must be texts of up to {MAX_CAPTION} characters"
    if not all(map(is_size, (size, *sizes))):
        yield "sizes must be pairs of whole numbers that are not negative"


def _content(references: References, dtype: str) -> tuple[dict[str, str], Stored]:
    """The metadata without the digest, and the tensors in the order of the file."""
    tensors = {name: getattr(references, name) for name in TENSORS}
    texts = {
        "names": [NOT_IN_NAMES.sub("\ufffd", name) for name in references.names],
        "captions": [NOT_IN_CAPTIONS.sub("\ufffd", caption) for caption in references.captions],
        "sizes": [[int(side) for side in pair] for pair in references.sizes],
        "size": [int(side) for side in references.size],
    }
    vae = NOT_IN_NAMES.sub("\ufffd", references.vae)
    trouble = next(_troubles(**tensors, **texts, vae=vae), None)
    if trouble:
        raise ValueError(f"these references cannot be saved: {trouble}")
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
    # Large types first, as safetensors does it: then each number lies at a multiple of its size.
    return metadata, dict(sorted(stored.items(), key=lambda item: (-item[1][1].itemsize, item[0])))


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _pieces_of_file(references: References, dtype: str) -> Iterator[bytes]:
    return file_bytes(*_content(references, dtype))
