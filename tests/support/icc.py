"""Color profiles written by hand, by the ICC's specification (version 2), and what they mean in numbers."""

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])  # the white of all profiles
D65 = (0.3127, 0.329)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

# name: white, red, green, blue (x, y), and gamma in steps of 1/256
SPACES = {
    "Display P3": (D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06), 563 / 256),
    "Adobe RGB": (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06), 563 / 256),
    "ProPhoto": ((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), 461 / 256),
    "BT.2020": (D65, (0.708, 0.292), (0.17, 0.797), (0.131, 0.046), 614 / 256),
    "linear": (D65, (0.64, 0.33), (0.3, 0.6), (0.15, 0.06), 1.0),
}
SRGB = (D65, (0.64, 0.33), (0.3, 0.6), (0.15, 0.06))


def to_d50(white, *primaries) -> np.ndarray:
    """The matrix from linear RGB to XYZ under D50, by the adaptation of Bradford."""
    white, *columns = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in (white, *primaries))
    matrix = np.stack(columns, 1)
    scaled = matrix * np.linalg.solve(matrix, white)
    gains = (BRADFORD @ D50) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(gains) @ BRADFORD @ scaled


def linear(srgb: np.ndarray) -> np.ndarray:
    """Light from sRGB values, both in [0, 1]."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_xyz(pixels: np.ndarray) -> np.ndarray:
    """XYZ under D50 of sRGB pixels in [0, 255]."""
    return linear(pixels / 255) @ to_d50(*SRGB).T


def from_xyz(xyz: np.ndarray) -> np.ndarray:
    """sRGB pixels in [0, 255], rounded, of XYZ under D50."""
    light = (xyz @ np.linalg.inv(to_d50(*SRGB)).T).clip(0, 1)
    values = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(values * 255)


def in_space(name: str, pixels: np.ndarray) -> np.ndarray:
    """The pixels of that color space, in [0, 255] and not rounded, that look like those of sRGB."""
    *primaries, gamma = SPACES[name]
    light = to_xyz(pixels) @ np.linalg.inv(to_d50(*primaries)).T
    return 255 * light.clip(0, 1) ** (1 / gamma)


def lab(pixels: np.ndarray) -> np.ndarray:
    """CIELAB of sRGB pixels in [0, 255]."""
    return xyz_to_lab(to_xyz(pixels))


def xyz_to_lab(xyz: np.ndarray) -> np.ndarray:
    ratio = xyz / D50
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def lab_to_xyz(values: np.ndarray) -> np.ndarray:
    y = (values[..., 0] + 16) / 116
    f = np.stack([y + values[..., 1] / 500, y, y - values[..., 2] / 200], -1)
    return D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ΔE (CIE 1976) of each pixel, of sRGB pixels in [0, 255]."""
    return np.linalg.norm(lab(np.asarray(a, float)) - lab(np.asarray(b, float)), axis=-1)


# Files


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def file(space: bytes, tags: dict[bytes, bytes], name: str, kind=b"mntr", inner=b"XYZ ") -> bytes:
    """A profile with these tags and the required ones."""
    text = name.encode("ascii") + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(*D50),
        **tags,
    }
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, kind, space, inner)
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + _fixed(*D50) + b"\0" * 48
    return head + struct.pack(">I", len(tags)) + table + body


def rgb(name: str) -> bytes:
    """The profile of one of SPACES."""
    *primaries, gamma = SPACES[name]
    columns = to_d50(*primaries).T
    tags = {
        tag + b"XYZ": _xyz(*column) for tag, column in zip((b"r", b"g", b"b"), columns, strict=True)
    }
    return file(b"RGB ", tags | {tag + b"TRC": _curve(gamma) for tag in (b"r", b"g", b"b")}, name)


def grey(gamma: float) -> bytes:
    return file(b"GRAY", {b"kTRC": _curve(gamma)}, f"grey {gamma}")


def cmyk(corners: np.ndarray) -> bytes:
    """A profile that gives CIELAB for each combination of full inks.

    Arguments:
        corners: With shape `(2, 2, 2, 2, 3)`: by cyan, magenta, yellow and black.
    """
    scaled = np.rint((corners + [0, 128, 128]) * [255 / 100, 1, 1]).astype(np.uint8)
    plain = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += 4 * plain + scaled.tobytes() + 3 * plain
    return file(b"CMYK", {b"A2B0": table}, "four inks", b"prtr", b"Lab ")
