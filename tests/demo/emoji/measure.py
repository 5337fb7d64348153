"""Draw names with the denoiser and measure the pictures against real ones of the same names.

    python measure.py [--weights FILE.safetensors] [--prompts 164] [--seeds 2]

The names are those whose picture in one style was held out (split val_pair): these pictures, which
neither the denoiser nor the judge has seen, are the real ones. The fewer they are, the less the
Fréchet distance tells. All are compared to the pictures of held-out names.

What is drawn is kept in the cache folder, seed by seed, and a run that is started again goes on
there. Writes `measure.json` and `measure.png` (real pictures above, one row of drawn ones for each
seed below) there as well.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
import torch
from mmd_demo.emoji import DENOISER_WEIGHTS, VAE_WEIGHTS
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.emoji.vae import EmojiVAE
from mmd_tests.demo.emoji import JUDGE_WEIGHTS, measures
from mmd_tests.demo.emoji.background import step_back
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.captions import LENGTH
from mmd_tests.demo.emoji.draw_prompts import load_model, sample
from mmd_tests.demo.emoji.files import save_pictures, write_at_once
from mmd_tests.demo.emoji.judge import CATEGORIES, JUDGED_STYLES, Judge, encode_names, load_judge
from mmd_tests.demo.emoji.latents import load_vae
from mmd_tests.demo.emoji.pictures import read_pictures, read_table, to_float
from safetensors.torch import load_file, save_file
from torch import Tensor

RIVALS = 99
ADHERENCE = 0.7
FRECHET = 3.0


@dataclass(frozen=True)
class Names:
    """All names without skin tones, and which of them are drawn.

    texts: the N names; own: numbers of the drawn ones (P,); rows: their held-out pictures (P,);
    categories: numbers of their categories (P,).
    """

    texts: list[str]
    own: Tensor
    rows: np.ndarray
    categories: Tensor

    @property
    def prompts(self) -> list[str]:
        return [self.texts[number] for number in self.own]


@dataclass(frozen=True)
class Yardstick:
    """The judge, its scores for names, and real pictures of other names that all is compared to.

    features: (M, F); latents: (M, 4, 16, 16); fresh: latents of the real pictures of the names.
    """

    judge: Judge
    words: Tensor
    names: Names
    rivals: Tensor
    features: Tensor
    latents: Tensor
    fresh: Tensor


def choose_names(table: dict[str, np.ndarray], count: int) -> Names:
    """At most `count` names with a held-out picture, spread over the table."""
    texts = list(dict.fromkeys(table["name"].tolist()))
    rows = np.flatnonzero((table["split"] == "val_pair") & ~table["toned"])
    _, first = np.unique(table["name"][rows], return_index=True)
    rows = rows[np.sort(first)]
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
    own = torch.tensor([texts.index(name) for name in table["name"][rows]])
    categories = torch.tensor([CATEGORIES.index(name) for name in table["category"][rows]])
    return Names(texts, own, rows, categories)


@torch.no_grad()
def in_parts(function: Callable[[Tensor], Tensor], values: Tensor, size: int = 128) -> Tensor:
    """A function of a few values at a time, its results together."""
    return torch.cat([function(part) for part in values.split(size)])


def draw_seed(
    model: EmojiModel, words: Tensor, seed: int, path: Path, cfg: float, size: int = 32
) -> Tensor:
    """Latents of all names from the noise of a seed, kept in a file."""
    if not path.exists():
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(words), 4, 16, 16, generator=generator)
        pairs = zip(words.split(size), noise.split(size), strict=True)
        latents = torch.cat([sample(model, *pair, cfg) for pair in pairs])
        write_at_once(path, lambda part: save_file({"latents": latents.contiguous()}, part))
    return load_file(path)["latents"]


def make_yardstick(arguments: Namespace, names: Names, vae: EmojiVAE) -> tuple[Yardstick, Tensor]:
    """The yardstick, and the real pictures of the names."""
    table = read_table(arguments.cache)
    judge, vocabulary = load_judge(JUDGE_WEIGHTS)
    # Not pictures that the judge learned from: its features of those are further apart.
    others = (table["split"] == "val_name") & ~table["toned"]
    references = to_float(read_pictures(arguments.cache, others))
    real = to_float(read_pictures(arguments.cache, names.rows))
    generator = torch.Generator().manual_seed(0)
    yardstick = Yardstick(
        judge,
        encode_names(names.texts, vocabulary),
        names,
        measures.draw_rivals(names.own, len(names.texts), RIVALS, generator),
        in_parts(judge.features, references),
        in_parts(vae.encode, references),
        in_parts(vae.encode, real),
    )
    return yardstick, real


@torch.no_grad()
def measure(yardstick: Yardstick, pictures: Tensor, latents: Tensor) -> dict[str, float]:
    """All figures of one picture of each name but the prompt gain."""
    judge, names = yardstick.judge, yardstick.names
    features = in_parts(judge.features, pictures)
    styles = measures.shares(judge.style(features))
    scores = judge.name_scores(features, yardstick.words)
    category = judge.category(features).argmax(1) == names.categories
    bands = measures.band_variances(pictures)
    return {
        **dict(zip(JUDGED_STYLES, styles, strict=True)),
        "category right": category.double().mean().item(),
        **measures.adherence(measures.name_ranks(scores, names.own, yardstick.rivals)),
        "FD": measures.main_frechet_distance(features, yardstick.features),
        "MMD2": measures.mmd2(features, yardstick.features),
        "nearest by fresh": measures.nearest_by_fresh(latents, yardstick.latents, yardstick.fresh),
        **dict(zip(("var low", "var middle", "var high"), bands, strict=True)),
        "sharpness": measures.sharpness(pictures),
    }


def mean_figures(runs: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure."""
    return {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}


