"""Captions: sidecars, metadata.jsonl, captions.json and what people and trainers make of them."""

import json
import os

import numpy as np
import pytest
from mmd_pack.mmd_core.files import limits
from mmd_pack.nodes.references.folder import caption_files, sidecars
from mmd_pack.nodes.references.folder import captions as sources
from mmd_pack.nodes.references.folder import image_folder as folder
from PIL import Image

pytestmark = pytest.mark.comfy


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(path)
    return path


def captions(folder, path, source="auto"):
    references, _ = folder.read_folder(path, caption_source=source)
    return dict(zip(references.names, references.captions, strict=True)), references.skipped


def test_captions_come_from_text_files_and_metadata(tmp_path):
    for name in ("a.png", "b.c.png", "d.jpg", "sub/e.png", "sub/f.png"):
        save(tmp_path / name)
    (tmp_path / "a.txt").write_text("\ufeff a cat,\r\nsitting \n", encoding="utf-8")
    (tmp_path / "b.c.txt").write_text("ein Hündchen", encoding="utf-8")
    (tmp_path / "d.txt").write_text("  ")
    lines = [
        {"file_name": "a.png", "text": "from metadata"},
        {"file_name": "./d.jpg", "text": "a dog"},
        {"file_name": "sub\\e.png", "text": "a bird"},
        {"file_name": "sub/f.png", "text": "far"},
        {"file_name": "gone.png", "text": "nobody"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "sub" / "metadata.jsonl").write_text('{"file_name": "f.png", "text": "near"}\n\n')
    found, skipped = captions(folder, tmp_path)
    assert found == {
        "a.png": "a cat,\nsitting",
        "b.c.png": "ein Hündchen",
        "d.jpg": "a dog",
        "sub/e.png": "a bird",
        "sub/f.png": "near",
    }
    assert skipped == []
    assert captions(folder, tmp_path, "txt")[0]["d.jpg"] == ""
    assert captions(folder, tmp_path, "metadata.jsonl")[0]["a.png"] == "from metadata"
    assert set(captions(folder, tmp_path, "none")[0].values()) == {""}


def test_broken_lines_of_metadata_are_named(tmp_path):
    save(tmp_path / "a.png")
    lines = [
        '{"file_name": "a.png"',
        "[1]",
        '{"text": "x"}',
        "",
        '{"file_name": "a.png", "text": 7}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    found, skipped = captions(folder, tmp_path)
    assert found == {"a.png": "7"}
    assert skipped == [("metadata.jsonl, lines 1, 2, 3", "not JSON with file_name and text")]


def test_an_unreadable_caption_is_named_and_the_image_kept(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x")

    def refuse(path, limit):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(caption_files, "open_file", refuse)
    found, skipped = captions(folder, tmp_path)
    assert found == {"a.png": ""}
    assert skipped == [("a.txt", "cannot be read (Permission denied)")]


def test_folder_names_give_captions_and_kohyas_repeats_weights(tmp_path):
    folders = {
        "10_red cat": (10, "red cat"),
        "1_dog": (1, "dog"),
        "2024_summer": (1, "2024_summer"),
        "01_first": (1, "01_first"),
        "0100_x": (1, "0100_x"),
        "birds": (1, "birds"),
    }
    for name in folders:
        save(tmp_path / "set" / name / "a.png")
    save(tmp_path / "set" / "top.png")
    references, _ = folder.read_folder(tmp_path / "set", caption_source="folder name")
    got = {
        name.split("/")[0]: (weight, caption)
        for name, weight, caption in zip(
            references.names, references.weights, references.captions, strict=True
        )
    }
    assert got == {**folders, "top.png": (1, "set")}
    assert folder.read_folder(tmp_path / "set" / "10_red cat")[0].weights == [10]


def test_the_sources_keep_their_names_and_places():
    names = ["auto", "txt", "metadata.jsonl", "folder name", "none", "captions.json"]
    assert list(sources.CAPTION_SOURCES) == names  # for ever, since workflows are saved with them


def test_txt_comes_before_caption_unless_it_is_empty(tmp_path):
    for name, txt, caption in [
        ("a", "from txt", "from caption"), ("b", " \n", "from caption"), ("c", None, "from caption"), ("d", "", None)
    ]:  # fmt: skip
        save(tmp_path / f"{name}.png")
        for ending, text in ((".txt", txt), (".caption", caption)):
            if text is not None:
                (tmp_path / (name + ending)).write_text(text)
    found = {"a.png": "from txt", "b.png": "from caption", "c.png": "from caption", "d.png": ""}
    assert captions(folder, tmp_path) == captions(folder, tmp_path, "txt") == (found, [])


def test_sidecars_of_odd_names_and_encodings(tmp_path):
    names = [
        "صورة.jpg",
        "图.png",
        "a.b.webp",
        "x.png",
        "x.jpg",
        "UP.PNG",
        "cafe\u0301.png",
        "new\nline.png",
    ]
    for name in names:
        save(tmp_path / name)
    (tmp_path / "صورة.txt").write_bytes("صورة قطة".encode())
    (tmp_path / "图.txt").write_bytes("\ufeff一只猫".encode("utf-16-le"))
    (tmp_path / "a.b.txt").write_bytes(b"\xef\xbb\xbfwith BOM")
    (tmp_path / "x.txt").write_text("both")
    (tmp_path / "UP.TXT").write_text("loud")
    (tmp_path / "caf\u00e9.txt").write_text("accent stored otherwise")
    (tmp_path / "new\nline.txt").write_text("two")
    found, skipped = captions(folder, tmp_path)
    assert skipped == []
    assert found == {
        "صورة.jpg": "صورة قطة",
        "图.png": "一只猫",
        "a.b.webp": "with BOM",
        "x.png": "both",
        "x.jpg": "both",
        "UP.PNG": "loud",
        "cafe\u0301.png": "accent stored otherwise",
        "new\\nline.png": "two",
    }


def test_each_of_two_names_that_look_alike_has_its_own_caption(tmp_path):
    """In whichever order the system lists them."""
    names = ("\u00e9", "e\u0301")
    for i, name in enumerate(names):
        (tmp_path / str(i)).write_text(ascii(name))
    files = [(f"{name}.txt", tmp_path / str(i)) for i, name in enumerate(names)]
    for order in (files, files[::-1]):
        images = [f"{n}.png" for n in names]
        request = caption_files.CaptionRequest(tmp_path, images, dict(order), images)
        found = sidecars.sidecar_captions(request)
        assert found == {f"{name}.png": ascii(name) for name in names}


@pytest.mark.parametrize(
    "data, reason",
    [
        ("Hündchen".encode("latin-1"), "is not UTF-8 text: save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8 text: save it as UTF-8"),
        ("cat".encode("utf-16-le"), "is not UTF-8 text: save it as UTF-8"),
        (b"x" * (2**20 + 1), "has more than 1 MB"),
    ],
)
def test_what_is_no_caption_is_named(tmp_path, data, reason):
    save(tmp_path / "a.png")
    save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_bytes(data)
    found, skipped = captions(folder, tmp_path)
    assert set(found.values()) == {""} and skipped == [("a.txt", reason)]


JSON_STYLES = {
    "names to captions": {"a.png": "A", "sub/b.png": "B"},
    "without endings": {"a": "A", "sub/b": "B"},
    "with other separators": {".\\a.png": "A", "sub\\b": "B"},
    "whole paths": {"C:\\train\\set\\a.png": "A", "/home/me/set/sub/b.png": "B"},
    "objects": {"a": {"caption": "A"}, "sub/b": {"caption": "B", "train_resolution": [8, 8]}},
    "file_name, text": [
        {"file_name": "a.png", "text": "A"},
        {"file_name": "sub/b.png", "text": "B"},
    ],
    "image, caption": [{"image": "a.png", "caption": "A"}, {"image": "sub/b.png", "caption": "B"}],
    "file or path": [{"file": "a.png", "caption": "A"}, {"path": "sub/b.png", "caption": "B"}],
}


@pytest.mark.parametrize(
    "file", ["captions.json", "meta_cap.json", "meta_clean.json", "Captions.JSON"]
)
@pytest.mark.parametrize("style", JSON_STYLES)
def test_json_captions_of_all_styles(tmp_path, style, file):
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        save(tmp_path / name)
    (tmp_path / file).write_text(json.dumps(JSON_STYLES[style]))
    for source in ("auto", "captions.json"):
        found, skipped = captions(folder, tmp_path, source)
        assert found == {"a.png": "A", "sub/b.png": "B", "sub/c.png": ""} and skipped == []
    for source in ("txt", "metadata.jsonl", "none"):
        assert set(captions(folder, tmp_path, source)[0].values()) == {""}


def test_the_caption_key_of_metadata(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    lines = [
        {"file_name": "a.png", "caption": "A", "tags": ["x"]},
        {"file_name": "b", "text": "", "caption": "B"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert captions(folder, tmp_path) == ({"a.png": "A", "b.png": "B"}, [])


def test_tags_come_behind_the_caption(tmp_path):
    for name in "abcd":
        save(tmp_path / f"{name}.png")
    entries = {
        "a": {"caption": "a cat", "tags": "fur, paw"},
        "b": {"tags": "only, tags"},
        "c": {"caption": None, "tags": ""},
        "d": {"caption": "no tags", "tags": None},
    }
    (tmp_path / "meta_clean.json").write_text(json.dumps(entries))
    found = {"a.png": "a cat, fur, paw", "b.png": "only, tags", "c.png": "", "d.png": "no tags"}
    assert captions(folder, tmp_path) == (found, [])


def test_an_ending_distinguishes_images_of_one_name(tmp_path):
    for name in ("a.png", "a.jpg", "b.png", "b.jpg", "c.png.jpg", "d.png", "d.png.jpg"):
        save(tmp_path / name)
    entries = {"a.png": "one", "b": "both", "c.png": "stem", "d.png": "whole"}
    (tmp_path / "captions.json").write_text(json.dumps(entries))
    assert captions(folder, tmp_path)[0] == {
        "a.png": "one",
        "a.jpg": "",
        "b.png": "both",
        "b.jpg": "both",
        "c.png.jpg": "stem",
        "d.png": "whole",
        "d.png.jpg": "",
    }


def test_the_nearest_and_the_most_finished_json_wins(tmp_path):
    for name in ("a.png", "b.png", "c.png", "sub/d.png", "sub/e.png"):
        save(tmp_path / name)
    texts = {
        "meta_cap.json": {"a": "raw", "b": "raw", "c": "raw"},
        "meta_clean.json": {"a": "clean", "b": "clean", "c": ""},
        "captions.json": {"a": "own", "sub/d": "far", "sub/e": "far"},
        "sub/meta_cap.json": {"d": "near", "e": ""},
        "elsewhere/captions.json": {"a": "wrong", "../a.png": "wrong"},
    }
    (tmp_path / "elsewhere").mkdir()
    for file, entries in texts.items():
        (tmp_path / file).write_text(json.dumps(entries))
    (tmp_path / "elsewhere" / "meta_cap.json").write_text("broken, but no image is there")
    found, skipped = captions(folder, tmp_path)
    assert skipped == []
    assert found == {
        "a.png": "own",
        "b.png": "clean",
        "c.png": "raw",
        "sub/d.png": "near",
        "sub/e.png": "far",
    }


def test_sidecars_before_metadata_before_json(tmp_path):
    for name in "abc":
        save(tmp_path / f"{name}.png")
    (tmp_path / "a.caption").write_text("sidecar")
    lines = [{"file_name": f"{name}.png", "text": "metadata"} for name in "ab"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "captions.json").write_text(json.dumps(dict.fromkeys("abc", "json")))
    assert captions(folder, tmp_path)[0] == {
        "a.png": "sidecar",
        "b.png": "metadata",
        "c.png": "json",
    }


@pytest.mark.parametrize(
    "text, places",
    [
        ("", ""),
        ("{", ""),
        ("7", ""),
        ("[" * 100_000, ""),
        ('{"a":' * 100_000, ""),
        ('{"a": [["x"]], "b": true, "c": {"z": 1}, "a.png": "A"}', ", entries 'a', 'b', 'c'"),
        ('{"a": {"caption": {"caption": "x"}}}', ", entry 'a'"),
        (
            '[7, {"text": "x"}, {"file_name": 7, "text": "x"}, {"image": "a"}]',
            ", entries 1, 2, 3 and 1 more",
        ),
        (
            '{"a\\nb": 1e999, "\\ud800": "\\udfff", "../../a.png": "x", "/etc/passwd": "x", "": "x", ".": "x"}',
            None,
        ),
    ],
)
def test_broken_json_is_reported_and_the_rest_is_read(tmp_path, text, places):
    save(tmp_path / "set" / "a.png")
    save(tmp_path / "a.png")
    (tmp_path / "set" / "captions.json").write_text(text)
    found, skipped = captions(folder, tmp_path / "set")
    assert found == {"a.png": "A" if '"A"' in text else ""}
    reason = "not JSON with names of images and captions"
    assert skipped == [(f"captions.json{places}", reason)] * (places is not None)


def test_deep_lines_of_metadata_are_named(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(
        "[" * 200_000 + '\n{"file_name": "a.png", "text": "A"}'
    )
    found, skipped = captions(folder, tmp_path)
    assert found == {"a.png": "A"} and [name for name, _ in skipped] == ["metadata.jsonl, line 1"]


def test_a_file_of_nonsense_is_given_up(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text("x\n" * 100_000)
    skipped = captions(folder, tmp_path)[1]
    assert skipped == [
        ("metadata.jsonl, lines 1, 2, 3 and 97 more", "not JSON with file_name and text"),
        ("metadata.jsonl", "has 100 such entries or more: the rest is not read"),
    ]


def test_huge_lists_are_not_read(tmp_path):
    save(tmp_path / "a.png")
    for name in ("metadata.jsonl", "captions.json"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(limits.LIST + 1)  # takes no space
    assert captions(folder, tmp_path)[1] == [
        ("captions.json", "has more than 64 MB"),
        ("metadata.jsonl", "has more than 64 MB"),
    ]


def test_captions_that_no_set_can_keep_are_named_and_left_out(tmp_path):
    for name in "abcd":
        save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("x" * limits.CAPTION)
    (tmp_path / "b.txt").write_text("x" * (limits.CAPTION + 1))
    (tmp_path / "c.json").write_text(json.dumps({"caption": "x" * (limits.CAPTION + 1)}))
    lines = [{"file_name": "d", "text": text} for text in ("short", "x" * (limits.CAPTION + 1))]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found, skipped = captions(folder, tmp_path)
    assert [len(found[f"{name}.png"]) for name in "abcd"] == [limits.CAPTION, 0, 0, 5]
    reason = "has a caption of more than 65536 characters: shorten it"
    assert skipped == [(name, reason) for name in ("b.txt", "c.json", "metadata.jsonl, line 2")]


def test_all_captions_together_have_a_limit(tmp_path, monkeypatch):
    """Many links may lead to one long text."""
    monkeypatch.setattr(limits, "CAPTIONS", 25)
    for number in range(4):
        save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("x" * 10)
    found, skipped = captions(folder, tmp_path)
    assert [len(text) for text in found.values()] == [10, 10, 0, 0]
    reason = "is left out: all captions have more than 25 characters"
    assert skipped == [("2.txt", reason), ("3.txt", reason)]


NAMED = '{"file_name":"a","text":"t"}'


@pytest.mark.parametrize("name, text", [
    ("captions.json", '{"a":["t",' + "[]," * 60 + "[]]}"),
    ("captions.json", "{" + ",".join(f'"{i}":"x"' for i in range(20)) + ',"a":"t"}'),
    ("captions.json", NAMED[:-1] + ',"x":' + "[" * 50 + "]" * 50 + "}"),
    ("captions.json", f"[{NAMED}" + "," + "\n" * 20 + "{}]"),
    ("metadata.jsonl", NAMED[:-1] + ',"x":[' + "[]," * 60 + "[]]}"),
    ("metadata.jsonl", NAMED + "\n" * 20),
    ("metadata.csv", "file_name,text\n" + "a,t\n" * 20),
    ("metadata.csv", "file_name,text\na,t" + "," * 90),
])  # fmt: skip
def test_lists_with_too_many_entries_are_refused_before_they_are_parsed(
    tmp_path, monkeypatch, name, text
):
    save(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    whole = captions(folder, tmp_path)[0]
    monkeypatch.setattr(limits, "LIST_VALUES", 18)
    monkeypatch.setattr(limits, "LIST_LINES", 18)
    monkeypatch.setattr(limits, "LIST_LINE", 90)
    found, skipped = captions(folder, tmp_path)
    assert whole == {"a.png": "t"} or name == "captions.json"
    assert found == {"a.png": ""} and skipped[0][0].startswith(name)


def test_reading_captions_can_be_stopped(tmp_path):
    for number in range(3):
        save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("x")
    (tmp_path / "metadata.jsonl").write_text('{"file_name":"gone","text":"t"}\n' * 5000)
    calls = []
    folder.read_folder(tmp_path, on_progress=calls.append)
    assert calls.count(0) >= 3 + 1 + 5


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_caption_files_that_lead_outside_are_not_read(tmp_path):
    save(tmp_path / "set" / "a.png")
    save(tmp_path / "set" / "b.png")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secret.jsonl").write_text('{"file_name": "a.png", "text": "secret"}')
    (tmp_path / "secret.json").write_text('{"a": "secret"}')
    (tmp_path / "set" / "a.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "set" / "metadata.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (tmp_path / "set" / "captions.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "set" / "b.caption").symlink_to(tmp_path / "set" / "own.md")
    (tmp_path / "set" / "own.md").write_text("own")
    os.mkfifo(tmp_path / "set" / "b.txt")
    found, skipped = captions(folder, tmp_path / "set")
    assert found == {"a.png": "", "b.png": "own"}
    outside = "is a link to a place outside of the input folder"
    assert skipped == [
        ("a.txt", outside),
        ("b.txt", "is not a file"),
        ("captions.json", outside),
        ("metadata.jsonl", outside),
    ]


def test_captions_can_be_written_as_utf_8(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "captions.json").write_text('{"a": "x \\ud800 y \\ud83d\\ude00"}')
    assert captions(folder, tmp_path)[0] == {"a.png": "x ? y 😀"}


def test_an_image_cannot_be_named_by_a_long_way_up(tmp_path):
    """What a key costs does not grow with the square of its length."""
    save(tmp_path / "a.png")
    (tmp_path / "captions.json").write_text(json.dumps({"/x" * 1_000_000 + "/a.png": "far away"}))
    assert captions(folder, tmp_path)[0] == {"a.png": "far away"}
