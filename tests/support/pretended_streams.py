"""Streams of the device that is not there: what is used before it is there, or after it is gone, raises `Race`.

Each stream counts what it was given. It knows up to where other streams are done, from the events that it waited for;
so does the host. Memory remembers who wrote it and who uses it.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count

from torch import Tensor


class Race(RuntimeError):
    """Something is used before it is there, or after it is gone."""


_names = count()


class Stream:
    """A queue of operators.

    Attributes:
        known: Up to where each stream is done when the next operator of this one runs.
    """

    def __init__(self, device=None, priority=0):
        self.name, self.known = next(_names), Counter()

    @property
    def tick(self) -> int:
        return self.known[self.name]

    def step(self) -> int:
        self.known[self.name] += 1
        return self.tick

    def record_event(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event) -> None:
        self.known |= event.known

    def wait_stream(self, other) -> None:
        self.wait_event(other.record_event())


class Event:
    """A place in a stream."""

    streams: "Streams"

    def __init__(self, *args, **options):
        self.known = Counter()

    def record(self, stream=None) -> None:
        stream = stream or Event.streams.current
        stream.step()
        self.known = Counter(stream.known)

    def synchronize(self) -> None:
        Event.streams.host |= self.known

    def wait(self, stream=None) -> None:
        (stream or Event.streams.current).wait_event(self)


class Block:
    """Memory of the device.

    Attributes:
        home: The stream on which it was allocated.
        written: The stream that wrote it last, and when.
        used: When each stream used it last.
        recorded: Names of streams that it waits for before it is used again (`record_stream`).
    """

    def __init__(self, streams):
        self.streams, self.home = streams, streams.current
        self.written, self.used, self.recorded = (self.home, 0), {}, set()

    def __del__(self):
        for name, tick in self.used.items():
            if name not in (self.home.name, *self.recorded) and self.home.known[name] < tick:
                self.streams.found.append("memory is freed while another stream uses it")


class Streams:
    """All streams of a device, and the pinned memory from which they copy."""

    def __init__(self):
        self.default = self.current = Stream()
        self.host, self.found = Counter(), []
        self._pinned: dict[int, tuple[Tensor, list]] = {}
        Event.streams = self

    @contextlib.contextmanager
    def on(self, stream) -> Iterator[None]:
        before, self.current = self.current, stream or self.current
        try:
            yield
        finally:
            self.current = before

    def arrived(self) -> None:
        """The host has waited for the current stream."""
        self.host |= self.current.known

    def read(self, blocks: Iterable[Block], line: str) -> None:
        tick = self.current.step()
        for block in blocks:
            writer, when = block.written
            if self.current.known[writer.name] < when:
                raise Race(
                    f"a tensor is read on a stream that did not wait for its writer ({line})"
                )
            block.used[self.current.name] = tick

    def wrote(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            block.written = self.current, self.current.tick
            block.used[self.current.name] = self.current.tick

    def pinned(self, tensor: Tensor) -> Tensor:
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor, []
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def copies(self, tensor: Tensor) -> bool:
        """Notes that the current stream reads pinned memory next; False if the memory is not pinned."""
        if not self.is_pinned(tensor):
            return False
        readers = self._pinned[tensor.untyped_storage().data_ptr()][1]
        readers.append((self.current.name, self.current.tick + 1))
        return True

    def overwrites(self, tensor: Tensor, line: str) -> None:
        if not self._pinned or not self.is_pinned(tensor):
            return
        readers = self._pinned[tensor.untyped_storage().data_ptr()][1]
        if any(self.host[name] < tick for name, tick in readers):
            raise Race(f"pinned memory is written while a copy still reads it ({line})")

    def check(self) -> None:
        """Raises what was only found afterwards."""
        if self.found:
            raise Race("; ".join(self.found))
