"""What stands beside the pixels of a file: damaged, large or missing, it costs no pixels."""

import io
import itertools
import random
import struct
import zlib

import numpy as np
import pytest
from mmd_pack.mmd_core.files import limits
from mmd_pack.nodes.references.folder.color_profile import UNUSABLE
from mmd_pack.nodes.references.folder.joined_file import joined
from mmd_pack.nodes.references.folder.open_image import read_header
from mmd_pack.nodes.references.folder.png_parts import png_parts
from mmd_pack.nodes.references.folder.read_image import read_image, read_sized
from mmd_pack.nodes.references.folder.refused import CUT_OFF, DAMAGED
from mmd_tests.support import icc
from PIL import Image, ImageFile, PngImagePlugin

pytestmark = pytest.mark.comfy


def noise(width=20, height=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data):
    return np.rint(read_image(io.BytesIO(data))[0].numpy() * 255).astype(np.uint8)


def why_not(data):
    with pytest.raises(ValueError) as caught:
        read_image(io.BytesIO(data))
    return str(caught.value)


def chunk(kind, content=b"", checksum=None):
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


PNG = encoded(Image.fromarray(noise()), compress_level=0)
START, PIXELS, END = PNG[:33], PNG[33:-12], PNG[-12:]
assert PIXELS[4:8] == b"IDAT" and chunk(b"IEND") == END


def random_bytes(n):
    return random.Random(0).randbytes(n)


def xmp(orientation, padding=0):
    text = b"<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>" % orientation
    return b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * padding + text)


HARMLESS = {
    "a wrong checksum of a text": chunk(b"tEXt", b"Software\0mine", 1),
    "a wrong checksum of a time": chunk(b"tIME", b"1234567", 1),
    "a wrong checksum of an animation": chunk(b"acTL", b"\0" * 8, 1)
    + chunk(b"fcTL", b"\0" * 26, 1),
    "a text of 2 MB": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2_000_000)),
    "68 texts of 1 MB": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 1_000_000)) * 68,
    "a plain text of 3 MB": chunk(b"tEXt", b"a\0" + b"x" * 3_000_000),
    "XMP of 2 MB": chunk(b"iTXt", xmp(1, 500_000)),
    "XMP that is damaged": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0junk"),
    "EXIF that is damaged": chunk(b"eXIf", b"junk"),
    "EXIF as text that is damaged": chunk(b"tEXt", b"Raw profile type exif\0junk"),
    "EXIF of 2 MB": chunk(b"eXIf", b"II*\0" + b"\0" * 2_000_000),
    "a private part": chunk(b"prIv", random_bytes(2_000_000)),
    "a thousand empty parts": chunk(b"tEXt") * 1000,
    "no zlib in a text": chunk(b"zTXt", b"a\0\0junk"),
}


@pytest.mark.parametrize("place", ["before the pixels", "behind them"])
@pytest.mark.parametrize("kind", HARMLESS)
def test_metadata_of_a_png_costs_no_pixels(kind, place):
    extra = HARMLESS[kind]
    before, behind = (extra, b"") if place == "before the pixels" else (b"", extra)
    data = START + before + PIXELS + behind + END
    assert (read(data) == noise()).all() and read_header(io.BytesIO(data)).size == (20, 12)


PROFILES = {
    "damaged": b"a\0\0" + zlib.compress(b"junk"),
    "large": b"a\0\0" + zlib.compress(random_bytes(1_500_000)),
    "too large": b"a\0\0" + zlib.compress(b"\0" * (2**24 + 1)),
    "no zlib": b"a\0\0junk",
    "empty": b"",
}


@pytest.mark.parametrize("kind", PROFILES)
@pytest.mark.parametrize("checksum", [None, 1])
def test_a_profile_of_a_png_costs_no_pixels(kind, checksum):
    data = START + chunk(b"iCCP", PROFILES[kind], checksum) + PIXELS + END
    assert (read(data) == noise()).all() and read_header(io.BytesIO(data)).profile == UNUSABLE


def test_a_large_profile_is_used():
    """Pillow alone reads none above 1 MB."""
    profile = icc.rgb("Adobe RGB")
    large = (len(profile) + 2_000_000).to_bytes(4, "big") + profile[4:] + random_bytes(2_000_000)
    small, data = (
        START + chunk(b"iCCP", b"a\0\0" + zlib.compress(found)) + PIXELS + END
        for found in (profile, large)
    )
    assert (read(data) == read(small)).all() and (read(data) != noise()).any()
    assert read_header(io.BytesIO(data)).profile == "Adobe RGB"


