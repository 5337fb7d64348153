"""Disk cache of encoded images and captions.

Each entry is one small .safetensors file, in a subfolder named after the first two digits of its
key. The key is a hash of everything that the content depends on. The file also stores its key and a
hash of its content; `read` checks both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import folder_paths
import safetensors.torch
import torch
from torch import Tensor

from ....mmd_core.files import limits
from ....mmd_core.files.tensor_file import remove, remove_drafts, write_whole
from ...base.log import log, reason

FORMAT = 1  # part of every key: increase it when the meaning of entries changes
LIMIT = limits.CACHE_DISK  # bytes: above it, the least recently used entries are removed


def cache_folder() -> Path:
    """The cache folder, in ComfyUI's user folder."""
    # ComfyUI does not send files to browsers if their names begin with __.
    return Path(folder_paths.get_user_directory()) / "__mmd_guidance" / "latents"


def entry_key(*facts: object) -> str:
    """The key of an entry that depends only on `facts`.

    The `repr` of each fact must describe it completely.
    """
    return hashlib.sha256(repr((FORMAT, *facts)).encode()).hexdigest()


class LatentCache:
    """Tensors by key, for one run: `with LatentCache(folder) as cache`.

    Damaged and unwritable files do not stop a run: damaged entries are encoded again, and entries
    that cannot be written are not cached. `notices` reports both.

    Arguments:
        folder: The folder of the cache; None disables it.
        limit: The maximum number of bytes on disk, by default `LIMIT`. The entries of this run stay
            beyond it. With 0, the cache is emptied and nothing is kept.

    Attributes:
        size: The bytes on disk after the run.
    """

    def __init__(self, folder: Path | None, limit: int | None = None) -> None:
        self.folder, self.limit = folder, LIMIT if limit is None else limit
        self.used: set[str] = set()  # file names
        self.damaged, self.written, self.problem, self.size = 0, False, "", 0

    def __enter__(self) -> LatentCache:
        return self

    def __exit__(self, *error: object) -> None:
        if self.folder is not None:
            self._trim()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The tensors as they were written; None if there is no entry, or if it is damaged.

        Key "" has no entry.
        """
        if not key or self.folder is None or not self.limit:
            return None
        path = self._path(key)
        try:
            # Not memory-mapped: Windows cannot replace a mapped file.
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size > limits.CACHE_ENTRY:
                    raise ValueError("it is larger than any entry")
                tensors = _parse(file.read(), key)
        except FileNotFoundError:
            return None
        except Exception as error:  # parsers raise many exception types for damaged files
            log.warning(
                "The cached file %s is damaged and is made again: %s", path.name, reason(error)
            )
            self.damaged += 1
            return None
        self.used.add(path.name)
        with contextlib.suppress(OSError):  # the new time only marks it as recently used
            os.utime(path)
        return tensors

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Stores float tensors if all numbers are finite. Key "" stores nothing."""
        if not key or self.folder is None or not self.limit or self.problem:
            return
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            return
        path = self._path(key)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        data = safetensors.torch.save(tensors, {"key": key, "sha256": _digest(tensors)})
        if len(data) > limits.CACHE_ENTRY:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, [data], lasting=False)
        except OSError as error:
            self.problem = reason(error)
            log.warning(
                "Nothing more is cached, because %s cannot be written: %s", path.name, self.problem
            )
        else:
            self.used.add(path.name)
            self.written = True

    def notices(self) -> list[str]:
        """Lines for the report about damaged entries and failed writing."""
        damaged = f"Damaged files in the cache, made again: {self.damaged}."
        problem = f"Not all is cached for the next run: {self.problem}."
        return [damaged] * bool(self.damaged) + [problem] * bool(self.problem)

    def disk_use(self) -> list[str]:
        """A line for the report about the space on disk, after the run."""
        if self.folder is None:
            return []
        use = f"Cache on disk: {self.size / 1e6:.1f} MB, at most {self.limit / 1e9:.1f} GB."
        place = "/".join(self.folder.parts[-3:])
        return [f"{use} It lies in {place}. To empty it, run once with cache_limit 0."]

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _trim(self) -> None:
        """Removes the least recently used entries until the cache has at most `limit` bytes.

        Entries that this run used are kept. Abandoned drafts are removed, too.
        """
        entries, now = [], time.time()
        for folder in _listed(self.folder):
            remove_drafts(Path(folder))
            for file in _listed(folder):
                # Another ComfyUI process may remove files at the same time.
                with contextlib.suppress(OSError):
                    about = file.stat()
                    if file.name.endswith(".safetensors"):
                        # An entry that was used in the future was used when a clock was wrong.
                        age = abs(now - about.st_mtime)
                        entries.append((age, about.st_size, file.name, file.path))
        self.size = sum(size for _, size, _, _ in entries)
        for _, size, name, path in sorted(entries, reverse=True):
            if self.size > self.limit and name not in self.used:
                self.size -= size * remove(path)


def _listed(folder: str | os.PathLike) -> list[os.DirEntry]:
    """What is in a folder; nothing if it cannot be read, or is none."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _parse(data: bytes, key: str) -> dict[str, Tensor]:
    """The tensors in the content of a file. Checks the key and the hash.

    Raises:
        Exception: The file is damaged or belongs to another key; parsers raise many types.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    about = json.loads(data[8:end])["__metadata__"]
    tensors = safetensors.torch.load(data)
    if about["key"] != key:
        raise ValueError("it belongs to another key")
    if about["sha256"] != _digest(tensors):
        raise ValueError("its content has changed")
    return tensors
