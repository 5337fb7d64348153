"""Captions as trainers write them: fields, lists, conversations, tables and files beside images."""

import csv
import io
import json
import math

import numpy as np
import pytest
from mmd_pack.nodes.references.folder.image_folder import read_folder
from PIL import Image

pytestmark = pytest.mark.comfy


def captions(folder, names=("a.png", "b.png"), source="auto", **files):
    """The captions and complaints of a folder with these images and files ("__" is a dot)."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(folder / name)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_bytes(text.encode())
    references, _ = read_folder(folder, caption_source=source)
    return dict(zip(references.names, references.captions, strict=True)), references.skipped


def jsonl(*entries):
    return "\n".join(map(json.dumps, entries))


TALK = [
    {"from": "human", "value": "<image>\nWhat is this?"},
    {"from": "gpt", "value": "a cat"},
    {"from": "gpt", "value": "another answer"},
]
CHAT = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
]


@pytest.mark.parametrize("key", ["file_name", "image", "image_path", "filename", "img", "images"])
@pytest.mark.parametrize(
    "said",
    [
        {"text": "a cat"},
        {"caption": "a cat"},
        {"prompt": "a cat"},
        {"text": ["a cat", "one cat"]},
        {"captions": ["a cat", "one cat"]},
        {"text": "", "prompt": "a cat"},
        {"conversations": TALK},
        {"messages": CHAT},
    ],
)
def test_each_way_to_name_an_image_and_to_describe_it(tmp_path, key, said):
    entry = {"id": 7, key: ["a.png"] if key == "images" else "a.png", **said}
    for file in ("metadata__jsonl", "captions__json", "metadata__json"):
        content = jsonl(entry) if file.endswith("l") else [entry]
        found = captions(tmp_path / file, **{file: content})
        assert found == ({"a.png": "a cat", "b.png": ""}, [])


@pytest.mark.parametrize(
    "said",
    [
        {"conversations": TALK[:1]},
        {"conversations": "a cat"},
        {"messages": [7, {"role": "assistant"}]},
        {"text": [["a cat"]]},
        {"text": True},
        {"score": 7},
    ],
)
def test_what_describes_no_image_is_named(tmp_path, said):
    found, skipped = captions(tmp_path, metadata__jsonl=jsonl({"file_name": "a.png", **said}))
    assert found == {"a.png": "", "b.png": ""}
    assert skipped == [("metadata.jsonl, line 1", "not JSON with file_name and text")]


def test_the_first_of_several_captions_counts(tmp_path):
    """diffusion-pipe has only lists in captions.json."""
    lists = {"a.png": ["a cat", "one cat"], "b.png": [], "c.png": ["", "second"], "d": [7]}
    found = captions(tmp_path, ["a.png", "b.png", "c.png", "d.png"], captions__json=lists)
    assert found == ({"a.png": "a cat", "b.png": "", "c.png": "second", "d.png": "7"}, [])


def test_a_list_of_tags_is_joined(tmp_path):
    entries = {"a.png": {"caption": "a cat", "tags": ["fur", "paw"]}, "b.png": {"tags": ["one"]}}
    found = captions(tmp_path, meta_lat__json=entries)
    assert found == ({"a.png": "a cat, fur, paw", "b.png": "one"}, [])


@pytest.mark.parametrize("nothing", ["", " \n", None, [], [""], [" ", None], math.nan, [math.inf]])
def test_an_empty_field_leaves_the_caption_to_the_next_one(tmp_path, nothing):
    """Tools that write tables leave fields empty; SimpleTuner then goes on without a caption."""
    entry = {"file_name": "a.png", "text": nothing, "prompt": nothing}
    others = {"none": {}, "caption": {"description": "a cat"}, "talk": {"conversations": TALK}}
    for name, other in others.items():
        for file in ("metadata__jsonl", "captions__json"):
            place, both = tmp_path / name / file, entry | other
            content = jsonl(both) if file.endswith("l") else [both]
            beside = {"a__json": {"caption": "beside"}}
            found, skipped = captions(place, ["a.png"], **{file: content}, **beside)
            assert (found, skipped) == ({"a.png": "a cat" if other else "beside"}, [])


def test_an_empty_column_leaves_the_caption_to_the_next_one(tmp_path):
    content = table([("file_name", "text", "prompt"), ("a.png", " ", "a cat"), ("b.png", "", "")])
    found = captions(tmp_path, metadata__csv=content, b__json={"caption": "beside"})
    assert found == ({"a.png": "a cat", "b.png": "beside"}, [])


def test_tags_files_are_not_captions_but_are_named(tmp_path):
    """Kohya's trainers read one kind of file, as .caption; its tools join tags only in a list."""
    (tmp_path / "a.tags").write_text("fur, paw")
    (tmp_path / "b.tags").write_text("one")
    (tmp_path / "a.caption").write_text("a cat")
    found, _ = captions(tmp_path)
    assert found == {"a.png": "a cat", "b.png": ""}
    references, _ = read_folder(tmp_path, caption_source="auto")
    (note,) = (note for note in references.notes if ".tags" in note)
    assert "b.tags" in note and "a.tags" not in note


