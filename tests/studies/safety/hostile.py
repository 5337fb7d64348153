"""Hostile files for each reader, 20 or more, at any size."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmd_pack.mmd_core.files.tensor_file import file_bytes
from PIL import Image

Make = Callable[
    [Path, int], None
]  # (place, mega): writes into a folder; `mega` is 2**20 at full size
MEMORY_PART = f"{1:020d}_00002_{0:032x}.safetensors"


def raw(header: bytes, data: bytes = b"") -> bytes:
    """A .safetensors file with any bytes as its header."""
    return len(header).to_bytes(8, "little") + header + data


def headed(metadata: object, data: bytes = b"", **tensors: object) -> bytes:
    return raw(json.dumps({"__metadata__": metadata, **tensors}).encode(), data)


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def headers(mega: int) -> dict[str, bytes]:
    """What each reader of .safetensors files must refuse, by name; the largest has 8 million bytes."""
    n = 8 * mega - 2**14 * mega // 2**20
    return {
        "header of 2^63 bytes": b"\xff" * 7 + b"\x7f" + b"{}",
        "lists in lists": raw(b"[" * n),
        "objects in objects": raw(b'{"a":' * (n // 5)),
        "spaces": raw(b"{" + b" " * n + b"}"),
        "one key": raw(b'{"' + b"k" * n + b'":{}}'),
        "keys": raw(b"{" + b",".join(b'"%d":{}' % i for i in range(n // 12)) + b"}"),
        "one number": raw(
            b'{"a":{"dtype":"F32","shape":[' + b"9" * n + b'],"data_offsets":[0,4]}}'
        ),
        "escapes": raw(b'{"__metadata__":{"a":"' + b"\\u0041" * (n // 6) + b'"}}'),
        "a shape of many sides": headed({}, bytes(4), a=tensor([1] * (n // 4), 0, 4)),
        "tensors over each other": headed({}, bytes(8), a=tensor([2], 0, 8), b=tensor([1], 4, 8)),
    }


# --- sets ---------------------------------------------------------------------------------------


def stored_set(n: int, tensors: dict | None = None, **metadata: str) -> bytes:
    """A set with a right digest, whatever it holds."""
    texts = {
        "format": "mmd_references", "version": "1", "names": json.dumps([""] * n),
        "captions": json.dumps([""] * n), "sizes": json.dumps([[0, 0]] * n), "size": "[0,0]", "vae": "",
        **metadata,
    }  # fmt: skip
    latents = torch.arange(float(n * 4)).reshape(n, 4, 1, 1) % 7
    stored = {
        "latents": (latents, torch.float32),
        "weights": (torch.full((n,), 1 / n), torch.float32),
    }
    return b"".join(file_bytes(texts, {**stored, **(tensors or {})}))


def sets(mega: int) -> dict[str, bytes]:
    n = 60 * mega
    whole = (torch.zeros(2, 3, *[int((4 * mega) ** 0.5)] * 2), torch.uint8)
    return headers(mega) | {
        "one caption": stored_set(1, captions='["' + "a" * n + '"]'),
        "a caption of escapes": stored_set(1, captions='["' + "\\u0041" * (n // 6) + '"]'),
        "captions of empty lists": stored_set(1, captions="[" + "[]," * (n // 3) + "[]]"),
        "names of empty texts": stored_set(1, names="[" + '"",' * (n // 6) + '""]'),
        "sizes of digits": stored_set(1, sizes="[[" + "1" * (n // 2) + "," + "1" * (n // 2) + "]]"),
        "sizes of spaces": stored_set(1, sizes="[[" + " " * n + "1,1]]"),
        "many references": stored_set(max(1, mega // 2)),
        "thumbnails of another size": stored_set(2, {"thumbnails": whole}),
        "prompts of NaN": stored_set(1, {"prompts": (torch.full((1, 4 * mega), torch.nan), torch.float32)}),
        "weights without end": stored_set(
            2, {"weights": (torch.tensor([torch.inf, 1.0]), torch.float32)}
        ),
    }  # fmt: skip


# --- LoRAs --------------------------------------------------------------------------------------

ABOUT = {
    **dict.fromkeys(("steps", "steps_from", "steps_to", "references", "iterations", "batch_size", "rank"), 5),
    "sampler_name": "euler", "scheduler": "karras", "model": "SD15", "features": "latent",
    "kernel": "energy", "cfg": 1.0, "mmd2_before": None, "mmd2_after": None,
}  # fmt: skip


def lora(text: str) -> bytes:
    return headed({"mmd_ddm": text}, bytes(4), a=tensor([1], 0, 4))


def loras(mega: int) -> dict[str, bytes]:
    about = {
        "a picture that runs a script": {"sampler_name": "<img src=x onerror=alert(1)>"},
        "a drawing that runs a script": {"scheduler": "<svg/onload=alert(1)>"},
        "a script in signs for signs": {"model": "&lt;script&gt;alert(1)&lt;/script&gt;"},
        "a link": {"kernel": "www.example.com/a"},
        "signs for the console": {"features": "\x1b[2J\x1b]0;owned\x07"},
        "letters that turn": {"model": "\u202egnp.exe"},
        "steps of a billion": {"steps": 10**9, "steps_to": 10**9},
        "distances of 400 digits": {"mmd2_before": 10**400, "mmd2_after": 1},
    }
    n = mega - 2**10
    return headers(mega) | {
        **{name: lora(json.dumps(ABOUT | changed)) for name, changed in about.items()},
        "a note of empty lists": lora(
            json.dumps(ABOUT)[:-1] + ', "x": [' + "[]," * (n // 3) + "[]]}"
        ),
        "a note of digits": lora(json.dumps(ABOUT).replace("1.0", "1" + "0" * n)),
    }


# --- parts of a memory --------------------------------------------------------------------------


def part(tensors: dict, **metadata: str) -> bytes:
    return b"".join(
        file_bytes({"format": "mmd_memory", "version": "1", "kind": "SD15", **metadata}, tensors)
    )


def memories(mega: int) -> dict[str, Make]:
    def content(data: bytes) -> Make:
        return lambda place, _: (place / MEMORY_PART).write_bytes(data) and None

    def with_tensors(**tensors: torch.Tensor) -> Make:
        return content(part({name: (value, torch.float32) for name, value in tensors.items()}))

    def empty_parts(place: Path, mega: int) -> None:
        for i in range(mega // 50):
            (place / f"{i:020d}_00001_{i:032x}.safetensors").touch()

    def groups(place: Path, mega: int) -> None:
        for i in range(mega // 500):
            data = part({"latents": (torch.zeros(1, 1, 1, 1 + i), torch.float32)})
            (place / f"{i:020d}_00001_{i:032x}.safetensors").write_bytes(data)

    def sparse(place: Path, mega: int) -> None:
        header = headed({}, latents=tensor([1, 400 * mega // 4], 0, 400 * mega))
        with (place / MEMORY_PART).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + 400 * mega)

    def folder(place: Path, _: int) -> None:
        (place / MEMORY_PART).mkdir()

    def pipe(place: Path, _: int) -> None:
        os.mkfifo(place / MEMORY_PART)

    def endless(place: Path, _: int) -> None:
        (place / MEMORY_PART).symlink_to("/dev/zero")

    def renamed(place: Path, _: int) -> None:
        data = part({"latents": (torch.zeros(2, 4, 1, 1), torch.float32)})
        (place / f"{2**63 - 1:020d}_99999_{0:032x}.safetensors").write_bytes(data)

    def drafts(place: Path, mega: int) -> None:
        for i in range(mega // 100):
            (place / f".{i:032x}.tmp").touch()

    return {name: content(data) for name, data in headers(mega).items()} | {
        "many empty parts": empty_parts,
        "many groups": groups,
        "a part full of holes": sparse,
        "a folder for a part": folder,
        "a pipe for a part": pipe,
        "a device for a part": endless,
        "the last number of all": renamed,
        "many drafts": drafts,
        "samples of NaN": with_tensors(latents=torch.full((2, 4, 8, 8), torch.nan)),
        "a kind of another file": content(
            part({"latents": (torch.zeros(1, 4, 1, 1), torch.float32)}, kind="<b>")
        ),
    }


# --- pictures -----------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(size: int) -> bytes:
    """So many zeros, compressed."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(2**22, size - i))) for i in range(0, size, 2**22)]
    return b"".join([*parts, packer.flush()])