def judge_bars(real: dict[str, float], drawn: dict[str, float]) -> dict[str, list[float | bool]]:
    """What the world must reach: the figure, its bar, and whether it is reached."""
    follows = drawn["own name first"] / real["own name first"]
    distance = drawn["FD"] / real["FD"]
    return {
        "own name first, by real": [follows, ADHERENCE, follows >= ADHERENCE],
        "FD, by real": [distance, FRECHET, distance <= FRECHET],
    }


def main() -> None:
    """Draw, measure, print and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--weights", type=Path, default=DENOISER_WEIGHTS)
    parser.add_argument("--prompts", type=int, default=164)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cfg", type=float, default=4.0)
    arguments = parser.parse_args()
    step_back()
    torch.set_num_threads(2)
    names = choose_names(read_table(arguments.cache), arguments.prompts)
    model, vocabulary, metadata = load_model(arguments.weights)
    vae = load_vae(VAE_WEIGHTS)
    words = encode_names(names.prompts, vocabulary)[:, :LENGTH]
    tag = f"drawn_step{metadata['step']}_{len(words)}_cfg{arguments.cfg:g}"
    drawn = [
        draw_seed(model, words, seed, arguments.cache / f"{tag}_{seed}.safetensors", arguments.cfg)
        for seed in range(arguments.seeds)
    ]
    yardstick, real = make_yardstick(arguments, names, vae)
    pictures = [in_parts(vae.decode, latents) for latents in drawn]
    sets = {
        "real": [(real, yardstick.fresh)],
        "real, decoded": [(in_parts(vae.decode, yardstick.fresh), yardstick.fresh)],
        "drawn": list(zip(pictures, drawn, strict=True)),
    }
    results = {}
    for name, runs in sets.items():
        results[name] = mean_figures([measure(yardstick, *each) for each in runs])
        generator = torch.Generator().manual_seed(0)
        gains = [measures.prompt_gain(model, latents, words, generator) for _, latents in runs]
        results[name]["prompt gain"] = torch.cat(gains).mean().item()
    report = {
        "step": int(metadata["step"]),
        "prompts": len(words),
        "seeds": arguments.seeds,
        "cfg": arguments.cfg,
        "figures": results,
        "bars": judge_bars(results["real"], results["drawn"]),
    }
    text = json.dumps(report, indent=1)
    write_at_once(arguments.cache / "measure.json", lambda part: part.write_text(text + "\n"))
    print(text)  # noqa: T201
    shown = torch.linspace(0, len(words) - 1, min(16, len(words))).round().long()
    rows = [part[shown] for part in (real, *pictures)]
    save_pictures(rows, arguments.cache / "measure.png")
    print(", ".join(names.prompts[number] for number in shown))  # noqa: T201


if __name__ == "__main__":
    main()
