"""Pictures with color profiles come out in sRGB: against the mathematics of color, and against libvips."""

import hashlib
import io

import numpy as np
import pytest
from mmd_pack.nodes.references.folder import read_image as reader
from mmd_pack.nodes.references.folder.color_profile import UNUSABLE
from mmd_pack.nodes.references.folder.image_folder import read_folder
from mmd_pack.nodes.references.folder.lazy_image import FileImage
from mmd_pack.nodes.references.folder.open_image import read_header
from mmd_tests.support import icc
from PIL import Image, ImageCms, features

pytestmark = pytest.mark.comfy

FORMATS = {
    "png": {},
    "tif": {},
    "webp": {"lossless": True},
    "jpg": {"quality": 98, "subsampling": 0},
}
FORMATS |= {"avif": {"quality": 100, "subsampling": "4:4:4"}} if features.check("avif") else {}

# What libvips 8.18 makes of these pixels (icc_transform to sRGB, with its defaults).
BY_VIPS = {
    "Display P3": (
        (219, 37, 34),
        (0, 154, 83),
        (55, 69, 199),
        (129, 129, 129),
        (237, 200, 156),
        (8, 24, 18),
    ),
    "Adobe RGB": (
        (231, 57, 46),
        (0, 151, 86),
        (52, 68, 195),
        (129, 129, 129),
        (241, 201, 159),
        (5, 24, 18),
    ),
    "ProPhoto": (
        (255, 0, 60),
        (0, 182, 97),
        (0, 90, 213),
        (146, 146, 146),
        (255, 204, 169),
        (2, 43, 32),
    ),
}
PIXELS = (
    (200, 60, 50),
    (40, 150, 90),
    (60, 70, 190),
    (128, 128, 128),
    (230, 200, 160),
    (20, 30, 25),
)


