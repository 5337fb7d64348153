"""A file that consists of parts of another, without a copy of it in memory."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO

Part = tuple[int, int] | bytes  # first byte and end in the other file, or content


class JoinedFile(io.RawIOBase):
    """Reads parts of another file, one behind the other.

    Arguments:
        file: The other file. It is not closed.
        parts: The parts.
    """

    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        super().__init__()
        self.file, self.parts, self.place = file, list(parts), 0
        sizes = (len(p) if isinstance(p, bytes) else p[1] - p[0] for p in self.parts)
        self.starts = [0, *accumulate(sizes)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {0: 0, 1: self.place, 2: self.starts[-1]}[whence]
        return self.place

    def readinto(self, buffer: memoryview) -> int:
        k = bisect_right(self.starts, self.place) - 1
        if k == len(self.parts):
            return 0
        part, skipped = self.parts[k], self.place - self.starts[k]
        n = min(len(buffer), self.starts[k + 1] - self.place)
        if isinstance(part, bytes):
            data = part[skipped : skipped + n]
        else:
            self.file.seek(part[0] + skipped)
            data = self.file.read(n)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def joined(file: BinaryIO, parts: Sequence[Part]) -> BinaryIO:
    """A buffered `JoinedFile`."""
    return io.BufferedReader(JoinedFile(file, parts))
