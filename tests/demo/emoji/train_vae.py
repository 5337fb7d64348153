"""Learn the autoencoder on the training pictures.

    python train_vae.py [--cache DIR] [--minutes 25]

writes `vae.safetensors` (half precision, averaged weights) and `vae.png` (held-out names: real
pictures above, decoded ones below); a run that is started again begins anew.
"""

import math
import os
import sys
import time
from pathlib import Path

if not __package__:  # a script: name the packages as tests/conftest.py does
    sys.path.insert(0, str(Path(__file__).absolute().parents[2]))
    import support.packages  # noqa: F401

import torch
from mmd_demo.emoji.precision import fast_math
from mmd_demo.emoji.vae import EmojiVAE
from mmd_tests.demo.emoji.average import Average
from mmd_tests.demo.emoji.cache import argument_parser
from mmd_tests.demo.emoji.files import save_half, save_pictures
from mmd_tests.demo.emoji.pictures import read_pictures, read_table, shift_pixels, to_float
from mmd_tests.demo.train.muon import Optimizers

BATCH = 32


def draw_batch(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures, half of them flipped, each quarter of the batch moved by up to 3 pixels."""
    batch = pixels[torch.randint(len(pixels), (BATCH,))]
    batch[: BATCH // 2] = batch[: BATCH // 2].flip(3)
    parts = batch[torch.randperm(BATCH)].chunk(4)
    return torch.cat([shift_pixels(part, *torch.randint(-3, 4, (2,)).tolist()) for part in parts])


def reconstruction_loss(decoded: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """L1 of the pixels, and half of that of the differences of neighbours."""
    error = decoded - real
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 0.5 * edges


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Mean over the numbers of a latent of KL(posterior, N(0, 1))."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


@torch.no_grad()
def measure(network: EmojiVAE, pictures: torch.Tensor) -> tuple[float, float, torch.Tensor]:
    """PSNR: mean over the pictures, and of the mean error, in dB; and the decoded pictures."""
    decoded = torch.cat([network.decode(network.encode(part)) for part in pictures.split(64)])
    errors = (decoded - pictures).square().mean((1, 2, 3)) / 4
    return (-10 * errors.log10()).mean().item(), -10 * errors.mean().log10().item(), decoded


@torch.no_grad()
def normalise(network: EmojiVAE, pixels: torch.Tensor) -> None:
    """Set shift and scale so that latents of training pictures have mean 0 and variance 1."""
    network.shift.zero_()
    network.scale.fill_(1)
    chosen = pixels[torch.randperm(len(pixels))[:2048]]
    latents = torch.cat([network.encode(to_float(part)) for part in chosen.split(64)])
    network.shift.copy_(latents.mean())
    network.scale.copy_(1 / latents.std())


def main() -> None:
    """Train, measure and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=25)
    arguments = parser.parse_args()
    os.nice(10)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    split = read_table(arguments.cache)["split"]
    pixels = read_pictures(arguments.cache, split == "train")
    held_out = to_float(read_pictures(arguments.cache, split == "val_name"))
    network = EmojiVAE().to(memory_format=torch.channels_last)
    average = Average(network, 500)
    optimizers = Optimizers(
        network, ("encoder.1.", "encoder.9.", "decoder.0.", "decoder.12."), muon=0.02, adam=2e-3
    )
    print(sum(weight.numel() for weight in network.parameters()), "parameters", flush=True)  # noqa: T201
    start, step, total = time.monotonic(), 0, torch.zeros(2)
    while (done := (time.monotonic() - start) / (60 * arguments.minutes)) < 1:
        real = to_float(draw_batch(pixels)).contiguous(memory_format=torch.channels_last)
        with fast_math():
            mean, log_variance = (part.float() for part in network.posterior(real))
            latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            decoded = network.decoder(latents).float()
        losses = reconstruction_loss(decoded, real), divergence(mean, log_variance)
        (losses[0] + 1e-3 * losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizers.step(min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done)))
        step += 1
        average.update(network, step)
        total += torch.tensor([loss.item() for loss in losses])
        if step % 500 == 0:
            means = " ".join(f"{value:.4f}" for value in (total / 500).tolist())
            decibels = measure(average.network, held_out[::5])[:2]
            print(f"{done:.1%} step {step} loss, KL {means} dB {decibels}", flush=True)  # noqa: T201
            total.zero_()
    normalise(average.network, pixels)
    save_half(average.network, arguments.cache / "vae.safetensors")
    *decibels, decoded = measure(average.network, held_out)
    shown = torch.linspace(0, len(held_out) - 1, 48).long()
    rows = [row for part in shown.split(16) for row in (held_out[part], decoded[part])]
    save_pictures(rows, arguments.cache / "vae.png")
    print("held-out names, dB", decibels, average.network.scale, average.network.shift)  # noqa: T201


if __name__ == "__main__":
    main()
