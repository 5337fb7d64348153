"""The memory in a folder: what was appended is read, whoever writes, reads or dies at the same time."""

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from mmd_pack.mmd_core.files import limits, memory_file, memory_part, tensor_file
from mmd_pack.mmd_core.files.memory_file import (
    KEPT,
    TRASH,
    append,
    disk_use,
    parts,
    recall,
    reset,
)
from mmd_tests.support.at_once import ROUNDS, at_once
from mmd_tests.support.crashes import deaths, errors
from mmd_tests.support.packages import TESTS
from safetensors import safe_open

SHAPE = (4, 3, 2)
PATIENCE = 1800  # seconds; then a process hangs
posix = pytest.mark.skipif(os.name == "nt", reason="needs signals and limits of POSIX")


def latents(values, shape=SHAPE):
    """One sample for each value."""
    return torch.stack([torch.full(shape, float(value)) for value in values])


def values(found):
    """What `latents` was given."""
    if found.latents is None:
        return []
    flat = found.latents.flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


def drafts(folder):
    return [path for path in folder.iterdir() if not path.name.endswith(".safetensors")]


def age(path):
    """Makes a draft so old that nobody still writes it."""
    os.utime(path, (time.time() - 2 * tensor_file.ABANDONED,) * 2)


class Clock:
    """The time in nanoseconds, later at each call, whatever the steps of the machine's clock.

    It is `wrong` by so many seconds.
    """

    def __init__(self):
        self.last, self.wrong = 0, 0

    def time_ns(self):
        self.last = max(self.last + 1, time.time_ns())
        return self.last + self.wrong * 10**9


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """What gives the parts of this process their times."""
    monkeypatch.setattr(memory_part, "time", Clock())
    return memory_part.time


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "place" / "memory"


def test_what_was_appended_is_recalled_to_the_last_bit(folder, rng):
    given = torch.randn(3, *SHAPE, generator=rng)
    given[0, 0, 0] = torch.tensor([-0.0, 1e-42])  # numbers that rounding would lose
    prompts = torch.randn(3, 5, generator=rng)
    append(folder, given, "SD15", prompts)
    found = recall(folder, 10, prompts=5)
    assert torch.equal(found.latents.view(torch.int32), given.view(torch.int32))
    assert torch.equal(found.prompts, prompts)
    assert found.kind == "SD15" and found.notices == ()
    assert recall(folder, 10).prompts is None  # not asked for


def test_what_is_not_there_is_an_empty_memory(folder):
    assert recall(folder, 10) == (None, None, "", ())
    assert parts(folder) == [] and reset(folder) == 0
    assert not folder.exists()


@pytest.mark.parametrize("shape", [(4, 7), (4, 3, 2), (16, 5, 3, 2), (2, 3, 2, 3, 2)])
def test_samples_of_images_videos_and_sound(folder, shape):
    append(folder, latents([1, 2], shape), "Wan21")
    assert values(recall(folder, 10, shape)) == [1, 2]


def test_strided_latents_of_half_precision_are_kept_as_numbers(folder, rng):
    given = torch.randn(2, 4, 6, 5, generator=rng).half().transpose(-1, -2)
    append(folder, given, "SD15")
    assert torch.equal(recall(folder, 10).latents, given.float())


def test_order_is_that_of_appending(folder):
    names = [append(folder, latents([i, i + 0.5]), "SD15") for i in range(12)]
    assert parts(folder) == sorted(names) and len(set(names)) == 12
    assert values(recall(folder, 100)) == [i / 2 for i in range(24)]


@pytest.mark.parametrize(
    "limit, expected", [(1, [5]), (2, [4, 5]), (4, [2, 3, 4, 5]), (9, range(6))]
)
def test_the_newest_samples_count(folder, limit, expected):
    append(folder, latents([0, 1, 2]), "SD15")
    append(folder, latents([3, 4, 5]), "SD15")
    assert values(recall(folder, limit)) == list(expected)


def test_old_parts_are_removed_beyond_what_is_kept(folder, monkeypatch):
    monkeypatch.setattr(memory_file, "KEPT", 5)
    for i in range(8):
        append(folder, latents([2 * i, 2 * i + 1]), "SD15", limit=2)
    assert values(recall(folder, 100)) == [
        10,
        11,
        12,
        13,
        14,
        15,
    ]  # whole parts: 6 are the first ≥ 5
    for i in range(8, 12):
        append(folder, latents([2 * i, 2 * i + 1]), "SD15", limit=10)  # who wants more keeps more
    assert values(recall(folder, 100)) == list(range(14, 24))


