"""Teach the judge on real pictures of all four styles, as they are and through the autoencoder.

    python train_judge.py [--cache DIR] [--steps 1700]

writes `judge.safetensors` (half precision) to the cache folder; a run that is stopped goes on from
`judge.pt` there. The autoencoder is that of the world's pack.
"""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
import torch
from mmd_demo.emoji import VAE_WEIGHTS
from mmd_demo.emoji.words import UNSEEN
from mmd_tests.demo.emoji.background import step_back
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.captions import read_vocabulary
from mmd_tests.demo.emoji.files import save_half, write_at_once
from mmd_tests.demo.emoji.judge import CATEGORIES, JUDGED_STYLES, Judge, encode_names
from mmd_tests.demo.emoji.latents import load_vae, may_be_mirrored
from mmd_tests.demo.emoji.pictures import read_pictures, read_table, shift_pixels, to_float
from mmd_tests.demo.train.muon import Optimizers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

BATCH = 128
SAVE = 200
NOT_MUONS = ("features.1.", "names.words.", "style.", "category.")


@dataclass(frozen=True)
class Lessons:
    """Pictures with their right answers.

    pixels: uint8 (2, N, 3, 64, 64), as they are and decoded; mirrored: whether that is allowed;
    name: which of the descriptions; names, descriptions: words (M, WORDS).
    """

    pixels: torch.Tensor
    mirrored: torch.Tensor
    style: torch.Tensor
    category: torch.Tensor
    name: torch.Tensor
    names: torch.Tensor
    descriptions: torch.Tensor


def held_out_names(table: dict[str, np.ndarray]) -> np.ndarray:
    """Whether a row's name is one that is never trained on, whatever the style."""
    return np.isin(table["name"], table["name"][table["split"] == "val_name"])


def training_rows(table: dict[str, np.ndarray]) -> np.ndarray:
    """Training pictures and OpenMoji's of the same names; of skin tones, each fourth."""
    taught = (table["split"] == "train") | (table["style"] == UNSEEN) & ~held_out_names(table)
    rows = np.flatnonzero(taught)
    return rows[~table["toned"][rows] | (rows % 4 == 0)]


@torch.no_grad()
def decode_rows(cache: Path, rows: np.ndarray) -> torch.Tensor:
    """Pictures (N, 3, 64, 64) after encoding and decoding, kept in a file."""
    path = cache / "judge_decoded.safetensors"
    if not path.exists():
        vae, parts = load_vae(VAE_WEIGHTS), []
        for part in read_pictures(cache, rows).split(64):
            pictures = to_float(part).contiguous(memory_format=torch.channels_last)
            decoded = vae.decode(vae.encode(pictures))
            parts.append(decoded.add(1).mul(127.5).round().byte().contiguous())
        write_at_once(path, lambda part: save_file({"pixels": torch.cat(parts)}, part))
    return load_file(path)["pixels"]


def describe(table: dict[str, np.ndarray], row: int) -> tuple[str, str]:
    """Name with skin tone, and the same with other names and keywords."""
    name, short, tags, tone = (str(table[x][row]) for x in ("name", "short", "tags", "tone"))
    return f"{name} {tone}", f"{name} {tone} {short} {tags}"


def read_lessons(cache: Path, table: dict[str, np.ndarray], vocabulary: list[str]) -> Lessons:
    """All that is taught."""
    rows = training_rows(table)
    texts = [describe(table, row) for row in rows]
    places = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in texts))}
    longer = dict(texts)
    return Lessons(
        torch.stack([read_pictures(cache, rows), decode_rows(cache, rows)]),
        may_be_mirrored(table)[rows],
        torch.tensor([JUDGED_STYLES.index(style) for style in table["style"][rows]]),
        torch.tensor([CATEGORIES.index(category) for category in table["category"][rows]]),
        torch.tensor([places[name] for name, _ in texts]),
        encode_names(list(places), vocabulary),
        encode_names([longer[name] for name in places], vocabulary),
    )


