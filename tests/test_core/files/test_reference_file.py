"""References in a file: what is written is read, bit by bit, and nothing else is."""

import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import random
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mmd_pack.mmd_core import References
from mmd_pack.mmd_core.files import limits, reference_file, tensor_file
from mmd_pack.mmd_core.files.reference_file import (
    ReferenceFileError,
    holds,
    read,
    write,
)
from mmd_tests.support.at_once import at_once
from mmd_tests.support.crashes import deaths, errors
from mmd_tests.support.packages import ROOT

FIELDS = [field.name for field in dataclasses.fields(References) if field.init]


def references(n=3, shape=(4, 3, 2), seed=0, **changes):
    """A set with everything that there can be."""
    rng = torch.Generator().manual_seed(seed)
    given = {
        "latents": torch.randn(n, *shape, generator=rng),
        "weights": torch.rand(n, generator=rng) + 0.1,
        "prompts": torch.randn(n, 5, generator=rng),
        "names": tuple(f'ü/{j} "\\.png' for j in range(n)),
        "captions": ("", "a cat,\n\tsitting", "絵 😀")[:n] + ("x",) * (n - 3),
        "thumbnails": torch.rand(n, 3, 3, 2, generator=rng),
        "vae": "0123abcd",
        "sizes": tuple((j, 2 * j) for j in range(n)),
        "size": (16, 24),
    }
    return References(**{**given, **changes})


def assert_equal(a, b, but=()):
    for field in set(FIELDS) - set(but):
        x, y = getattr(a, field), getattr(b, field)
        if isinstance(x, torch.Tensor):
            assert x.dtype == y.dtype and x.shape == y.shape, field
            bits = [t.contiguous().view(-1).view(torch.uint8) for t in (x, y)]
            assert torch.equal(*bits), field
        else:
            assert x == y and type(x) is type(y), field


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.safetensors"


def take_apart(data: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_together(header, numbers: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def digest(header: dict, numbers: bytes) -> str:
    """As the documentation of the format has it, without the code under test."""
    metadata = {k: v for k, v in header["__metadata__"].items() if k != "digest"}
    parts = [str(len(metadata)).encode()]
    for key in sorted(metadata):
        parts += [key.encode(), metadata[key].encode()]
    for name in sorted(header.keys() - {"__metadata__"}):
        about = header[name]
        start, end = about["data_offsets"]
        shape = ",".join(str(side) for side in about["shape"])
        parts += [name.encode(), about["dtype"].encode(), shape.encode(), numbers[start:end]]
    whole = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return hashlib.sha256(whole).hexdigest()


def sealed(header: dict, numbers: bytes) -> bytes:
    """A file whose digest is right, whatever it holds."""
    header["__metadata__"]["digest"] = digest(header, numbers)
    return put_together(header, numbers)


# Writing and reading


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2), (16, 1, 3, 2), (2, 3, 1, 2, 2)])
def test_all_that_is_written_is_read_bit_by_bit(path, shape):
    before = references(shape=shape)
    write(before, path)
    after = read(path)
    assert_equal(before, after, but=["thumbnails"])
    assert (before.thumbnails - after.thumbnails).abs().max() <= 0.5 / 255 + 1e-6


def test_what_is_missing_stays_missing(path):
    before = References(torch.randn(2, 4, 3, 3))
    write(before, path)
    assert_equal(before, read(path))


def test_unusual_numbers_keep_their_bits(path):
    numbers = [-0.0, 0.0, 1e-45, -1e-40, 3.4028234e38, 1.1754944e-38, 1 / 3, -1.0]
    before = references(n=1, latents=torch.tensor(numbers).view(1, 2, 2, 2))
    write(before, path)
    assert_equal(before, read(path), but=["thumbnails"])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("n", [1, 3, 7, 100, 3001])
def test_what_was_loaded_makes_the_same_file_again(path, n, dtype):
    write(references(n, shape=(1, 2, 2)), path, dtype)
    first, loaded = path.read_bytes(), read(path)
    write(loaded, path, dtype)
    assert path.read_bytes() == first
    assert_equal(loaded, read(path))


