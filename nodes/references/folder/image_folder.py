"""Reading a folder of reference images: which pictures, with which captions and weights."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .captions import Problems, read_captions, split_repeats
from .list_files import list_files, natural_key, printable
from .picture import FilePicture, Picture
from .read_image import SHORT_SIDE, header_size, read_sized

MAX_DECODED = 2 * 2**30  # bytes: what the decoded images of one folder take at most
LARGE = 2**24  # pixels: so large ones are decoded one at a time, for the sake of the memory


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Reference images with what is known about each; all lists have one entry per image.

    Arguments:
        pictures: Where each image comes from, to be read when it is needed.
        captions: The caption of each image, "" where it has none.
        names: The path of each image below the folder, with forward slashes, to be shown to people.
        weights: How much each image counts: the repeats of a kohya folder such as `10_concept`, else 1.
        skipped: Files (or lines of a caption file) that could not be used, each with the reason.
        folder: The name of the folder, and `found`: how many image files there are in it.
    """

    pictures: list[Picture]
    captions: list[str]
    names: list[str]
    weights: list[float]
    skipped: Problems
    folder: str = ""
    found: int = 0


def reading_order(n: int, k: int, selection: str, seed: int) -> list[int]:
    """All of `range(n)`: first the `k` that `selection` chooses, then those that replace broken files."""
    chosen = {
        "first": range(k),
        "even": [(2 * i + 1) * n // (2 * k) for i in range(k)],
        "random": torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist(),
    }[selection]
    return [*chosen, *sorted(set(range(n)) - set(chosen))]


def short_side_within(sizes: list[tuple[int, int]], limit: int) -> float:
    """The shorter side that pictures of these sizes may have, for their float32 pixels to fit into `limit` bytes."""
    sides = np.array(sizes, dtype=np.float64)

    def fits(short_side):
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
    """Reads several files at a time; a result is (what was read, "") or (None, the reason why not)."""

    def __init__(self):
        self.threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self.large = threading.Lock()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.threads.shutdown(
            cancel_futures=True
        )  # else an interrupt would wait for all that is to come

    def headers(self, paths: list[Path]):
        return self.threads.map(lambda path: self._try(header_size, path), paths)

    def pictures(self, paths: list[Path], sizes: Iterable[tuple[int, int]], short_side: float):
        def read(path, size):
            with self.large if size[0] * size[1] > LARGE else nullcontext():
                return self._try(read_sized, path, short_side)

        return self.threads.map(read, paths, sizes)

    @staticmethod
    def _try(read, *arguments):
        try:
            return read(*arguments), ""
        except ValueError as error:
            return None, str(error)


def read_pictures(
    paths: list[Path], order: list[int], k: int, on_progress: Callable[[int], None]
) -> tuple[dict[int, tuple[FilePicture, Tensor]], dict[int, str]]:
    """The first `k` of `paths`, in that order, that can be read; and why others cannot, both by their index.

    Together the decoded images take at most `MAX_DECODED` bytes: if they are many, they come reduced.
    """
    done, failed, used, waiting = {}, {}, 0, iter(order)
    with _Pool() as pool:
        while True:
            sizes = {}
            while batch := list(islice(waiting, k - len(done) - len(sizes))):
                headers = pool.headers([paths[index] for index in batch])
                for index, (size, reason) in zip(batch, headers, strict=True):
                    if reason:
                        failed[index] = reason
                    else:
                        sizes[index] = size
                    on_progress(bool(reason))
            if not sizes:
                return done, failed
            side = short_side_within(list(sizes.values()), MAX_DECODED - used)
            pictures = pool.pictures([paths[index] for index in sizes], sizes.values(), side)
            for index, (picture, reason) in zip(sizes, pictures, strict=True):
                if reason:
                    failed[index] = reason
                else:
                    image, size = picture
                    done[index] = FilePicture(paths[index], size), image
                    used += 4 * image.numel()
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
) -> tuple[ReferenceSet, list[Tensor]]:
    """Finds up to `max_images` pictures (0: all), and decodes them to see whether they are whole.

    A file that cannot be read is named in `skipped`, and another one takes its place if there is one. Together the
    decoded images take at most `MAX_DECODED` bytes: if they are many, they come reduced.

    Arguments:
        on_progress: Is called often, with the number of files that are finished since; may raise, to stop.
        roots: Folders into which links may lead, besides `folder`.
    """
    listing = list_files(folder, recursive, roots)
    names, paths = list(listing.images), list(listing.images.values())
    k = min(max_images or len(names), len(names))
    order = reading_order(len(names), k, selection, seed)
    done, failed = read_pictures(paths, order, k, on_progress)
    read = [done[index] for index in sorted(done)]
    chosen = [names[index] for index in sorted(done)]
    problems = listing.problems + [(names[index], reason) for index, reason in failed.items()]
    captions = read_captions(caption_source, folder, chosen, listing.captions, problems)
    skipped = dict.fromkeys((printable(name), printable(reason)) for name, reason in problems)
    references = ReferenceSet(
        pictures=[picture for picture, _ in read],
        captions=captions,
        names=[printable(name) for name in chosen],
        weights=[split_repeats((folder / name).parent.name)[0] for name in chosen],
        skipped=sorted(skipped, key=lambda problem: natural_key(problem[0])),
        folder=printable(folder.name),
        found=len(names),
    )
    return references, [image for _, image in read]
