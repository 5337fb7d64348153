"""Decoding pictures: each kind against an oracle of its own, and what is broken or hostile."""

import io
import os
import struct
import subprocess
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from mmd_pack.mmd_core.files import limits
from mmd_pack.nodes.references.folder import open_image as opener
from mmd_pack.nodes.references.folder import read_image as reader
from mmd_pack.nodes.references.folder.refused import CUT_OFF, DAMAGED
from PIL import Image, ImageFile, features

pytestmark = pytest.mark.comfy
AVIF = ["AVIF"] if features.check("avif") else []  # Pillow 11.3 or newer


def noise(width=20, height=12, seed=0):
    """Random pixels, with shape `(height, width, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels=None, **options):
    Image.fromarray(noise() if pixels is None else pixels).save(path, **options)
    return path


def encoded(image, kind, **options):
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(image):
    """The 8-bit pixels of a tensor with shape `(1, H, W, 3)`."""
    assert image.shape[0] == 1 and image.dtype == torch.float32
    return (image[0].numpy() * 255).round().astype(np.uint8)


def why_not(reader, file):
    """The reason why a file is refused."""
    with pytest.raises(ValueError) as caught:
        reader.read_image(io.BytesIO(file) if isinstance(file, bytes) else file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def png(depth, color, samples, palette=b"", transparent=b"", size=None):
    """A PNG written by hand from `samples` with shape `(H, W, channels)`."""
    height, width, channels = samples.shape
    rows = b""
    for row in samples:
        bits = "".join(f"{value:0{depth}b}" for value in row.reshape(-1))
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparent)]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
        if data or kind == b"IEND"
    )


def tiff(order, bits, photometric, data, width, height, sample_format=1, channels=1):
    """A TIFF without compression, written by hand; `order` is "<" or ">"."""
    per_sample = b"".join(struct.pack(order + "H", bits) for _ in range(channels))
    offset = 8 + len(data) + len(data) % 2
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, bits), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, channels), (278, 3, 1, height),
        (279, 4, 1, len(data)), (339, 3, 1, sample_format),
    ]  # fmt: skip
    fields = b""
    for tag, kind, count, value in entries:
        packed = struct.pack(
            order + ("I" if kind == 4 else "HH"), *([value] if kind == 4 else [value, 0])
        )
        if count == 2:
            packed = per_sample
        elif count > 2:
            packed = struct.pack(order + "I", offset)
        fields += struct.pack(order + "HHI", tag, kind, count) + packed
    directory = struct.pack(order + "H", len(entries)) + fields + b"\0" * 4
    start = struct.pack(
        order + "2sHI", b"II" if order == "<" else b"MM", 42, offset + len(per_sample)
    )
    return start + data + b"\0" * (len(data) % 2) + per_sample + directory


# Kinds of pictures


def test_png_pixels_are_read_exactly(tmp_path):
    assert (pixels_of(reader.read_image(save(tmp_path / "a.png"))) == noise()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = noise(48, 32) // 8 * 8
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # what a camera held that way stores
    stored = Image.fromarray(upright)
    stored = stored if undo is None else stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert (pixels_of(reader.read_image(tmp_path / "a.png")) == upright).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    path, options = tmp_path / "a.png", {}
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 2))  # left half black, right half clear
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "PA":
        image, path = image.convert("PA"), tmp_path / "a.tif"
    elif mode in ("P", "L", "RGB"):
        image = Image.fromarray(np.array([[0, 0, 7, 7]] * 2, dtype=np.uint8)).convert(mode)
        options = {"transparency": (7, 7, 7) if mode == "RGB" else image.getpixel((3, 0))}
    try:
        image.save(path, **options)
    except OSError:
        pytest.skip(f"this Pillow writes no {mode}")
    pixels = pixels_of(reader.read_image(path))
    assert (pixels[:, 2:] == 255).all() and (pixels[:, :2] == 0).all()


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    Image.new("RGBA", (2, 2), (0, 100, 200, 51)).save(tmp_path / "a.webp", lossless=True)
    expected = 255 - 0.2 * (255 - np.array([0, 100, 200]))
    assert abs(pixels_of(reader.read_image(tmp_path / "a.webp")) - expected).max() <= 1


def test_16_bits_of_grey_keep_their_range(tmp_path):
    values = np.array([[0, 257 * 64, 257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert pixels_of(reader.read_image(tmp_path / "a.png"))[0, :, 1].tolist() == [0, 64, 200, 255]


@pytest.mark.parametrize("mode, name", [("CMYK", "a.jpg"), ("L", "a.jpg"), ("1", "a.png")])
def test_other_color_models_become_rgb(tmp_path, mode, name):
    image = Image.new("RGB", (16, 8), "white").convert(mode)
    image.paste(0 if mode != "CMYK" else (0, 0, 0, 255), (0, 0, 8, 8))
    image.save(tmp_path / name)
    pixels = pixels_of(reader.read_image(tmp_path / name))
    assert pixels.shape == (8, 16, 3)
    assert pixels[:, :6].max() < 10 and pixels[:, 10:].min() > 245


def test_palette_images_keep_their_colors(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([2, 0, 1])
    image.save(tmp_path / "a.gif")
    pixels = pixels_of(reader.read_image(tmp_path / "a.gif"))
    assert pixels[0].tolist() == [[0, 0, 255], [255, 0, 0], [0, 255, 0]]


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        pixels = pixels_of(reader.read_image(tmp_path / name)).astype(int)
        assert abs(pixels - [255, 0, 0]).max() <= 2


def test_huge_pictures_are_reduced_to_a_shorter_side_of_2048(tmp_path):
    Image.new("RGB", (3000, 4000), (10, 20, 30)).save(tmp_path / "a.jpg")
    image = reader.read_image(tmp_path / "a.jpg")
    assert image.shape == (1, 2731, 2048, 3)
    assert abs(pixels_of(image).astype(int) - [10, 20, 30]).max() <= 2
    Image.new("L", (2500, 2048)).save(tmp_path / "b.png")
    assert reader.read_image(tmp_path / "b.png").shape == (1, 2048, 2500, 3)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_kind_of_file_is_turned_and_has_its_upright_size(tmp_path, orientation, kind):
    upright = np.zeros((40, 64, 3), np.uint8)
    upright[:20, :32] = 250, 10, 10
    upright[20:, 32:] = 10, 250, 10
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]
    stored = Image.fromarray(upright)
    stored = stored if undo is None else stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{kind}", exif=exif)
    image, size = reader.read_sized(tmp_path / f"a.{kind}")
    assert size == (64, 40)
    assert abs(pixels_of(image)[::39, ::63].astype(int) - upright[::39, ::63]).max() < 30
    small, size = reader.read_sized(tmp_path / f"a.{kind}", 10)
    assert size == (64, 40) and small.shape == (1, 10, 16, 3)
    assert abs(pixels_of(small)[::9, ::15].astype(int) - upright[::39, ::63]).max() < 30
    assert sorted(opener.read_header(tmp_path / f"a.{kind}").size) == [40, 64]


def on_white(color, alpha):
    return 255 * (color * alpha + 1 - alpha)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_png_of_every_depth(depth, transparent, rng):
    samples = torch.randint(2**depth, (7, 9, 1), generator=rng).numpy()
    clear = int(samples[3, 4, 0])
    data = png(depth, 0, samples, transparent=struct.pack(">H", clear) if transparent else b"")
    alpha = np.where((samples == clear) & transparent, 0, 1)
    expected = on_white(samples / (2**depth - 1), alpha)
    assert abs(pixels_of(reader.read_image(io.BytesIO(data))) - expected).max() <= 0.51


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("color, channels", [(2, 3), (4, 2), (6, 4)])
def test_color_and_alpha_png_of_every_depth(depth, color, channels, rng):
    samples = torch.randint(2**depth, (7, 9, channels), generator=rng).numpy()
    values = samples / (2**depth - 1)
    alpha = values[..., -1:] if color != 2 else 1
    expected = on_white(values[..., : 1 if color == 4 else 3], alpha)
    got = pixels_of(reader.read_image(io.BytesIO(png(depth, color, samples))))
    assert abs(got - expected).max() <= (1 if depth == 8 else 2)  # Pillow cuts 16 bits to 8


def test_the_transparent_color_of_a_png(rng):
    samples = torch.randint(256, (4, 4, 3), generator=rng).numpy()
    clear = struct.pack(">HHH", *samples[1, 2].tolist())
    expected = samples.copy()
    expected[1, 2] = 255
    assert (
        pixels_of(reader.read_image(io.BytesIO(png(8, 2, samples, transparent=clear)))) == expected
    ).all()
    # With 16 bits Pillow cannot say which pixels are meant.
    assert "16 bits" in why_not(reader, png(16, 2, samples, transparent=clear))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("alphas", [b"", b"\0", b"\xff\0", b"\x40\x80"])
def test_palettes_of_every_depth(depth, alphas, rng):
    palette = torch.randint(256, (2**depth, 3), generator=rng).numpy()
    samples = torch.randint(2**depth, (7, 9, 1), generator=rng).numpy()
    data = png(depth, 3, samples, bytes(palette.flatten().tolist()), alphas)
    alpha = np.ones(2**depth)
    alpha[: len(alphas)] = [value / 255 for value in alphas]
    expected = on_white(palette / 255, alpha[:, None])[samples[..., 0]]
    assert abs(pixels_of(reader.read_image(io.BytesIO(data))) - expected).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_16_bits_of_grey_in_a_tiff(order, photometric):
    """Pillow reads one of them upside down: white as 0."""
    values = np.array([[0, 257 * 64, 257 * 200, 65535]])
    data = values.astype(order + "u2").tobytes()
    file = tiff(order, 16, photometric, data, 4, 1)
    try:
        Image.open(io.BytesIO(file)).close()
    except OSError:
        assert "supported format" in why_not(reader, file)
        return
    expected = [0, 64, 200, 255] if photometric else [255, 191, 55, 0]
    assert pixels_of(reader.read_image(io.BytesIO(file)))[0, :, 1].tolist() == expected


def test_12_bits_of_grey_in_a_tiff():
    values = [0, 4095, 1028, 3212]  # in 8 bits 0, 255, 64, 200
    data = int("".join(f"{value:012b}" for value in values), 2).to_bytes(6, "big")
    image = reader.read_image(io.BytesIO(tiff("<", 12, 1, data, 4, 1)))
    assert pixels_of(image)[0, :, 0].tolist() == [0, 255, 64, 200]


def test_16_bits_of_color_in_a_tiff(rng):
    values = torch.randint(65536, (5, 6, 3), generator=rng).numpy()
    for order in "<>":
        file = tiff(order, 16, 2, values.astype(order + "u2").tobytes(), 6, 5, channels=3)
        assert abs(pixels_of(reader.read_image(io.BytesIO(file))) - values / 257).max() <= 1


@pytest.mark.parametrize(
    "bits, sample_format, kind",
    [(32, 3, "f4"), (32, 1, "u4"), (32, 2, "i4"), (16, 2, "i2"), (8, 2, "i1")],
)
def test_numbers_of_unknown_range_are_refused(bits, sample_format, kind):
    data = np.arange(12, dtype="<" + kind).tobytes()
    reason = why_not(reader, tiff("<", bits, 1, data, 4, 3, sample_format))
    assert ("unknown range" in reason and "8 or 16 bits" in reason) or "supported format" in reason


@pytest.mark.parametrize("mode", ["LAB", "YCbCr", "CMYK"])
def test_other_color_spaces_of_tiffs(mode):
    colors = Image.fromarray(noise(30, 20) // 32 * 32 + 16)
    file = encoded(colors.convert(mode), "TIFF")
    try:
        Image.open(io.BytesIO(file)).load()
    except OSError:  # Pillow before 13 reads no YCbCr
        assert "is damaged" in why_not(reader, file)
        return
    got = pixels_of(reader.read_image(io.BytesIO(file)))
    error = abs(got.astype(int) - np.asarray(colors))
    assert error.max() <= {"LAB": 30, "YCbCr": 3, "CMYK": 1}[mode] and error.mean() < 3


@pytest.mark.parametrize("photometric, channels", [(1, 2), (2, 4)])
def test_premultiplied_alpha_of_a_tiff(photometric, channels):
    pixels = np.array([[[100, 50, 0, 128], [0, 0, 0, 0]]], np.uint8)[..., -channels:]
    file = tiff("<", 8, photometric, pixels.tobytes(), 2, 1, channels=channels)
    # ExtraSamples 1 takes the place of SampleFormat, which is 1 for plain numbers.
    file = file.replace(struct.pack("<HHI", 339, 3, 1), struct.pack("<HHI", 338, 3, 1))
    got = pixels_of(reader.read_image(io.BytesIO(file)))
    expected = [227, 177, 127] if channels == 4 else [127] * 3
    assert abs(got[0].astype(int) - [expected, [255, 255, 255]]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "MPO", *AVIF])
def test_the_first_of_several_pictures_in_a_file(kind):
    frames = [Image.new("RGB", (64, 32), color) for color in ("red", "blue", "lime")]
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert abs(pixels_of(reader.read_image(io.BytesIO(file))).astype(int) - [255, 0, 0]).max() <= 3


def test_a_png_may_have_its_orientation_behind_its_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = (
        struct.pack(">I", len(data))
        + b"eXIf"
        + data
        + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    )
    file = encoded(Image.fromarray(noise()), "PNG")
    image, size = reader.read_sized(io.BytesIO(file[:-12] + chunk + file[-12:]))
    assert size == (12, 20) and (pixels_of(image) == np.rot90(noise(), -1)).all()


def test_broken_exif_is_ignored():
    for junk in (b"", b"Exif\0\0", b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x" * 99):
        file = encoded(Image.fromarray(noise()), "PNG", exif=junk)
        assert (pixels_of(reader.read_image(io.BytesIO(file))) == noise()).all()


def test_reduction_in_bands_is_that_of_the_whole(monkeypatch):
    smooth = Image.fromarray(noise(40, 30)).resize((400, 301), Image.Resampling.BICUBIC)
    file = encoded(smooth, "PNG")
    whole = pixels_of(reader.read_image(io.BytesIO(file), 25))
    monkeypatch.setattr(reader, "BAND", 1)
    assert (pixels_of(reader.read_image(io.BytesIO(file), 25)) == whole).all()
    expected = smooth.resize((33, 25), Image.Resampling.LANCZOS, reducing_gap=3.0)
    assert abs(whole.astype(int) - np.asarray(expected)).max() <= 1
    jpeg = encoded(smooth, "JPEG", quality=98)
    small = pixels_of(reader.read_image(io.BytesIO(jpeg), 25))
    assert abs(small.astype(int) - np.asarray(expected)).max() <= 12


# Broken and hostile files


def test_only_pictures_are_opened_whatever_their_name(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a program is started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    picture = Image.fromarray(noise(64, 64))
    for kind in ("EPS", "PPM", "ICO", "TGA", "PCX", "IM", "JPEG2000"):
        Image.init()
        if kind in Image.SAVE:
            (tmp_path / "a.png").write_bytes(encoded(picture, kind))
            assert "supported format (PNG, JPEG" in why_not(reader, tmp_path / "a.png"), kind
    for data in (
        b"%PDF-1.7",
        b"8BPS\0\1" + b"\0" * 30,
        b"<svg/>",
        b"\0" * 100,
        b"\x89PNG\r\n\x1a\n",
    ):
        assert "supported format" in why_not(reader, data)


def test_an_empty_file_and_a_missing_one(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert why_not(reader, tmp_path / "a.png") == "is empty"
    assert why_not(reader, tmp_path / "b.png") == "cannot be read (No such file or directory)"
    with pytest.raises(ValueError, match="is empty"):
        opener.read_header(tmp_path / "a.png")


@pytest.mark.parametrize("read", [reader.read_image, opener.read_header])
def test_what_is_no_file_is_not_opened(tmp_path, read):
    (tmp_path / "folder.png").mkdir()
    places = [tmp_path / "folder.png"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
        places += [tmp_path / "pipe.png", reader.Path("/dev/zero")]
    for place in places:
        with pytest.raises(ValueError, match="is not a file"):
            read(place)


def test_huge_files_are_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(limits.IMAGE_BYTES + 1)  # takes no space
    assert why_not(reader, tmp_path / "a.png") == "has more than 1024 MB"


BOMBS = {
    "png": lambda w, h: png(8, 2, np.zeros((1, 1, 3), int), size=(w, h)),
    "gif": lambda w, h: (
        b"GIF89a" + struct.pack("<HH", w, h) + b"\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    ),
    "bmp": lambda w, h: (
        b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, w, h, 1, 24, 0, 0, 0, 0, 0, 0)
        + b"\0" * 40
    ),
    "tif": lambda w, h: tiff("<", 8, 1, b"\0" * 40, w, h),
    "jpg": lambda w, h: encoded(Image.new("L", (8, 8)), "JPEG").replace(
        struct.pack(">HH", 8, 8) + b"\1", struct.pack(">HH", h, w) + b"\1", 1
    ),
}


@pytest.mark.parametrize("others_limit", [None, 89_478_485, 10])
@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_from_their_header(tmp_path, monkeypatch, kind, others_limit):
    """Our limit holds whatever another pack told Pillow, and no memory is taken."""
    import resource  # not on Windows

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", others_limit)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(BOMBS[kind](13_000, 13_000))
    assert opener.read_header(path).size == (13_000, 13_000)  # 169 megapixels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for side in (13_400, 20_000, 65_000):
        path.write_bytes(BOMBS[kind](side, side))
        for read in (opener.read_header, reader.read_image):
            with pytest.raises(ValueError, match="has more than 178 megapixels"):
                read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert others_limit == Image.MAX_IMAGE_PIXELS


def test_100_megapixels_are_read_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = Image.new("L", (12_500, 8_000), 77)
        for kind in ("png", "tif", "jpg"):
            picture.save(tmp_path / f"a.{kind}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("png", "tif", "jpg"):
            image, size = reader.read_sized(tmp_path / f"a.{kind}", 100)
            assert size == (12_500, 8_000) and image.shape == (1, 100, 156, 3)
            assert (pixels_of(image) == 77).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", *AVIF])
def test_truncated_pictures_are_refused(monkeypatch, kind):
    """Also if another pack told Pillow to fill up what is missing."""
    whole = encoded(Image.fromarray(noise(64, 48)), kind)
    reader.read_image(io.BytesIO(whole))
    for setting in (False, True):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", setting)
        for share in (0.02, 0.1, 0.5, 0.9, 0.97):
            assert why_not(reader, whole[: int(share * len(whole))])
        assert setting == ImageFile.LOAD_TRUNCATED_IMAGES


def test_settings_of_pillow_come_back_when_the_last_reader_is_done(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4321)
    whole = encoded(Image.fromarray(noise(64, 48)), "JPEG")
    wrong = []

    def read():
        for _ in range(40):
            try:
                reader.read_image(io.BytesIO(whole[:-500]))
                wrong.append("a truncated picture was read")
            except ValueError:
                pass

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, 4321)


@pytest.mark.parametrize("level", [0, 9])
def test_no_changed_byte_of_a_png_goes_unnoticed(level):
    """Not even one of a checksum, at which Pillow does not look when it decodes."""
    whole = encoded(Image.fromarray(noise(9, 7)), "PNG", compress_level=level)
    pixels = pixels_of(reader.read_image(io.BytesIO(whole)))
    noticed = 0
    for position in range(len(whole)):
        for change in (1, 128):
            damaged = bytearray(whole)
            damaged[position] ^= change
            try:
                assert (pixels_of(reader.read_image(io.BytesIO(bytes(damaged)))) == pixels).all()
            except ValueError:
                noticed += 1
    assert noticed >= 2 * (len(whole) - 12)  # all but those of the end, which has no pixels


def test_whatever_a_decoder_raises_is_a_reason(monkeypatch):
    whole = encoded(Image.fromarray(noise()), "PNG")
    for error, reason in {
        MemoryError(): "needs more memory than there is",
        SyntaxError("broken\nfile"): DAMAGED,
        KeyError(): DAMAGED,
        ValueError("Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK"): DAMAGED,
        struct.error("x" * 1000): DAMAGED,
        OSError("image file is truncated (7 bytes not processed)"): CUT_OFF,
    }.items():

        def fail(*args, error=error):
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        assert why_not(reader, whole) == reason
