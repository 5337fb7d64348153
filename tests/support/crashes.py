"""Stops a writer at each of its steps in turn, so that a test sees what every death or error leaves on the disk.

A step is what the writer asks of the file system: to make a folder, to open a file for writing, to write, flush,
synchronize and close it, to link, rename or remove it. The writer runs in a forked process. SIGKILL ends it right before
a step, or in the middle of a write; or the step fails, as on a full disk. No chance and no clock decides where.
"""

import errno
import itertools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import BinaryIO

import torch
from mmd_pack.mmd_core.files import tensor_file

EVENTS = {  # audit events
    "os.mkdir": "mkdir",
    "os.link": "link",
    "os.rename": "replace",
    "os.remove": "unlink",
}
CALLS = ((os, "fsync"),)  # no audit event tells of these
KILLED, RAISED, RETURNED = "killed", "raised", "returned"  # how a child ends
PATIENCE = 1800  # seconds; a child that takes longer hangs

Watched = Iterable[tuple[object, str]]  # functions: what holds each, and its name


def deaths(
    work: Callable[[], object],
    prepare: Callable[[], object] = lambda: None,
    files: Iterable[ModuleType] = (tensor_file,),
    calls: Watched = CALLS,
) -> Iterator[list[str]]:
    """Runs `work` again and again: it dies at its first step, then at its second one, and so on until it survives.

    Arguments:
        work: Takes the same steps each time.
        prepare: Called before each `work`; its steps do not count.
        files: Modules whose files are watched: `write`, `flush` and `close` are steps.
        calls: Functions of which each call is a step.

    Yields:
        After each death, the names of the steps. All but the last one are done; a `write` that is last is half done.
    """
    for steps, end in _stopped(work, prepare, files, calls, _die):
        if end != KILLED:
            assert end == RETURNED, "the writer failed by itself"
            return
        yield steps


def errors(
    work: Callable[[], object],
    prepare: Callable[[], object] = lambda: None,
    files: Iterable[ModuleType] = (tensor_file,),
    calls: Watched = CALLS,
) -> Iterator[tuple[str, bool]]:
    """Runs `work` again and again: its first step fails with an OSError, then its second one, and so on.

    Arguments: As in `deaths`. `work` goes on after the error as it likes, and its further steps succeed.

    Yields:
        After each run, the name of the step that failed, and whether `work` raised the error.
    """
    for number, (steps, end) in enumerate(_stopped(work, prepare, files, calls, _fail)):
        if len(steps) == number:  # no step was left to fail
            assert end == RETURNED, "the writer failed by itself"
            return
        yield steps[number], end == RAISED


def _stopped(
    work: Callable[[], object],
    prepare: Callable[[], object],
    files: Iterable[ModuleType],
    calls: Watched,
    stop: Callable[[], None],
) -> Iterator[tuple[list[str], str]]:
    """Runs `work` with a `stop` at each of its steps in turn: yields the steps that it took, and how it ended."""
    before: list[str] = []
    for number in itertools.count():
        prepare()
        steps, end = _in_child(lambda steps: _watched(work, steps, files, calls), number, stop)
        assert steps[:number] == before, "the writer took other steps than before"
        yield steps, end
        before = steps[: number + 1]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class Steps:
    """The steps of the writer in this process, with a `stop` at the one after `survived` steps."""

    def __init__(self, survived: int, pipe: int, stop: Callable[[], None]):
        self.left, self.pipe, self.stop = survived, pipe, stop

    def reach(self, name: str, half: Callable[[], None] = lambda: None) -> None:
        """Called before the step `name`; `half` does half of it."""
        os.write(self.pipe, f"{name}\n".encode())
        self.left -= 1
        if self.left == -1:
            half()
            self.stop()


class WatchedFile:
    """A file for writing. Each call is a step."""

    def __init__(self, file: BinaryIO, steps: Steps):
        self.file, self.steps = file, steps
        self.fileno = file.fileno

    def write(self, data: bytes) -> int:
        self.steps.reach("write", lambda: self._write_half(data))
        return self.file.write(data)

    def flush(self) -> None:
        self.steps.reach("flush")
        self.file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.steps.reach("close", self.file.close)
        self.file.close()

    def _write_half(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()


def _in_child(
    run: Callable[[Steps], None], survived: int, stop: Callable[[], None]
) -> tuple[list[str], str]:
    """Forks a process for `run`. Returns the steps that it took, and how it ended."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads hold none of its locks
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(PATIENCE)
            torch.set_num_threads(1)  # a fork has none of its parent's threads
            try:
                run(Steps(survived, writing, stop))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                os.write(writing, f"{RAISED}\n".encode())
            else:
                os.write(writing, f"{RETURNED}\n".encode())
            os._exit(0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:  # whatever is raised, the child never runs the tests of its parent
            os._exit(1)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        steps = pipe.read().split()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the writer failed by itself ({status})"
    return (steps, KILLED) if status else (steps[:-1], steps[-1])


def _watched(
    work: Callable[[], object], steps: Steps, files: Iterable[ModuleType], calls: Watched
) -> None:
    """Runs `work` in a child, which ends with it: what is changed here is never changed back."""
    for module in files:
        module.open = _opener(steps)
    for holder, name in calls:
        setattr(holder, name, _step(steps, name, getattr(holder, name)))

    def heard(event: str, about: tuple) -> None:
        if event in EVENTS:
            steps.reach(EVENTS[event])
        elif event == "open" and about[2] & (os.O_WRONLY | os.O_RDWR):
            steps.reach("open")

    sys.addaudithook(heard)
    work()


def _opener(steps: Steps) -> Callable:
    def opened(path, mode="r", **options):
        file = open(path, mode, **options)  # noqa: SIM115
        return file if "r" in mode else WatchedFile(file, steps)

    return opened


def _step(steps: Steps, name: str, function: Callable) -> Callable:
    def call(*args, **options):
        steps.reach(name)
        return function(*args, **options)

    return call