def test_a_png_may_lack_its_end():
    for cut in range(1, 13):
        assert (read(PNG[:-cut]) == noise()).all()
    assert (
        read(PNG[:-12] + chunk(b"tEXt", b"a\0b")[:-3]) == noise()
    ).all()  # cut off behind pixels
    assert (read(PNG + b"junk" * 1000) == noise()).all()
    for cut in range(13, len(PIXELS) + 12):  # the checksum is needed
        assert why_not(PNG[:-cut]) in (CUT_OFF, DAMAGED)


def split(n):
    """The PNG with its pixels in n chunks."""
    size = -(-len(PIXELS) // n)
    return [chunk(b"IDAT", PIXELS[8:-4][i * size : (i + 1) * size]) for i in range(n)]


def test_pixels_are_checked_as_ever():
    parts = split(5)
    assert (read(START + b"".join(parts) + END) == noise()).all()
    for i, part in enumerate(parts):
        others = START + b"".join(parts[:i]), b"".join(parts[i + 1 :]) + END
        assert why_not(others[0] + others[1])
        assert why_not(others[0] + part[:-1] + bytes([part[-1] ^ 1]) + others[1]) == DAMAGED
        for kind in (b"iDAT", b"IdAT", b"idat", b"JDAT"):  # a damaged name
            assert why_not(others[0] + part[:4] + kind + part[8:] + others[1]) == DAMAGED
    assert why_not(START + b"".join(parts[:3])) == CUT_OFF
    header = bytearray(START)
    header[19] += 1
    assert why_not(bytes(header) + PIXELS + END) == DAMAGED
    grey = encoded(Image.fromarray(noise()[..., 0]), transparency=7)
    assert why_not(grey.replace(chunk(b"tRNS", b"\0\7"), chunk(b"tRNS", b"\0\7", 1))) == DAMAGED


def test_a_png_of_too_many_parts_is_refused():
    data = START + chunk(b"tEXt") * limits.IMAGE_PARTS + PIXELS + END
    assert "parts" in why_not(data)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def test_every_way_to_say_how_a_png_is_turned():
    turned = np.rot90(noise(), -1)
    hexed = b"\nexif\n%8d\n" % 99 + (b"Exif\0\0" + exif_of(6)).hex().encode()
    for extra in (
        chunk(b"eXIf", exif_of(6)),
        chunk(b"tEXt", b"Raw profile type exif\0" + hexed),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexed)),
        chunk(b"iTXt", xmp(6)),
        chunk(b"iTXt", xmp(6, 500_000)),
        chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(b'tiff:Orientation="6"')),
        chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0en\0XMP\0tiff:Orientation="6"'),
        chunk(b"iTXt", xmp(3)) + chunk(b"eXIf", exif_of(6)),
        chunk(b"eXIf", exif_of(6)) + chunk(b"eXIf", exif_of(3), 1),
    ):
        for data in (
            START + extra + PIXELS + END,
            START + PIXELS + extra + END,
            START + PIXELS + extra,
            START + extra + PIXELS + chunk(b"\0\0\0\0") + END,  # Pillow stops there
        ):
            image, size = read_sized(io.BytesIO(data))
            assert size == (12, 20) and np.array_equal(np.rint(image[0].numpy() * 255), turned)


def test_settings_of_other_packs_do_not_matter(monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 100)
    assert (
        read(START + chunk(b"iTXt", b"a\0\0\0\0\0" + b"x" * 1000) + PIXELS + END) == noise()
    ).all()


def test_a_file_of_parts_is_the_parts():
    content = random_bytes(1000)
    parts = [(3, 90), b"between", (500, 500), b"", (90, 95), (950, 1000)]
    expected = content[3:90] + b"between" + content[90:95] + content[950:]
    file = joined(io.BytesIO(content), parts)
    assert file.read() == expected
    for start, n in itertools.product(range(0, 160, 7), (0, 1, 60, 999)):
        assert file.seek(start) == start
        assert file.read(n) == expected[start : start + n]
    assert file.seek(0, 2) == len(expected)


def test_a_large_png_is_not_copied():
    """Only its chunks are noted."""
    file = io.BytesIO(START + b"".join(split(100)) + END)
    found = png_parts(file, True).file.raw
    assert sum(len(part) for part in found.parts if isinstance(part, bytes)) < 100
    assert len(found.parts) <= 4


# JPEG


