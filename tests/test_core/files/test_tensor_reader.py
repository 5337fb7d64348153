"""Headers that nobody should write: each is refused in our words, without those of a library."""

import json

import pytest
from mmd_pack.mmd_core.files.tensor_reader import BadFile, read_header

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
DAMAGED = "its header is damaged"


def read(tmp_path, header: bytes):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with path.open("rb") as file:
        return read_header(file, 10**6, 100)


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"77", b'"text"', b"null", b"nothing", b'{"a"', b'{"\xff": 1}', b'{"a": 1}',
        *(
            json.dumps(each).encode()
            for each in (
                {"__metadata__": []}, {"__metadata__": {"format": 7}}, {"a": []}, {"a": {}},
                {"a": {**ENTRY, "dtype": "F3"}}, {"a": {**ENTRY, "dtype": []}},
                {"a": {**ENTRY, "shape": 7}}, {"a": {**ENTRY, "data_offsets": None}},
            )
        ),
    ],
)  # fmt: skip
def test_a_header_of_another_structure(tmp_path, header):
    with pytest.raises(BadFile) as refused:
        read(tmp_path, header)
    assert str(refused.value) == DAMAGED


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"shape": [-1]}, "a size is no number"),
        ({"shape": [1.0]}, "a size is no number"),
        ({"shape": [True]}, "a size is no number"),
        ({"data_offsets": [0]}, "a tensor has no place"),
        ({"data_offsets": [0, 4, 8]}, "a tensor has no place"),
        ({"data_offsets": [4, 0]}, "a tensor has another size than its shape"),
        ({"more": 1}, "a tensor has too many sides or entries"),
        ({"shape": [1] * 99}, "a tensor has too many sides or entries"),
    ],
)
def test_an_entry_that_is_wrong(tmp_path, changed, reason):
    with pytest.raises(BadFile) as refused:
        read(tmp_path, json.dumps({"a": ENTRY | changed}).encode())
    assert str(refused.value) == f"{DAMAGED}: {reason}"


def test_a_right_one(tmp_path):
    assert read(tmp_path, json.dumps({"a": ENTRY}).encode()).tensors["a"].shape == (1,)
    with pytest.raises(BadFile, match="cut off"):
        read(tmp_path, b"{}")
    (tmp_path / "b").write_bytes(b"1234567")
    with (tmp_path / "b").open("rb") as file, pytest.raises(BadFile, match="does not end"):
        read_header(file, 9, 9)
