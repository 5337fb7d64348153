"""JSON of strangers is measured before it is parsed."""

import json
import random

import pytest
from mmd_pack.mmd_core.files import json_text


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_texts_are_measured_alike_in_pieces(piece, monkeypatch):
    rng = random.Random(piece)
    texts = ["".join(rng.choices('\\\\\\"a[1 ', k=rng.randrange(40))) for _ in range(300)]
    values = [
        json.dumps({"\\" * i + '"' * j: ["\\\\", '\\"', i]}) for i in range(9) for j in range(3)
    ]
    whole = [json_text.outline(text, 99, 999) for text in texts + values]
    assert whole[300:] == ["{:[,,]}"] * len(values)
    monkeypatch.setattr(json_text, "PIECE", piece)
    assert [json_text.outline(text, 99, 999) for text in texts + values] == whole