def test_equal_references_make_equal_files_and_others_do_not(path):
    def file(**changes):
        write(references(**changes), path)
        return path.read_bytes()

    changes = {
        "latents": torch.zeros(3, 4, 3, 2),
        "weights": torch.tensor([1.0, 2, 3]),
        "prompts": None,
        "names": ("a", "b", "c"),
        "captions": ("a", "b", "c"),
        "thumbnails": None,
        "vae": "",
        "sizes": ((1, 1),) * 3,
        "size": (24, 16),
    }
    assert set(changes) == set(FIELDS)
    files = [file(), *(file(**{key: value}) for key, value in changes.items())]
    assert file() == files[0]
    assert len(set(files)) == len(files)


def test_float16_halves_the_latents_and_rounds_them(path):
    before = references(shape=(4, 64, 64))
    write(before, path)
    large = path.stat().st_size
    write(before, path, "float16")
    assert abs(large - path.stat().st_size - before.latents.numel() * 2) < 64
    after = read(path)
    assert torch.equal(after.latents, before.latents.half().float())
    assert_equal(before, after, but=["latents", "thumbnails"])


def test_what_does_not_fit_into_float16_is_refused(path):
    latents = torch.zeros(2000, 1, 1)
    latents[-1] = 65519  # the largest that is not rounded to infinity
    write(References(latents), path, "float16")
    assert read(path).latents.max() == 65504
    before = path.read_bytes()
    with pytest.raises(ValueError, match="choose float32"):
        write(References(-latents * 1.001), path, "float16")
    assert path.read_bytes() == before


def test_thumbnails_get_the_nearest_of_256_values(path):
    values = torch.tensor([0, 0.49 / 255, 0.51 / 255, 0.5, 1, 1.7, -3, float("nan")])
    write(references(n=1, thumbnails=values.expand(3, -1).reshape(1, 3, 4, 2)), path)
    expected = torch.tensor([0, 0, 1, 128, 255, 255, 0, 0]) / 255
    assert torch.equal(read(path).thumbnails[0, 0].flatten(), expected)


def test_arguments_are_not_changed_and_may_lie_anyhow_in_memory(path):
    strided = torch.randn(3, 2, 3, 4).movedim(-1, 1)
    given = references(latents=strided, thumbnails=torch.rand(3, 3, 2, 3).transpose(2, 3))
    copies = [t.clone() for t in (given.latents, given.thumbnails, given.weights)]
    assert not given.latents.is_contiguous()
    write(given, path)
    for tensor, copy in zip((given.latents, given.thumbnails, given.weights), copies, strict=True):
        assert torch.equal(tensor, copy)
    assert torch.equal(read(path).latents, strided)


def test_pieces_make_the_same_file_as_one(path, monkeypatch):
    write(references(100), path)
    whole = path.read_bytes()
    monkeypatch.setattr(tensor_file, "PIECE", 50)
    write(references(100), path)
    assert path.read_bytes() == whole
    read(path)