# metadata.csv


def table(rows, **options):
    file = io.StringIO()
    csv.writer(file, **options).writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize(
    "head", [("file_name", "text"), ("Prompt", "image"), ("id", "path", "caption")]
)
def test_a_table_of_captions(tmp_path, mark, head):
    texts = {"a.png": 'a "red", round; ball\nof\ttwo lines', "b.png": "café 猫"}
    fields = {"text": "text", "Prompt": "text", "caption": "text", "id": "number"}
    rows = [
        [{"text": text, "number": "7"}.get(fields.get(column), name) for column in head]
        for name, text in texts.items()
    ]
    content = "\ufeff" + table([head, *rows], delimiter=mark)
    for source in ("auto", "metadata.jsonl"):
        assert captions(tmp_path, source=source, metadata__csv=content) == (texts, [])
    assert captions(tmp_path, source="txt", metadata__csv=content)[0]["a.png"] == ""


def test_broken_tables(tmp_path):
    reason = "not CSV with columns file_name and text"
    for i, content in enumerate(("", "a.png,A\n", "text\nA\n", "\n\n", '"' * 20_001)):
        found, skipped = captions(tmp_path / str(i), metadata__csv=content)
        assert found["a.png"] == "" and skipped == [("metadata.csv, line 1", reason)]
    rows = ["file_name,text", "a.png", "", "a.png,A,more", f"b.png,{'x' * 200_000}", 'b.png,"B']
    found, skipped = captions(tmp_path / "rows", metadata__csv="\n".join(rows))
    assert found == {"a.png": "A", "b.png": "B"}
    assert skipped == [("metadata.csv, lines 2, 5", reason)]


def test_metadata_in_lines_counts_more_than_a_table(tmp_path):
    table = "file_name,text\na.png,table\nb.png,table\n"
    lines = jsonl({"file_name": "a.png", "text": "lines"})
    found = captions(tmp_path, metadata__csv=table, metadata__jsonl=lines)
    assert found == ({"a.png": "lines", "b.png": "table"}, [])


# Files beside images


def test_files_beside_images_by_other_names(tmp_path):
    names = ["a.png", "h.PNG", "B.JPG", "c.png", "d.png", "D.jpg", "e.png", "f.png", "g.png"]
    files = {
        "a__png__txt": "whole name",
        "b__txt": "other case",
        "H__png__txt": "whole name in other case",
        "c__txt": "exact",
        "c__png__txt": "whole name",
        "C__caption": "other case",
        "d__txt": "of d only",
        "e__json": {"caption": "json"},
        "f__png__json": {"prompt": "json of the whole name"},
        "g__json": {"nodes": [], "version": 0.4},
    }
    found, skipped = captions(tmp_path, names, **files)
    assert skipped == [] and found == {
        "a.png": "whole name",
        "B.JPG": "other case",
        "h.PNG": "whole name in other case",
        "c.png": "exact",
        "d.png": "of d only",
        "D.jpg": "",
        "e.png": "json",
        "f.png": "json of the whole name",
        "g.png": "",
    }
    assert captions(tmp_path, names, "captions.json")[0]["e.png"] == "json"
    assert captions(tmp_path, names, "txt")[0]["e.png"] == ""


def test_a_file_of_an_image_that_was_not_chosen_is_not_taken(tmp_path):
    captions(tmp_path, ["A.png", "a.png"], a__txt="of a")
    references, _ = read_folder(tmp_path, max_images=1, selection="first")
    assert (references.names, references.captions) == (["A.png"], [""])


def test_what_lies_beside_an_image_with_a_caption_does_not_matter(tmp_path):
    files = {"a__json": "no JSON", "b__json": {"caption": 7}, "a__txt": "text"}
    assert captions(tmp_path, **files) == ({"a.png": "text", "b.png": "7"}, [])


def test_lists_may_spell_names_with_other_capitals(tmp_path):
    entries = {"img_1.jpg": "one", "SUB\\a": "two", "x.png": "exact", "B.PNG": "nobody"}
    names = ["IMG_1.JPG", "sub/A.png", "x.png", "X.png", "b.png", "b.Png"]
    found, skipped = captions(tmp_path, names, captions__json=entries)
    assert skipped == [] and found == {
        "IMG_1.JPG": "one",
        "sub/A.png": "two",
        "x.png": "exact",
        "X.png": "",
        "b.png": "",
        "b.Png": "",
    }