def test_reset_forgets_all_and_nothing_else(folder):
    append(folder, latents([1, 2]), "SD15")
    append(folder, latents([3]), "SD15")
    below = folder / "another"
    append(below, latents([4]), "SD15")
    (folder / "notes.txt").write_text("mine")
    assert reset(folder) == 3
    assert recall(folder, 10).latents is None and values(recall(below, 10)) == [4]
    assert (folder / "notes.txt").read_text() == "mine"


def test_what_was_forgotten_stays_in_the_trash_until_the_next_reset(folder):
    names = [append(folder, latents([value]), "SD15") for value in (1, 2)]
    size = sum((folder / name).stat().st_size for name in names)
    assert disk_use(folder) == (size, 0)
    reset(folder)
    assert disk_use(folder) == (0, size) and values(recall(folder / TRASH, 10)) == [1, 2]
    new = append(folder, latents([3]), "SD15")
    os.replace(folder / TRASH / names[1], folder / names[1])  # somebody wants it back
    assert values(recall(folder, 10)) == [2, 3]
    (folder / TRASH / "notes.txt").write_text("mine")
    assert reset(folder) == 2
    assert sorted(os.listdir(folder / TRASH)) == sorted([names[1], new, "notes.txt"])
    assert reset(folder) == 0 and os.listdir(folder / TRASH) == ["notes.txt"]


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_a_trash_that_leads_elsewhere_is_not_followed(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    precious = append(elsewhere, latents([1]), "SD15")
    append(folder, latents([2]), "SD15")
    (folder / TRASH).symlink_to(elsewhere, target_is_directory=True)
    assert reset(folder) == 1
    assert os.listdir(elsewhere) == [precious] and values(recall(folder / TRASH, 10)) == [2]


# Clocks, names that lie, and samples of several kinds


@pytest.mark.parametrize("wrong", [3600, -3600, 10 * 365 * 86400])
def test_the_newest_images_survive_a_clock_that_is_wrong(folder, clock, monkeypatch, wrong):
    """One machine draws with a wrong clock, and then another one with a right clock."""
    monkeypatch.setattr(memory_file, "KEPT", 20)
    clock.wrong = wrong
    for value in range(30):
        append(folder, latents([value]), "SD15")
    clock.wrong = 0
    for value in range(30, 60):
        append(folder, latents([value]), "SD15")
        assert values(recall(folder, 4))[-1] == value
    found = recall(folder, 100)
    assert values(found) == list(range(40, 60))
    if wrong < 0:
        assert not found.notices
    else:
        assert f"time in the future: 20, the last by {wrong // 60} minutes" in found.notices[0]
        assert "Set the clocks" in found.notices[0]


def test_machines_with_different_clocks_take_turns(folder, clock):
    for value, wrong in enumerate([0, 86400, -86400, 5, 0, -3600, 3600] * 3):
        clock.wrong = wrong
        append(folder, latents([value]), "SD15")
    assert values(recall(folder, 100)) == list(range(21))


def renamed(folder, name, order=None, count=None):
    """Gives a part another name; the new one."""
    new = f"{name[:20] if order is None else f'{order:020d}'}_"
    new += f"{name[21:26] if count is None else f'{count:05d}'}{name[26:]}"
    os.replace(folder / name, folder / new)
    return new


def test_a_name_that_claims_many_samples_costs_no_other_part(folder, monkeypatch):
    monkeypatch.setattr(memory_file, "KEPT", 5)
    renamed(folder, append(folder, latents([0]), "SD15"), count=99999)
    for value in range(1, 5):
        append(folder, latents([value]), "SD15")
    assert values(recall(folder, 100)) == [0, 1, 2, 3, 4]
    renamed(folder, parts(folder)[-1], count=99999)
    append(folder, latents([5]), "SD15")
    assert values(recall(folder, 100)) == [1, 2, 3, 4, 5] and reset(folder) == 5


def test_a_name_with_the_last_time_of_all_costs_no_new_part(folder, monkeypatch):
    """The parts of one call stay, whatever other names say."""
    monkeypatch.setattr(memory_file, "KEPT", 3)
    for value in range(3):
        name = append(folder, latents([value]), "SD15")
        renamed(folder, name, order=memory_part.MAX_ORDER - value)
    for value in range(3, 6):
        append(folder, latents([value]), "SD15")
        assert value in values(recall(folder, 100))
    beyond = renamed(folder, parts(folder)[0], order=memory_part.MAX_ORDER + 1)
    assert beyond not in parts(folder) and beyond in recall(folder, 100).notices[0]


def test_each_kind_of_samples_keeps_its_newest(folder, monkeypatch):
    """Another size, latent format or text encoder evicts nothing."""
    monkeypatch.setattr(memory_file, "KEPT", 3)
    groups = [
        (SHAPE, "SD15", None), ((4, 2, 3), "SD15", None), (SHAPE, "SDXL", None), (SHAPE, "SD15", 5),
    ]  # fmt: skip
    for value in range(20):
        shape, kind, width = groups[0 if value == 0 else value % len(groups)]
        features = None if width is None else torch.ones(1, width)
        append(folder, latents([value], shape), kind, features)
    assert values(recall(folder, 9, (4, 2, 3), "SD15")) == [9, 13, 17]
    assert values(recall(folder, 9, SHAPE, "SDXL")) == [10, 14, 18]
    assert values(recall(folder, 9, SHAPE, "SD15", 5)) == [11, 15, 19]
    assert values(recall(folder, 9, SHAPE, "SD15")) == [8, 11, 12, 15, 16, 19]


# Limits


def test_a_memory_has_a_limit_on_disk(folder, monkeypatch):
    """The oldest parts go first, of any kind, but never the new ones."""
    size = (folder / append(folder, latents([0]), "SD15")).stat().st_size
    monkeypatch.setattr(limits, "MEMORY_DISK", 3 * size)
    append(folder, latents([1], (4, 2, 3)), "SD15")
    for value in (2, 3, 4):
        append(folder, latents([value]), "SD15")
    assert values(recall(folder, 9)) == [2, 3, 4] and disk_use(folder)[0] == 3 * size
    monkeypatch.setattr(limits, "MEMORY_DISK", 1)
    append(folder, latents([5]), "SD15")
    assert values(recall(folder, 9)) == [5]


def test_a_batch_that_is_too_large_for_a_part_makes_several(folder, monkeypatch):
    prompts = torch.arange(5.0)[:, None]
    monkeypatch.setattr(limits, "PART", 4 * 2 * (24 + 1))  # two samples with their prompts
    append(folder, latents(range(5)), "SD15", prompts)
    found = recall(folder, 9, prompts=1)
    assert len(parts(folder)) == 3 and values(found) == [0, 1, 2, 3, 4]
    assert torch.equal(found.prompts, prompts)
    monkeypatch.setattr(limits, "PART", 4 * 24)
    with pytest.raises(ValueError, match="1 of them take"):
        append(folder, latents([9]), "SD15", torch.ones(1, 1))
    assert "damaged" in recall(folder, 9).notices[0]  # as if a stranger had made these parts


def test_all_samples_that_are_read_at_once_have_a_limit(folder, monkeypatch):
    for value in range(4):
        append(folder, latents([value]), "SD15")
    monkeypatch.setattr(limits, "RECALLED", 4 * 24 * 2)
    found = recall(folder, 9)
    assert values(found) == [2, 3] and "count: 2 (with the newer ones" in found.notices[0]


def test_what_a_header_claims_is_compared_with_the_file_before_it_is_read(folder, monkeypatch):
    name = append(folder, latents([1]), "SD15")
    whole = (folder / name).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    about = json.loads(whole[8 : 8 + length])
    monkeypatch.setattr(memory_part, "read_tensors", None)  # nothing is read
    for samples, size in ((2**24, len(whole)), (2**24, 2**33), (1, 2**33)):
        about["latents"]["shape"][0] = samples
        about["latents"]["data_offsets"] = [0, samples * 96]
        header = json.dumps(about).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(folder / name, size)
        assert "damaged" in recall(folder, 9).notices[0]


def test_any_program_can_read_a_part(folder, clock):
    before = clock.time_ns()
    name = append(folder, latents([1, 2]), "SDXL", torch.ones(2, 3))
    after = clock.time_ns()
    assert re.fullmatch(r"\d{20}_00002_[0-9a-f]{32}\.safetensors", name)
    assert before <= int(name[:20]) <= after
    with safe_open(folder / name, "pt") as file:
        about = file.metadata()
        assert set(file.keys()) == {"latents", "prompts"}
        assert torch.equal(file.get_tensor("latents"), latents([1, 2]))
    assert {k: about[k] for k in ("format", "version", "kind")} == {
        "format": "mmd_memory", "version": "1", "kind": "SDXL",
    }  # fmt: skip


# What does not count


def test_samples_of_another_shape_do_not_count(folder):
    append(folder, latents([1, 2]), "SD15")
    append(folder, latents([3], (4, 2, 3)), "SD15")
    append(folder, latents([4]), "SD15")
    found = recall(folder, 10, SHAPE, "SD15")
    assert values(found) == [1, 2, 4]
    assert found.notices == (
        "Remembered images that do not count: 1 (their latents are 4×2×3, those being drawn 4×3×2).",
    )
    assert values(recall(folder, 2, SHAPE)) == [2, 4]  # `limit` is of those that count


def test_samples_of_another_latent_format_do_not_count(folder):
    append(folder, latents([1, 2]), "SD15")
    append(folder, latents([3]), "SDXL")
    found = recall(folder, 10, SHAPE, "SDXL")
    assert values(found) == [3]
    assert found.notices == (
        "Remembered images that do not count: 2 (they are latents of SD15, those being drawn of SDXL).",
    )


def test_nobody_asked_for_a_shape_gets_that_of_the_newest(folder):
    append(folder, latents([1, 2]), "SD15")
    append(folder, latents([3], (4, 2, 3)), "SDXL")
    found = recall(folder, 10)
    assert values(found) == [3] and found.kind == "SDXL" and "count: 2 (" in found.notices[0]


def test_samples_without_the_prompts_asked_for_do_not_count(folder):
    append(folder, latents([1, 2]), "SD15")
    append(folder, latents([3]), "SD15", torch.ones(1, 5))
    append(folder, latents([4, 5]), "SD15", torch.ones(2, 6))
    found = recall(folder, 10, prompts=6)
    assert values(found) == [4, 5] and found.prompts.shape == (2, 6)
    first, second = found.notices
    assert "count: 1 (" in first and "text encoder" in first
    assert "count: 2 (" in second and "without a prompt kernel" in second
    assert values(recall(folder, 10)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("given, match", [
    ((torch.full((1, *SHAPE), torch.nan), "SD15"), "NaN"),
    ((torch.full((1, *SHAPE), torch.inf), "SD15"), "NaN or infinite"),
    ((latents([1]), "SD15", torch.full((1, 3), torch.nan)), "NaN"),
    ((torch.zeros(3, 4), "SD15"), "shape"),
    ((torch.zeros(0, 4, 3, 2), "SD15"), "empty"),
    ((latents([1]), "../SD15"), "latent format"),
    ((latents([1, 2]), "SD15", torch.ones(1, 3)), "prompt features"),
])  # fmt: skip
def test_what_could_not_be_read_is_not_written(folder, given, match):
    with pytest.raises(ValueError, match=match):
        append(folder, *given)
    assert not folder.exists()


# Damage


def test_a_flip_of_any_byte_leaves_the_part_out_and_no_other(folder):
    append(folder, latents([1]), "SD15")
    name = append(folder, latents([2]), "SD15", torch.ones(1, 2))
    append(folder, latents([3]), "SD15")
    path, whole = folder / name, (folder / name).read_bytes()
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= random.Random(i).choice([1, 2, 4, 8, 16, 32, 64, 128])
        path.write_bytes(damaged)
        found = recall(folder, 10, SHAPE, "SD15")
        # What safetensors pads the header with holds nothing.
        same = whole[i : i + 1] == b" " and values(found) == [1, 2, 3]
        assert same or (values(found) == [1, 3] and len(found.notices) == 1), i
    path.write_bytes(whole)
    assert values(recall(folder, 10)) == [1, 2, 3]


def test_a_part_of_a_part_is_left_out_and_named(folder):
    name = append(folder, latents([1]), "SD15")
    append(folder, latents([2]), "SD15")
    whole = (folder / name).read_bytes()
    for length in range(0, len(whole), 7):
        (folder / name).write_bytes(whole[:length])
        found = recall(folder, 10)
        assert values(found) == [2] and name in found.notices[0] and "damaged" in found.notices[0]
    (folder / name).write_bytes(whole + b"\0")
    assert values(recall(folder, 10)) == [2]


def rewritten(path, **changes):
    """Writes the file with other metadata, and a digest that fits it."""
    with safe_open(path, "pt") as file:
        about = {k: v for k, v in file.metadata().items() if k != "digest"} | changes
        stored = {n: (file.get_tensor(n), file.get_tensor(n).dtype) for n in file.keys()}  # noqa: SIM118
    tensor_file.write_whole(path, tensor_file.file_bytes(about, stored))


@pytest.mark.parametrize("changes, told", [
    ({"version": "2"}, "newer version"), ({"format": "mmd_references"}, "damaged"),
    ({"kind": "\x1b[31m"}, "damaged"),
])  # fmt: skip
def test_foreign_parts_are_left_out(folder, changes, told):
    name = append(folder, latents([1]), "SD15")
    append(folder, latents([2]), "SD15")
    rewritten(folder / name)
    assert values(recall(folder, 10)) == [1, 2]
    rewritten(folder / name, **changes)
    found = recall(folder, 10)
    assert values(found) == [2] and told in found.notices[0] and "\x1b" not in found.notices[0]


def test_foreign_files_are_named_and_kept(folder, monkeypatch):
    name = append(folder, latents([1]), "SD15")
    foreign = ["\x1bred.safetensors", "a.safetensors", "b.safetensors", "c.safetensors"]
    for file in foreign:
        (folder / file).write_bytes((folder / name).read_bytes())
    (folder / "notes.txt").write_text("mine")
    found = recall(folder, 10)
    assert values(found) == [1] and len(found.notices) == 1
    assert "\ufffdred.safetensors (no part of a memory)" in found.notices[0]
    assert found.notices[0].endswith("and 1 more.") and "notes" not in found.notices[0]
    reset(folder)
    assert {path.name for path in folder.iterdir()} == {*foreign, "notes.txt", TRASH}


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_links_are_not_followed(folder, tmp_path):
    name = append(folder, latents([1]), "SD15")
    os.replace(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert recall(folder, 10).latents is None and parts(folder) == []
    reset(folder)
    assert (tmp_path / name).exists()


def test_a_header_that_lies_about_its_length_or_shape_is_refused(folder):
    name = append(folder, latents([1]), "SD15")
    whole = (folder / name).read_bytes()
    for size in (2**63, 2**40, 0, 1):
        (folder / name).write_bytes(size.to_bytes(8, "little") + whole[8:])
        assert recall(folder, 10).latents is None
    size = int.from_bytes(whole[:8], "little")
    about = json.loads(whole[8 : 8 + size])
    for shape in (
        [],
        [1],
        [2**40, 1, 1],
        ["1", 4, 3, 2],
        [True, 4, 3, 2],
        [-1, -4, 3, 2],
        [1, 4, 3, 0],
    ):
        about["latents"]["shape"] = shape
        header = json.dumps(about).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + size :])
        found = recall(folder, 10)
        assert found.latents is None and "damaged" in found.notices[0]


def test_parts_that_vanish_while_they_are_read_are_reported(folder, monkeypatch):
    for i in range(3):
        append(folder, latents([i]), "SD15")
    listed = parts(folder)
    original = memory_file.read_part

    def vanishing(path, *rest):
        if path.name == listed[1]:
            path.unlink()
        return original(path, *rest)

    monkeypatch.setattr(memory_file, "read_part", vanishing)
    found = recall(folder, 10)
    assert values(found) == [0, 2]
    assert found.notices == ("Files of the memory that were removed while it was read: 1.",)


def test_a_memory_that_cannot_be_read_is_an_error(folder, monkeypatch):
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    for action in (lambda: recall(folder, 10), lambda: parts(folder), lambda: reset(folder)):
        with pytest.raises(NotADirectoryError):
            action()
    folder.unlink()
    append(folder, latents([1]), "SD15")

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(memory_file, "read_part", refused)
    with pytest.raises(PermissionError):
        recall(folder, 10)


# Writers that fail or die


def test_drafts_of_dead_writers_go_after_a_day_and_young_ones_stay(folder):
    append(folder, latents([1]), "SD15")
    old, young, mine = (folder / name for name in (f".{1:032x}.tmp", f".{2:032x}.tmp", "mine.tmp"))
    for action in (lambda: append(folder, latents([2]), "SD15"), lambda: reset(folder)):
        for path in (old, young, mine):
            path.write_bytes(b"half")
        for path in (old, mine):
            os.utime(path, (time.time() - 1.1 * tensor_file.ABANDONED,) * 2)
        action()
        assert [path.exists() for path in (old, young, mine)] == [False, True, True]


def test_what_cannot_be_tidied_does_not_cost_the_part(folder, monkeypatch):
    append(folder, latents([1]), "SD15")

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(memory_file, "parts", refused)
    append(folder, latents([2]), "SD15")
    assert values(recall(folder, 10)) == [1, 2]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_leaves_what_was_there_and_no_rest(folder, name, monkeypatch):
    append(folder, latents([1]), "SD15")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, name, full)
        append(folder, latents([2]), "SD15")
    assert values(recall(folder, 10)) == [1] and not drafts(folder)