def png(
    w: int, h: int, depth: int = 8, color: int = 2, extra: bytes = b"", interlaced: int = 0
) -> bytes:
    bits = depth * {0: 1, 2: 3, 6: 4}[color]
    header = struct.pack(">IIBBBBB", w, h, depth, color, 0, 0, interlaced)
    body = zeros(min(h * (1 + w * bits // 8), 2**31))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", body)
        + chunk(b"IEND")
    )


def tiff(w: int, h: int, rows: int, compression: int = 1, again: bool = False) -> bytes:
    n, size = -(-h // rows), w * rows
    start = 8 + 2 + 9 * 12 + 4
    entries = [
        (256, 4, 1, w), (257, 4, 1, h), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
        (273, 4, n, start if n > 1 else start + 8 * n), (277, 3, 1, 1), (278, 4, 1, rows),
        (279, 4, n, start + 4 * n if n > 1 else size),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    head += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head += struct.pack("<I", 8 if again else 0)
    places = np.full(n, start + 8 * n, "<u4").tobytes() + np.full(n, size, "<u4").tobytes()
    return head + places + bytes(size)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scans(side: int, times: int) -> bytes:
    """A progressive JPEG with its last scan many times."""
    data = saved(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * times + data[-2:]


def pictures(mega: int) -> dict[str, tuple[str, bytes]]:
    """By name: ending and content."""
    side, n = int((150 * mega) ** 0.5), mega
    frame = b"!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"
    colors = b"\x80\0\0\0\0\0\xff\xff\xff"
    text = b"k\0\0" + zeros(400 * n)
    frames = b"".join(
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * i + 1, 8, 8, 0, 0, 1, 1, 0, 0))
        + chunk(b"fdAT", struct.pack(">I", 2 * i + 2) + zeros(200))
        for i in range(n // 20)
    )
    rle = b"BM" + struct.pack(
        "<IIIIiiHHIIIIII", 0, 0, 1078, 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0
    )
    black, flat = Image.new("L", (side, side)), Image.new("RGB", (side // 2, side // 2))
    grey = saved(Image.new("L", (64, 64)), "JPEG")
    return {
        "16 bits, 150 megapixels": ("png", png(side, side, 16, 6)),
        "interlaced, 150 megapixels": ("png", png(side, side, 8, 0, interlaced=1)),
        "one row of two billion": ("png", png(2**31 - 1, 1, 1, 0)),
        "no pixels": ("png", png(0, 0)),
        "a comment of 400 MB": ("png", png(8, 8, extra=chunk(b"zTXt", text))),
        "a profile of 400 MB": ("png", png(8, 8, extra=chunk(b"iCCP", text))),
        "many chunks": ("png", png(8, 8, extra=chunk(b"teSt") * (n // 8))),
        "many comments": ("png", png(8, 8, extra=chunk(b"zTXt", b"k\0\0" + zeros(n)) * 300)),
        "many frames": ("png", png(8, 8, extra=chunk(b"acTL", struct.pack(">II", n // 20 + 1, 0)) + frames)),
        "many scans": ("jpg", scans(side // 2, 100)),
        "many profiles": ("jpg", grey[:2] + (b"\xff\xe2\xff\xffICC_PROFILE\0\1\xff" + bytes(65519)) * 255 + grey[2:]),
        "many comments ": ("jpg", grey[:2] + b"\xff\xfe\0\2" * n + grey[2:]),
        "a huge screen": ("gif", b"GIF89a\xff\xff\xff\xff" + colors + frame + b";"),
        "many frames ": ("gif", b"GIF89a\1\0\1\0" + colors + frame * (n // 10) + b";"),
        "a list that never ends": ("tif", tiff(64, 64, 64, again=True)),
        "many strips": ("tif", tiff(8, n // 8, 1)),
        "150 megapixels that are not there": ("tif", tiff(side, side, side)[: 8 + 114] + bytes(9)),
        "150 megapixels of nothing": ("bmp", rle + bytes(1024) + b"\0\1"),
        "a canvas of 40 megapixels": ("webp", saved(flat, "WEBP", lossless=True, method=0, quality=0)),
        "150 megapixels": ("jpg", saved(black, "JPEG")),
        "bytes between parts": ("jpg", grey[:2] + b"\xff" * (60 * n) + grey[2:]),
        "bytes between blocks": ("gif", b"GIF89a\1\0\1\0" + colors + bytes(60 * n) + frame + b";"),
    }  # fmt: skip


# --- captions -----------------------------------------------------------------------------------


def captions(mega: int) -> dict[str, Make]:
    n = 60 * mega

    def text(name: str, content: str | bytes) -> Make:
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        return lambda place, _: (place / name).write_bytes(data) and None

    def links(place: Path, mega: int) -> None:
        (place / "0.txt").write_text("a" * (mega - 1))
        for i in range(1, mega // 700):
            (place / f"{i}.png").symlink_to("a.png")
            (place / f"{i}.txt").symlink_to("0.txt")

    def orphans(place: Path, mega: int) -> None:
        for i in range(mega // 50):
            (place / f"a{i}.txt").touch()

    def names(place: Path, mega: int) -> None:
        for i in range(mega // 500):
            (place / f"{'-mask' * 40}{i}.png").symlink_to("a.png")

    def deep(place: Path, mega: int) -> None:
        for _ in range(mega // 5000):
            place = place / "masks-mask"
            place.mkdir()
        (place / "b.txt").touch()

    return {
        "lists in lists": text("captions.json", "[" * n),
        "empty lists": text("captions.json", '{"x":[' + "[]," * (n // 3) + "[]]}"),
        "many keys": text("captions.json", "{" + ",".join(f'"{i}":"x"' for i in range(n // 17)) + "}"),
        "one number": text("captions.json", '{"a.png":' + "9" * n + "}"),
        "accents": text("captions.json", '{"a.png":"' + "\u0301" * (n // 2) + '"}'),
        "half characters": text("captions.json", '{"a.png":"' + "\\ud800" * (n // 6) + '"}'),
        "bytes of no text": text("captions.json", b"\xff" * n),
        "one key many times": text("captions.json", "{" + '"a.png":"x",' * (n // 12) + '"a.png":"x"}'),
        "empty lines": text("metadata.jsonl", "\n" * n),
        "objects in objects": text("metadata.jsonl", '{"a":' * (n // 5)),
        "a path of many parts": text("metadata.jsonl", '{"file_name":"' + "a/" * (n // 2) + '","text":"t"}'),
        "ways out": text("metadata.jsonl", '{"file_name":"../../etc/passwd","text":"t"}\n' * (n // 48)),
        "many talks": text("metadata.jsonl", '{"file_name":"a.png","conversations":[' + "{}," * (n // 3) + "{}]}"),
        "an open quote": text("metadata.csv", 'file_name,text\na.png,"' + "x\n" * (n // 2)),
        "many columns": text("metadata.csv", "file_name,text" + ",x" * (n // 2)),
        "zeros": text("a.txt", b"\0" * (mega - 1)),
        "links to one text": links,
        "many texts without a picture": orphans,
        "names of masks of masks": names,
        "folders in folders": deep,
    }  # fmt: skip


# --- folders ------------------------------------------------------------------------------------


def folders(mega: int) -> dict[str, Make]:
    """Large ones, of which little can be used."""

    def files(ending: str) -> Make:
        def make(place: Path, mega: int) -> None:
            for i in range(mega // 10):
                (place / f"{i}{ending}").touch()

        return make

    def empty(place: Path, mega: int) -> None:
        for i in range(mega // 50):
            (place / str(i % 100) / str(i)).mkdir(parents=True)

    return {
        "files of no kind": files(".dat"),
        "files without an ending": files("_"),
        "empty pictures": files(".png"),
        "texts and no pictures": files(".txt"),
        "empty folders": empty,
    }
