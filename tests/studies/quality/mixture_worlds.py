"""Worlds whose model is exact: mixtures in the plane, and in the dimensions of SD1.5 and SDXL."""

import math
from functools import cache, partial

import numpy as np
import torch
from mmd_tests.studies.quality.metrics import band_means, radial_bands, shares, total_variation
from mmd_tests.studies.quality.mixture import (
    Dct,
    ExactDenoiser,
    Mixture,
    Plain,
    exact_counts,
    exact_model,
)
from mmd_tests.studies.quality.worlds import Case, generator
from torch import Tensor

ON_MANIFOLD = 3.0  # standard deviations in the plane
TOLERANCE = 1.5  # how much more or less a band's energy may be than chance explains
LEAST_SPREAD = 0.25  # of log energies, in units of which features count them


class MixtureCase(Case):
    """A model and a target that are mixtures; samples are coefficients in the mixture's basis."""

    fidelity_name = "on-manifold"
    references_count = 64
    held_out_count = 512
    scale = 1.0  # of the latent format

    def __init__(self, world: str, target: str, basis, model_mixture: Mixture, truth: Mixture):
        self.world, self.target = world, target
        self.drawn_as = target
        self.basis, self.model_mixture, self.truth = basis, model_mixture, truth
        self.shape = tuple(truth.shape)

    def prompts(self, batch: int):
        nothing = [[torch.zeros(1, 1, 1), {}]]
        return nothing, nothing

    def draw_references(self, seed: int, n: int | None = None):
        """Samples of the target with modes in exact proportion, in random order."""
        from mmd_pack.mmd_core import References

        rng = generator(self.world, self.target, "references", seed)
        counts = torch.tensor(exact_counts(self.truth.weights, n or self.references_count))
        modes = torch.repeat_interleave(torch.arange(len(counts)), counts)
        modes = modes[torch.randperm(len(modes), generator=rng)]
        return References(self.latents(self.truth.sample(modes, rng)))

    def _draw(self, n: int, *keys) -> Tensor:
        rng = generator(self.world, self.target, *keys)
        return self.truth.sample(self.truth.sample_modes(n, rng), rng)

    def held_out(self, seed: int) -> Tensor:
        return self._draw(self.held_out_count, "held-out", seed)

    def fresh(self, n: int, seed: int) -> Tensor:
        return self._draw(n, "fresh", seed)

    def samples(self, latents: Tensor) -> Tensor:
        return self.basis(latents.float() * self.scale)

    def latents(self, samples: Tensor) -> Tensor:
        return self.basis.inverse(samples) / self.scale

    def modes(self, samples: Tensor) -> Tensor:
        """The mode `(n,)` of each sample; target and model have the same ones."""
        return self.truth.nearest_mode(samples)

    def proportions(self, samples: Tensor) -> dict[str, float]:
        found = shares(self.modes(samples), len(self.truth.weights))
        return {"TV": total_variation(found, self.truth.weights.numpy())}


# --- in the plane ---------------------------------------------------------------------------------


def ring_means() -> Tensor:
    """Eight modes on a circle, with shape `(8, 2, 1, 1)`; variance 1 in each direction."""
    angle = torch.arange(8) * (math.pi / 4)
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1).view(8, 2, 1, 1)


def grid_means() -> Tensor:
    """A grid of 5×5 modes, with shape `(25, 2, 1, 1)`; variance 1 in each direction."""
    axis = torch.arange(-2.0, 3.0) / math.sqrt(2)
    return torch.cartesian_prod(axis, axis).view(25, 2, 1, 1)


PLANES = {"ring": (ring_means, 0.1), "grid": (grid_means, 0.07)}  # means, width of a mode
SOME = {"ring": {0: 0.5, 3: 0.3, 5: 0.2}, "grid": {0: 0.4, 4: 0.25, 12: 0.15, 17: 0.1, 20: 0.1}}


