"""Changed files of references: refused, or read to the bit as an independent reader reads them."""

import hashlib
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hypothesis import strategies as st
from mmd_pack.mmd_core import References
from mmd_pack.mmd_core.files.reference_file import (
    NOT_IN_NAMES,
    ReferenceFileError,
    read,
    write,
)
from mmd_tests.fuzz.edits import Case, changed
from mmd_tests.fuzz.limits import Crash, Misread, Watch
from mmd_tests.fuzz.tensor_files import FORM, TYPES, joined, parse, split


def references(n: int, shape: tuple[int, ...], seed: int, whole: bool) -> References:
    rng = torch.Generator().manual_seed(seed)
    more = {
        "prompts": torch.randn(n, 3, generator=rng),
        "names": tuple(f'ü{seed}/{j} "\\.png' for j in range(n)),
        "captions": ("", "a cat,\n\tsitting", "絵 😀")[:n],
        "thumbnails": torch.rand(n, 3, 2, 2, generator=rng),
        "vae": "0123abcd",
        "sizes": tuple((j, 2 * j + seed) for j in range(n)),
        "size": (16, 24),
    }
    latents, weights = torch.randn(n, *shape, generator=rng), torch.rand(n, generator=rng) + 0.1
    return References(latents, weights, **more if whole else {})


@cache
def pool() -> dict[str, bytes]:
    """Whole files, by name, with one of another program."""
    import safetensors.torch

    found = {"LoRA": safetensors.torch.save({"lora_up": torch.ones(4, 2)}, {"format": "pt"})}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "set.safetensors"
        for name, n, shape, whole, dtype in (
            ("whole", 3, (4, 2, 3), True, "float32"),
            ("whole, float16", 2, (4, 2, 2), True, "float16"),
            ("bare", 1, (4, 3, 3), False, "float32"),
            ("video", 2, (2, 3, 2, 1), False, "float16"),
        ):
            write(references(n, shape, len(found), whole), path, dtype)
            found[name] = path.read_bytes()
    return found


def digest(metadata: dict, tensors: dict) -> str:
    """By the description of the format."""
    entries = sorted((key, value) for key, value in metadata.items() if key != "digest")
    parts = [str(len(entries)).encode(), *(text.encode() for entry in entries for text in entry)]
    for name, (dtype, shape, content) in sorted(tensors.items()):
        parts += [name.encode(), dtype.encode(), ",".join(map(str, shape)).encode(), content]
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).hexdigest()


def signed(data: bytes) -> bytes:
    """With the right digest, as a hostile author would make it."""
    try:
        metadata, tensors = parse(data)
        entries = json.loads(split(data)[0])
        entries["__metadata__"]["digest"] = digest(metadata, tensors)
        header = json.dumps(entries, ensure_ascii=False).encode()
    except Exception:  # no digest could make this right
        return data
    return joined(header, split(data)[1])


@st.composite
def cases(draw) -> Case:
    data = draw(changed(pool(), FORM))
    sign = draw(st.booleans())
    return Case("signed" if sign else "", (signed(data) if sign else data,))


def _array(tensor: tuple[str, list[int], bytes]) -> np.ndarray:
    dtype, shape, content = tensor
    return np.frombuffer(content, TYPES[dtype]).reshape(shape)


def expected(data: bytes) -> dict:
    """The fields of the references in the file; raises something if it is none, or damaged."""
    metadata, tensors = parse(data)
    if metadata["digest"] != digest(metadata, tensors):
        raise ValueError("wrong digest")
    fields = {key: json.loads(metadata[key]) for key in ("names", "captions", "sizes", "size")}
    arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    if "thumbnails" in arrays:
        arrays["thumbnails"] = arrays["thumbnails"].astype(np.float32) / np.float32(255)
    return {**fields, **arrays, "vae": metadata["vae"]}


def equal(found: References, fields: dict) -> bool:
    """Whether all fields are equal, numbers to the bit; weights but for another scale."""
    for name in ("latents", "weights", "prompts", "thumbnails"):
        tensor, array = getattr(found, name), fields.get(name)
        if tensor is None or array is None:
            if tensor is not array:
                return False
            continue
        array = array.astype(np.float32)
        same = np.array_equal(tensor.numpy().view(np.int32), array.view(np.int32))
        close = name == "weights" and np.allclose(tensor.numpy(), array, rtol=2e-3, atol=0)
        if tensor.shape != array.shape or not (same or close):
            return False
    return (
        list(found.names) == fields["names"]
        and list(found.captions) == fields["captions"]
        and [list(pair) for pair in found.sizes] == fields["sizes"]
        and list(found.size) == fields["size"]
        and found.vae == fields["vae"]
    )


def check(case: Case, place: Path) -> list[str]:
    """One outcome, see `Target`."""
    (data,) = case.files
    path = place / "changed.safetensors"
    path.write_bytes(data)
    with Watch() as watch:
        try:
            found = read(path)
        except ReferenceFileError as error:
            found, reason = None, str(error)
        except BaseException as error:  # Rust's panics are no Exceptions
            raise Crash(repr(error)) from error
    watch.check()
    if found is None:
        if not reason or len(reason) > 1000 or NOT_IN_NAMES.search(reason):
            raise Crash(f"a message that is none: {reason!r}")
        return ["refused"]
    try:
        fields = expected(data)
    except Exception as error:
        raise Misread(f"read though it is no set of references ({error!r})") from error
    if not equal(found, fields):
        raise Misread("read as other references")
    try:
        _use(found, place)
    except Exception as error:
        raise Crash(f"read and not usable: {error!r}") from error
    whole = {digest(*parse(base)) for base in pool().values()}
    return ["same" if digest(*parse(data)) in whole else "other"]


def _use(found: References, place: Path) -> None:
    """What is read can be shown and written, and comes back."""
    from mmd_pack.nodes.references.load_reference_latents import report

    report(found, "changed")
    write(found, place / "again.safetensors")
    if not equal(found, expected((place / "again.safetensors").read_bytes())):
        raise ValueError("written as other references")
