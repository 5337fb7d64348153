"""Starts the workers of one batch as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["launch"]


def launch(command: Sequence[str | Path], workers: int, patience: float = 1800) -> list[str]:
    """Runs a script with so many workers, which find each other through a file; what each printed.

    Arguments:
        command: The script and its arguments; `join.py` says what it gets besides.
        workers: How many.
        patience: Seconds until all must have ended.

    Raises:
        RuntimeError: One failed, or they did not end; all have been ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        outs = [open(Path(folder) / str(rank), "w+", encoding="utf-8") for rank in range(workers)]  # noqa: SIM115
        processes = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=_environment(rank, workers, meeting),
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            for rank, out in enumerate(outs)
        ]
        try:
            codes = _codes(processes, patience)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            told = []
            for out in outs:
                out.seek(0)
                told.append(out.read())
                out.close()
    for rank, code in enumerate(codes):
        if code:  # the first to fail, not those that waited for it
            how = "did not end" if code is STUCK else f"failed with {code}"
            raise RuntimeError(f"worker {rank} {how}:\n{told[rank][-4000:]}")
    return told


STUCK = "stuck"


def _codes(processes: list[subprocess.Popen], patience: float) -> list[int | str | None]:
    """The exit codes of all; once one has failed, or time is over, those of the others are None or `STUCK`."""
    end = time.monotonic() + patience
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes):
            return codes
        if time.monotonic() > end:
            return [STUCK if code is None else code for code in codes]
        time.sleep(0.05)


def _environment(rank: int, workers: int, meeting: str) -> dict[str, str]:
    own = {"RANK": rank, "WORLD_SIZE": workers, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": workers}
    quiet = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONIOENCODING": "utf-8", "MMD_MEETING": meeting}
    threads = max(1, (os.cpu_count() or 1) // workers)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        **quiet,
        **{k: str(v) for k, v in own.items()},
    }