@cache
def plane_model(layout: str):
    """The MODEL of one layout with equal shares, and its mixture."""
    import comfy.latent_formats

    class PlaneFormat(comfy.latent_formats.LatentFormat):
        latent_channels = 2
        spacial_downscale_ratio = 1

    means, width = PLANES[layout][0](), PLANES[layout][1]
    k = len(means)
    mixture = Mixture(torch.full((k,), 1 / k), means, torch.full(means.shape[1:], width**2))
    denoiser = ExactDenoiser(mixture, Plain())
    settings = {"sigma_min": 0.02, "sigma_max": 80.0, "sigma_data": 1.0}
    return exact_model(denoiser, PlaneFormat, "EDM", **settings), mixture


def plane_target(layout: str, target: str, model: Mixture) -> Mixture:
    """The true mixture: skewed shares; skewed shares of some modes; skewed, moved and narrower.

    *shifted* modes lie half a mode width off the model's, each in a direction of its own, and are
    .7 times as wide.
    """
    k = len(model.weights)
    rng = generator(layout, "target")
    skewed = torch.exp(-2.0 * torch.arange(k) / (k - 1))[torch.randperm(k, generator=rng)]
    weights, means, variances = skewed / skewed.sum(), model.means, model.variances
    if target == "some modes":
        weights = torch.zeros(k)
        weights[list(SOME[layout])] = torch.tensor(list(SOME[layout].values()))
    if target == "shifted":
        angle = 2 * math.pi * torch.rand(k, generator=rng)
        off = torch.stack([angle.cos(), angle.sin()], 1)
        means = means + 0.5 * variances.sqrt() * off
        variances = 0.49 * variances
    return Mixture(weights, means.view(k, *model.shape), variances.view(model.shape))


class PlaneCase(MixtureCase):
    """A target in the plane; samples are points `(n, 2, 1, 1)`."""

    batch, steps = 64, 25
    references_count, held_out_count = 100, 1024

    def __init__(self, layout: str, target: str):
        self.layout = layout
        _, mixture = plane_model(layout)
        truth = plane_target(layout, target, mixture)
        super().__init__("ring", f"{len(truth.weights)} modes, {target}", Plain(), mixture, truth)
        self.drawn_as = f"{len(truth.weights)} modes, skewed"

    @property
    def model(self):
        return plane_model(self.layout)[0]

    def features(self, samples: Tensor) -> np.ndarray:
        return samples.flatten(1).numpy()

    def fidelity(self, samples: Tensor) -> float:
        """The share of samples within 3 standard deviations of a mode of the model."""
        modes = self.model_mixture.nearest_mode(samples)
        off = self.model_mixture.deviations(samples, modes).norm(dim=1)
        return (off <= ON_MANIFOLD).float().mean().item()

    def variances(self, samples: Tensor, held_out: Tensor) -> dict[str, float]:
        """Of samples within 4 standard deviations: those between modes belong to none."""
        off = self.truth.deviations(samples, self.modes(samples)).square().mean(1)
        near = off[off <= 8]
        return {"var": near.mean().item() if len(near) else math.nan}


# --- latents --------------------------------------------------------------------------------------

MODES = 6
TARGET = (0.5, 0.3, 0.2, 0.0, 0.0, 0.0)
SIDES = {64: "SD15", 128: "SDXL"}


def spectrum(side: int) -> Tensor:
    """Variances `(4, side, side)` of DCT coefficients, mean 1, falling with frequency as SD's do."""
    i = torch.arange(side, dtype=torch.float32) * (64 / side)
    v = 1 / (1 + (torch.hypot(i[:, None], i) / 3).square())
    return (v / v.mean()).expand(4, side, side).contiguous()


def latent_mixture(side: int, separation: float) -> Mixture:
    """Six equal modes whose means hold the share `separation` of a total variance of 1 an entry."""
    v = spectrum(side)
    rng = generator("latents", side)
    means = torch.randn(MODES, *v.shape, generator=rng) * v.sqrt()
    means = means - means.mean(0)
    means = means * (separation / means.square().mean()).sqrt()
    return Mixture(torch.full((MODES,), 1 / MODES), means, (1 - separation) * v)


@cache
def latent_model(side: int, separation: float):
    """The MODEL with SD's latent format and noise schedule, and its mixture."""
    import comfy.latent_formats

    mixture = latent_mixture(side, separation)
    latent_format = getattr(comfy.latent_formats, SIDES[side])
    return exact_model(ExactDenoiser(mixture, Dct(side)), latent_format, "EPS"), mixture


