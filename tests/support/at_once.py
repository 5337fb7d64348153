"""Several processes that do the same thing at the same moment, again and again (POSIX only)."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch

ROUNDS = [50, pytest.param(250, marks=pytest.mark.long)]  # with four processes, a thousand calls
PATIENCE = 1800  # seconds; a process that takes longer hangs


def at_once(
    work: Callable[[int, int], Any], rounds: int, processes: int = 4
) -> list[tuple[int, int, Any]]:
    """Calls `work(process, round)`; all processes begin a round together.

    Returns:
        The process, the round and the result of each call. Results are pickled.
    """
    context = multiprocessing.get_context("fork")
    barrier, ends = context.Barrier(processes), [context.Pipe(False) for _ in range(processes)]
    children = [
        context.Process(target=_run, args=(work, rounds, number, barrier, sending))
        for number, (_, sending) in enumerate(ends)
    ]
    for child in children:
        child.start()
    try:
        found = [
            (number, turn, result)
            for number, (receiving, _) in enumerate(ends)
            for turn, result in enumerate(_received(receiving))
        ]
        for child in children:
            child.join(PATIENCE)
        assert all(child.exitcode == 0 for child in children), "a process failed, see its output"
        return found
    finally:
        for child in children:
            child.kill()


def _received(receiving) -> list[Any]:
    return receiving.recv() if receiving.poll(PATIENCE) else []


def _run(work, rounds: int, number: int, barrier, sending) -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    results = []
    try:
        for turn in range(rounds):
            barrier.wait(PATIENCE)
            results.append(work(number, turn))
    except BaseException:
        barrier.abort()  # the others wait for nobody
        sending.send([])
        raise
    sending.send(results)
