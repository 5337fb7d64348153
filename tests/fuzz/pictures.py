"""Changed pictures: refused, or read as an independent decoder reads them."""

import io
import warnings
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from hypothesis import strategies as st
from mmd_tests.fuzz import png
from mmd_tests.fuzz.containers import FORMS
from mmd_tests.fuzz.edits import Case, changed
from mmd_tests.fuzz.limits import Crash, Misread, Watch
from PIL import Image, ImageFile, ImageOps, features

LIMIT = 2 * 89_478_485  # pixels that the readers allow
LARGE = 2**25  # pixels: of larger pictures only size and range are looked at
TOLERANCE = 2.5  # of 255: 16 bits become 8, and colors on white are rounded twice


def gradient(width: int = 20, height: int = 12, seed: int = 0) -> Image.Image:
    """Smooth with a little noise: small files in which every pixel counts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)], -1)
    noise = rng.integers(-8, 9, (height, width, 3))
    return Image.fromarray((ramps + noise).clip(0, 255).astype(np.uint8))


def veiled(seed: int = 1) -> Image.Image:
    """With alpha."""
    image = gradient(seed=seed)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def several(n: int = 3) -> dict:
    """What to give `save` for an animation."""
    return {"save_all": True, "append_images": [gradient(seed=9 + i) for i in range(n - 1)]}


def pngs() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, 48, dtype=np.uint8).tobytes()
    for color, depths in png.DEPTHS.items():
        for depth in depths:
            samples = rng.integers(0, 2 ** min(depth, 4), (5, 9, png.CHANNELS[color]))
            samples *= 2 ** max(0, depth - 4) if color != 3 else 1
            before = png.chunk(b"PLTE", colors[: 3 * 2 ** min(depth, 4)]) if color == 3 else b""
            if color == 3:
                before += png.chunk(b"tRNS", bytes([0, 99]))
            elif color == 0 and depth < 16:
                before += png.chunk(b"tRNS", bytes([0, samples[2, 2, 0]]))
            name = f"type {color}, {depth} bits"
            yield name, png.encode(samples, depth, color, before=before)
            yield f"{name}, interlaced", png.encode(samples, depth, color, True, before)
    yield "EXIF", saved(gradient(), "PNG", exif=turned())
    yield "animated", saved(gradient(), "PNG", **several())
    text = png.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))
    yield "text", png.encode(np.arange(12).reshape(3, 4, 1), 8, 0, before=text)


def jpegs() -> Iterator[tuple[str, bytes]]:
    yield "baseline", saved(gradient(), "JPEG")
    yield "progressive", saved(gradient(), "JPEG", progressive=True)
    yield "grey", saved(gradient().convert("L"), "JPEG", quality=95)
    yield "CMYK", saved(gradient().convert("CMYK"), "JPEG")
    yield "EXIF", saved(gradient(), "JPEG", exif=turned(), subsampling=0)
    yield "restarts", saved(gradient(40, 40), "JPEG", restart_marker_blocks=1)


def large() -> Iterator[tuple[str, bytes]]:
    """One that readers make smaller."""
    yield "large", saved(Image.linear_gradient("L").resize((2300, 2100)), "JPEG", quality=5)


def webps() -> Iterator[tuple[str, bytes]]:
    yield "lossy", saved(gradient(), "WEBP")
    yield "lossless", saved(gradient(), "WEBP", lossless=True)
    yield "alpha", saved(veiled(), "WEBP")
    yield "alpha, lossless", saved(veiled(), "WEBP", lossless=True)
    yield "animated", saved(gradient(), "WEBP", **several())
    yield "EXIF", saved(gradient(), "WEBP", exif=turned())


def gifs() -> Iterator[tuple[str, bytes]]:
    few = gradient().quantize(16)
    yield "interlaced", saved(few, "GIF")
    yield "rows", saved(few, "GIF", interlace=False)
    yield "transparent", saved(few, "GIF", transparency=3)
    yield "animated", saved(gradient(), "GIF", **several(2))
    yield "grey", saved(gradient().convert("L"), "GIF")


def bmps() -> Iterator[tuple[str, bytes]]:
    for mode in ("RGB", "P", "L", "1"):
        yield mode, saved(gradient().convert(mode), "BMP")
    yield "RGBA", saved(veiled(), "BMP")
    plain = saved(gradient(8, 4).convert("L"), "BMP")
    runs = bytes([3, 7, 5, 9, 0, 0, 0, 4, 1, 2, 3, 4, 4, 8, 0, 0, 8, 1, 0, 0, 2, 0, 6, 5, 0, 1])
    yield "runs", plain[:30] + b"\1\0\0\0" + plain[34:1078] + runs


def tiffs() -> Iterator[tuple[str, bytes]]:
    ramp = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(5, 12)
    yield "RGB", saved(gradient(), "TIFF")
    yield "RGBA", saved(veiled(), "TIFF")
    yield "EXIF", saved(gradient(), "TIFF", exif=turned())
    yield "CMYK", saved(gradient().convert("CMYK"), "TIFF")
    yield "palette", saved(gradient().quantize(16), "TIFF")
    yield "1 bit", saved(gradient().convert("1"), "TIFF")
    yield "16 bits", saved(Image.fromarray(ramp), "TIFF")
    yield "several", saved(gradient(), "TIFF", **several())
    if features.check("libtiff"):
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
            yield kind, saved(gradient(), "TIFF", compression=kind)
        yield "predictor", saved(gradient(), "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
        yield "16 bits, lzw", saved(Image.fromarray(ramp), "TIFF", compression="tiff_lzw")


def avifs() -> Iterator[tuple[str, bytes]]:
    Image.init()
    if "AVIF" in Image.SAVE:  # since Pillow 11.3
        yield "plain", saved(gradient(), "AVIF")
        yield "alpha", saved(veiled(), "AVIF")
        yield "animated", saved(gradient(), "AVIF", **several(2))
        yield "EXIF", saved(gradient(), "AVIF", exif=turned())


MAKERS = {
    "png": pngs,
    "jpeg": jpegs,
    "webp": webps,
    "gif": gifs,
    "bmp": bmps,
    "tiff": tiffs,
    "avif": avifs,
    "large jpeg": large,
}


@cache
def pool(kind: str) -> dict[str, bytes]:
    """Whole pictures of that format, by name; none if this Pillow cannot write it."""
    return dict(MAKERS[kind]())


def cases(kind: str) -> st.SearchStrategy[Case]:
    return changed(pool(kind), FORMS[kind.split()[-1]]).map(lambda data: Case(kind, (data,)))


def claimed(data: bytes) -> int:
    """The pixels that the header claims; 0 if there are none or too many."""
    try:
        with quiet(), Image.open(io.BytesIO(data)) as opened:
            n = opened.width * opened.height
    except Exception:  # of what a broken file makes Pillow raise, nothing matters here
        return 0
    return n if n <= LIMIT else 0


class quiet:
    """Without Pillow's warnings, and its limit."""

    def __enter__(self):
        self.before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
        self.catcher = warnings.catch_warnings()
        self.catcher.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *_):
        self.catcher.__exit__(None, None, None)
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self.before