def test_names_cannot_disturb_messages_and_captions_keep_their_lines(path):
    names = ("a\n\x1b[31mb", "x\u202egnp.exe", "\udcff\x00")
    captions = ("one\ttab\r\nline", "\x07bell", "\u2028\u2066")
    write(references(names=names, captions=captions, vae="\x9b"), path)
    after = read(path)
    assert after.names == ("a��[31mb", "x�gnp.exe", "��")
    assert after.captions == ("one\ttab\r\nline", "�bell", "��")
    assert after.vae == "�"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"names": ("a", "b")}, "number of names is 2, but that of the references is 3"),
        ({"captions": ("a",)}, "number of captions is 1, but"),
        ({"sizes": ((1, 1),)}, "number of sizes is 1, but"),
        ({"sizes": ((1, 1), (2, 2), (3,))}, "sizes must"),
        ({"sizes": ((1, 1), (2, 2), (-1, 0))}, "sizes must"),
        ({"size": (1, 2**31)}, "sizes must"),
        ({"names": ("a", "b", "c" * 4097)}, "4096"),
        ({"captions": ("a", "b", "c" * 65537)}, "65536"),
        ({"latents": torch.zeros(3, 4)}, "shape .3, 4."),
        ({"latents": torch.zeros(3, 1, 1, 1, 1, 1, 1)}, "shape .3, 1, 1, 1, 1, 1, 1."),
        ({"latents": torch.zeros(3, 4, 0, 2)}, "shape .3, 4, 0, 2."),
        ({"prompts": torch.full((3, 2), torch.nan)}, "NaN"),
        ({"thumbnails": torch.zeros(3, 4, 2, 2)}, "thumbnails"),
        ({"thumbnails": torch.zeros(2, 3, 2, 2)}, "thumbnails"),
    ],
)
def test_what_could_not_be_read_is_not_written(path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(references(**changes), path)
    assert not list(path.parent.iterdir())


def test_more_references_than_anybody_uses_are_refused(path, monkeypatch):
    write(references(4), path)
    monkeypatch.setattr(limits, "SET", 3)
    with pytest.raises(ReferenceFileError, match="more than 3 references"):
        read(path)
    with pytest.raises(ValueError, match="more than 3 of them"):
        write(references(4), path)
    write(references(3), path)
    assert len(read(path)) == 3


def test_more_text_than_a_file_holds_is_refused(path, monkeypatch):
    monkeypatch.setattr(limits, "SET_HEADER", 800)
    with pytest.raises(ValueError, match="leave out captions"):
        write(references(captions=("x" * 500,) * 3), path)
    assert not list(path.parent.iterdir())


def test_a_failure_leaves_what_was_there_and_no_rest(path, monkeypatch):
    write(references(), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, name, fail)
            write(references(seed=1), path)
        assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_a_link_is_replaced_and_its_target_kept(path, tmp_path):
    (tmp_path / "precious").write_text("precious")
    path.symlink_to(tmp_path / "precious")
    write(references(), path)
    assert not path.is_symlink() and len(read(path)) == 3
    assert (tmp_path / "precious").read_text() == "precious"


def test_holds_is_true_for_equal_files_only(path):
    write(references(), path)
    assert holds(path, references()) and holds(path, read(path))
    assert not holds(path, references(), "float16")
    assert not holds(path, references(seed=1))
    for data in (path.read_bytes() + b"x", path.read_bytes()[:-1], b""):
        path.write_bytes(data)
        assert not holds(path, references())


@pytest.mark.skipif(os.name == "nt", reason="needs forks of POSIX")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("change", ["cut off", "overwritten in place", "replaced", "removed"])
def test_what_is_loaded_stays_as_it_is_whatever_happens_to_the_file(path, dtype, change):
    """A map of a file that is cut off would kill the process."""
    write(references(shape=(4, 64, 64)), path, dtype)

    def work(*_):
        loaded, again = read(path), read(path)
        if change == "cut off":
            os.truncate(path, 0)
        if change == "overwritten in place":
            path.write_bytes(bytes(path.stat().st_size))
        if change == "replaced":
            write(references(seed=1), path)
        if change == "removed":
            path.unlink()
        assert_equal(loaded, references(shape=(4, 64, 64)), but=["thumbnails", "latents"])
        torch.testing.assert_close(
            loaded.latents, references(shape=(4, 64, 64)).latents, atol=0, rtol=2**-10
        )
        assert torch.equal(loaded.latents, again.latents)
        return True

    assert at_once(work, rounds=1, processes=1) == [(0, 0, True)]


@pytest.mark.parametrize("change, message", [
    (lambda path: os.truncate(path, path.stat().st_size // 2), "was shortened while it was read"),
    (lambda path: path.write_bytes(bytes(path.stat().st_size)), "damaged (wrong digest)"),
])  # fmt: skip
def test_a_file_that_changes_while_it_is_read_is_refused(path, change, message):
    write(references(shape=(4, 64, 64)), path)

    def changing(shape):
        change(path)
        return torch.empty(shape)

    with pytest.raises(ReferenceFileError) as error:
        read(path, changing)
    assert message in str(error.value)


def test_latents_come_into_the_memory_that_is_given(path):
    given = {}

    def allocate(shape):
        given[shape] = torch.empty(shape)
        return given[shape]

    for dtype in ("float32", "float16"):
        write(references(), path, dtype)
        loaded = read(path, allocate)
        assert loaded.latents.data_ptr() == given[(3, 4, 3, 2)].data_ptr()


def test_a_node_that_writes_into_loaded_latents_does_not_change_the_file(path):
    write(references(), path)
    before = path.read_bytes()
    read(path).latents.zero_()
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
def test_a_writer_that_is_killed_at_any_step_leaves_the_old_set_or_the_new_one(path, monkeypatch):
    monkeypatch.setattr(tensor_file, "PIECE", 50)  # a set takes several writes
    old, new = (references(seed=seed) for seed in (1, 2))
    for steps in deaths(lambda: write(new, path), lambda: write(old, path)):
        there = new if "replace" in steps[:-1] else old
        assert_equal(read(path), there, but=["thumbnails"])
        drafts = [file.name for file in path.parent.iterdir() if file != path]
        inside = "open" in steps[:-1] and "replace" not in steps[:-1]
        assert len(drafts) == inside, steps
        for name in drafts:  # a name that nobody reads
            assert name.startswith(".") and name.endswith(".tmp")
            (path.parent / name).unlink()
    assert steps == [
        "open", *["write"] * 7, "flush", "fsync", "close", "replace",
        "unlink",  # the draft, which has its name by now
        "fsync",  # the folder
    ]  # fmt: skip
    assert_equal(read(path), new, but=["thumbnails"])


@pytest.mark.skipif(os.name == "nt", reason="needs forks of POSIX")
@pytest.mark.parametrize("replace", [True, False])
def test_an_error_at_any_step_leaves_the_old_set_or_the_new_one(path, monkeypatch, replace):
    monkeypatch.setattr(tensor_file, "PIECE", 50)
    old, new = (references(seed=seed) for seed in (1, 2))

    def prepare():
        for file in path.parent.iterdir():
            file.unlink()
        if replace:
            write(old, path)

    names = []
    for name, raised in errors(lambda: write(new, path, replace=replace), prepare):
        names.append(name)
        if replace or not raised:
            assert_equal(read(path), old if raised else new, but=["thumbnails"])
        else:
            assert not path.exists(), names
    assert len(names) == 14


# The format


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_file_is_what_the_documentation_says(path, dtype):
    given = references()
    write(given, path, dtype)
    header, numbers = take_apart(path.read_bytes())
    about = header["__metadata__"]
    assert {key: about[key] for key in ("format", "version", "vae", "pack_version")} == {
        "format": "mmd_references",
        "version": "1",
        "vae": given.vae,
        "pack_version": reference_file.PACK_VERSION,
    }
    assert json.loads(about["names"]) == list(given.names)
    assert json.loads(about["captions"]) == list(given.captions)
    assert json.loads(about["sizes"]) == [[0, 0], [1, 2], [2, 4]]
    assert json.loads(about["size"]) == [16, 24]
    assert about["digest"] == digest(header, numbers)
    tensors = safetensors.torch.load_file(path)
    assert {name: str(t.dtype) for name, t in tensors.items()} == {
        "latents": f"torch.{dtype}",
        "weights": "torch.float32",
        "prompts": "torch.float32",
        "thumbnails": "torch.uint8",
    }
    assert torch.equal(tensors["latents"].float(), given.latents.to(getattr(torch, dtype)).float())
    assert torch.equal(tensors["weights"], given.weights)
    for name, entry in header.items():  # numbers lie at multiples of their size
        if name != "__metadata__":
            size = {"F32": 4, "F16": 2, "U8": 1}[entry["dtype"]]
            assert (len(path.read_bytes()) - len(numbers) + entry["data_offsets"][0]) % size == 0


def test_a_file_of_another_writer_is_read(path):
    """By safetensors' own writer, which orders things its own way, with a key of the future."""
    given = references()
    write(given, path)
    metadata = {**take_apart(path.read_bytes())[0]["__metadata__"], "license": "CC0"}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata=metadata)
    with pytest.raises(ReferenceFileError, match="damaged"):
        read(path)
    path.write_bytes(sealed(*take_apart(path.read_bytes())))
    assert_equal(given, read(path), but=["thumbnails"])


def test_the_version_in_files_is_that_of_the_pack():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1] == reference_file.PACK_VERSION


# Damaged and hostile files


def refused(path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ReferenceFileError) as error:
        read(path)
    message = str(error.value)
    assert len(message) < 300 and message.isprintable(), message
    return message


def test_no_flipped_bit_is_read(path):
    write(references(2, (2, 2, 1)), path)
    whole = path.read_bytes()
    rnd = random.Random(0)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << rnd.randrange(8)
        refused(path, bytes(data))


def test_files_that_are_cut_off_or_too_long_are_refused(path):
    write(references(), path)
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 11), len(whole) - 1]:
        refused(path, whole[:end])
    refused(path, whole + b"\0")
    refused(path, whole + whole)


