"""How well the judge does on real pictures.

    python measure_judge.py [--judge FILE.safetensors]

prints, for pictures it learned from, held-out pictures of known names, held-out names, those whose
words are known from other names, held-out names after the autoencoder, and those of OpenMoji:
shares of right styles and categories, and among 99 other names the place of the own name, told by
its name alone or by all that is known of it. Writes `judge.json` to the cache folder. Skin tones
are left out.
"""

import json
import sys
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
import torch
from mmd_demo.emoji import VAE_WEIGHTS
from mmd_demo.emoji.words import UNSEEN
from mmd_tests.demo.emoji import JUDGE_WEIGHTS, measures
from mmd_tests.demo.emoji.background import step_back
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.files import write_at_once
from mmd_tests.demo.emoji.held_out import known_names
from mmd_tests.demo.emoji.judge import CATEGORIES, JUDGED_STYLES, Judge, encode_names, load_judge
from mmd_tests.demo.emoji.latents import load_vae
from mmd_tests.demo.emoji.measure import RIVALS, in_parts
from mmd_tests.demo.emoji.pictures import read_pictures, read_table, to_float
from mmd_tests.demo.emoji.train_judge import describe, held_out_names
from torch import Tensor


def right_share(scores: Tensor, classes: tuple[str, ...], right: np.ndarray) -> float:
    """Share of the pictures whose class has the highest score (B, K)."""
    return float((np.array(classes)[scores.argmax(1)] == right).mean())


@torch.no_grad()
def measure_rows(
    judge: Judge, table: dict[str, np.ndarray], rows: np.ndarray, pictures: Tensor, words: Tensor
) -> dict[str, float]:
    """The figures of some pictures; `words`: names and descriptions of all codes (2, N, WORDS)."""
    features = in_parts(judge.features, pictures)
    own = torch.from_numpy(np.searchsorted(np.unique(table["code"]), table["code"][rows]))
    generator = torch.Generator().manual_seed(0)
    rivals = measures.draw_rivals(own, words.shape[1], RIVALS, generator)
    figures = {
        "pictures": len(rows),
        "style right": right_share(judge.style(features), JUDGED_STYLES, table["style"][rows]),
        "category right": right_share(
            judge.category(features), CATEGORIES, table["category"][rows]
        ),
    }
    for kind, texts in zip(("name", "description"), words, strict=True):
        ranks = measures.name_ranks(judge.name_scores(features, texts), own, rivals)
        figures |= {f"{kind}: {key}": value for key, value in measures.adherence(ranks).items()}
    return {key: round(value, 3) for key, value in figures.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--judge", type=Path, default=JUDGE_WEIGHTS)
    arguments = parser.parse_args()
    step_back()
    torch.set_num_threads(2)
    table = read_table(arguments.cache)
    judge, vocabulary = load_judge(arguments.judge)
    vae = load_vae(VAE_WEIGHTS)
    texts = [describe(table, row) for row in np.unique(table["code"], return_index=True)[1]]
    words = torch.stack([encode_names(list(kind), vocabulary) for kind in zip(*texts, strict=True)])
    plain, split = ~table["toned"], table["split"]
    held_out = np.flatnonzero(plain & (split == "val_name"))
    sets = {
        "learned": np.flatnonzero(plain & (split == "train"))[::10],
        "held-out pictures": np.flatnonzero(plain & (split == "val_pair")),
        "held-out names": held_out,
        "held-out names, known words": np.flatnonzero(
            plain & (split == "val_name") & known_names(table)
        ),
        "held-out names, decoded": held_out,
        "held-out names, OpenMoji": np.flatnonzero(
            plain & (table["style"] == UNSEEN) & held_out_names(table)
        ),
    }
    results = {}
    for name, rows in sets.items():
        pictures = to_float(read_pictures(arguments.cache, rows))
        if name.endswith("decoded"):
            pictures = in_parts(lambda part: vae.decode(vae.encode(part)), pictures)
        results[name] = measure_rows(judge, table, rows, pictures, words)
    text = json.dumps(results, indent=1)
    write_at_once(arguments.cache / "judge.json", lambda part: part.write_text(text + "\n"))
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
