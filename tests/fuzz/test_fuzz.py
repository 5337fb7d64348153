"""Readers under attack: a few hundred changed files, always the same; `python tests/fuzz/run.py` tries thousands."""

import io
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from mmd_pack.mmd_core.files import memory_part, reference_file
from mmd_pack.nodes.references.encoding import latent_cache
from mmd_pack.nodes.references.folder import (
    caption_files,
    caption_lists,
    open_image,
    png_parts,
    read_image,
)
from mmd_tests.fuzz import campaign, limits, pictures, png
from mmd_tests.fuzz.targets import TARGETS
from PIL import Image, features

pytestmark = pytest.mark.comfy

FILES = {
    **{"png": 50, "jpeg": 30, "webp": 30, "gif": 30, "bmp": 30, "tiff": 40, "avif": 20},
    **{"large jpeg": 2, "folders": 40, "captions": 40, "references": 50, "cache": 40, "memory": 40},
}


def fuzz(name, folder, n=None, **options):
    return campaign.fuzz(TARGETS[name], n or FILES[name], folder, **options)


def test_every_target_is_tried_here():
    assert set(FILES) - set(TARGETS) <= {"avif"}  # which Pillow has since 11.3
    assert set(TARGETS) <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_or_read_as_what_it_holds(name, tmp_path):
    if name not in TARGETS:
        return
    result = fuzz(name, tmp_path)
    assert not result.fault, f"{result.fault[1]!r}: {result.fault[0]!r}"
    assert sum(result.outcomes.values()) >= FILES[name] / 4


def test_whole_pictures_of_all_kinds_are_read_as_they_should():
    for kind in pictures.MAKERS:
        for data in pictures.pool(kind).values():
            image, size = read_image.read_sized(io.BytesIO(data))
            pictures.check_picture(data, image[0].double().numpy() * 255, size)


def test_the_png_decoder_of_the_tests_and_pillow_agree():
    agreed = 0
    for data in pictures.pool("png").values():
        try:
            found = png.decode(data)
        except png.Unclear:
            continue
        if b"tRNS" not in data:  # which Pillow gives with other numbers than those of its pixels
            pictures.compare(found, pictures.shown(data)[0])
            agreed += 1
    assert agreed >= 12


# What the attack has found


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_a_fax_is_refused(compression):
    if not features.check("libtiff"):
        return
    data = pictures.saved(Image.new("1", (20, 12)), "TIFF", compression=compression)
    with pytest.raises(ValueError, match="compression of a fax"):
        read_image.read_image(io.BytesIO(data))


def test_a_tiff_without_its_last_rows_is_refused():
    data = pictures.pool("tiff")["RGB"]
    height, taller = (struct.pack("<HHII", 257, 4, 1, n) for n in (12, 13))
    assert data.count(height) == 1
    with pytest.raises(ValueError, match="a part of it is missing"):
        read_image.read_image(io.BytesIO(data.replace(height, taller)))


def test_a_picture_without_an_end_is_refused():
    long = pictures.saved(Image.new("1", (20_000, 1600)), "PNG")
    assert read_image.read_image(io.BytesIO(long)).shape == (1, 1600, 20_000, 3)
    for size in ((80_000, 2100), (80_000_000, 1)):
        with pytest.raises(ValueError, match="long and narrow"):
            read_image.read_image(io.BytesIO(pictures.saved(Image.new("1", size), "BMP")))


def test_odd_exif_and_size_make_no_noise(recwarn):
    exif = pictures.saved(pictures.gradient(), "JPEG", exif=pictures.turned())
    read_image.read_image(io.BytesIO(exif.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")))
    canvas = bytearray(pictures.pool("webp")["animated"])
    canvas[24:30] = (16000).to_bytes(3, "little") * 2
    with pytest.raises(ValueError, match="megapixels"):
        read_image.read_image(io.BytesIO(canvas))
    assert not recwarn.list


def test_a_name_of_a_thousand_pages_is_never_normalized(monkeypatch):
    """That would take hours: the time grows with the square of the length."""
    lengths = []
    monkeypatch.setattr(caption_files, "nfc", lambda name: lengths.append(len(name)) or name)
    assert caption_files.NamedImages(["a.png"]).find("", "a" + "\u0315\u0300" * 10**6) == []
    assert 0 < max(lengths) <= caption_files.MAX_PART


# The attack finds what it looks for


def kind_of_fault(name, folder, n):
    fault = fuzz(name, folder, n, shrink=False).fault
    return fault and type(fault[1]).__name__


def test_a_reader_that_looks_at_no_checksum_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "PIL.PngImagePlugin.ChunkStream.crc", lambda self, cid, data: self.fp.read(4)
    )
    monkeypatch.setattr(png_parts, "_is_good", lambda *_: True)
    assert kind_of_fault("png", tmp_path, 500) == "Misread"


@pytest.mark.parametrize("name", ["references", "cache", "memory"])
def test_a_reader_that_does_not_see_damage_is_found_out(tmp_path, monkeypatch, name):
    class Anything(str):
        __hash__ = None

        def __eq__(self, other):
            return True

        def __ne__(self, other):
            return False

    TARGETS[name].cases()  # the whole files are written as they should be
    if name == "cache":
        monkeypatch.setattr(latent_cache, "_digest", lambda *_: Anything())
    else:
        module = {"references": reference_file, "memory": memory_part}[name]
        read = module.read_tensors
        monkeypatch.setattr(module, "read_tensors", lambda *a: (read(*a)[0], Anything()))
    assert kind_of_fault(name, tmp_path, 400)


def test_captions_of_another_picture_are_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_lists.NamedImages, "find", lambda self, parent, key: ["b.jpg"])
    assert kind_of_fault("captions", tmp_path, 200) == "Misread"


def test_any_other_error_is_a_crash(tmp_path, monkeypatch):
    monkeypatch.setattr(open_image, "why", lambda error: {}["x"])
    assert kind_of_fault("bmp", tmp_path, 5) == "Crash"


def test_time_memory_and_warnings_are_watched():
    def watched(action):
        with limits.Watch() as watch:
            action()
        try:
            watch.check()
        except limits.Crash as error:
            return str(error)

    def work():
        while limits.time.process_time() < end:
            pass

    assert watched(lambda: None) is None
    assert "warning" in watched(lambda: warnings.warn("too large", stacklevel=1))
    if sys.platform == "linux":
        assert "memory" in watched(lambda: np.ones(2**29, np.uint8).sum())
    limits_before, limits.SECONDS = limits.SECONDS, 0.05
    try:
        end = limits.time.process_time() + 0.2
        assert "seconds" in watched(work)
    finally:
        limits.SECONDS = limits_before


def test_the_command_explains_itself():
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--examples" in done.stdout and "--seed" in done.stdout