class LatentCase(MixtureCase):
    """Latents of the size of SD1.5's or SDXL's; samples are DCT coefficients `(n, 4, side, side)`."""

    batch, steps = 16, 25

    def __init__(self, side: int, separation: float):
        import comfy.latent_formats

        self.side, self.separation = side, separation
        _, mixture = latent_model(side, separation)
        truth = Mixture(
            torch.tensor(TARGET),
            mixture.means.view(MODES, *mixture.shape),
            mixture.variances.view(mixture.shape),
        )
        name = f"{4 * side * side} D, {separation:.0%} apart"
        super().__init__("latents", name, Dct(side), mixture, truth)
        self.scale = float(getattr(comfy.latent_formats, SIDES[side])().scale_factor)
        self.bands = radial_bands(side, (side / 16, side / 4))
        sizes = 4 * torch.bincount(self.bands.flatten(), minlength=3)
        self.energy_ranges = [energy_range(int(n)) for n in sizes]
        self.energy_spread = (2 / sizes).sqrt().clamp_min(LEAST_SPREAD)
        between = mixture.means / mixture.variances.sqrt()  # where modes have variance 1
        between = between - between.mean(0)
        _, _, axes = torch.linalg.svd(between, full_matrices=False)
        self.axes = axes[: MODES - 1]

    @property
    def model(self):
        return latent_model(self.side, self.separation)[0]

    def _energies(self, samples: Tensor) -> Tensor:
        """The mean over each band of squared deviations by variance, with shape `(n, 3)`; 1 is right."""
        off = self.truth.deviations(samples, self.modes(samples)).square()
        return band_means(off.view(-1, *self.shape), self.bands)

    def features(self, samples: Tensor) -> np.ndarray:
        """Five coordinates in the span of the modes and three log energies, `(n, 8)`.

        Coordinates have variance 1 inside a mode; log energies are in units of LEAST_SPREAD, or else
        the 1 % that chance moves the high band would decide everything.
        """
        places = (samples.flatten(1) / self.truth.variances.sqrt()) @ self.axes.T
        energies = self._energies(samples).log() / self.energy_spread
        return torch.cat([places, energies], 1).numpy()

    def fidelity(self, samples: Tensor) -> float:
        """The share of samples whose energy is right in every band, see `energy_range`."""
        energies = self._energies(samples)
        inside = [(low <= e) & (e <= high) for e, (low, high) in self._per_band(energies)]
        return torch.stack(inside).all(0).float().mean().item()

    def _per_band(self, energies: Tensor):
        return zip(energies.T, self.energy_ranges, strict=True)

    def variances(self, samples: Tensor, held_out: Tensor) -> dict[str, float]:
        low, mid, high = self._energies(samples).mean(0).tolist()
        return {"var low": low, "var mid": mid, "var high": high}


def energy_range(n: int, share: float = 0.999) -> tuple[float, float]:
    """The central range of the mean of n squared standard normal numbers, wider by TOLERANCE.

    In SD's dimensions chance alone allows a high band of 15 000 coefficients 4 % more or less. No
    sampler of 25 steps keeps to that (euler_ancestral without guidance leaves 3/4 of the variance):
    without the tolerance no sample at all would be right.
    """
    tail = (1 - share) / 2
    low, high = (chi2_quantile(p, n) / n for p in (tail, 1 - tail))
    return low / TOLERANCE, high * TOLERANCE


def chi2_quantile(p: float, n: int) -> float:
    """The p quantile of χ² with n degrees of freedom."""
    from scipy.stats import chi2  # ComfyUI needs scipy itself

    return float(chi2.ppf(p, n))


MIXTURES = {
    "ring": {
        f"{k} modes, {target}": partial(PlaneCase, layout, target)
        for layout, k in (("ring", 8), ("grid", 25))
        for target in ("skewed", "some modes", "shifted")
    },
    "latents": {
        f"{4 * side * side} D, {separation:.0%} apart": partial(LatentCase, side, separation)
        for side in SIDES
        for separation in (0.05, 0.3)
    },
}