def test_other_files_are_recognized(path):
    safetensors.torch.save_file({"lora.up": torch.zeros(2)}, path, metadata={"format": "pt"})
    assert "may be a LoRA" in refused(path, path.read_bytes())
    safetensors.torch.save_file({"latents": torch.zeros(2, 2, 2)}, path)
    assert "may be a LoRA" in refused(path, path.read_bytes())
    assert "no .safetensors file" in refused(path, b"")
    assert "no .safetensors file" in refused(path, b"\x89PNG\r\n\x1a\n" * 20)
    with pytest.raises(ReferenceFileError, match="cannot be read"):
        read(path.with_name("gone.safetensors"))
    with pytest.raises(ReferenceFileError):
        read(path.parent)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_is_not_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(path, pickle.dumps(Bomb()))
    torch.save({"latents": Bomb()}, path)
    refused(path, path.read_bytes())
    write(references(), path)
    header, numbers = take_apart(path.read_bytes())
    header["__metadata__"]["names"] = pickle.dumps(Bomb(), 0).decode("latin-1")
    refused(path, sealed(header, numbers))
    assert not Path("exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))  # noqa: S301 (the bomb works)
    assert Path("exploded").exists()


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"__metadata__":' + b'{"a":' * 100_000,
        b'{"__metadata__":{"format":"mmd_references"},"__metadata__":{"format":"mmd_references"}}',
        b'{"__metadata__":{"format":1}}',
        b'{"__metadata__":{"format":"\xff"}}',
        b'{"__metadata__":{"format":"\\ud800"}}',
        b'{"latents":{"dtype":"' + b"\\n\\u001b" * 10_000 + b'","shape":[],"data_offsets":[0,0]}}',
        b"[]",
        b"null",
        b"9" * 100_000,
        b"",
    ],
    ids=itertools.count(),
)
def test_headers_that_are_bombs_are_refused(path, header):
    refused(path, put_together(header, b""))


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 100_000_001, 99_999_999])
def test_a_header_that_claims_to_be_huge_is_refused(path, length):
    refused(path, struct.pack("<Q", length) + b"{}")