def shown(data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
    """What the file shows by a plain use of Pillow, and its upright size; pixels as `png.decode` gives them."""
    if data.startswith(png.PNG):
        data = png.mended(data)
    elif data.startswith(b"\xff\xd8"):  # its end may be missing, and there may be two
        data += b"\xff\xd9"
    with quiet():
        opened = Image.open(io.BytesIO(data))
        tags = getattr(opened, "tag_v2", {})
        opened.load()
        image = opened
        try:
            image = ImageOps.exif_transpose(opened)
        except Exception:  # EXIF that is none
            image = opened
        if image.mode.startswith("I"):
            most = 2 ** tags.get(258, (16,))[0] - 1
            grey = np.asarray(image, dtype=float).clip(0, most)
            clear = grey == image.info.get("transparency", -1)
            grey = np.where(
                clear, 255, (most - grey if tags.get(262) == 0 else grey) * (255 / most)
            )
            pixels = np.repeat(grey[..., None], 3, -1)
        else:
            if image.mode in ("RGBa", "La"):
                image = image.convert(image.mode.upper())
            if opened.format == "BMP" and image.mode == "RGBA" and not np.any(image.getchannel(3)):
                image = image.convert("RGB")  # it only says that it has alpha
            if "A" in image.mode and image.mode != "LAB" or "transparency" in image.info:
                rgba = np.asarray(image.convert("RGBA"), dtype=float)
                alpha = rgba[..., 3:] / 255
                pixels = rgba[..., :3] * alpha + 255 * (1 - alpha)
            else:
                pixels = np.asarray(image.convert("RGB"), dtype=float)
    return pixels, image.size


def _patches(pixels: np.ndarray, n: int = 32) -> np.ndarray:
    """The means of n × n parts: what is left of a picture however it is made smaller."""
    for axis in (0, 1):
        edges = np.linspace(0, pixels.shape[axis], n + 1).round().astype(int)[:-1]
        counts = np.diff(np.append(edges, pixels.shape[axis]))
        shape = [-1 if i == axis else 1 for i in range(3)]
        pixels = np.add.reduceat(pixels, edges, axis) / counts.reshape(shape)
    return pixels


def compare(found: np.ndarray, expected: np.ndarray) -> None:
    """Raises Misread unless the picture is the expected one, or that made smaller."""
    height, width = expected.shape[:2]
    if min(height, width) <= 2048:
        if found.shape != expected.shape:
            raise Misread(f"shape {found.shape} and not {expected.shape}")
        off, bound = np.abs(found - expected).max(), TOLERANCE
    else:
        if (
            min(found.shape[:2]) != 2048
            or abs(found.shape[1] * height / (found.shape[0] * width) - 1) > 1e-3
        ):
            raise Misread(f"shape {found.shape} of a picture of {expected.shape}")
        off, bound = np.abs(_patches(found) - _patches(expected)).max(), 8
    if off > bound:
        raise Misread(f"pixels differ by {off:.1f} of 255")


def check_picture(data: bytes, found: np.ndarray, size: tuple[int, int]) -> None:
    """Raises Misread if the file does not hold what was read of it: `found`, with shape `(H, W, 3)`, in [0, 255]."""
    try:
        if data.startswith(png.PNG):
            expected = png.decode(data)
            if size != (expected.shape[1], expected.shape[0]):
                raise Misread(f"size {size} of a picture of {expected.shape}")
            return compare(found, expected)
    except png.Damaged as error:
        raise Misread(f"read though it is damaged ({error})") from error
    except png.Unclear:  # then as Pillow sees it
        pass
    if size[0] * size[1] > LARGE:
        return None
    try:
        expected, upright = shown(data)
    except Exception as error:
        raise Misread(f"read though Pillow cannot ({error!r})") from error
    if size != upright:
        raise Misread(f"size {size} and not {upright}")
    return compare(found, expected)


def check(case: Case, place) -> list[str]:
    """One outcome: "refused", "same" as one of the whole pictures, or "other"."""
    import torch
    from mmd_pack.nodes.references.folder.read_image import read_sized

    (data,) = case.files
    pixels = claimed(data)
    with Watch() as watch:
        try:
            image, size = read_sized(io.BytesIO(data))
        except ValueError as error:
            image, reason = None, str(error)
        except Exception as error:
            raise Crash(repr(error)) from error
    watch.check(pixels)
    if image is None:
        if not reason or "\n" in reason or len(reason) > 300:
            raise Crash(f"a message that is none: {reason!r}")
        return ["refused"]
    good = image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
    if not good or image.dtype != torch.float32 or not (0 <= image.min() <= image.max() <= 1):
        raise Misread(f"not a picture: {tuple(image.shape)}, {image.dtype}")
    found = image[0].double().numpy() * 255
    check_picture(data, found, size)
    key = found.round().astype(np.uint8).tobytes()
    return ["same" if key in _whole(case.about) else "other"]


@cache
def _whole(kind: str) -> set[bytes]:
    """The pixels of the pictures of the pool."""
    from mmd_pack.nodes.references.folder.read_image import read_image

    images = (read_image(io.BytesIO(data))[0].double() * 255 for data in pool(kind).values())
    return {image.numpy().round().astype(np.uint8).tobytes() for image in images}
