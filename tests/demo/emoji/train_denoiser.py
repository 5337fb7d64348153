"""Learn the denoiser; runs until it is stopped, and goes on where it was when started again.

    python train_denoiser.py [--cache DIR] [--name main] [--from WEIGHTS.safetensors]

In the cache folder: NAME.pt (everything, every 5 minutes), NAME.safetensors (averaged weights in
half precision), NAME.log (step, seconds a step, loss; each 250 steps the averaged network's loss
on pictures trained on, on held-out pictures of known names, and on held-out names) and, every 25
minutes, NAME_STEP.png. `kill PID` lets it write everything before it ends.

    python train_denoiser.py --decay-from-now 2000 [--name main]

takes a copy of NAME.pt to a good end, its rates falling to nothing: NAME_final.safetensors.
"""

import random
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import numpy as np
import torch
from mmd_tests.demo.emoji.background import step_back
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.captions import Captions, read_vocabulary
from mmd_tests.demo.emoji.draw_prompts import PROMPTS, draw_rows, encode_prompts
from mmd_tests.demo.emoji.files import save_pictures
from mmd_tests.demo.emoji.flow import draw_times, flow_loss
from mmd_tests.demo.emoji.latents import load_vae, read_latents
from mmd_tests.demo.emoji.pictures import read_table
from mmd_tests.demo.emoji.state import State

WARM_UP = 100
SAVE = 5 * 60.0
SHOW = 25 * 60.0
MEASURE = 250


class Emoji:
    """The latents with their words, for training and for measuring."""

    def __init__(self, cache: Path, vocabulary: list[str]):
        table = read_table(cache)
        self.captions = Captions(table, vocabulary)
        self.latents = read_latents(cache)
        tones = np.array([text.count("and") for text in table["tone"]])
        weights = np.where(table["toned"], np.where(tones > 0, 0.05, 0.25), 1.0)
        self.weights = torch.from_numpy(weights * (table["split"] == "train"))
        self.measured = {
            split: self.choose((table["split"] == split) & ~table["toned"])
            for split in ("train", "val_pair", "val_name")
        }

    @staticmethod
    def choose(mask: np.ndarray, count: int = 96) -> list[int]:
        """Some of the rows, the same at each call."""
        return random.Random(0).sample(np.flatnonzero(mask).tolist(), count)

    def draw_batch(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and words of the batch that belongs to the seed."""
        dice = random.Random(seed)
        rows = torch.multinomial(self.weights, count)
        copies = torch.randint(len(self.latents), (count,))
        words = [self.captions.draw(row, dice) for row in rows.tolist()]
        return self.latents[copies, rows].float(), torch.tensor(words)

    @torch.no_grad()
    def measure(self, state: State) -> str:
        """Losses of the averaged network, with the same noises each time."""
        losses = []
        for split, rows in self.measured.items():
            torch.manual_seed(0)
            latents = self.latents[0, rows].float().repeat(2, 1, 1, 1)
            words = torch.tensor([self.captions.name(row) for row in rows]).repeat(2, 1)
            times = draw_times(len(words))[torch.randperm(len(words))]
            noise = torch.randn_like(latents)
            loss = flow_loss(state.average.network, latents, words, times, noise)
            losses.append(f"{split} {loss.mean().item():.4f}")
        return " ".join(losses)


def open_state(arguments: Namespace, path: Path) -> State:
    """The run as it was left, or begun from given weights, or a new one."""
    horizon = max(1, arguments.decay_from_now // 6) if arguments.decay_from_now else 1000
    settings = dict(horizon=horizon, muon=arguments.muon, adam=arguments.adam)
    if path.with_suffix(".pt").exists():
        return State.resume(path.with_suffix(".pt"), **settings)
    if arguments.weights:
        return State.begin_from(arguments.weights, **settings)
    torch.manual_seed(0)
    options = {name: int(number) for name, number in (pair.split("=") for pair in arguments.set)}
    return State(read_vocabulary(read_table(arguments.cache)), options, **settings)


def learn(state: State, emoji: Emoji, batch: int, factor: float) -> float:
    """One step; its loss."""
    torch.manual_seed(state.step)
    latents, words = emoji.draw_batch(batch, state.step)
    loss = flow_loss(state.model, latents, words, draw_times(batch), torch.randn_like(latents))
    loss.mean().backward()
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizers.step(factor * min(1, (state.step - state.begun + 1) / WARM_UP))
    state.step += 1
    state.average.update(state.model, state.step)
    return loss.mean().item()


def every(seconds: float) -> Iterator[bool]:
    """True once in so many seconds."""
    last = time.monotonic()
    while True:
        due = time.monotonic() - last >= seconds
        last = time.monotonic() if due else last
        yield due


def show(state: State, path: Path, cache: Path) -> None:
    """Draw the prompts with the averaged network."""
    words = encode_prompts(PROMPTS, state.vocabulary)
    rows = draw_rows(state.average.network, load_vae(cache / "vae.safetensors"), words, 4)
    save_pictures(rows, path.with_name(f"{path.name}_{state.step:06d}.png"))


def train(arguments: Namespace) -> None:
    """Train until the process is told to end, or for the steps of a decay."""
    path = arguments.cache / arguments.name
    state = open_state(arguments, path)
    start, end = state.step, None
    if arguments.decay_from_now:
        path = path.with_name(f"{path.name}_final")
        end = start + arguments.decay_from_now
    emoji = Emoji(arguments.cache, state.vocabulary)
    log = path.with_suffix(".log").open("a", buffering=1)
    count = sum(weight.numel() for weight in state.model.parameters())
    print(f"# step {state.step}: {count} weights, {state.options} {arguments}", file=log)
    since = time.monotonic()
    save_due, show_due, losses = every(SAVE), every(SHOW), []
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while state.step != end and not stop.is_set():
        factor = 1 - (state.step - start) / (end - start) if end else 1.0
        losses.append(learn(state, emoji, arguments.batch, factor))
        if len(losses) == 50:
            seconds = (time.monotonic() - since) / 50
            print(f"{state.step} {seconds:.2f} s {np.mean(losses):.4f}", file=log)
            since, losses = time.monotonic(), []
        if state.step % MEASURE == 0:
            print(f"{state.step} {emoji.measure(state)}", file=log)
        if next(save_due):
            state.save(path)
        if next(show_due):
            show(state, path, arguments.cache)
    state.save(path)
    if end and state.step == end:
        print(f"{state.step} {emoji.measure(state)}", file=log)
        show(state, path, arguments.cache)


def main() -> None:
    """Read the command line and train."""
    parser = argument_parser(__doc__)
    parser.add_argument("--name", default="main", help="how the files of the run are called")
    parser.add_argument("--from", dest="weights", type=Path, help="averaged weights to begin with")
    parser.add_argument("--decay-from-now", type=int, default=0, metavar="STEPS")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--muon", type=float, default=0.02)
    parser.add_argument("--adam", type=float, default=2e-3)
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=NUMBER")
    arguments = parser.parse_args()
    step_back()
    torch.set_num_threads(2)
    train(arguments)


if __name__ == "__main__":
    main()
