"""All figures of one set of samples."""

from functools import cached_property, lru_cache

import numpy as np
import torch
from mmd_demo.judge import frechet_distance
from mmd_tests.studies.quality import metrics
from mmd_tests.studies.quality.methods import Drawn, unguided
from mmd_tests.studies.quality.worlds import Case, generator, get_case
from torch import Tensor

SUBSETS = 10  # equally large subsets of both sides that some figures are the mean over
PERMUTATIONS = 200
LEVEL = 0.05


class Truth:
    """What the samples of one case and seed are compared with.

    Attributes:
        references: As given to the methods, and as samples.
        held_out: Target samples that no method has seen.
    """

    def __init__(self, case: Case, seed: int, n: int | None = None):
        self.case, self.seed = case, seed
        self.given = case.draw_references(seed, n)
        self.references = case.samples(self.given.latents)
        self.held_out = case.held_out(seed)
        self.features = case.features(self.held_out)
        self.bandwidth = metrics.median_distance(metrics.sq_distance_matrix(self.held_out))
        self.feature_bandwidth = metrics.median_feature_distance(self.features)
        self.fresh_distance = self.nearest(self.held_out)

    def nearest(self, samples: Tensor, itself: bool = False) -> float:
        """The mean distance of samples to their nearest reference."""
        return metrics.nearest_distances(samples, self.references, itself).mean().item()

    @property
    def unguided(self) -> Tensor:
        return unguided(self.case, self.seed).samples

    @cached_property
    def subset_size(self) -> int:
        """Of both sides, for figures that depend on the number of samples."""
        return min(self.case.batch, len(self.references), len(self.held_out))


@lru_cache(maxsize=2)
def truth_of(world: str, target: str, seed: int, n: int | None = None) -> Truth:
    """The truth with n references, or as many as are usual."""
    return Truth(get_case(world, target), seed, n)


def evaluate(truth: Truth, drawn: Drawn, are_references: bool = False) -> dict[str, float]:
    """Every figure of samples against the truth; names as in the report."""
    case, samples = truth.case, drawn.samples
    if not torch.isfinite(samples).all():
        return {"finite": 0.0}
    features = case.features(samples)
    both = metrics.sq_distance_matrix(torch.cat([samples, truth.held_out]))
    kernel = metrics.rbf_matrix(both, truth.bandwidth)
    nearest = truth.nearest(samples, are_references)
    return {
        **case.proportions(samples),
        "MMD2": metrics.mmd2_unbiased(kernel, len(samples)) if len(samples) > 1 else float("nan"),
        "FD": frechet_distance(features, truth.features) if len(samples) > 1 else float("nan"),
        case.fidelity_name: case.fidelity(samples),
        **subset_figures(truth, kernel, features),
        **case.variances(samples, truth.held_out),
        "nearest": nearest,
        "nearest by fresh": nearest / truth.fresh_distance,
        **case.extras(samples, truth),
        "seconds": drawn.seconds,
        "calls": drawn.calls,
    }


def subset_figures(truth: Truth, kernel: Tensor, features: np.ndarray) -> dict[str, float]:
    """Figures that depend on how many samples there are, for equally many on both sides.

    Arguments:
        kernel: Kernel values between samples and held-out ones together.
    """
    n, held_out = len(features), len(truth.features)
    size = min(truth.subset_size, n)
    if size < 2:
        return {}
    rng = generator("subsets", truth.seed)
    found = []
    for _ in range(SUBSETS):
        own = torch.randperm(n, generator=rng)[:size]
        true = torch.randperm(held_out, generator=rng)[:size]
        rows = torch.cat([own, true + n])
        p = metrics.permutation_p_value(kernel[rows][:, rows], size, rng, PERMUTATIONS)
        a, b = features[own.numpy()], truth.features[true.numpy()]
        coverage, density = metrics.coverage_and_density(b, a)
        vendi = [metrics.vendi_score(f, truth.feature_bandwidth) for f in (a, b)]
        fd = frechet_distance(a, truth.features)  # the fewer samples, the larger
        found.append((p, float(p <= LEVEL), fd, coverage, density, vendi[0] / vendi[1]))
    names = ("p", "rejected", "FD equal", "coverage", "density", "vendi")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))