CLAIM = '{"__metadata__":{"format":"mmd_references","version":"1"},%s}'


@pytest.mark.parametrize(
    "tensors",
    [
        '"latents":{"dtype":"F32","shape":[1000000000000,4,0],"data_offsets":[0,0]},'
        '"weights":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}',
        '"latents":{"dtype":"F32","shape":[9223372036854775808,0],"data_offsets":[0,0]},'
        '"weights":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}',
        '"latents":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]},'
        '"weights":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}',
        '"latents":{"dtype":"U8","shape":[' + "1," * 10**5 + '1],"data_offsets":[0,1]},'
        '"weights":{"dtype":"U8","shape":[7],"data_offsets":[1,8]}',
        '"latents":{"dtype":"F32","shape":[1,1,1],"data_offsets":[0,4]},'
        '"weights":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',
        '"latents":{"dtype":"F32","shape":[1,1,1],"data_offsets":[4,8]},'
        '"weights":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}',
        '"latents":{"dtype":"F32","shape":[1,1,1],"data_offsets":[8,4]},'
        '"weights":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',
        '"latents":{"dtype":"F32","shape":[1,-1,-1],"data_offsets":[0,4]},'
        '"weights":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}',
    ],
    ids=itertools.count(),
)
def test_tensors_that_claim_more_than_there_is_are_refused(path, tensors):
    refused(path, put_together((CLAIM % tensors).encode(), bytes(8)))


def with_metadata(**changes):
    return lambda header, numbers: (
        {**header, "__metadata__": {**header["__metadata__"], **changes}},
        numbers,
    )


def with_tensor(name, tensor):
    def change(header, numbers):
        tensors = safetensors.torch.load(put_together(header, numbers))
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
        return take_apart(safetensors.torch.save(tensors, metadata=header["__metadata__"]))

    return change


NAN, DEEP = float("nan"), "[" * 100_000


