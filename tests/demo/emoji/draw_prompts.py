"""Draw pictures from words.

python draw_prompts.py WEIGHTS OUTPUT.png [--cache DIR] [--prompts "red heart, noto cat face"]
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_demo.emoji.denoiser import EmojiModel
from mmd_demo.emoji.vae import EmojiVAE
from mmd_demo.emoji.words import encode_words, split_words
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.captions import LENGTH
from mmd_tests.demo.emoji.files import save_pictures
from mmd_tests.demo.emoji.flow import lean
from mmd_tests.demo.emoji.latents import load_vae
from safetensors import safe_open

PROMPTS = (
    "grinning face, cat face, red heart, green apple, house, bicycle, dog face, tree, wrapped gift,"
    " man with beard, rose, soccer ball, blue square, hamburger, fish, clock"
)


@torch.no_grad()
def sample(
    model: EmojiModel, words: torch.Tensor, noise: torch.Tensor, cfg: float = 4.0, steps: int = 25
) -> torch.Tensor:
    """Latents of words (B, L) from noise (B, 4, H, W), by Euler steps with guidance."""
    times = lean(torch.linspace(1, 0, steps + 1))
    both = torch.cat([words, torch.zeros_like(words)])
    x = noise
    for now, after in zip(times[:-1], times[1:], strict=True):
        velocity, free = model(x.repeat(2, 1, 1, 1), now.expand(len(both)), both).chunk(2)
        x = x + (after - now) * (free + cfg * (velocity - free))
    return x


def draw_rows(
    model: EmojiModel, vae: EmojiVAE, words: torch.Tensor, rows: int, cfg: float = 4.0
) -> list[torch.Tensor]:
    """Rows of pictures of all prompts, each row from a noise of its own."""
    found = []
    for row in range(rows):
        generator = torch.Generator().manual_seed(row)
        noise = torch.randn(len(words), 4, 16, 16, generator=generator)
        with torch.no_grad():
            found.append(vae.decode(sample(model, words, noise, cfg)))
    return found


def encode_prompts(prompts: str, vocabulary: Sequence[str]) -> torch.Tensor:
    """Numbers of the words of prompts that commas part."""
    numbers = {word: number for number, word in enumerate(vocabulary, 1)}
    texts = [split_words(prompt) for prompt in prompts.split(",")]
    return torch.tensor([encode_words(words, numbers, LENGTH) for words in texts])


def load_model(path: Path) -> tuple[EmojiModel, list[str], dict[str, str]]:
    """A model, its vocabulary and the metadata of its file."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    vocabulary = json.loads(metadata["vocabulary"])
    model = EmojiModel(len(vocabulary), **json.loads(metadata["options"]))
    model.load_state_dict(state)
    return model.eval().to(memory_format=torch.channels_last), vocabulary, metadata


def main() -> None:
    """Draw."""
    parser = argument_parser(__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--prompts", default=PROMPTS)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--cfg", type=float, default=4.0)
    arguments = parser.parse_args()
    model, vocabulary, _ = load_model(arguments.weights)
    words = encode_prompts(arguments.prompts, vocabulary)
    vae = load_vae(arguments.cache / "vae.safetensors")
    save_pictures(draw_rows(model, vae, words, arguments.rows, arguments.cfg), arguments.output)


if __name__ == "__main__":
    main()
