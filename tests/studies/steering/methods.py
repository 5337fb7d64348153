"""Ways to steer, each once, at equal model calls; many replicates of independent paths are drawn as one batch.

importance      paths of one proposal, weighted: of the model itself (best of n), or of the plain gradient
resampled       one SMC pass: plain SMC, FK steering, gradient with SMC
twisted         one SMC pass of the twisted diffusion sampler (TDS), whose gradient goes back through the model
tri_tsmc        TRI-TSMC: the core's iterations
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from mmd_pack.mmd_core.tsmc import (
    DenoiserJacobian,
    GradientTwist,
    Learning,
    TSMCConfig,
    Twist,
    effective,
    fitted,
    log_mean_exp,
    propose,
    replayed,
    smc,
    systematic,
    white,
)
from mmd_pack.mmd_core.tsmc.paths import Recording
from mmd_tests.studies.steering.worlds import F64, World
from torch import Tensor

TRAJECTORIES = 64


@dataclass(frozen=True, eq=False)
class Found:
    """What R replicates of a method found.

    Attributes:
        log_z: log Ẑ, with shape `(R,)`.
        mean: The estimate of E_π[r].
        best: The largest reward drawn.
        ess: The effective number of paths, as a share of them.
        scores: How often the reward was asked for a number, in each replicate.
        last_log_z, last_ess: The same of the last batch by itself, where there are several.
        learnings: What each replicate of TRI-TSMC learned.
    """

    log_z: Tensor
    mean: Tensor
    best: Tensor
    ess: Tensor
    scores: int
    last_log_z: Tensor | None = None
    last_ess: Tensor | None = None
    learnings: Sequence[Learning] = ()


def _noise(world: World, n: int, rng: torch.Generator):
    return lambda i: torch.randn(n, world.dim, generator=rng, dtype=F64)


def _found(log_weights: Tensor, rewards: Tensor, scores: int, log_z: Tensor | None = None) -> Found:
    """Of log weights and rewards `(R, n)`."""
    weights = log_weights.softmax(1)
    if log_z is None:
        log_z = torch.tensor([log_mean_exp(each) for each in log_weights], dtype=F64)
    ess = torch.tensor([effective(each) / len(each) for each in log_weights], dtype=F64)
    return Found(log_z, (weights * rewards).sum(1), rewards.max(1).values, ess, scores)


def importance(
    world: World, seed: int, replicates: int, n: int = TRAJECTORIES, theta: float = 0.0
) -> Found:
    """Paths of Q_θ, weighted. θ = 0 is importance sampling from the model, its best path best-of-n."""
    rng = torch.Generator().manual_seed(seed)
    count = replicates * n
    at = torch.full((1,), theta, dtype=F64)
    start = world.start(count, rng)
    paths = propose(world.denoise, start, world.steps, _noise(world, count, rng), world.twist(), at)
    rewards = world.reward.value(paths.z)
    ratio = paths.h @ at - 0.5 * paths.H[:, 0, 0] * theta**2
    log_weights = world.scale * rewards - ratio
    return _found(log_weights.view(replicates, n), rewards.view(replicates, n), n)


def resampled(
    world: World,
    seed: int,
    replicates: int,
    n: int = TRAJECTORIES,
    theta: float = 0.0,
    potential: str = "settled",
) -> Found:
    """SMC passes. `potential` is `settled` (V = κ λ r(x̂0)), `raw` (V = λ r(x̂0), as FK steering takes), `none`."""
    rng = torch.Generator().manual_seed(seed)
    twist = world.twist() if theta else None
    at = torch.full((1,), theta, dtype=F64)
    shares = {
        "settled": [step.certainty for step in world.steps],
        "raw": [1.0] * len(world.steps),
    }.get(potential)
    of = None if shares is None else lambda x0, i: shares[i] * world.tilt(x0)
    swarms = [
        smc(
            world.denoise, world.start(n, rng), world.steps, _noise(world, n, rng),
            lambda i: torch.rand((), generator=rng).item(), of, twist, at,
        )
        for _ in range(replicates)
    ]  # fmt: skip
    swarms = [swarm.rewarded(world.tilt(swarm.z)) for swarm in swarms]
    log_weights = torch.stack([swarm.log_weights for swarm in swarms])
    rewards = torch.stack([world.reward.value(swarm.z) for swarm in swarms])
    log_z = torch.tensor([swarm.log_z for swarm in swarms], dtype=F64)
    return _found(log_weights, rewards, n * (len(world.steps) if of else 1), log_z)


def twisted(world: World, seed: int, replicates: int, n: int = TRAJECTORIES) -> Found:
    """TDS: from x on, log ψ = λ r(x̂0(x)) both turns the chain, by its gradient in x, and weighs particles.

    It asks for a reward and a gradient through the model at every step, and weighs the initial noise, too.

    References:
        Wu, Trippe, Naesseth, Blei, Cunningham, Practical and Asymptotically Exact Conditional Sampling in Diffusion
        Models, 2023 (algorithm 1). https://arxiv.org/abs/2306.17775
    """
    rng = torch.Generator().manual_seed(seed)
    passes = [_tds_pass(world, n, rng) for _ in range(replicates)]
    log_z, log_weights, rewards = zip(*passes, strict=True)
    log_z = torch.tensor(log_z, dtype=F64)
    return _found(torch.stack(log_weights), torch.stack(rewards), n * len(world.steps), log_z)


def _tds_pass(world: World, n: int, rng: torch.Generator) -> tuple[float, Tensor, Tensor]:
    """log Ẑ, the log weights since the last resampling, and the rewards."""
    x, log_z = world.start(n, rng), 0.0
    log_w, last = torch.zeros(n, dtype=F64), torch.zeros(n, dtype=F64)
    for i, step in enumerate(world.steps):
        x.requires_grad_()
        x0 = world.denoise(x, i)
        (slope,) = torch.autograd.grad(x0, x, world.tilt_gradient(x0.detach()))
        x, x0 = x.detach(), x0.detach()
        twist = world.tilt(x0)
        log_w, last = log_w + twist - last, twist
        if effective(log_w) < 0.5 * n:
            log_z += log_mean_exp(log_w)
            chosen = systematic(log_w.softmax(0), torch.rand((), generator=rng).item())
            x, x0, slope, last = x[chosen], x0[chosen], slope[chosen], last[chosen]
            log_w = torch.zeros_like(log_w)
        e = torch.randn(x.shape, generator=rng, dtype=F64)
        u = step.noise * slope
        log_w = log_w - (u * e).sum(1) - 0.5 * u.square().sum(1)
        x = step.mean(x, x0) + step.noise * (e + u)
    log_w = log_w + world.tilt(x) - last
    return log_z + log_mean_exp(log_w), log_w, world.reward.value(x)


class Each:
    """The twists of many replicates, each for its part of a batch, or one for all, as one twist with θ of their own.

    The last parameter is Σ_k θ_k φ_k of the replicate; θ of the whole is 1 there and 0 elsewhere. So h and H of the
    others are those of φ.
    """

    def __init__(self, twists: Sequence[Twist], thetas: Tensor):
        self.twists, self.thetas, self.size = twists, thetas, thetas.shape[1] + 1

    @property
    def theta(self) -> Tensor:
        return torch.tensor([0.0] * (self.size - 1) + [1.0], dtype=F64)

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        parts = x0.chunk(len(self.twists))
        every = [twist(part, step) for twist, part in zip(self.twists, parts, strict=True)]
        which, features = every[0][0], torch.cat([each[1] for each in every])
        each = len(x0) // len(self.thetas)
        weights = self.thetas[:, which].repeat_interleave(each, 0)
        whole = x0.new_zeros(len(x0), self.size, *x0.shape[1:])
        whole[:, which] = features
        whole[:, -1] = torch.einsum("bq,bq...->b...", weights, features)
        return slice(0, self.size), whole


def tri_tsmc(
    world: World,
    seed: int,
    replicates: int,
    particles: int = 16,
    config: TSMCConfig | None = None,
    pilot: bool = False,
    black_box: bool = False,
) -> Found:
    """The core's iterations. `black_box`: only scores are known; a first batch, twice as large, learns a surrogate.

    Arguments:
        pilot: Whether the first batch is drawn from the model itself, and tells how its estimates follow noisy samples,
            as for the nodes; else that is c(σ).
    """
    if config is None:
        usual = TSMCConfig(particles, 3, reward_scale=world.scale, standardize=False)
        config = replace(usual, iterations=2) if black_box else usual
    rng = torch.Generator().manual_seed(seed)
    blocks, pilot = config.time_blocks, pilot or black_box
    learnings = [Learning.start(config, blocks) for _ in range(replicates)]
    unsteered = torch.zeros(replicates, blocks, dtype=F64)
    twists: Sequence[Twist] = [world.twist(blocks)]
    for k in range(config.iterations + 1):
        n = config.particles * (2 if black_box and k == 0 else 1)
        first = pilot and k == 0
        thetas = [learning.theta for learning in learnings]
        twist = Each(twists, unsteered if first else torch.stack(thetas))
        paths = propose(
            world.denoise, world.start(replicates * n, rng), world.steps,
            _noise(world, replicates * n, rng), twist, twist.theta, record=first,
        )  # fmt: skip
        rewards = world.reward.value(paths.z).split(n)
        h, H = paths.h[:, :-1].split(n), paths.H[:, :-1, :-1].split(n)
        if first:
            ends = zip(_parts(paths.recording, n), paths.z.split(n), rewards, strict=True)
            found = [_piloted(world, *each, blocks, black_box) for each in ends]
            twists, h, H = zip(*found, strict=True)
        learn = [each.learned for each in learnings]
        if first:
            learn = [partial(Learning.piloted, config)] * replicates
        drawn = zip(learn, h, H, rewards, strict=True)
        learnings = [add(*each) for add, *each in drawn]
    return _learned(learnings)


def _piloted(
    world: World, recording: Recording, z: Tensor, rewards: Tensor, blocks: int, black_box: bool
) -> tuple[GradientTwist, Tensor, Tensor]:
    """What turns the chain after a first batch, and h and H of its paths, each under what the others teach."""

    def turned(which: Tensor) -> GradientTwist:
        gradient = world.tilt_gradient
        if black_box:
            gradient = fitted(z[which], world.scale * rewards[which]).gradient
        return GradientTwist(
            gradient, world.steps, blocks, jacobians=(white, DenoiserJacobian(z[which]))
        )

    every = torch.arange(len(z))
    sums = [
        replayed(part, world.steps, turned(every[every != i]))
        for i, part in enumerate(recording.paths())
    ]
    h, H = (torch.cat(each) for each in zip(*sums, strict=True))
    return turned(every), h, H


def _parts(recording: Recording, n: int) -> list[Recording]:
    """Of each replicate."""
    x0, noise = ([each.split(n) for each in part] for part in (recording.x0, recording.noise))
    pairs = zip(zip(*x0, strict=True), zip(*noise, strict=True), strict=True)
    return [Recording(recording.steps, *pair) for pair in pairs]


def _learned(learnings: Sequence[Learning]) -> Found:
    found = _found(
        torch.stack([learning.log_weights for learning in learnings]),
        torch.stack([learning.rewards for learning in learnings]),
        sum(learnings[0].counts),
    )
    last = [learning.summaries[-1] for learning in learnings]
    return replace(
        found,
        last_log_z=torch.tensor([each.log_z for each in last], dtype=F64),
        last_ess=torch.tensor([each.ess / each.count for each in last], dtype=F64),
        learnings=learnings,
    )
