""".safetensors files: their parts, changes of the header, and reading by the specification alone."""

import json
import math

import numpy as np
from hypothesis import strategies as st
from mmd_tests.fuzz.containers import number
from mmd_tests.fuzz.edits import NUMBERS, Field, Form

TYPES = {"F32": "<f4", "F16": "<f2", "U8": "u1"}  # that numpy knows
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from(NUMBERS)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
SHAPES = st.lists(st.sampled_from(NUMBERS) | st.integers(0, 12), max_size=8)
SIDES = st.sampled_from(NUMBERS) | st.integers(0, 99)
ENTRY = {
    "dtype": st.sampled_from(("F32", "F16", "U8", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "")),
    "shape": SHAPES,
    "data_offsets": st.lists(st.sampled_from(NUMBERS), max_size=3),
}
LISTS = st.lists(
    st.text(max_size=8) | st.lists(SIDES, min_size=2, max_size=2), min_size=1, max_size=3
)
TEXTS = (LISTS | st.lists(SIDES, max_size=3) | JSON).map(json.dumps)
NAMES = ("latents", "weights", "prompts", "thumbnails", "latent", "thumbnail", "", "__metadata__")


def split(data: bytes) -> tuple[bytes, bytes]:
    """Header and content."""
    end = 8 + number(data, 0, 8, "little")
    return data[8:end], data[end:]


def joined(header: bytes, content: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content


def _header(data: bytes) -> dict:
    try:
        header = json.loads(split(data)[0])
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _written(draw, header: dict, data: bytes) -> bytes:
    """The file with another header."""
    text = json.dumps(header, ensure_ascii=draw(st.booleans()))
    return joined(text.encode("utf-8", "surrogatepass"), split(data)[1])


def edit_entry(draw, data, pool, form):
    """Another type, shape or place of a tensor."""
    header = _header(data)
    names = [name for name, entry in header.items() if isinstance(entry, dict) and "shape" in entry]
    if not names:
        return data
    name, key = draw(st.sampled_from(names)), draw(st.sampled_from(sorted(ENTRY)))
    value = draw(st.one_of(*[ENTRY[key]] * 4, JSON))
    return _written(draw, {**header, name: {**header[name], key: value}}, data)


def edit_metadata(draw, data, pool, form):
    header = _header(data)
    metadata = header.get("__metadata__")
    metadata = metadata if isinstance(metadata, dict) else {}
    key = draw(st.sampled_from((*metadata, "format", "another")))
    value = draw(st.one_of(*[TEXTS] * 6, st.text(max_size=20), JSON))
    return _written(draw, {**header, "__metadata__": {**metadata, key: value}}, data)


def edit_names(draw, data, pool, form):
    """Other names of tensors, some more or less of them, or another order."""
    header, end = _header(data), len(split(data)[1])
    what = draw(st.sampled_from(("rename", "drop", "add", "order")))
    if what == "add":
        shape = draw(SHAPES)
        size = 4 * math.prod(shape)
        place = draw(st.sampled_from(([end, end + size], [0, size], [0, 0])))
        entry = {"dtype": "F32", "shape": shape, "data_offsets": place}
        header = {**header, draw(st.sampled_from(NAMES)): entry}
    elif what == "order":
        header = {name: header[name] for name in draw(st.permutations(list(header)))}
    elif header:
        entry = header.pop(draw(st.sampled_from(list(header))))
        if what == "rename":
            header[draw(st.sampled_from(NAMES) | st.text(max_size=8))] = entry
    return _written(draw, header, data)


def edit_text(draw, data, pool, form):
    """What no JSON library would write: keys that come twice, brackets that do not end."""
    header, content = split(data)
    if draw(st.booleans()):
        name = draw(st.sampled_from((*_header(data), "another")))
        value = draw(st.sampled_from((*_header(data).values(), "another")) | JSON)
        more = f"{json.dumps(name)}:{json.dumps(value)}}}"
    else:
        more = '"deep":' + draw(st.sampled_from(("[", '{"a":'))) * draw(
            st.sampled_from((100, 50000))
        )
    return joined(header.rstrip(b" ")[:-1] + b"," + more.encode(), content)


def edit_content(draw, data, pool, form):
    """Mostly another number; else more or less of them."""
    header, content = split(data)
    place = draw(st.integers(0, len(content)))
    what = draw(st.sampled_from(("put", "put", "put", "add", "cut")))
    if what == "put":
        place -= place % 4
        numbers = st.floats(width=32) | st.sampled_from((0.0, -0.0, 1e-42, 1.0, 1e30))
        new = np.float32(draw(numbers)).tobytes()
        return joined(header, (content[:place] + new + content[place + 4 :])[: len(content)])
    return joined(header, content + bytes(place) if what == "add" else content[:place])


def _fields(data):
    yield Field(0, 8, "little")


def _blocks(data):
    """The parts of the content that are tensors."""
    start = len(data) - len(split(data)[1])
    for entry in _header(data).values():
        places = entry.get("data_offsets") if isinstance(entry, dict) else None
        if (
            isinstance(places, list)
            and len(places) == 2
            and all(type(p) is int and p >= 0 for p in places)
        ):
            yield tuple(min(len(data), start + place) for place in places)


def _repair(data: bytes) -> bytes:
    """With the length that its header has."""
    try:
        _, end = json.JSONDecoder().raw_decode(data[8:].decode("latin-1"))
    except (ValueError, RecursionError):
        return data
    return joined(data[8 : 8 + end], data[8 + end :].lstrip(b" "))


EDITS = (edit_entry,) * 3 + (edit_metadata,) * 7 + (edit_names,) * 5 + (edit_text,) * 3
FORM = Form(b"", _fields, _blocks, _repair, EDITS + (edit_content,) * 12)


def parse(data: bytes) -> tuple[dict[str, str], dict[str, tuple[str, list[int], bytes]]]:
    """Metadata and tensors as type, shape and bytes; raises something if the file is not as specified."""
    header, content = split(data)
    entries = json.loads(header)
    metadata = entries.pop("__metadata__", {})
    tensors = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        size = math.prod(entry["shape"]) * np.dtype(TYPES[entry["dtype"]]).itemsize
        if not 0 <= start <= end <= len(content) or end - start != size:
            raise ValueError("a tensor of another size")
        tensors[name] = entry["dtype"], entry["shape"], content[start:end]
    return metadata, tensors
