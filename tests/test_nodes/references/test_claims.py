"""What an image claims is compared with what can be used before its decoder makes room for it."""

import io
import struct

import pytest
from mmd_pack.mmd_core.files import limits
from mmd_pack.nodes.references.folder import claims, image_folder
from mmd_pack.nodes.references.folder.open_image import read_header
from mmd_pack.nodes.references.folder.read_image import read_image
from PIL import Image, features

pytestmark = pytest.mark.comfy
SIZE = (301, 207)
MOST = 1000  # parts, of which no picture here has more
EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"
avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot write AVIF")


def saved(kind, mode="RGB", size=SIZE, **options):
    file = io.BytesIO()
    Image.new(mode, size, 99).save(file, kind, **options)
    return file


@pytest.mark.parametrize("kind, options", [
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"mode": "RGBA", "lossless": True}),
    ("WEBP", {"exif": EXIF}),
    ("WEBP", {"save_all": True, "append_images": [Image.new("RGB", SIZE)]}),
    pytest.param("AVIF", {}, marks=avif),
    pytest.param("AVIF", {"mode": "RGBA", "exif": EXIF}, marks=avif),
])  # fmt: skip
def test_sizes_are_read_where_decoders_make_room_for_all_pixels(kind, options):
    file = saved(kind, **options)
    assert claims.claimed_pixels(file) == SIZE[0] * SIZE[1] and file.tell() == 0
    largest = saved(kind, size=(1, 16383)) if kind == "WEBP" else file
    assert claims.claimed_pixels(largest) == (16383 if kind == "WEBP" else SIZE[0] * SIZE[1])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_other_decoders_make_no_room_before_they_are_asked(kind):
    assert claims.claimed_pixels(saved(kind)) == 0


@pytest.mark.parametrize("head, pixels", [
    (b"", 0), (b"RIFF", 0), (b"RIFF\0\0\0\0WEBP", 0), (b"\xff\x0a", claims.UNKNOWN),
    (b"\0\0\0\x0cJXL \r\n\x87\n", claims.UNKNOWN), (b"\0\0\0\x18ftypavif", claims.UNKNOWN),
    (b"\0\0\0\x18ftypheicispe" + bytes(4) + struct.pack(">II", 70_000, 50_000), 35 * 10**8),
    (b"\0\0\0\x18ftypheicispe", claims.UNKNOWN),
    (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6, 2**48),
])  # fmt: skip
def test_what_is_damaged_or_lies_claims_what_it_says(head, pixels):
    file = io.BytesIO(head)
    if pixels:
        assert claims.claimed_pixels(file) == pixels
    assert claims.claimed_parts(file, MOST) == 0


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}])
def test_strips_are_counted_as_the_decoder_counts_them(options):
    file = saved("TIFF", size=(301, 2000), **options)
    count = claims.claimed_parts(file, MOST)
    with Image.open(file) as opened:
        assert count == len(opened.tag_v2[273])


def tiff(strips, order="<", big=False, tag=273):
    """A grey image of one pixel in each of its strips, which all lie at the same place."""
    entry, place = ("HHQQ", "Q") if big else ("HHII", "I")
    tags = {256: 1, 257: strips, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    start = struct.calcsize(order + ("HHHHQ" if big else "2sHI")) + (8 if big else 2)
    values = start + (len(tags) + 2) * struct.calcsize(order + entry) + struct.calcsize(place)
    head = b"II" if order == "<" else b"MM"
    head += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    head += struct.pack(order + ("Q" if big else "H"), len(tags) + 2)
    for number, value in tags.items():
        head += struct.pack(order + entry, number, 4, 1, value)
    for number, at in ((tag, values), (279, values + 4 * strips)):
        head += struct.pack(order + entry, number, 4, strips, at)
    head += struct.pack(order + place, 0)
    places = [len(head) + 8 * strips] * strips
    return head + struct.pack(f"{order}{2 * strips}I", *places, *[1] * strips) + b"\x63"


@pytest.mark.parametrize("order, big", [("<", False), (">", False), ("<", True), (">", True)])
def test_a_tiff_of_too_many_strips_is_refused_before_it_is_opened(
    tmp_path, monkeypatch, order, big
):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(9, order, big))
    assert claims.claimed_parts(io.BytesIO(tiff(9, order, big)), MOST) == 9
    if order == "<" or not big:  # Pillow does not know all of them
        assert read_header(path).size == (1, 9) and read_image(path).shape == (1, 9, 1, 3)
    path.write_bytes(tiff(limits.IMAGE_PARTS + 1, order, big))
    monkeypatch.setattr(Image, "open", None)
    for read in (read_header, read_image):
        with pytest.raises(ValueError, match="has more than 131072 parts: save it anew"):
            read(path)


