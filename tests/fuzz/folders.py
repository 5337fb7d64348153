"""Folders in which broken pictures and captions lie beside good ones: the good ones come out as they are."""

import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from mmd_tests.fuzz import caption_files, pictures
from mmd_tests.fuzz.containers import FORMS
from mmd_tests.fuzz.edits import Case, changed
from mmd_tests.fuzz.limits import Crash, Misread, Watch
from PIL import Image

# name: (color, caption)
GOOD = {
    "good 1.png": ((200, 10, 30), "red"),
    "sub/good 2.gif": ((20, 180, 40), "green, of the list"),
    "20_x/gööd 3.bmp": ((0, 51, 255), "blue"),
}
CAPTIONS = {
    "good 1.txt": b"red",
    "sub/metadata.jsonl": b'{"file_name": "good 2.gif", "text": "green, of the list"}\n',
    "20_x/gööd 3.caption": b"blue",
}
LISTS = ("metadata.jsonl", "captions.json")
ENDINGS = ("png", "jpg", "JPEG", "webp", "gif", "bmp", "tif", "avif", "heic", "jxl", "jfif")
# Not every system has every name.
LETTERS = "aé漢 ._-()'" + ('\n\\"<>|?*:\x7f\u202e' if sys.platform == "linux" else "")
FOLDERS = ("", "sub/", "20_x/", "new/")


@cache
def small_pools() -> dict[str, dict[str, bytes]]:
    found = {kind: pictures.pool(kind) for kind in pictures.MAKERS if kind != "large jpeg"}
    return {kind: pool for kind, pool in found.items() if pool}


@st.composite
def cases(draw) -> Case:
    """One to four pictures, some with captions beside them, and at most one list; `about` are the names."""
    names, files = [], []
    for i in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(sorted(small_pools())))
        files.append(draw(changed(small_pools()[kind], FORMS[kind]) | st.binary(max_size=20)))
        stem = (
            draw(st.sampled_from(FOLDERS)) + draw(st.text(LETTERS, max_size=6)).strip(" .") + str(i)
        )
        names.append(f"{stem}.{draw(st.sampled_from(ENDINGS))}")
        if draw(st.integers(0, 2)) == 0:
            names.append(f"{stem}.txt")
            files.append(draw(st.just(f"mine {i}".encode()) | st.binary(max_size=20)))
    for file in draw(st.sampled_from(((), (), *([name] for name in LISTS)))):
        names.append(file)
        files.append(draw(caption_files.lists(file.endswith("l"))))
    return Case(tuple(names), tuple(files))


def put(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def good(color: tuple[int, int, int], name: str) -> bytes:
    kind = {"png": "PNG", "gif": "GIF", "bmp": "BMP"}[name[-3:]]
    return pictures.saved(Image.new("RGB", (6, 4), color), kind)


def check(case: Case, place: Path) -> list[str]:
    """An outcome for each file, see `Target`; for those with captions "other"."""
    from mmd_pack.nodes.references.folder.image_folder import read_folder
    from mmd_pack.nodes.references.folder.list_files import printable

    shutil.rmtree(place / "set", ignore_errors=True)
    folder, files = place / "set", dict(zip(case.about, case.files, strict=True))
    for name, (color, _) in GOOD.items():
        put(folder, name, good(color, name))
    for name, data in (CAPTIONS | files).items():
        put(folder, name, data)
    broken = [name for name in files if name.endswith(ENDINGS)]
    pixels = sum(pictures.claimed(files[name]) for name in broken)
    with Watch() as watch:
        try:
            found, images = read_folder(folder)
        except Exception as error:
            raise Crash(repr(error)) from error
    watch.check(pixels)
    names, skipped = found.names, dict(found.skipped)
    columns = names, images, found.captions, found.images, found.weights
    read = {name: row for name, *row in zip(*columns, strict=True)}
    all_names = {printable(name) for name in (*GOOD, *broken)}
    if len(read) != len(names) or all_names != set(names) | (set(skipped) & all_names):
        raise Misread(
            f"files that are neither read nor skipped: {all_names - set(names) - set(skipped)}"
        )
    if set(names) & set(skipped) or found.found != len(all_names):
        raise Misread(f"{found.found} found, {names} read, {list(skipped)} skipped")
    for name, (color, caption) in GOOD.items():
        image, text, _, weight = read[name]
        if not np.array_equal((image[0] * 255).round().numpy(), np.full((4, 6, 3), color)):
            raise Misread(f"other pixels in {name}")
        if text != caption or weight != (20 if "20_" in name else 1):
            raise Misread(f"{name} has the caption {text!r}, weight {weight}")
    return [_outcome(name, data, files, read, printable(name)) for name, data in files.items()]


def _outcome(name, data, files, read, shown) -> str:
    if not name.endswith(ENDINGS):
        return "other"
    if shown not in read:
        return "refused"
    image, text, picture, _ = read[shown]
    pictures.check_picture(data, image[0].double().numpy() * 255, picture.size)
    if not np.array_equal(picture.load().decode().numpy(), image.numpy()):
        raise Misread(f"{name} is decoded in two ways")
    sidecar = files.get(name.rpartition(".")[0] + ".txt", b"")
    own = caption_files.clean(caption_files.text_of(sidecar) or "")
    if own and text != own:
        raise Misread(f"{name} has the caption {text!r} and not {own!r}")
    if not own and text and not set(files) & set(LISTS):
        raise Misread(f"{name} has the caption {text!r} of another picture")
    return "other"
