"""Reading a folder of reference images: which files, in what order, with which captions and weights.

Nothing here knows ComfyUI. The order is natural ("a2" before "a10") and the same on every system.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

IMAGE_FILE = re.compile(r".+\.(png|jpe?g|jfif|webp|bmp|gif|tiff?|avif|heic|jxl)", re.IGNORECASE)
CAPTION_FILE = re.compile(r"(.+/)?(metadata\.jsonl|.+\.txt)")
SHORT_SIDE = 2048  # pixels: larger photographs fill the memory, and hardly a model draws larger
Problems = list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Reference images with what is known about each; all lists have one entry per image.

    Arguments:
        images: The pictures, each with shape `(1, H, W, 3)`, float32 in [0, 1]; sizes may differ.
        captions: The caption of each image, "" where it has none.
        names: The path of each image below the folder, with forward slashes.
        weights: How much each image counts: the repeats of a kohya folder such as `10_concept`, else 1.
        skipped: Files (or lines of a caption file) that could not be used, each with the reason.
        folder: The name of the folder, and `found`: how many image files there are in it.
    """

    images: list[Tensor]
    captions: list[str]
    names: list[str]
    weights: list[float]
    skipped: Problems
    folder: str = ""
    found: int = 0


def natural_key(name: str) -> tuple:
    """Sorts numbers by value and letters without case, folder by folder."""
    parts = unicodedata.normalize("NFC", name).casefold().split("/")
    split = [re.split(r"(\d+)", part) for part in parts]  # text, digits, text …
    return [[int(t) if i % 2 else t for i, t in enumerate(texts)] for texts in split], name


def list_files(folder: Path, recursive: bool) -> list[str]:
    """The files below `folder` in natural order, without hidden ones and the thumbnails of NAS boxes."""
    names = []
    for root, folders, files in os.walk(folder):
        hidden = (".", "@eaDir")
        folders[:] = [f for f in folders if recursive and not f.startswith(hidden)]
        below = Path(root).relative_to(folder)
        names += [(below / f).as_posix() for f in files if not f.startswith(hidden)]
    return sorted(names, key=natural_key)


def list_images(folder: Path, recursive: bool) -> list[str]:
    """The image files below `folder`, in natural order."""
    return list(filter(IMAGE_FILE.fullmatch, list_files(folder, recursive)))


def fingerprint(folder: Path, recursive: bool) -> str:
    """Changes whenever an image or a caption file below `folder` is added, removed or written."""
    digest = hashlib.sha256()
    for name in list_files(folder, recursive):
        path = folder / name
        if (IMAGE_FILE.fullmatch(name) or CAPTION_FILE.fullmatch(name)) and path.is_file():
            digest.update(repr((name, path.stat().st_size, path.stat().st_mtime_ns)).encode())
    return digest.hexdigest()


def reading_order(n: int, k: int, selection: str, seed: int) -> list[int]:
    """All of `range(n)`: first the `k` that `selection` chooses, then those that replace broken files."""
    chosen = {
        "first": range(k),
        "even": [(2 * i + 1) * n // (2 * k) for i in range(k)],
        "random": torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist(),
    }[selection]
    return [*chosen, *sorted(set(range(n)) - set(chosen))]


def read_image(path: Path) -> Tensor:
    """The picture, with shape `(1, H, W, 3)`, float32 in [0, 1]: upright, on white, the first frame."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16 bits of grey
            grey = np.asarray(image, dtype=np.float32) / 65535
            image = Image.fromarray(np.rint(grey.clip(0, 1) * 255).astype(np.uint8))
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image = image.convert("RGB")
        size = [round(side * SHORT_SIDE / min(image.size)) for side in image.size]
        image.thumbnail(size, Image.Resampling.LANCZOS, 3.0)  # never enlarges
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255)[None]


def _read_text(folder: Path, name: str, problems: Problems) -> str:
    path = folder / name
    try:
        return path.read_text("utf-8-sig", "replace").strip() if path.is_file() else ""
    except OSError as error:
        problems.append((name, f"cannot be read ({error.strerror})"))
        return ""


def sidecar_captions(folder: Path, names: list[str], problems: Problems) -> dict[str, str]:
    """From `picture.txt` beside `picture.png`."""
    sidecars = [str(PurePosixPath(name).with_suffix(".txt")) for name in names]
    return {n: _read_text(folder, s, problems) for n, s in zip(names, sidecars, strict=True)}


def metadata_captions(folder: Path, names: list[str], problems: Problems) -> dict[str, str]:
    """From the lines `{"file_name": ..., "text": ...}` of `metadata.jsonl`, as Hugging Face data sets have it.

    Each folder on the way to an image may have one; names are relative to it, and the nearest file wins.
    """
    captions = {}
    folders = {parent for name in names for parent in PurePosixPath(name).parents}
    for parent in sorted(folders, key=lambda parent: len(parent.parts)):
        source = str(parent / "metadata.jsonl")
        for number, line in enumerate(_read_text(folder, source, problems).split("\n"), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                name = (parent / entry["file_name"].replace("\\", "/")).as_posix()
                captions[name] = str(entry["text"] or "").strip()
            except (ValueError, KeyError, TypeError, AttributeError):
                problems.append((f"{source}, line {number}", "not JSON with file_name and text"))
    return captions


def split_repeats(folder_name: str) -> tuple[float, str]:
    """`10_concept` → (10, "concept"), as kohya's trainers read it; years and "01_" are no repeats."""
    match = re.fullmatch(r"([1-9]\d{0,2})_(.+)", folder_name)
    return (float(match[1]), match[2]) if match else (1.0, folder_name)


def folder_captions(folder: Path, names: list[str], problems: Problems) -> dict[str, str]:
    """From the name of the folder that holds the image, without kohya's repeats."""
    return {name: split_repeats((folder / name).parent.name)[1] for name in names}


# Asked in this order, image by image: the first caption that is not empty counts.
CAPTION_SOURCES: dict[str, tuple[Callable, ...]] = {
    "auto": (sidecar_captions, metadata_captions),
    "txt": (sidecar_captions,),
    "metadata.jsonl": (metadata_captions,),
    "folder name": (folder_captions,),
    "none": (),
}


def read_folder(
    folder: Path,
    recursive: bool = True,
    max_images: int = 0,
    selection: str = "first",
    seed: int = 0,
    caption_source: str = "auto",
    on_image: Callable[[], None] = lambda: None,
) -> ReferenceSet:
    """Reads up to `max_images` pictures (0: all); `on_image` is called after each file.

    A file that cannot be read is named in `skipped`, and another one takes its place if there is one.
    """
    names = list_images(folder, recursive)
    k = min(max_images or len(names), len(names))
    images, skipped = {}, []
    for index in reading_order(len(names), k, selection, seed):
        if len(images) == k:
            break
        path = folder / names[index]
        try:
            images[index] = read_image(path)
        except Exception as error:  # for a broken file, decoders raise nearly anything
            reason = str(error).replace(repr(str(path)), "").strip() or type(error).__name__
            skipped.append((names[index], reason))
        on_image()
    chosen = [names[index] for index in sorted(images)]
    found = [read(folder, chosen, skipped) for read in CAPTION_SOURCES[caption_source]]
    return ReferenceSet(
        images=[images[index] for index in sorted(images)],
        captions=[next(filter(None, (c.get(name) for c in found)), "") for name in chosen],
        names=chosen,
        weights=[split_repeats((folder / name).parent.name)[0] for name in chosen],
        skipped=sorted(skipped, key=lambda problem: natural_key(problem[0])),
        folder=folder.name,
        found=len(names),
    )
