"""The cache of latents: exact, never trusting a file that is not wholly as it was written, bounded."""

import errno
import os
import pickle
import shutil
import threading
import time
from pathlib import Path

import folder_paths
import pytest
import safetensors.torch
import torch
from mmd_pack.mmd_core.files.tensor_file import ABANDONED
from mmd_pack.nodes.references.encoding import latent_cache as module
from mmd_pack.nodes.references.encoding.latent_cache import entry_key
from mmd_tests.support.crashes import errors
from safetensors import safe_open

pytestmark = pytest.mark.comfy
posix = pytest.mark.skipif(os.name == "nt", reason="needs forks of POSIX")
links = pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")


@pytest.fixture
def cache(tmp_path):
    return module.LatentCache(tmp_path / "cache")


def key(name="a"):
    return entry_key(name)


def tensors(seed=0, size=4):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 4, size, size, generator=generator)
    latent[0, 0, 0, :2] = torch.tensor([-0.0, 1e-42])  # numbers that rounding would lose
    return {"latent": latent, "thumbnail": torch.rand(1, 3, size, size, generator=generator)}


def same(found, expected):
    """Equal to the last bit."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype
        and found[name].shape == expected[name].shape
        and torch.equal(found[name].view(torch.int32), expected[name].view(torch.int32))
        for name in expected
    )


def files(cache):
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def test_what_was_written_is_read_to_the_last_bit(cache):
    assert cache.read(key()) is None
    cache.write(key(), tensors())
    assert same(cache.read(key()), tensors())
    assert cache.read(key("b")) is None
    assert not cache.notices()


def test_strided_tensors_are_written_as_they_look(cache):
    across = tensors()["latent"].transpose(-1, -2)
    cache.write(key(), {"latent": across})
    assert same(cache.read(key()), {"latent": across.contiguous()})


def test_a_key_differs_for_all_facts():
    facts = [
        ("p", 1),
        ("p", "1"),
        ("p1",),
        ("p", 1, None),
        ("p", 1.5),
        ("p", (8, 16)),
        ("p", (81, 6)),
    ]
    assert len({module.entry_key(*fact) for fact in facts}) == len(facts)
    assert module.entry_key("p", 1) == module.entry_key("p", 1)


def test_one_file_per_entry_in_subfolders_and_nothing_else(cache):
    for name in "abc":
        cache.write(key(name), tensors())
    expected = {cache.folder / key(n)[:2] / f"{key(n)}.safetensors" for n in "abc"}
    assert set(files(cache)) == expected


def test_any_program_can_read_an_entry(cache):
    cache.write(key(), tensors())
    with safe_open(files(cache)[0], "pt") as file:
        assert file.metadata()["key"] == key()
        assert torch.equal(file.get_tensor("latent"), tensors()["latent"])


def test_without_a_folder_nothing_is_kept():
    cache = module.LatentCache(None)
    cache.write(key(), tensors())
    assert cache.read(key()) is None and not cache.notices()


def test_under_no_key_nothing_is_kept(cache):
    cache.write("", tensors())
    assert cache.read("") is None and not cache.folder.exists()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_only_finite_numbers_are_kept(cache, number):
    broken = tensors()
    broken["latent"][0, 0, 0, 0] = number
    cache.write(key(), broken)
    assert cache.read(key()) is None and not cache.notices()


# Files that are not as they were written


def test_a_change_of_any_byte_is_noticed(cache):
    """Or makes no difference: it may hit the padding of the header."""
    cache.write(key(), tensors(size=2))
    (path,) = files(cache)
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytes([whole[place] ^ 1 << place % 8])
        path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        found = cache.read(key())
        assert found is None or same(found, tensors(size=2)), place
    assert cache.damaged > 0.9 * len(whole)


def test_a_file_cut_off_anywhere_is_noticed(cache):
    cache.write(key(), tensors(size=2))
    (path,) = files(cache)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert cache.read(key()) is None
    path.write_bytes(whole + b"\0")
    assert cache.read(key()) is None
    assert cache.damaged == len(whole) + 1


def test_a_file_under_another_name_is_not_trusted(cache):
    cache.write(key("a"), tensors(1))
    cache.write(key("b"), tensors(2))
    a, b = (cache.folder / key(n)[:2] / f"{key(n)}.safetensors" for n in "ab")
    os.replace(a, b)
    assert cache.read(key("b")) is None
    assert cache.notices() == ["Damaged files in the cache, made again: 1."]


def foreign_files():
    yield b"not a tensor at all"
    yield pickle.dumps({"latent": 1})
    yield safetensors.torch.save(tensors())  # without metadata
    yield safetensors.torch.save(tensors(), {"key": key(), "sha256": "0" * 64})
    yield safetensors.torch.save(tensors(), {"key": key()})
    yield (2**63).to_bytes(8, "little") + b"{}"
    header = b'{"__metadata__": [' + b"[" * 100_000  # deeper than Python's parser goes
    yield len(header).to_bytes(8, "little") + header


def test_a_foreign_file_is_not_trusted_and_replaced(cache):
    path = cache.folder / key()[:2] / f"{key()}.safetensors"
    path.parent.mkdir(parents=True)
    for number, data in enumerate(foreign_files(), 1):
        path.write_bytes(data)
        assert cache.read(key()) is None
        assert cache.damaged == number
    cache.write(key(), tensors())
    assert same(cache.read(key()), tensors()) and not cache.problem


def test_a_damaged_file_is_named_in_the_log(cache, caplog):
    cache.write(key(), tensors())
    (path,) = files(cache)
    path.write_bytes(b"")
    assert cache.read(key()) is None
    assert path.name in caplog.text and "damaged" in caplog.text
    assert str(path.parent) not in caplog.text  # logs go into bug reports: no folders of the user


# Writing


def test_a_full_disk_stops_nothing_and_leaves_nothing(cache, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache.write(key("a"), tensors())
    monkeypatch.setattr(module.os, "replace", full)
    for name in "bcd":
        cache.write(key(name), tensors())
    assert cache.notices() == ["Not all is cached for the next run: No space left on device."]
    assert len(files(cache)) == 1
    assert same(cache.read(key("a")), tensors())  # reading goes on


def test_an_interrupt_while_writing_leaves_nothing(cache, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.write(key(), tensors())
    assert files(cache) == []


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with module.LatentCache(tmp_path / "file" / "cache") as cache:
        assert cache.read(key()) is None
        cache.write(key(), tensors())
    assert cache.problem and not cache.written


def test_a_folder_in_the_place_of_a_file_stops_nothing(cache):
    (cache.folder / key()[:2] / f"{key()}.safetensors").mkdir(parents=True)
    assert cache.read(key()) is None
    cache.write(key(), tensors())
    assert cache.problem and cache.damaged == 1 and files(cache) == []


def test_several_writers_and_readers_never_see_half_a_file(tmp_path):
    caches = [module.LatentCache(tmp_path) for _ in range(4)]
    found = []

    def work(cache):
        for _ in range(30):
            cache.write(key(), tensors(size=32))
            found.append(cache.read(key()))

    threads = [threading.Thread(target=work, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if os.name == "posix":  # Windows may refuse to replace a file while it is read
        assert len(found) == 120 and all(same(entry, tensors(size=32)) for entry in found)
    assert not any(cache.damaged for cache in caches)
    assert len(files(caches[0])) == 1


@posix
def test_an_error_at_any_step_stops_nothing_and_leaves_whole_entries(tmp_path, monkeypatch):
    size = fill(module, tmp_path, "ab", 0)
    monkeypatch.setattr(module, "LIMIT", 2 * size)

    def prepare():
        shutil.rmtree(tmp_path)
        fill(module, tmp_path, "ab", 100)

    def work():
        with module.LatentCache(tmp_path) as cache:
            for name in "cd":
                cache.write(key(name), tensors())

    names = []
    for name, raised in errors(work, prepare):
        names.append(name)
        cache = module.LatentCache(tmp_path)
        found = {n: cache.read(key(n)) for n in "abcd"}
        assert not raised and not cache.damaged, names
        assert all(same(entry, tensors()) for entry in found.values() if entry is not None)
        # An error while writing ends the writing of this run, one while removing keeps old entries.
        kept = "".join(n for n, entry in found.items() if entry is not None)
        assert kept in ("ab", "bc", "cd", "acd", "bcd", "abc"), names
        assert len(files(cache)) == len(kept), names
    one = ["mkdir", "open", "write", "close", "replace", "unlink"]
    assert names == 2 * one + ["unlink", "unlink"]


# The bound


def fill(module, folder, names, age):
    """Entries that were last used `age` seconds ago."""
    with module.LatentCache(folder) as cache:
        for name in names:
            cache.write(key(name), tensors())
            path = folder / key(name)[:2] / f"{key(name)}.safetensors"
            os.utime(path, (time.time() - age,) * 2)
    return path.stat().st_size


def kept(folder, names):
    return [n for n in names if (folder / key(n)[:2] / f"{key(n)}.safetensors").exists()]


def test_what_was_not_used_for_longest_goes_first(tmp_path, monkeypatch):
    size = fill(module, tmp_path, "a", 400)
    fill(module, tmp_path, "b", 300)
    fill(module, tmp_path, "c", 200)
    monkeypatch.setattr(module, "LIMIT", 3 * size)
    with module.LatentCache(tmp_path) as cache:
        assert cache.read(key("a")) is not None  # now the youngest
    assert kept(tmp_path, "abc") == ["a", "b", "c"]  # nothing was written, so nothing had to go
    fill(module, tmp_path, "d", 0)
    assert kept(tmp_path, "abcd") == ["a", "c", "d"]


def test_what_a_run_used_stays_even_beyond_the_limit(tmp_path, monkeypatch):
    size = fill(module, tmp_path, "abc", 100)
    monkeypatch.setattr(module, "LIMIT", 2 * size)
    with module.LatentCache(tmp_path) as cache:
        cache.read(key("a"))
        for name in "de":
            cache.write(key(name), tensors())
    assert kept(tmp_path, "abcde") == ["a", "d", "e"]


def test_an_interrupted_run_keeps_the_limit_as_well(tmp_path, monkeypatch):
    size = fill(module, tmp_path, "abc", 100)
    monkeypatch.setattr(module, "LIMIT", 2 * size)
    with pytest.raises(KeyboardInterrupt), module.LatentCache(tmp_path) as cache:
        cache.write(key("d"), tensors())
        raise KeyboardInterrupt
    assert len(kept(tmp_path, "abc")) == 1 and kept(tmp_path, "d") == ["d"]


@links
def test_an_entry_that_vanishes_does_not_hide_the_rest_of_its_folder(tmp_path, monkeypatch):
    """A link to nothing looks like a file that another process removes between listing and asking."""
    size = fill(module, tmp_path, "a", 100)
    folder = tmp_path / key("a")[:2]
    for i in range(20):
        (folder / f"{i}.safetensors").symlink_to("nothing")
    monkeypatch.setattr(module, "LIMIT", size)
    with module.LatentCache(tmp_path) as cache:
        cache.write(key("b"), tensors())
    assert kept(tmp_path, "ab") == ["b"] and cache.size == size


def test_an_entry_of_a_clock_that_was_ahead_does_not_stay_for_ever(tmp_path, monkeypatch):
    size = fill(module, tmp_path, "a", -(10**8))
    fill(module, tmp_path, "b", 10**7)
    monkeypatch.setattr(module, "LIMIT", 2 * size)
    fill(module, tmp_path, "c", 0)
    assert kept(tmp_path, "abc") == ["b", "c"]


def test_a_smaller_limit_empties_the_cache_though_nothing_is_written(tmp_path):
    size = fill(module, tmp_path, "abc", 100)
    with module.LatentCache(tmp_path, 2 * size) as cache:
        assert cache.read(key("a")) is not None
    assert cache.size == 2 * size and len(kept(tmp_path, "abc")) == 2
    (use,) = cache.disk_use()
    assert use.startswith(f"Cache on disk: 0.0 MB, at most {2 * size / 1e9:.1f} GB. It lies in ")
    assert "/".join(tmp_path.parts[-3:]) in use and "cache_limit 0" in use
    with module.LatentCache(tmp_path, 0) as cache:
        assert cache.read(key("a")) is None
        cache.write(key("d"), tensors())
    assert kept(tmp_path, "abcd") == [] and cache.size == 0 and not cache.notices()


def test_an_entry_larger_than_any_picture_is_neither_written_nor_read(tmp_path, monkeypatch):
    size = fill(module, tmp_path, "a", 0)
    monkeypatch.setattr(module.limits, "CACHE_ENTRY", size - 1)
    cache = module.LatentCache(tmp_path)
    assert cache.read(key("a")) is None and cache.damaged == 1
    cache.write(key("b"), tensors())
    assert kept(tmp_path, "ab") == ["a"] and not cache.problem


def test_what_cannot_be_removed_does_not_keep_the_rest(tmp_path, monkeypatch):
    size = fill(module, tmp_path, "abc", 100)
    for stray in (tmp_path / ".DS_Store", tmp_path / "xy"):
        stray.write_bytes(b"no folder")
    unlink = os.unlink

    def refused(path):
        if key("b") in str(path):
            raise PermissionError("in use")
        unlink(path)

    monkeypatch.setattr(module.os, "unlink", refused)
    monkeypatch.setattr(module, "LIMIT", size)
    fill(module, tmp_path, "d", 0)
    assert kept(tmp_path, "abcd") == ["b", "d"]


def test_abandoned_temporary_files_go_and_young_ones_stay(tmp_path):
    fill(module, tmp_path, "a", 0)
    folder = tmp_path / key("a")[:2]
    old, young, foreign = (
        folder / name for name in (f".{1:032x}.tmp", f".{2:032x}.tmp", "notes.tmp")
    )
    for path in (old, young, foreign):
        path.write_bytes(b"half")
    for path in (old, foreign):
        os.utime(path, (time.time() - 2 * ABANDONED,) * 2)
    fill(module, tmp_path, "b", 0)
    assert [path.exists() for path in (old, young, foreign)] == [False, True, True]


def test_browsers_are_not_served_from_the_folder(tmp_path, monkeypatch):
    """ComfyUI's web API refuses users whose name begins with two underscores."""
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    folder = module.cache_folder()
    user = Path(folder).relative_to(tmp_path).parts[0]
    assert folder_paths.get_public_user_directory(user) is None
    assert folder_paths.get_public_user_directory("someone") is not None
