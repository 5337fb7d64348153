"""Encoded pictures and captions on disk, so that nothing is encoded twice.

One small .safetensors file per entry, in subfolders by the first two digits of its key. The key is a hash of
all that the content depends on; the file repeats it, with a hash of the content, and counts only if both fit.
"""

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path

import folder_paths
import safetensors.torch
import torch
from torch import Tensor

from ....mmd_core.files.tensor_file import abandoned, remove, write_whole

FORMAT = 1  # to be raised when entries get another meaning
LIMIT = 16 * 2**30  # bytes: beyond it, what was not used for longest goes

log = logging.getLogger("mmd_guidance")


def cache_folder() -> Path:
    """In ComfyUI's user folder; names that begin with __ are not served to browsers."""
    return Path(folder_paths.get_user_directory()) / "__mmd_guidance" / "latents"


def entry_key(*facts) -> str:
    """The key of what depends on nothing but `facts`, whose `repr` must tell all of them."""
    return hashlib.sha256(repr((FORMAT, *facts)).encode()).hexdigest()


class LatentCache:
    """Tensors by key, for one run: `with LatentCache(folder) as cache: ...`; without a folder it stays empty.

    Nothing that goes wrong here stops a run: what cannot be read is made anew, what cannot be written is
    not kept, and `notices` says so.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.used: set[str] = set()  # file names
        self.damaged, self.written, self.trouble = 0, False, ""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.written:
            self._trim()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The tensors as they were written, None if there are none or not exactly these any more; "" has none."""
        if not key or self.folder is None:
            return None
        path = self._path(key)
        try:
            # Read, not memory-mapped: Windows could not replace the file later.
            tensors = _parse(path.read_bytes(), key)
        except FileNotFoundError:
            return None
        except Exception as error:  # for a damaged file, parsers raise nearly anything
            log.warning("The cached %s is damaged and made anew: %s", path, error)
            self.damaged += 1
            return None
        self.used.add(path.name)
        with contextlib.suppress(OSError):  # only tells that it was used
            os.utime(path)
        return tensors

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors of floats if they are finite, under "" nothing."""
        if not key or self.folder is None or self.trouble:
            return
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            return
        path = self._path(key)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        data = safetensors.torch.save(tensors, {"key": key, "sha256": _digest(tensors)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, [data], lasting=False)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            log.warning("Nothing more is cached, since %s cannot be written: %s", path, error)
        else:
            self.used.add(path.name)
            self.written = True

    def notices(self) -> list[str]:
        """What a user should know."""
        damaged = f"Damaged files in the cache, made anew: {self.damaged}."
        trouble = f"Not all is cached for the next run: {self.trouble}."
        return [damaged] * bool(self.damaged) + [trouble] * bool(self.trouble)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _trim(self) -> None:
        """Removes what was not used for longest until LIMIT is kept, but nothing that this run used."""
        entries = []
        for folder in self.folder.glob("??"):
            # Another ComfyUI may remove files as well.
            with contextlib.suppress(OSError), os.scandir(folder) as files:
                for file in files:
                    about = file.stat()
                    if file.name.endswith(".safetensors"):
                        entries.append((about.st_mtime, about.st_size, file.name, file.path))
                    elif abandoned(file):
                        remove(file.path)
        total = sum(size for _, size, _, _ in entries)
        for _, size, name, path in sorted(entries):
            if total > LIMIT and name not in self.used:
                total -= size * remove(path)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _parse(data: bytes, key: str) -> dict[str, Tensor]:
    """The tensors of a file that is wholly as it was written for `key`; else it raises something."""
    end = 8 + int.from_bytes(data[:8], "little")
    about = json.loads(data[8:end])["__metadata__"]
    tensors = safetensors.torch.load(data)
    if about["key"] != key:
        raise ValueError("it belongs to another picture")
    if about["sha256"] != _digest(tensors):
        raise ValueError("its content has changed")
    return tensors