@pytest.mark.parametrize(
    "change, message",
    [
        (with_metadata(version="2"), "newer version of this pack"),
        (with_metadata(version="\x1b" * 1000), "newer version of this pack"),
        (with_metadata(format="mmd_reference"), "may be a LoRA"),
        (with_metadata(names='["a","b"]'), "no usable names"),
        (with_metadata(names='["a","b","c","d"]'), "no usable names"),
        (with_metadata(names='["a","b",3]'), "names must be texts"),
        (with_metadata(names='["a","b",null]'), "no usable names"),
        (with_metadata(names='["a","b","c\\nd"]'), "names must be texts"),
        (with_metadata(names='["a","b","\\u202ec"]'), "names must be texts"),
        (with_metadata(names='["a","b","\\ud800"]'), "names must be texts"),
        (with_metadata(names=json.dumps(["a", "b", "c" * 4097])), "names must be texts"),
        (with_metadata(names='{"a":1,"b":2,"c":3}'), "no usable names"),
        (with_metadata(names='"abc"'), "no usable names"),
        (with_metadata(names='["a","b","c'), "no usable names"),
        (with_metadata(names='["a","b","c]"'), "no usable names"),
        (with_metadata(names='["a","b",\\"c"]'), "no usable names"),
        (with_metadata(names='["a","b","\\x"]'), "no usable names"),
        (with_metadata(names=""), "no usable names"),
        (with_metadata(names=DEEP), "no usable names"),
        (with_metadata(captions='{"a":' * 100_000), "no usable captions"),
        (with_metadata(captions='["a","b","\\u0000"]'), "captions must be texts"),
        (with_metadata(captions=json.dumps(["a", "b", "c" * 65537])), "captions must be texts"),
        (with_metadata(captions="null"), "no usable captions"),
        (with_metadata(sizes="[[1,2],[1,2],[1,2,3]]"), "no usable sizes"),
        (with_metadata(sizes="[[1,2],[1,2],[1,-2]]"), "no usable sizes"),
        (with_metadata(sizes="[[1,2],[1,2],[1,2.5]]"), "no usable sizes"),
        (with_metadata(sizes="[[1,2],[1,2],[1,true]]"), "no usable sizes"),
        (with_metadata(sizes="[[1,2],[1,2],[1,NaN]]"), "no usable sizes"),
        (with_metadata(sizes=f"[[1,2],[1,2],[1,{'9' * 10**6}]]"), "sizes must"),
        (with_metadata(sizes='[[1,2],[1,2],[1,"2"]]'), "sizes must"),
        (with_metadata(sizes='[[1,2],[1,2],"12"]'), "no usable sizes"),
        (with_metadata(size="7"), "no usable size"),
        (with_metadata(size="[1,2147483648]"), "sizes must"),
        (with_metadata(vae="a\nb"), "names must be texts"),
        (with_tensor("latents", None), "has other tensors"),
        (with_tensor("weights", None), "has other tensors"),
        (with_tensor("code", torch.zeros(3)), "has other tensors"),
        (with_tensor("latents", torch.zeros(3, 4)), "the latents have the shape"),
        (with_tensor("latents", torch.zeros(3, 1, 1, 1, 1, 1, 1)), "latents of a wrong shape"),
        (with_tensor("latents", torch.zeros(2, 4, 3, 2)), "no usable names"),
        (with_tensor("latents", torch.zeros(3, 4, 0, 2)), "latents of a wrong shape"),
        (with_tensor("latents", torch.zeros(0, 4, 3, 2)), "latents of a wrong shape"),
        (with_tensor("latents", torch.zeros(())), "latents of a wrong shape"),
        (with_tensor("latents", torch.zeros(3, 4, 3, 2, dtype=torch.float64)), "wrong type"),
        (with_tensor("latents", torch.zeros(3, 4, 3, 2, dtype=torch.bfloat16)), "wrong type"),
        (with_tensor("latents", torch.zeros(3, 4, 3, 2, dtype=torch.uint8)), "wrong type"),
        (with_tensor("latents", torch.full((3, 4, 3, 2), NAN)), "NaN or infinite"),
        (with_tensor("latents", torch.full((3, 4, 3), float("inf")).half()), "NaN or infinite"),
        (with_tensor("weights", torch.tensor([0.5, 0.6, -0.1])), "weights must"),
        (with_tensor("weights", torch.tensor([0.5, 0.5, NAN])), "weights must"),
        (with_tensor("weights", torch.tensor([1.0, 2, 3])), "weights must"),
        (with_tensor("weights", torch.tensor([1e38, float("inf"), 0])), "weights must"),
        (with_tensor("weights", torch.zeros(3)), "weights must"),
        (with_tensor("weights", torch.full((3, 1), 1 / 3)), "the weights have the shape"),
        (with_tensor("weights", torch.full((3,), 1 / 3).half()), "wrong type"),
        (with_tensor("prompts", torch.zeros(2, 5)), "the prompt features have the shape"),
        (with_tensor("prompts", torch.zeros(3)), "the prompt features have the shape"),
        (with_tensor("prompts", torch.full((3, 5), NAN)), "prompt features are NaN"),
        (with_tensor("thumbnails", torch.zeros(3, 3, 3, 2)), "wrong type"),
        (
            with_tensor("thumbnails", torch.zeros(3, 4, 3, 2).byte()),
            "the thumbnails have the shape",
        ),
        (
            with_tensor("thumbnails", torch.zeros(2, 3, 3, 2).byte()),
            "the thumbnails have the shape",
        ),
        (with_tensor("thumbnails", torch.zeros(3, 3, 6).byte()), "the thumbnails have the shape"),
    ],
)
def test_a_wrong_set_is_refused_though_its_digest_is_right(path, change, message):
    write(references(), path)
    assert message in refused(path, sealed(*change(*take_apart(path.read_bytes()))))