WORKER = """
import sys
sys.path.insert(0, {tests!r})
import support.packages
import torch
from pathlib import Path
from mmd_pack.mmd_core.files import memory_part
from mmd_pack.mmd_core.files.memory_file import append, recall, reset
from mmd_tests.test_core.files.test_memory_file import Clock, latents
memory_part.time = Clock()
folder = Path({folder!r})
print("ready", flush=True)
sys.stdin.readline()
"""


def worker(folder, script, **options):
    """A process that runs `script` once it gets a line."""
    text = WORKER.format(tests=str(TESTS), folder=str(folder)) + script
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, **options,
    )  # fmt: skip
    return process


def start(process):
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


@posix
def test_a_disk_that_is_full_costs_nothing_that_was_there(folder):
    """A real limit: the system cuts the file off in the middle of a write."""
    append(folder, latents([1]), "SD15")
    process = worker(
        folder,
        """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
append(folder, latents([2]), "SD15")
for shape in ((16, 30, 30), (16, 300, 300)):
    try:
        append(folder, latents([3], shape), "SD15")
        print("written")
    except OSError as error:
        print(type(error).__name__, error.errno)
append(folder, latents([4]), "SD15")
""",
    )
    out, _ = process.communicate("go\n", timeout=PATIENCE)
    assert out.split("\n")[1:-1] == [f"OSError {errno.EFBIG}"] * 2 and process.returncode == 0
    assert values(recall(folder, 10)) == [1, 2, 4] and not drafts(folder)