def jpeg(part):
    data = saved("JPEG").getvalue()
    return data[:2] + part + data[2:]


def gif(part):
    data = saved("GIF").getvalue()
    start = 13 + 3 * 2 ** (1 + (data[10] & 7)) * (data[10] >> 7)  # after the colors
    return data[:start] + part + data[start:]


@pytest.mark.parametrize("made, part", [
    (jpeg, lambda n: b"\xff\xfe\0\2" * n), (jpeg, lambda n: b"\xff\xfe\0\7ABCDE" * n),
    (jpeg, lambda n: b"\xff" * n), (jpeg, lambda n: b"\xff\xd0" * n),
    (gif, lambda n: b"\0" * n), (gif, lambda n: b"!\xfe\2ab\0" * (n // 2)),
    (gif, lambda n: b"!\xfe" + b"\2ab" * (n - 1) + b"\0"),
])  # fmt: skip
def test_parts_before_the_pixels_are_limited(tmp_path, monkeypatch, made, part):
    own = claims.claimed_parts(io.BytesIO(made(b"")), MOST)
    assert 0 < own < 20 or made is gif and own == 0
    found = claims.claimed_parts(io.BytesIO(made(part(40))), MOST)
    assert found == own + 40
    assert claims.claimed_parts(io.BytesIO(made(part(40))), 30) == 31
    path = tmp_path / "a.png"
    path.write_bytes(made(part(40)))
    monkeypatch.setattr(limits, "IMAGE_PARTS", found)
    assert read_header(path).size == SIZE
    monkeypatch.setattr(limits, "IMAGE_PARTS", found - 1)
    monkeypatch.setattr(Image, "open", None)
    for read in (read_header, read_image):
        with pytest.raises(ValueError, match="parts: save it anew"):
            read(path)


def test_tiles_count_like_strips():
    assert claims.claimed_parts(io.BytesIO(tiff(9, tag=324)), MOST) == 9


def test_a_webp_with_more_pixels_than_anybody_needs_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.webp"
    path.write_bytes(saved("WEBP").getvalue())
    assert read_image(path).shape == (1, *SIZE[::-1], 3)
    monkeypatch.setattr(limits, "WEBP_PIXELS", SIZE[0] * SIZE[1] - 1)
    for read in (read_header, read_image):
        with pytest.raises(ValueError, match=r"too many for a \.webp: save it as \.png"):
            read(path)


def test_large_images_are_opened_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(image_folder, "LARGE", 100 * 100)
    for number, (kind, size) in enumerate([("WEBP", SIZE), ("WEBP", (9, 9)), ("PNG", SIZE)] * 4):
        (tmp_path / f"{number}.png").write_bytes(saved(kind, size=size).getvalue())
    locked = {}
    with image_folder._Pool() as pool:

        def noted(path):
            locked[path] = pool.large.locked()
            return read_header(path)

        monkeypatch.setattr(image_folder, "read_header", noted)
        paths = sorted(tmp_path.iterdir())
        assert all(not reason for _, reason in pool.headers(paths))
    large = [path for path in paths if path.read_bytes()[:4] == b"RIFF"]
    assert all(locked[path] for path in large if read_header(path).size == SIZE)
