"""The archive that the Comfy Registry would get: the repository less what .comfyignore names."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

from mmd_tests.support.packages import ROOT


def _listed_by_git(root: Path) -> list[str] | None:
    """What git would take; None where there is no git, or it does not trust the folder's owner."""
    command = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return None
    return sorted({name for name in listed.split("\0") if (root / name).is_file()})


def repository(root: Path = ROOT) -> list[str]:
    """All files of the repository, committed or not; none that .gitignore names."""
    listed = _listed_by_git(root) if (root / ".git").exists() else None
    if listed is not None:
        return listed
    patterns = read_patterns(root / ".gitignore") + ["/.git"]
    found = []
    for folder, folders, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        folders[:] = [
            name for name in folders if not matches((inside / name).as_posix() + "/", patterns)
        ]
        names = [(inside / name).as_posix() for name in files]
        found += [name for name in names if not matches(name, patterns)]
    return sorted(found)


def published(root: Path = ROOT) -> list[str]:
    """The files of the archive."""
    patterns = read_patterns(root / ".comfyignore")
    return [name for name in repository(root) if not matches(name, patterns)]


def build(target: Path, root: Path = ROOT) -> Path:
    """Write the archive to `target`."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in published(root):
            archive.write(root / name, name)
    return target


def read_patterns(file: Path) -> list[str]:
    """The patterns of a file like .gitignore; refuses those that `matches` would read wrongly."""
    lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    for pattern in patterns:
        if re.search(r"[!?\[\]\\]|\*\*", pattern) or ("*" in pattern and "/" in pattern[:-1]):
            raise ValueError(f"{file.name}: write {pattern!r} without {'!?[]'} or * in folders")
    return patterns


def matches(name: str, patterns: list[str]) -> bool:
    """Whether a pattern names this file, or a folder above it; a folder's name ends with a slash."""
    parts = name.rstrip("/").split("/")
    for pattern in patterns:
        wanted = pattern.rstrip("/")
        for i in range(len(parts)):
            if pattern.endswith("/") and i == len(parts) - 1 and not name.endswith("/"):
                continue  # a file, where a folder is meant
            if "/" in wanted:
                found = "/".join(parts[: i + 1]) == wanted.lstrip("/")
            else:
                found = fnmatchcase(parts[i], wanted)
            if found:
                return True
    return False