def jpeg(width=64, height=48, **options):
    small = Image.fromarray(noise(8, 6)).resize((width, height), Image.Resampling.BICUBIC)
    return encoded(small, "JPEG", **{"quality": 90, **options})


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}])
def test_a_jpeg_may_lack_its_end(options):
    whole = jpeg(**options)
    for cut in (1, 2):
        assert (read(whole[:-cut]) == read(whole)).all()
    refused = 0
    for cut in range(3, 400):
        try:
            assert (read(whole[:-cut]) == read(whole)).all()
        except ValueError as error:
            refused += 1
            assert str(error) == CUT_OFF
    assert refused >= 394  # the last bits may fill up a byte


def test_a_grey_and_a_reduced_jpeg_may_lack_their_ends():
    grey = encoded(Image.fromarray(noise()[..., 0]), "JPEG")
    assert (read(grey[:-2]) == read(grey)).all()
    large = jpeg(400, 300)
    whole, cut = (read_image(io.BytesIO(data), 30) for data in (large, large[:-2]))
    assert (whole == cut).all()


def test_a_jpeg_in_several_parts_must_have_its_end():
    """It could lack one of them."""
    whole = jpeg(restart_marker_blocks=3)
    for cut in range(1, 400):
        assert why_not(whole[:-cut]) == CUT_OFF
    whole = jpeg(progressive=True)
    assert why_not(whole[:-2]) == CUT_OFF
    second = whole.index(b"\xff\xda", whole.index(b"\xff\xda") + 2)
    assert why_not(whole[:second]) == CUT_OFF


# Transparency


def alpha_bmp(pixels, alpha):
    """A BMP of version 4, which has a mask for alpha."""
    height, width = pixels.shape[:2]
    rows = np.dstack([pixels[..., ::-1], np.full((height, width), alpha, np.uint8)])[::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + b"\0" * 48
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 122) + head + rows


def test_a_bmp_that_only_says_that_it_is_transparent():
    assert (read(alpha_bmp(noise(), 0)) == noise()).all()
    assert (read(alpha_bmp(noise(), 255)) == noise()).all()
    half = 255 - (255.0 - noise()) * 128 / 255
    assert np.abs(read(alpha_bmp(noise(), 128)) - half).max() <= 1


def test_an_image_of_which_nothing_is_seen_is_no_blank_reference():
    clear = Image.fromarray(np.dstack([noise(), np.zeros((12, 20), np.uint8)]))
    reason = "is transparent everywhere: save it without transparency"
    grey = Image.new("L", (20, 12), 7)
    for data in (
        encoded(clear),
        encoded(clear, "WEBP", lossless=True, exact=True),
        encoded(clear, "TIFF"),
        encoded(clear.convert("LA")),
        encoded(grey, transparency=7),
        encoded(grey.convert("P"), transparency=7),
        encoded(grey.convert("RGB"), transparency=(7, 7, 7)),
        encoded(Image.new("I;16", (20, 12), 7), transparency=7),
        encoded(clear.resize((3000, 2500))),
    ):
        assert why_not(data) == reason
    clear.putpixel((3, 3), (255, 255, 255, 255))  # white, but seen
    assert (read(encoded(clear)) == 255).all()
    assert (read(encoded(Image.new("RGBA", (20, 12), "white"))) == 255).all()
    assert (read(encoded(Image.new("RGB", (20, 12), "white"))) == 255).all()


# Turned by the decoder


@pytest.mark.parametrize("kind", ["JXL", "HEIF"])
def test_what_the_decoder_has_turned_is_not_turned_again(monkeypatch, kind):
    """Their decoders come from other packs. They turn the picture and leave EXIF as it is."""

    class Turned(PngImagePlugin.PngImageFile):
        format = kind

    Image.init()
    monkeypatch.setitem(Image.OPEN, kind, (lambda file, name: Turned(file, name), None))
    monkeypatch.delitem(Image.OPEN, "PNG")
    data = START + chunk(b"eXIf", exif_of(6)) + PIXELS + END
    assert (read(data) == noise()).all()
    # A JXL that holds a JPEG is decoded as that, and is not turned.
    monkeypatch.setattr(Turned, "jpeg", True, raising=False)
    assert (read(data) == np.rot90(noise(), -1)).all()


def test_no_message_has_the_words_of_a_library(monkeypatch):
    """Whatever a decoder says."""
    errors = [SyntaxError("broken PNG file (chunk b'IHDR')"), ValueError("bad marker"), OSError(-2)]
    errors += [struct.error("unpack requires 4 bytes"), OSError("broken data stream"), KeyError(7)]
    for error in errors:

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        assert why_not(PNG) == DAMAGED
