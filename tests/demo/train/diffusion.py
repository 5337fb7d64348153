"""One training loop for both worlds: EDM loss, Muon and Adam, cosine decay, averaged weights."""

import copy
import math
import time

import torch
from muon import Muon
from pack.edm import training_loss
from safetensors.torch import save_file


def split_parameters(network):
    """Inner matrices for Muon; first, last and condition layers, biases and norms for Adam."""
    matrices, others = [], []
    for name, weight in network.named_parameters():
        inner = weight.ndim >= 2 and not name.startswith(("stem", "out", "condition"))
        (matrices if inner else others).append(weight)
    return matrices, others


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
    matrices, others = split_parameters(network)
    adam = torch.optim.AdamW(others, lr=rate / 15, betas=(0.9, 0.99), weight_decay=0.0)
    optimizers = [Muon(matrices, lr=rate), adam]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    average = copy.deepcopy(network)
    start = saved = time.monotonic()
    step, total = 0, 0.0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for optimizer, full in zip(optimizers, rates, strict=True):
            decay = 0.5 + 0.5 * math.cos(math.pi * done)
            optimizer.param_groups[0]["lr"] = full * decay * min(1, (step + 1) / 50)
        clean, words = draw_batch()
        levels = draw_sigmas(len(clean), *sigma)
        loss = training_loss(network, clean, words, levels, torch.randn_like(clean), sigma_data)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
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
