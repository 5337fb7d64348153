"""Reads a folder of reference images: selects and decodes them, finds captions and weights."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....mmd_core.files import limits
from ...base.safe_paths import open_file
from .caption_files import CaptionRequest
from .captions import WITHOUT_FILES, read_captions
from .claims import claimed_pixels
from .file_kinds import CAPTION_FILE
from .folder_notes import caption_notes, color_notes, image_notes
from .lazy_image import FileImage, LazyImage
from .list_files import Listing, list_files, natural_key, printable
from .open_image import SHORT_SIDE, Header, read_header
from .problems import Problem, folded
from .read_image import read_sized
from .trainer_names import repeats

MAX_DECODED = 2 * 2**30  # bytes: maximum for all decoded images of one folder
LARGE = 2**24  # pixels: larger images are decoded one at a time, to limit memory

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Reference images, with one caption, name and weight for each.

    Arguments:
        images: The images, which are decoded on demand.
        captions: The caption of each image, "" if it has none.
        names: The path of each image relative to the folder, with forward slashes, for display.
        weights: The weight of each image: the repeats of a kohya folder (`10_concept`), else 1.
        skipped: Files (or entries of a caption file) that could not be used, each with the reason.
            Images come first.
        folder: The name of the folder.
        found: The number of image files in it, without those that are left out.
        notes: Lines for the report.
    """

    images: list[LazyImage]
    captions: list[str]
    names: list[str]
    weights: list[float]
    skipped: list[tuple[str, str]]
    folder: str = ""
    found: int = 0
    notes: tuple[str, ...] = ()