def test_many_writers_and_readers_at_once(folder):
    """Four processes append and two read: nothing is lost, and nobody ever sees half a part."""
    n = 30
    writing = """
for i in range({n}):
    append(folder, latents([{w} * 1000 + i] * (1 + i % 3)), "SD15")
"""
    reading = """
seen, reads = 0, 0
while seen < {total}:
    found = recall(folder, 4000)
    assert not found.notices, found.notices
    if found.latents is not None:
        flat = found.latents.flatten(1)
        assert (flat == flat[:, :1]).all()
        assert len(flat) >= seen  # what was there stays
        seen = len(flat)
    reads += 1
print(reads)
"""
    total = 4 * sum(1 + i % 3 for i in range(n))
    workers = [worker(folder, writing.format(n=n, w=w)) for w in range(4)]
    workers += [worker(folder, reading.format(total=total)) for _ in range(2)]
    for process in workers:
        start(process)
    outs = [process.communicate(timeout=PATIENCE)[0] for process in workers]
    assert all(process.returncode == 0 for process in workers)
    assert all(int(out) > 0 for out in outs[4:])
    expected = sorted(w * 1000 + i for w in range(4) for i in range(n) for _ in range(1 + i % 3))
    found = values(recall(folder, 4000))
    assert sorted(found) == expected and not drafts(folder)
    for w in range(4):  # each writer's own order is kept
        mine = [value for value in found if value // 1000 == w]
        assert mine == sorted(mine)


def test_writers_readers_and_resets_do_not_disturb_each_other(folder):
    writing = """
for i in range(40):
    append(folder, latents([i]), "SD15")
"""
    mixed = """
for i in range(40):
    found = recall(folder, 4000)
    assert all("were removed" in notice for notice in found.notices), found.notices
    if i % 10 == 9:
        reset(folder)
"""
    workers = [worker(folder, writing) for _ in range(2)] + [
        worker(folder, mixed) for _ in range(2)
    ]
    for process in workers:
        start(process)
    for process in workers:
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    append(folder, latents([1]), "SD15")
    assert values(recall(folder, 4000))[-1] == 1 and not recall(folder, 4000).notices


@posix
def test_a_writer_that_is_killed_at_any_step_leaves_whole_parts_alone(folder, monkeypatch):
    """Of 1, 2, 3 and then 4 and 5, the newest three samples are kept."""
    monkeypatch.setattr(memory_file, "KEPT", 3)

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        for value in (1, 2, 3):
            append(folder, latents([value]), "SD15")
        old = folder / f".{1:032x}.tmp"
        old.write_bytes(b"half")
        age(old)

    for steps in deaths(lambda: append(folder, latents([4, 5]), "SD15"), prepare):
        there = [1, 2, 3, 4, 5] if "replace" in steps[:-1] else [1, 2, 3]
        found = recall(folder, 3)
        assert values(found) == there[-3:] and not found.notices, steps
        assert set(there[-3:]) <= set(values(recall(folder, 100))) <= set(there), steps
        for draft in drafts(folder):
            age(draft)
        append(folder, latents([6]), "SD15")  # the next writer tidies
        assert values(recall(folder, 100)) == [*there[-2:], 6] and not drafts(folder), steps
    assert steps == [
        "mkdir", "open", "write", "write", "flush", "fsync", "close", "replace",
        "unlink",  # the draft, which has its name by now
        "fsync",  # the folder
        "unlink", "unlink", "unlink",  # the old draft and two old parts
    ]  # fmt: skip
    assert values(recall(folder, 100)) == [3, 4, 5] and not drafts(folder)


@posix
def test_a_writer_that_fails_at_any_step_adds_nothing_or_says_nothing(folder, monkeypatch):
    monkeypatch.setattr(memory_file, "KEPT", 3)

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        for value in (1, 2, 3):
            append(folder, latents([value]), "SD15")

    names = []
    for name, raised in errors(lambda: append(folder, latents([4, 5]), "SD15"), prepare):
        names.append(name)
        there = [1, 2, 3] if raised else [3, 4, 5]
        assert values(recall(folder, 3)) == there and not drafts(folder), names
    assert len(names) == 12


@posix
@pytest.mark.parametrize("stopped", [deaths, errors])
def test_a_reset_that_stops_at_any_step_loses_nothing(folder, stopped):
    """What is not in the memory is in the trash, and the next reset moves the rest."""

    def prepare():
        shutil.rmtree(folder, ignore_errors=True)
        append(folder, latents([0]), "SD15")
        reset(folder)
        for value in (1, 2, 3):
            append(folder, latents([value]), "SD15")

    stops = 0
    for _ in stopped(lambda: reset(folder), prepare):
        stops += 1
        found = values(recall(folder, 9)) + values(recall(folder / TRASH, 9))
        assert set(found) - {0} == {1, 2, 3} and not drafts(folder)[1:]
        names = parts(folder)
        reset(folder)
        assert parts(folder) == [] and set(parts(folder / TRASH)) == set(names)
    assert stops == 5  # to remove one part, to make the trash that is there, to move three


@posix
@pytest.mark.parametrize("rounds", ROUNDS)
def test_appends_of_machines_with_different_clocks_lose_nothing(folder, clock, rounds):
    def work(process, turn):
        clock.wrong = (0, 3600, -3600, 86400)[process]
        append(folder, latents([1000 * process + turn]), "SD15")

    assert len(at_once(work, rounds)) == 4 * rounds
    found = values(recall(folder, 4000))
    assert len(found) == 4 * rounds and not drafts(folder)
    for process in range(4):  # each writer's own order is kept
        mine = [value % 1000 for value in found if value // 1000 == process]
        assert mine == list(range(rounds))
    # Rounds follow each other in the memory as they did in time.
    assert [value % 1000 for value in found] == [turn for turn in range(rounds) for _ in range(4)]


@posix
def test_the_first_writer_may_be_killed_as_well(folder):
    def append_one():
        append(folder, latents([1]), "SD15")

    for steps in deaths(append_one, lambda: shutil.rmtree(folder.parent, ignore_errors=True)):
        found = recall(folder, 10)
        assert values(found) == [1] * ("replace" in steps[:-1]) and not found.notices, steps
    assert steps[:4] == ["mkdir", "mkdir", "mkdir", "open"]  # the first one needs its parent
    assert values(recall(folder, 10)) == [1]


def test_kept_is_more_than_the_default_limit():
    assert KEPT >= 256
