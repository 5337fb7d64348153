"""Virtual environments in a per-user cache, each made once; standard library only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROBE = """
import importlib.metadata as metadata, importlib.util as util, json, sys
found = {d.metadata["Name"]: d.version for d in reversed(list(metadata.distributions()))}
print(json.dumps({
    "runs_comfyui": all(util.find_spec(name) for name in ("torch", "aiohttp")),
    "packages": {name: version for name, version in found.items() if name},
    "folders": [path for path in sys.path if path.endswith("-packages")],
}))
"""


class EngineError(Exception):
    """ComfyUI or what it needs cannot be had; the message tells what to do about it."""


def cache_folder() -> Path:
    """The per-user cache, or the folder MMD_GUIDANCE_CACHE names; made if needed."""
    if named := os.environ.get("MMD_GUIDANCE_CACHE"):
        folder = Path(named).expanduser()
    else:
        if os.name == "nt":
            caches = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            caches = Path.home() / "Library" / "Caches"
        else:
            caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(caches) / "mmd-guidance"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"Cannot write to {folder} ({error.strerror}): "
            "set MMD_GUIDANCE_CACHE to a folder you can write to."
        ) from error
    return folder.resolve()


def check_room(folder: Path, gigabytes: int) -> None:
    """Raise an EngineError where the disk of `folder` has less than `gigabytes` free."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise EngineError(
            f"{folder} needs {gigabytes} GB of free disk space and has {free:.1f} GB: "
            "free some, or set MMD_GUIDANCE_CACHE to a folder on a larger disk."
        )


def digest(*parts: object) -> str:
    """A short name for this combination of things."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:10]


def package_name(requirement: str) -> str:
    """The normalised package name of a requirement such as "scikit_learn>=1.4"."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]*", requirement)[0]).lower()


def python_in(venv: Path) -> Path:
    """The Python of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def probe(python: Path) -> dict:
    """What `python` has: {"runs_comfyui": bool, "packages": {name: version}, "folders": [...]}."""
    output = run([python, "-c", PROBE], cwd=python.parent).stdout
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):  # a Python that does not even start
        return {"runs_comfyui": False, "packages": {}, "folders": []}


def install(
    folder: Path,
    python: Path,
    wanted: Iterable[str],
    label: str,
    pins: Iterable[str] = (),
    inherit: bool = True,
) -> Path:
    """The Python of the virtual environment `folder`, made and filled only where needed.

    `python` makes it, and its own packages are seen in there too with `inherit`. `wanted` are
    requirements, `pins` are constraints. A marker lists what is installed; it is gone while pip
    works, so a set-up that was broken off is redone, never trusted.
    """
    own, marker, wanted = python_in(folder), folder / "installed.json", sorted(set(wanted))

    def installed() -> list[str] | None:
        return json.loads(marker.read_text("utf-8")) if own.exists() and marker.exists() else None

    if set(wanted) <= set(installed() or ()):
        return own
    with locked(folder.parent):
        before = installed()
        if set(wanted) <= set(before or ()):
            return own
        with step(label):
            marker.unlink(missing_ok=True)
            if before is None:
                _make_venv(python, folder, inherit)
            arguments = ["install"]
            for option, lines in (("--requirement", wanted), ("--constraint", pins)):
                file = folder / f"{option.strip('-')}s.txt"
                file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
                arguments += [option, str(file)]
            try:
                pip(own, arguments)
            except EngineError:
                if before is not None:  # pip took back what it began: what was there still is
                    _write(marker, before)
                raise
            _write(marker, sorted({*wanted, *(before or ())}))
    return own


def _write(file: Path, content: list[str]) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1), "utf-8")
    os.replace(fresh, file)


def _make_venv(python: Path, folder: Path, inherit: bool) -> None:
    """Make the virtual environment `folder`; with `inherit` it sees the packages of `python`."""
    has = probe(python) if inherit else {"packages": {}, "folders": []}
    # A pip that is seen will do; a second one would bring an old setuptools that hides the first.
    bare = [["venv", "--without-pip"]] if "pip" in has["packages"] else []
    results = []
    for module in [*bare, ["venv"], ["virtualenv"]]:
        results.append(run([python, "-m", *module, "--clear", folder]))
        if results[-1].returncode == 0:
            break
    else:
        raise EngineError(
            f"{python} cannot make virtual environments: on Debian or Ubuntu `apt install "
            f"python3-venv`, elsewhere `{python} -m pip install virtualenv`, then run this again.\n"
            f"{results[0].stdout.strip()}"
        )
    # addsitedir, and not just the path, so that the .pth files in that folder count as well;
    # ascii, because Python reads .pth files in an encoding that differs between systems.
    lines = [f"import site; site.addsitedir({path!a})\n" for path in has["folders"]]
    if lines:
        site_packages = Path(probe(python_in(folder))["folders"][0])
        site_packages.joinpath("inherited.pth").write_text("".join(lines), "utf-8")


def pip(python: Path, arguments: list[str]) -> None:
    """Run pip with the user's own settings; raise an EngineError with its last lines if it fails."""
    quiet = ["--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar", "off"]
    result = run([python, "-m", "pip", *arguments, *quiet])
    if result.returncode:
        lines = [
            x[:300] for x in result.stdout.splitlines() if x.strip() and " is ignored: " not in x
        ]
        raise EngineError(
            f"pip failed:\n    {(chr(10) + '    ').join(lines[-12:])}\n"
            "Check the network connection and pip's settings, then run this again."
        )


def run(command: list, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a command to its end, with stdout and stderr together in `stdout`."""
    # Some images set PIP_USER=1, which fails in an environment; PYTHONPATH would look like part
    # of one.
    env = {**os.environ, "PIP_USER": "0"}
    env.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def say(line: str) -> None:
    """Show a line of progress."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@contextmanager
def step(label: str) -> Iterator[None]:
    """Show what is being done, and in the end how long it took."""
    say(f"{label} …")
    start = time.monotonic()
    yield
    say(f"      done in {time.monotonic() - start:.0f} s")


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Keep other processes out of the cache; the system lifts the lock when a process dies."""
    with (cache / ".lock").open("a+") as file:
        told = False
        while not _try_lock(file.fileno()):
            if not told:
                say(f"waiting for another set-up that is using {cache} …")
                told = True
            time.sleep(0.5)
        yield


def _try_lock(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, 0, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Anything else means that this file system has no locks: go on without.
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True
