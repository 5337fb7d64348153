"""Files that appear complete or not at all, and new files that take the place of no other."""

import errno
import os

import pytest
from mmd_pack.mmd_core.files import tensor_file
from mmd_pack.mmd_core.files.tensor_file import write_new, write_whole
from mmd_tests.support.at_once import ROUNDS, at_once
from mmd_tests.support.crashes import deaths, errors

posix = pytest.mark.skipif(os.name == "nt", reason="needs forks of POSIX")
CONTENT = [b"first", b"second"]
WHOLE = b"".join(CONTENT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "place" / "file"


@pytest.fixture(params=["links", "refused links", "no links"])
def links(request, monkeypatch):
    """File systems with hard links, those without, and systems that know none."""

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if request.param == "refused links":
        monkeypatch.setattr(os, "link", refused)
    if request.param == "no links":
        monkeypatch.delattr(os, "link", raising=False)
    return request.param


def fresh(path):
    """An empty folder for the file."""
    path.parent.mkdir(exist_ok=True)
    for old in path.parent.iterdir():
        old.unlink()


def test_a_new_file_takes_the_place_of_nothing(path, links):
    fresh(path)
    write_new(path, CONTENT)
    assert path.read_bytes() == WHOLE
    with pytest.raises(FileExistsError):
        write_new(path, [b"other"])
    folder = path.with_name("folder")
    folder.mkdir()
    with pytest.raises(FileExistsError):
        write_new(folder, CONTENT)
    assert path.read_bytes() == WHOLE and set(path.parent.iterdir()) == {path, folder}


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_a_new_file_is_not_written_through_a_link(path, links):
    fresh(path)
    path.symlink_to("nothing")
    with pytest.raises(FileExistsError):
        write_new(path, CONTENT)
    assert os.listdir(path.parent) == [path.name]


def test_a_new_file_that_cannot_be_written_leaves_nothing(path, links, monkeypatch):
    fresh(path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync" if links == "links" else "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_new(path, CONTENT)
    assert not list(path.parent.iterdir())


@posix
@pytest.mark.parametrize("rounds", ROUNDS)
def test_of_many_that_take_one_name_one_gets_it(path, links, rounds):
    fresh(path)

    def work(process, turn):
        try:
            write_new(path.with_name(str(turn)), [str(process).encode() * 9])
            return True
        except FileExistsError:
            return False

    found = at_once(work, rounds)
    assert len(found) == 4 * rounds
    for turn in range(rounds):
        (winner,) = (process for process, t, won in found if t == turn and won)
        assert path.with_name(str(turn)).read_text() == str(winner) * 9
    assert len(os.listdir(path.parent)) == rounds


@posix
@pytest.mark.parametrize("write", [write_new, write_whole])
def test_a_writer_that_is_killed_at_any_step_leaves_the_whole_file_or_none(path, write):
    final = "link" if write is write_new else "replace"
    for steps in deaths(lambda: write(path, CONTENT), lambda: fresh(path)):
        named = final in steps[:-1]
        assert path.exists() == named and (not named or path.read_bytes() == WHOLE), steps
    assert steps == ["open", "write", "write", "flush", "fsync", "close", final, "unlink", "fsync"]


@posix
@pytest.mark.parametrize("write", [write_new, write_whole])
def test_an_error_at_any_step_is_raised_unless_the_file_is_there(path, write):
    names = []
    for name, raised in errors(lambda: write(path, CONTENT), lambda: fresh(path)):
        names.append(name)
        assert path.exists() != raised and (raised or path.read_bytes() == WHOLE), names
        drafts = [file for file in path.parent.iterdir() if file != path]
        assert len(drafts) == (name == "unlink" and write is write_new), names
    assert len(names) == 9


@posix
def test_without_links_a_death_can_leave_a_reserved_name_and_never_half_a_file(path, monkeypatch):
    monkeypatch.delattr(os, "link")
    for steps in deaths(lambda: write_new(path, CONTENT), lambda: fresh(path)):
        reserved, named = steps[:-1].count("open") == 2, "replace" in steps[:-1]
        assert path.exists() == reserved and (not reserved or path.read_bytes() == WHOLE * named)
    assert steps.count("open") == 2 and "replace" in steps


def test_drafts_are_old_by_the_clock_of_their_drive(path, monkeypatch):
    """The clock of this machine may be days ahead of that of a network drive."""
    fresh(path)
    draft = path.with_name(f".{1:032x}.tmp")
    draft.write_bytes(b"half")
    now = draft.stat().st_mtime
    monkeypatch.setattr(tensor_file.time, "time", lambda: now + 3 * tensor_file.ABANDONED)
    write_whole(path, CONTENT)
    assert draft.exists()
    os.utime(draft, (now - 2 * tensor_file.ABANDONED,) * 2)
    write_new(path.with_name("another"), CONTENT)
    assert not draft.exists()
