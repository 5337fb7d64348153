"""Changing a file as accidents and attackers do, drawn by hypothesis."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import assume
from hypothesis import strategies as st

NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 32, 64, 127, 128, 255, 256, 1000, 2049, 4096),
    *(32767, 32768, 65535, 65536, 2**20, 2**31 - 1, 2**31, 2**32 - 1),
)


class Case(NamedTuple):
    """One example.

    Attributes:
        about: What the target needs to know of it besides the files.
        files: The content of the changed files.
    """

    about: object
    files: tuple[bytes, ...]

    def __repr__(self):
        return f"Case({self.about!r:.500}, {[data[:1000] for data in self.files]})"


class Field(NamedTuple):
    """A number in a file."""

    start: int
    size: int
    order: str = "big"


@dataclass(frozen=True)
class Form:
    """What is known of a file format; each function is also given files that are broken already.

    Arguments:
        magic: How its files begin.
        fields: The numbers in a file on which its meaning hangs.
        blocks: Start and end of the parts of which a file is a sequence.
        repair: Makes checksums right.
        edits: More ways of changing such a file.
    """

    magic: bytes = b""
    fields: Callable[[bytes], Iterator[Field]] = lambda data: iter(())
    blocks: Callable[[bytes], Iterator[tuple[int, int]]] = lambda data: iter(())
    repair: Callable[[bytes], bytes] = lambda data: data
    edits: tuple[Callable, ...] = ()


def _place(draw, data: bytes) -> int:
    return draw(st.integers(0, len(data)))


def _slice(draw, data: bytes, longest: int = 64) -> tuple[int, int]:
    start = _place(draw, data)
    return start, min(len(data), start + draw(st.integers(1, longest)))


def _put(data: bytes, start: int, new: bytes) -> bytes:
    """Overwrites; the length stays."""
    return (data[:start] + new + data[start + len(new) :])[: len(data)]


def _number(draw, size: int, order: str) -> bytes:
    number = draw(st.sampled_from(NUMBERS) | st.integers(0, 300))
    return (number % 2 ** (8 * size)).to_bytes(size, order)


def flip_bit(draw, data, pool, form):
    place, bit = _place(draw, data), draw(st.integers(0, 7))
    return _put(data, place, bytes([data[place] ^ 1 << bit])) if place < len(data) else data


def overwrite(draw, data, pool, form):
    return _put(data, _place(draw, data), draw(st.binary(min_size=1, max_size=8)))


def overwrite_number(draw, data, pool, form):
    size, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("big", "little")))
    return _put(data, _place(draw, data), _number(draw, size, order))


def fill(draw, data, pool, form):
    start, end = _slice(draw, data)
    return _put(data, start, draw(st.sampled_from((b"\0", b"\xff", b" "))) * (end - start))


def insert(draw, data, pool, form):
    place = _place(draw, data)
    return data[:place] + draw(st.binary(min_size=1, max_size=16)) + data[place:]


def delete(draw, data, pool, form):
    start, end = _slice(draw, data)
    return data[:start] + data[end:]


def truncate(draw, data, pool, form):
    return data[: _place(draw, data)]


def repeat(draw, data, pool, form):
    start, end = _slice(draw, data)
    return data[:end] + data[start:end] * draw(st.integers(1, 4)) + data[end:]


def move(draw, data, pool, form):
    start, end = _slice(draw, data)
    rest = data[:start] + data[end:]
    place = _place(draw, rest)
    return rest[:place] + data[start:end] + rest[place:]


def splice(draw, data, pool, form):
    other = pool[draw(st.sampled_from(sorted(pool)))]
    return data[: _place(draw, data)] + other[_place(draw, other) :]


def edit_field(draw, data, pool, form):
    fields = list(form.fields(data))
    if not fields:
        return overwrite(draw, data, pool, form)
    start, size, order = draw(st.sampled_from(fields))
    return _put(data, start, _number(draw, size, order))


def edit_block(draw, data, pool, form):
    """Drops, doubles, moves or exchanges a part, or takes one from another file."""
    spans = list(form.blocks(data))
    if not spans:
        return delete(draw, data, pool, form)
    parts = [data[start:end] for start, end in spans]
    i = draw(st.integers(0, len(parts) - 1))
    what = draw(st.sampled_from(("drop", "double", "move", "foreign")))
    if what == "foreign":
        other = pool[draw(st.sampled_from(sorted(pool)))]
        parts.insert(i, draw(st.sampled_from([other[a:b] for a, b in form.blocks(other)] or [b""])))
    else:
        part = parts[i] if what == "double" else parts.pop(i)
        if what != "drop":
            parts.insert(draw(st.integers(0, len(parts))), part)
    return data[: spans[0][0]] + b"".join(parts) + data[spans[-1][1] :]


BYTE_EDITS = (
    *(flip_bit, overwrite, overwrite_number, fill, insert),
    *(delete, truncate, repeat, move, splice),
)


@st.composite
def changed(draw, pool: dict[str, bytes], form: Form) -> bytes:
    """A file of `pool`, of that form, after one to four edits."""
    data = original = pool[draw(st.sampled_from(sorted(pool)))]
    edits = (*BYTE_EDITS, *[edit_field] * 4, *[edit_block] * 3, *form.edits)
    if form.magic and draw(st.integers(0, 15)) == 0:
        return form.magic + draw(st.binary(max_size=200))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3, 4)))):
        data = draw(st.sampled_from(edits))(draw, data, pool, form)
    if draw(st.integers(0, 3)):
        data = form.repair(data)
    assume(data != original)
    return data
