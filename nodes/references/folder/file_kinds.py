"""Which files hold images or captions, by their names, or else by their first bytes."""

import re
from pathlib import Path

from ...base.safe_paths import open_file

IMAGE_FILE = re.compile(
    r".+\.(a?png|jpe?g|jpe|jfif|pjp|pjpeg|mpo|webp|bmp|dib|gif|tiff?|avifs?|hei[cf]s?|hif|jxl)",
    re.IGNORECASE | re.DOTALL,
)
CAPTION_FILE = re.compile(
    r"(.+/)?(metadata\.(jsonl|csv)|.+\.(txt|caption|json))", re.IGNORECASE | re.DOTALL
)
# What other files have, of which users expect that they are read.
OTHER_IMAGE_FILE = re.compile(
    r".+\.(psd|psb|xcf|kra|ora|clip|sai2?|svgz?|ai|eps|pdf|tga|jp2|j2k|jpf|jpx|jxr|dng|cr[23]|nef|"
    r"arw|raf|orf|rw2|pef|srw|raw|exr|hdr|ico|icns|cur|pcx|p[bgpn]m|pfm|dds|qoi|sgi|fits?|dcm|"
    r"mp4|mov|m4v|webm|mkv|avi)",
    re.IGNORECASE | re.DOTALL,
)
OTHER_TEXT_FILE = re.compile(
    r".+\.(captions|cap|tags?|prompt|text|rtf|docx?|csv|tsv|jsonl|ndjson|ya?ml|xml|parquet|arrow)",
    re.IGNORECASE | re.DOTALL,
)

# The first bytes of images, and where they are.
_STARTS = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpg"),
    (8, b"WEBP", "webp"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"II*\0", "tif"),
    (0, b"MM\0*", "tif"),
    (4, b"ftypavi", "avif"),
    (4, b"ftyphei", "heic"),
    (4, b"ftyphev", "heic"),
    (4, b"ftypmif1", "heic"),
    (4, b"ftypmsf1", "heic"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (0, b"\xff\x0a", "jxl"),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes


def has_ending(name: str) -> bool:
    """Whether the name of a file ends with the kind of the file, such as ".txt" or ".7z"."""
    ending = name.rpartition("/")[2].rpartition(".")[2]
    return "." in name.rpartition("/")[2] and bool(re.fullmatch(r"\d?[^\W\d]\S*", ending))


def stem_of(name: str) -> str:
    """The name of a file without its ending."""
    return name.rpartition(".")[0] if has_ending(name) else name


def sniffed(path: Path) -> str:
    """The ending that an image should have by its first bytes; "" if it seems to be none."""
    try:
        with open_file(path, 2**40) as file:
            start = file.read(18)
    except (OSError, ValueError):
        return ""
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    return next((end for at, found, end in _STARTS if start[at : at + len(found)] == found), "")
