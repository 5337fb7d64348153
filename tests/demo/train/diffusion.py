"""One training loop for both worlds: EDM loss, Muon and Adam, cosine decay, averaged weights."""

import copy
import math
import time

import torch
from mmd_demo.edm import training_loss
from mmd_tests.demo.train.muon import Optimizers
from safetensors.torch import save_file


def draw_sigmas(n: int, mean: float, spread: float) -> torch.Tensor:
    """Log-normal noise levels (n,), one in each n-th of the distribution to calm the loss."""
    rank = (torch.arange(n) + torch.rand(n)) / n
    return (torch.special.ndtri(rank.clamp(1e-4, 1 - 1e-4)) * spread + mean).exp()


def save_half(network, path) -> None:
    """The weights as half precision safetensors."""
    state = {name: weight.half().contiguous() for name, weight in network.state_dict().items()}
    save_file(state, path)


def train(network, draw_batch, path, minutes, sigma_data, sigma=(0.0, 1.4), rate=0.03, report=100):
    """Train for some minutes of wall time; the averaged weights go to path now and then.

    draw_batch() gives clean pictures (B, C, H, W) and words (B, E).
    """
    optimizers = Optimizers(network, ("stem", "out", "condition"), muon=rate, adam=rate / 15)
    average = copy.deepcopy(network)
    start = saved = time.monotonic()
    step, total = 0, 0.0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        clean, words = draw_batch()
        levels = draw_sigmas(len(clean), *sigma)
        loss = training_loss(network, clean, words, levels, torch.randn_like(clean), sigma_data)
        loss.backward()
        optimizers.step((0.5 + 0.5 * math.cos(math.pi * done)) * min(1, (step + 1) / 50))
        step += 1
        # A short memory early in the run, a long one later.
        keep = min(0.9985, (step + 1) / (step + 20))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        total += loss.item()
        if step % report == 0:
            print(f"{done:6.1%} step {step} loss {total / report:.4f}", flush=True)  # noqa: T201
            total = 0.0
        if time.monotonic() - saved > 120:
            save_half(average, path)
            saved = time.monotonic()
    save_half(average, path)
    return average
