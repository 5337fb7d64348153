"""Files that are not called as usual: read by what they are, or named in the report."""

import io

import numpy as np
import pytest
from mmd_pack.nodes.references.folder.file_kinds import IMAGE_FILE, has_ending, sniffed, stem_of
from mmd_pack.nodes.references.folder.image_folder import read_folder
from mmd_pack.nodes.references.folder.list_files import fingerprint
from mmd_pack.nodes.references.folder.problems import Problem, folded
from mmd_pack.nodes.references.load_reference_set import LoadReferenceSet
from PIL import Image, features

pytestmark = pytest.mark.comfy

KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF", "bmp": "BMP"}
KINDS |= {"avif": "AVIF"} if features.check("avif") else {}


def picture(kind="PNG", seed=0):
    """The bytes of a picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def fill(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def notes(folder, **options):
    return "\n".join(read_folder(folder, **options)[0].notes)


@pytest.mark.parametrize(
    "name",
    ["a.jpe", "a.apng", "a.HIF", "a.heif", "a.avifs", "a.jfif", "a.mpo", "a.dib", "a.pjpeg", "a.TIF"],
)  # fmt: skip
def test_each_ending_of_an_image_is_known(name):
    assert IMAGE_FILE.fullmatch(name)


def test_endings_that_others_use_are_read(tmp_path):
    fill(tmp_path, {"a.jpe": picture("JPEG"), "b.apng": picture(), "c.dib": picture("BMP")})
    assert read_folder(tmp_path)[0].names == ["a.jpe", "b.apng", "c.dib"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_an_ending_is_found(tmp_path, kind):
    names = ["photo", "Mr. Smith at sea", "v1.0", "sub/deep"]
    fill(tmp_path, dict.fromkeys(names, picture(KINDS[kind])))
    fill(tmp_path, {"README": b"BM is no picture", "x" * 9: b"", "photo.txt": b"a caption"})
    fill(tmp_path, {"v1.0.txt": b"whole name"})
    assert sniffed(tmp_path / "photo") == kind and sniffed(tmp_path / "README") == ""
    references, _ = read_folder(tmp_path)
    captions = dict(zip(references.names, references.captions, strict=True))
    assert captions == dict.fromkeys(sorted(names), "") | {
        "photo": "a caption",
        "v1.0": "whole name",
    }
    assert references.skipped == []


@pytest.mark.parametrize(
    "name, stem",
    [
        ("a.png", "a"), ("a.b.png", "a.b"), ("x.y/a", "x.y/a"), ("a.7z", "a"), ("a.tar.gz", "a.tar"),
        ("v1.0", "v1.0"), ("Mr. Smith", "Mr. Smith"), ("a.jpg ", "a.jpg "), ("a.", "a."),
    ],
)  # fmt: skip
def test_what_an_ending_is(name, stem):
    assert stem_of(name) == stem and has_ending(name) == (stem != name)


def test_formats_that_are_not_read_are_named(tmp_path):
    fill(tmp_path, {"ok.png": picture()})
    assert notes(tmp_path) == ""
    before = fingerprint(tmp_path, True)
    fill(tmp_path, {name: b"x" for name in ("a.psd", "b.PSD", "c.tga", "d.jp2", "e.dng", "f.mp4")})
    text = notes(tmp_path)
    assert (
        "Formats that are not read: 1 .dng, 1 .jp2, 1 .mp4, 2 .psd, 1 .tga (a.psd, b.PSD," in text
    )
    assert fingerprint(tmp_path, True) != before  # or the report would be an old one


def test_images_with_another_ending_are_named(tmp_path):
    data = picture("JPEG")
    fill(
        tmp_path, {"ok.png": picture(), "a.jpg_large": data, "b.png.bak": picture(), "c.dat": b"x"}
    )
    assert notes(tmp_path).endswith("a.jpg_large (jpg), b.png.bak (png). Rename them to use them.")


# Text files of no image


def test_text_files_that_nothing_reads_are_named_if_there_are_no_captions(tmp_path):
    fill(tmp_path, {"a.png": picture(), "b.png": picture(), "0_off/c.png": picture()})
    fill(tmp_path, {"0_off/c.txt": b"off"})
    assert "caption" not in notes(tmp_path)
    files = {"a.tags": b"x", "gone.txt": b"x", "metadata1.jsonl": b"{}", "train.parquet": b"x"}
    fill(tmp_path, {**files, "b.json": b'{"nodes": []}', "README.md": b"x"})
    text = notes(tmp_path)
    assert "No caption is found in these files: a.tags, b.json, gone.txt and 2 more." in text
    assert "metadata.jsonl" in text and "`caption_source`" in text
    for source in ("folder name", "none"):
        assert "caption" not in notes(tmp_path, caption_source=source)
    # With the caption of one image, only those of images without one are named.
    fill(tmp_path, {"a.txt": b"a caption"})
    assert "b.json. Name them" in notes(tmp_path)
    fill(tmp_path, {"b.txt": b"a caption"})
    assert "caption" not in notes(tmp_path)


def test_a_caption_source_that_finds_nothing_names_what_others_would_read(tmp_path):
    fill(tmp_path, {"a.png": picture(), "metadata.csv": b"file_name,text\na.png,A\n"})
    assert "metadata.csv" in notes(tmp_path, caption_source="txt")
    assert notes(tmp_path) == ""


def test_captions_of_images_that_were_not_chosen_are_not_named(tmp_path):
    fill(tmp_path, {f"{i}.png": picture() for i in range(4)} | {"3.txt": b"x", "2.json": b"{}"})
    assert notes(tmp_path, max_images=1) == ""


# The order of complaints


def test_equal_complaints_of_one_file_are_one():
    lines = [Problem("a", "bad", f"line {i}") for i in (1, 2, 2)]
    assert folded(lines[:1]) == [("a, line 1", "bad")]
    assert folded(lines) == [("a, lines 1, 2", "bad")]
    other = [Problem("b", "bad", "line 1"), Problem("a", "worse", "line 1"), Problem("a", "bad")]
    assert folded([*lines, *other[:2]])[1:] == [("b, line 1", "bad"), ("a, line 1", "worse")]
    many = [Problem("a", "bad", f"entry '{i}'") for i in range(100)]
    assert folded(many) == [("a, entries '0', '1', '2' and 97 more", "bad")]


def test_broken_images_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.input_directory", str(tmp_path))
    monkeypatch.setattr("folder_paths.temp_directory", str(tmp_path / "temp"))
    files = {"z.png": b"broken", "ok.png": picture(), "metadata.jsonl": b"broken\n" * 99}
    files |= {f"{i}.png": picture() for i in range(40)} | {f"{i}.txt": b"\xff" for i in range(40)}
    fill(tmp_path / "set", files)
    references, _, _, report = LoadReferenceSet.execute("set").args
    named = [line for line in report.split("\n") if line.startswith("Not used")]
    assert named[0].startswith("Not used: z.png: is not an image")
    assert named[-1] == "Not used: 22 more." and len(references.skipped) == 42
    assert references.skipped[-1][0] == "metadata.jsonl, lines 1, 2, 3 and 96 more"