def vary(pixels: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """Pictures mirrored where that is allowed, shifted, some blurred, noisy or with a hole."""
    mirror = mirror & (torch.rand(len(pixels)) < 0.5)
    pixels = torch.where(mirror[:, None, None, None], pixels.flip(3), pixels)
    parts = [
        shift_pixels(part, *torch.randint(-4, 5, (2,)).tolist())
        for part in pixels.split(math.ceil(len(pixels) / 16))
    ]
    pictures = to_float(torch.cat(parts)).contiguous(memory_format=torch.channels_last)
    quarter = len(pictures) // 4
    blurred = F.avg_pool2d(F.pad(pictures[:quarter], (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures[:quarter].lerp_(blurred, torch.rand(quarter, 1, 1, 1))
    noisy = pictures[quarter // 2 : quarter // 2 + quarter]
    noisy.add_(torch.randn_like(noisy) * torch.rand(quarter, 1, 1, 1) * 0.08)
    for picture in pictures[-2 * quarter :]:
        top, left = torch.randint(-8, 56, (2,)).tolist()
        picture[:, max(top, 0) : top + 20, max(left, 0) : left + 20] = 1
    return pictures


def drop_words(names: torch.Tensor, descriptions: torch.Tensor) -> torch.Tensor:
    """For half of them the name, for half a description; words lost by chance, never all."""
    whole = torch.where(torch.rand(len(names), 1) < 0.5, names, descriptions)
    some = whole * (torch.rand(whole.shape) < torch.empty(len(whole), 1).uniform_(0.4, 1))
    return torch.where(some.any(1, keepdim=True), some, names)


def learn(judge: Judge, lessons: Lessons) -> torch.Tensor:
    """The losses of style, category and name of one batch."""
    chosen = torch.randint(len(lessons.style), (BATCH,))
    pixels = lessons.pixels[torch.randint(2, (BATCH,)), chosen]
    features = judge.features(vary(pixels, lessons.mirrored[chosen]))
    words = drop_words(lessons.names, lessons.descriptions)
    return torch.stack(
        [
            F.cross_entropy(judge.style(features), lessons.style[chosen]),
            F.cross_entropy(judge.category(features), lessons.category[chosen]),
            F.cross_entropy(judge.name_scores(features, words), lessons.name[chosen]),
        ]
    )


def save(judge: Judge, optimizers: Optimizers, step: int, path: Path) -> None:
    """Write everything that a run needs to go on."""
    content = {"judge": judge.state_dict(), "optimizers": optimizers.state_dict(), "step": step}
    write_at_once(path, lambda part: torch.save(content, part))


def train(judge: Judge, lessons: Lessons, steps: int, checkpoint: Path) -> None:
    """All steps that the checkpoint has not seen, their rates falling along a cosine."""
    optimizers, start = Optimizers(judge, NOT_MUONS, muon=0.02, adam=2e-3, decay=0.1), 0
    if checkpoint.exists():
        content = torch.load(checkpoint, weights_only=True)
        judge.load_state_dict(content["judge"])
        optimizers.load_state_dict(content["optimizers"])
        start = content["step"]
    total, since = torch.zeros(3), time.monotonic()
    for step in range(start, steps):
        torch.manual_seed(step)
        losses = learn(judge, lessons)
        losses.sum().backward()
        optimizers.step(min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
        total += losses.detach()
        if (step + 1) % SAVE == 0:
            save(judge, optimizers, step + 1, checkpoint)
            means = " ".join(f"{value:.3f}" for value in (total / SAVE).tolist())
            seconds = (time.monotonic() - since) / SAVE
            print(f"step {step + 1}, {seconds:.2f} s; style, category, name {means}", flush=True)  # noqa: T201
            total, since = torch.zeros(3), time.monotonic()


def main() -> None:
    """Train and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=1700)
    arguments = parser.parse_args()
    step_back()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    table = read_table(arguments.cache)
    vocabulary = read_vocabulary(table)
    judge = Judge(len(vocabulary)).to(memory_format=torch.channels_last)
    count = sum(weight.numel() for weight in judge.parameters())
    lessons = read_lessons(arguments.cache, table, vocabulary)
    print(f"{count} weights, {len(lessons.style)} pictures, {len(lessons.names)} names", flush=True)  # noqa: T201
    train(judge, lessons, arguments.steps, arguments.cache / "judge.pt")
    metadata = {"vocabulary": json.dumps(vocabulary)}
    save_half(judge, arguments.cache / "judge.safetensors", metadata)


if __name__ == "__main__":
    main()