def test_brackets_of_any_kind_and_escapes_may_be_in_names_and_captions(path):
    names = ("[]{},:0", '\\"],["', "\\\\\\")
    write(references(names=names, captions=names[::-1]), path)
    assert read(path).names == names and read(path).captions == names[::-1]


def test_text_that_is_a_bomb_is_refused_before_it_is_parsed(path, monkeypatch):
    """Twenty bytes of memory for each that there is in the file are too much."""
    write(references(), path)
    whole = take_apart(path.read_bytes())
    for bomb in (
        "[" + "[]," * 10**5 + "[]]",
        "[" + '"",' * 10**5 + '""]',
        '"' * 10**6,
        '\\"' * 10**6,
    ):
        tracemalloc.start()
        refused(path, sealed(*with_metadata(names=bomb)(*whole)))
        tracemalloc.reset_peak()
        with pytest.raises(ReferenceFileError, match="no usable names"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * path.stat().st_size
        tracemalloc.stop()


def test_a_digest_is_needed(path):
    write(references(), path)
    header, numbers = take_apart(path.read_bytes())
    del header["__metadata__"]["digest"]
    assert "damaged" in refused(path, put_together(header, numbers))


def test_what_is_read_of_a_mutated_file_could_have_been_written(path):
    """Values of the header in any mixture, with the right digest: refused, or references like others."""
    write(references(), path)
    whole = path.read_bytes()
    rnd = random.Random(0)
    values = ["", "[]", "[[0,0]]", "null", "0", '["","",""]', "[[0,0],[1,1],[2,2]]", "[5,6]", "{}"]
    shapes = [[3], [3, 4, 6], [3, 5], [1, 3], [72], [3, 3, 3, 2], [0], [], [3, 2, 2, 3, 1, 2]]
    n_read = 0
    for _ in range(300):
        header, numbers = take_apart(whole)
        for _ in range(rnd.choice([1, 1, 2])):
            key = rnd.choice(["names", "captions", "sizes", "size", "vae", "other"])
            tensor = header[rnd.choice(["latents", "weights", "prompts", "thumbnails"])]
            if rnd.random() < 0.7:
                header["__metadata__"][key] = rnd.choice(values)
            elif rnd.random() < 0.7:
                tensor["shape"] = rnd.choice(shapes)
            else:
                tensor["dtype"] = rnd.choice(["F32", "F16", "U8", "I32", "BF16", "F64"])
        path.write_bytes(sealed(header, numbers))
        try:
            loaded = read(path)
        except ReferenceFileError:
            continue
        n_read += 1
        write(loaded, path)
        assert_equal(loaded, read(path))
    assert 20 < n_read < 280