def reading_order(n: int, k: int, selection: str, seed: int) -> list[int]:
    """The order in which to read `n` files, as indices.

    The first `k` are those that `selection` chooses. The others replace files that cannot be read.
    """
    chosen = {
        "first": range(k),
        "even": [(2 * i + 1) * n // (2 * k) for i in range(k)],
        "random": torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist(),
    }[selection]
    return [*chosen, *sorted(set(range(n)) - set(chosen))]


def short_side_within(sizes: list[Size], limit: int) -> float:
    """The largest limit of the shorter sides at which all images fit into memory as float32 RGB.

    It is at most SHORT_SIDE.

    Arguments:
        sizes: The size of each image.
        limit: The memory for all images, in bytes.
    """
    sides = np.array(sizes, dtype=np.float64)

    def fits(short_side: float) -> bool:
        scale = np.minimum(1, short_side / sides.min(1, keepdims=True))
        return 12 * np.maximum(1, np.rint(sides * scale)).prod(1).sum() <= limit

    low, high = 0.0, float(SHORT_SIDE)
    if fits(high):
        return SHORT_SIDE
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return int(low) or low


class _Pool:
    """A thread pool that reads several files at a time.

    A result is the value and "", or None and the reason why the file cannot be read.
    """

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self.large = threading.Lock()

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        # Without cancel_futures, an interrupt would wait for all pending files.
        self.threads.shutdown(cancel_futures=True)

    def headers(self, paths: list[Path]) -> Iterator[tuple[Header | None, str]]:
        """What each image is, as in `read_header`."""

        def read(path: Path) -> tuple[Header | None, str]:
            with self.large if _room(path) > LARGE else nullcontext():
                return self._try(read_header, path)

        return self.threads.map(read, paths)

    def images(
        self, paths: list[Path], sizes: Iterable[Size], short_side: float
    ) -> Iterator[tuple[tuple[Tensor, Size] | None, str]]:
        """Each image and its original size, as in `read_sized`."""

        def read(path: Path, size: Size) -> tuple[tuple[Tensor, Size] | None, str]:
            with self.large if size[0] * size[1] > LARGE else nullcontext():
                return self._try(read_sized, path, short_side)

        return self.threads.map(read, paths, sizes)

    @staticmethod
    def _try(read: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
        try:
            return read(*arguments), ""
        except ValueError as error:
            return None, str(error)


def _room(path: Path) -> int:
    """The pixels for which the decoder makes room when it opens the file."""
    try:
        with open_file(path, limits.IMAGE_BYTES) as file:
            return claimed_pixels(file)
    except (OSError, ValueError):  # `read_header` will say why
        return 0


def read_images(
    paths: list[Path], order: list[int], k: int, on_progress: Callable[[int], None]
) -> tuple[dict[int, tuple[FileImage, Tensor]], dict[int, str]]:
    """Reads the first `k` readable files of `paths`, in the given `order`.

    All decoded images together take at most about `MAX_DECODED` bytes; if necessary, they are
    downscaled.

    Arguments:
        paths: The image files.
        order: The indices of `paths` in the order in which to try them.
        k: How many images to read.
        on_progress: Is called often, with the number of files finished since the last call.

    Returns:
        The images, on demand and decoded, and the reason for each file that cannot be read; both by
        index.
    """
    done, failed, used, waiting = {}, {}, 0, iter(order)
    with _Pool() as pool:
        while True:
            headers: dict[int, Header] = {}
            while batch := list(islice(waiting, k - len(done) - len(headers))):
                found = pool.headers([paths[index] for index in batch])
                for index, (header, reason) in zip(batch, found, strict=True):
                    if reason:
                        failed[index] = reason
                    else:
                        headers[index] = header
                    on_progress(bool(reason))
            if not headers:
                return done, failed
            sizes = [header.size for header in headers.values()]
            side = short_side_within(sizes, MAX_DECODED - used)
            images = pool.images([paths[index] for index in headers], sizes, side)
            for index, (image, reason) in zip(headers, images, strict=True):
                if reason:
                    failed[index] = reason
                else:
                    pixels, size = image
                    done[index] = FileImage(paths[index], size, headers[index].profile), pixels
                    used += 4 * pixels.numel()
                on_progress(1)


def read_folder(
    folder: Path,
    recursive: bool = True,
    max_images: int = 0,
    selection: str = "first",
    seed: int = 0,
    caption_source: str = "auto",
    on_progress: Callable[[int], None] = lambda finished: None,
    roots: Iterable[Path] = (),
    listing: Listing | None = None,
) -> tuple[ReferenceSet, list[Tensor]]:
    """Reads up to `max_images` images. They are decoded, so that damaged files are found here.

    A file that cannot be read is listed in `skipped`, and another file replaces it if there is one.
    All decoded images together take at most about `MAX_DECODED` bytes; if necessary, they are
    downscaled.

    Arguments:
        folder: The folder of the images.
        recursive: Whether to read its subfolders, too.
        max_images: The maximum number of images; 0 reads all.
        selection: "first", "even" or "random": which images to read if there are more than
            `max_images`.
        seed: The seed for `selection` "random".
        caption_source: One of `captions.CAPTION_SOURCES`.
        on_progress: Is called often, with the number of files finished since the last call. It may
            raise an exception to stop.
        roots: Folders into which links may lead, besides `folder`.
        listing: The files, if `list_files` has already listed them.

    Returns:
        The reference set, and the decoded images, each with shape `(1, H, W, 3)`, float32 in
        [0, 1].
    """
    listing = listing or list_files(folder, recursive, roots, lambda _: on_progress(0))
    names, paths = list(listing.images), list(listing.images.values())
    k = min(max_images or len(names), len(names))
    order = reading_order(len(names), k, selection, seed)
    done, failed = read_images(paths, order, k, on_progress)
    read = [done[index] for index in sorted(done)]
    chosen = [names[index] for index in sorted(done)]
    every = {*names, *listing.left_out}
    request = CaptionRequest(folder, chosen, listing.captions, every, on_progress=on_progress)
    captions = read_captions(caption_source, request)
    problems = [Problem(names[index], reason) for index, reason in failed.items()]
    problems += listing.problems + request.problems
    # Images come first, because long lists are cut.
    problems.sort(key=lambda found: (bool(CAPTION_FILE.fullmatch(found[0])), natural_key(found[0])))
    profiles = {name: image.profile for name, (image, _) in zip(chosen, read, strict=True)}
    notes = image_notes(listing) + color_notes(profiles)
    if caption_source not in WITHOUT_FILES:
        notes += caption_notes(listing, request)
    skipped = [(printable(name), printable(reason)) for name, reason in folded(problems)]
    references = ReferenceSet(
        images=[image for image, _ in read],
        captions=captions,
        names=[printable(name) for name in chosen],
        weights=[repeats(name, folder.name) for name in chosen],
        skipped=skipped,
        folder=printable(folder.name),
        found=len(names),
        notes=tuple(notes),
    )
    return references, [pixels for _, pixels in read]