def smooth(width=64, height=48, seed=0):
    """Soft colors, with shape `(height, width, 3)`."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def rounded(pixels):
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind), **options)
    return file.getvalue()


def read(data, **options):
    """The pixels in [0, 255]."""
    return np.rint(reader.read_image(io.BytesIO(data), **options)[0].numpy() * 255)


def profile_in(data):
    return read_header(io.BytesIO(data)).profile


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("space", icc.SPACES)
def test_a_picture_looks_as_it_was_meant(space, kind):
    """The same picture as numbers of another color space: read, it is the picture again."""
    meant = smooth()
    stored = Image.fromarray(rounded(icc.in_space(space, meant)))
    data = encoded(stored, kind, icc_profile=icc.rgb(space), **FORMATS[kind])
    assert profile_in(data) == space
    off = icc.difference(read(data), meant)
    # 8 bits of linear light are coarse, and so is JPEG.
    assert off.mean() <= {"linear": 2.0}.get(space, 1.0 if kind in ("png", "tif", "webp") else 1.6)
    assert icc.difference(np.asarray(stored), meant).mean() > 5  # what it was without


@pytest.mark.parametrize("space", BY_VIPS)
def test_colors_are_those_of_libvips(space):
    stored = Image.fromarray(np.array([PIXELS], np.uint8))
    off = icc.difference(read(encoded(stored, icc_profile=icc.rgb(space)))[0], BY_VIPS[space])
    assert off.max() <= 1


@pytest.mark.parametrize("space", ["Display P3", "ProPhoto"])
def test_other_kinds_of_pixels(space):
    options = {"icc_profile": icc.rgb(space)}
    stored = Image.fromarray(rounded(icc.in_space(space, smooth())))
    plain = read(encoded(stored, **options))
    veil = Image.linear_gradient("L").resize(stored.size)
    veiled = stored.copy()
    veiled.putalpha(veil)
    alpha = np.asarray(veil)[..., None] / 255
    mixed = read(encoded(veiled, **options))
    assert np.abs(mixed - (plain * alpha + 255 * (1 - alpha))).max() <= 1
    few = stored.quantize(32)
    assert (read(encoded(few, **options)) == read(encoded(few.convert("RGB"), **options))).all()
    clear = few.copy()
    clear.info["transparency"] = few.getpixel((5, 7))
    seen = read(encoded(clear, **options))
    is_clear = np.asarray(few) == few.getpixel((5, 7))
    assert (seen[is_clear] == 255).all()
    assert (seen[~is_clear] == read(encoded(few, **options))[~is_clear]).all()
    grey = Image.fromarray(smooth()[..., 0])  # has no colors to convert
    assert (read(encoded(grey, **options))[..., 1] == smooth()[..., 0]).all()


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.5])
def test_grey_pictures_with_a_profile(gamma):
    meant = smooth()[..., 0]
    stored = Image.fromarray(rounded(255 * icc.linear(meant / 255) ** (1 / gamma)))
    profile, meant3 = icc.grey(gamma), np.repeat(meant[..., None], 3, -1)
    for kind in ("png", "jpg", "tif"):
        seen = read(encoded(stored, kind, icc_profile=profile, **FORMATS[kind]))
        assert (seen == seen[..., :1]).all()
        off = icc.difference(seen, meant3)
        assert off.mean() <= (2 if gamma == 1 else 1)
    half = Image.new("L", stored.size, 0)
    half.paste(255, (0, 0, 32, 48))
    seen = read(encoded(Image.merge("LA", [stored, half]), icc_profile=profile))
    assert (seen[:, 32:] == 255).all() and icc.difference(seen, meant3)[:, :32].mean() <= 2
    whole = Image.merge("LA", [stored, Image.new("L", stored.size, 255)])
    assert (
        read(encoded(whole, icc_profile=profile)) == read(encoded(stored, icc_profile=profile))
    ).all()
    wide = Image.fromarray(np.asarray(stored).astype(np.uint16) * 257)
    assert (
        read(encoded(wide, icc_profile=profile)) == read(encoded(stored, icc_profile=profile))
    ).all()


def test_the_inks_of_a_print():
    """At full inks the profile says what is seen; between them it is interpolated."""
    inks = np.stack(np.meshgrid(*[[0, 255]] * 4, indexing="ij"), -1)
    light = 92 * (1 - inks[..., :3].sum(-1) / 900) * (1 - inks[..., 3] / 300) + 8
    corners = np.stack([light, inks[..., 1] / 8 - inks[..., 0] / 9, inks[..., 2] / 6], -1)
    profile = icc.cmyk(corners)
    stored = Image.frombytes("CMYK", (16, 1), inks.astype(np.uint8).tobytes())
    expected = icc.from_xyz(icc.lab_to_xyz(corners.reshape(1, 16, 3)))
    data = encoded(stored, "tif", icc_profile=profile)
    assert icc.difference(read(data), expected).max() <= 1.5 and profile_in(data) == "four inks"
    wide = stored.resize((16 * 8, 8), Image.Resampling.NEAREST)
    jpeg = read(encoded(wide, "jpg", icc_profile=profile, **FORMATS["jpg"]))[4, 4::8]
    assert icc.difference(jpeg, expected[0]).mean() <= 2
    plain = read(encoded(stored, "tif"))
    assert (plain == np.asarray(stored.convert("RGB"))).all()  # without a profile as ever


def test_sizes_and_turns_are_the_same_with_a_profile(monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(smooth(200, 151))
    options = {"icc_profile": icc.rgb("Adobe RGB"), "exif": exif}
    whole = read(encoded(stored, **options), short_side=40)
    assert whole.shape == (53, 40, 3)
    monkeypatch.setattr(reader, "BAND", 1)
    assert (read(encoded(stored, **options), short_side=40) == whole).all()


# What stays as it was


def srgb_profiles():
    yield "of LittleCMS", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    points = np.rint(icc.linear(np.linspace(0, 1, 1024)) * 65535).astype(">u2").tobytes()
    curve = b"curv\0\0\0\0" + (1024).to_bytes(4, "big") + points
    columns = icc.to_d50(*icc.SRGB).T
    tags = {
        bytes([c]) + b"XYZ": icc._xyz(*column) for c, column in zip(b"rgb", columns, strict=True)
    }
    yield (
        "as a table",
        icc.file(b"RGB ", tags | {bytes([c]) + b"TRC": curve for c in b"rgb"}, "other"),
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_srgb_is_read_as_without_a_profile(kind):
    stored = Image.fromarray(smooth())
    plain = read(encoded(stored, kind, **FORMATS[kind]))
    for name, profile in srgb_profiles():
        data = encoded(stored, kind, icc_profile=profile, **FORMATS[kind])
        assert profile_in(data) == "" and (read(data) == plain).all(), name


BROKEN = {
    "no profile": b"not a profile",
    "cut": icc.rgb("Adobe RGB")[:200],
    "zeros": b"\0" * 500,
    "of a print": icc.cmyk(np.zeros((2, 2, 2, 2, 3))),
    "grey": icc.grey(1.8),
    "of Lab": icc.file(b"Lab ", {}, "x", b"spac"),
    "without curves": icc.file(b"RGB ", {}, "x"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_profile_that_cannot_be_used_costs_no_pixels(kind):
    data = encoded(Image.fromarray(smooth()), icc_profile=BROKEN[kind])
    assert (read(data) == smooth()).all() and profile_in(data) == UNUSABLE


def test_only_converted_pictures_are_encoded_anew(tmp_path):
    """The digest is part of the key in the cache of latents, where older versions left entries."""
    stored = Image.fromarray(smooth())
    files = {
        "plain.png": {},
        "srgb.png": {"icc_profile": next(srgb_profiles())[1]},
        "broken.png": {"icc_profile": b"x"},
        "p3.png": {"icc_profile": icc.rgb("Display P3")},
    }
    for name, options in files.items():
        stored.save(tmp_path / name, **options)
    (tmp_path / "text.png").write_text("no picture")
    for path in tmp_path.iterdir():
        same = (
            FileImage(path, (64, 48)).load().digest == hashlib.sha256(path.read_bytes()).hexdigest()
        )
        assert same == (path.name != "p3.png"), path.name


def test_the_report_says_what_is_converted(tmp_path):
    for i, options in enumerate(
        [{}]
        + [{"icc_profile": icc.rgb("Display P3")}] * 2
        + [{"icc_profile": icc.rgb("Adobe RGB")}]
    ):
        Image.fromarray(smooth(seed=i)).save(tmp_path / f"{i}.png", **options)
    Image.fromarray(smooth()).save(tmp_path / "bad\n.png", icc_profile=b"x")
    assert read_folder(tmp_path)[0].notes == (
        "Colors converted to sRGB, from Display P3 (2), Adobe RGB (1).",
        "Images with a color profile that cannot be used, taken as sRGB: 1 (bad\\n.png). If their "
        "colors are wrong, save them as sRGB.",
    )


def test_the_name_of_a_profile_is_one_line_and_short(tmp_path):
    *_, gamma = icc.SPACES["Adobe RGB"]
    columns = icc.to_d50(*icc.SPACES["Adobe RGB"][:-1]).T
    tags = {
        bytes([c]) + b"XYZ": icc._xyz(*column) for c, column in zip(b"rgb", columns, strict=True)
    }
    tags |= {bytes([c]) + b"TRC": icc._curve(gamma) for c in b"rgb"}
    for name in ("x\nNot used: \x1b[31m", "x" * 5000, ""):
        data = icc.file(b"RGB ", tags, name)
        Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=data)
        (note,) = read_folder(tmp_path)[0].notes
        assert len(note) < 120 and note.isprintable() and note.endswith(" (1).")
