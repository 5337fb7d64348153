"""Trainings of tiny models: they work, and each update is that of plain autograd."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from mmd_pack.mmd_core.ddm import (
    DEFAULT_KERNEL,
    DDMConfig,
    LinearChain,
    LoRA,
    MMDLoss,
    Problem,
    Training,
    draw,
    layers,
)
from mmd_pack.mmd_core.kernels.config import KernelConfig
from mmd_tests.support.ddm_samplers import F64, ancestral, euler
from torch import nn

SIGMAS = (4.0, 1.5, 0.5, 0.0)
CPU = torch.device("cpu")
MEANS = torch.tensor([[1.0, 0], [-1, 1], [0, -1.5]])
SHARES, SPREAD = torch.tensor([0.5, 0.3, 0.2]), 0.3


class Modes(nn.Module):
    """The exact x̂0 of three modes in the plane, plus a network whose output is still 0."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mlp = nn.Sequential(
            nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 2)
        )
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, x, sigma):
        variance = SPREAD**2 + sigma**2
        log_w = SHARES.log() - (x[:, None] - MEANS).square().sum(2) / (2 * variance)
        mean = log_w.softmax(1) @ MEANS
        given = torch.cat([x / math.hypot(1, sigma), x.new_full((len(x), 1), math.log(sigma))], 1)
        return mean + SPREAD**2 / variance * (x - mean) + self.mlp(given)


def real(n, rng):
    which = torch.multinomial(SHARES, n, True, generator=rng)
    return MEANS[which] + SPREAD * torch.randn(n, 2, generator=rng)


def test_few_steps_draw_better_after_training(rng):
    """On noise and real samples that training has not seen."""
    network = Modes().requires_grad_(False)
    lora = LoRA(network, layers(network, "all"), 4, 4.0)
    loss = MMDLoss(real(256, rng), DEFAULT_KERNEL)
    held_out, fresh = (MMDLoss(real(n, rng), DEFAULT_KERNEL, like=loss) for n in (128, 1000))
    chain = LinearChain.of(euler((4.0, 1.0, 0.0)), 9)

    def denoise(x, sigma, rows):
        return network(x, sigma)

    problem = Problem(
        (chain,), (2,), CPU, lambda noise, sigma: noise * sigma, lambda prompts: denoise,
        lambda x, noise, prompts: x, loss, held_out, torch.ones(1),
    )  # fmt: skip
    start = 4 * torch.randn(1000, 2, generator=rng)

    def distance():
        return fresh(draw(chain, denoise, start, start[None, :0], 1000).samples)[0]

    before = distance()
    config = DDMConfig(
        batch_size=128, micro_batch=128, iterations=40, learning_rate=0.015, validate_every=20
    )
    training = Training(config, problem, lora)
    steps = list(training.run())
    assert 0 < distance() < before / 3 and before > 0.01
    assert training.validated[-1][1] < training.validated[0][1] / 2
    assert sum(training.losses[-10:]) < sum(training.losses[:10]) / 2
    assert training.best in (20, 40) and training.ended == ""
    assert [step.iteration for step in steps] == list(range(41))


# ---- a smaller one, in float64


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)
        self.double().requires_grad_(False)

    def forward(self, x, sigma, labels):
        given = torch.cat([x / math.hypot(1, sigma), x.new_tensor(labels)[:, None]], 1)
        return x / (1 + sigma**2) + self.last(self.first(given).tanh())


class Toy:
    """All parts of a training, and a record of their calls."""

    def __init__(self, samplers=(euler,), prompts=1, held_out=True, **settings):
        self.network = Tiny()
        self.lora = LoRA(self.network, ["first", "last"], 2, 2.0)
        for adapter in self.lora.adapters.values():
            adapter.double()
        rng = torch.Generator().manual_seed(5)
        self.references = torch.randn(9, 2, generator=rng, dtype=F64) + 1
        self.captions = torch.eye(3, dtype=F64)[torch.arange(9) % 3]
        kernel = KernelConfig(
            bandwidth="fixed", multipliers=(1.0,), prompt_kernel="rbf", prompt_bandwidth=1.0
        )
        compared = self.captions if prompts > 1 else None
        loss = MMDLoss(self.references, kernel, prompts=compared)
        self.starts, self.prompts, self.noise = [], [], []
        self.problem = Problem(
            tuple(LinearChain.of(sampler(SIGMAS), 9) for sampler in samplers), (2,), CPU,
            self.scaled, self.denoise, self.features, loss, loss if held_out else None,
            torch.full((prompts,), 1 / prompts),
            torch.eye(3, dtype=F64)[:prompts] if prompts > 1 else None,
        )  # fmt: skip
        self.config = DDMConfig(
            **{
                "batch_size": 6, "micro_batch": 6, "iterations": 4, "learning_rate": 0.02,
                "validate_every": 2, **settings,
            }
        )  # fmt: skip

    def scaled(self, noise, sigma):
        self.starts.append(noise.double() * sigma)
        return self.starts[-1]

    def denoise(self, prompts):
        self.prompts.append(prompts)
        return lambda x, sigma, rows: self.network(x, sigma, [float(prompts[i]) for i in rows])

    def features(self, x, noise, prompts):
        if torch.is_grad_enabled():
            self.noise.append(noise)
        return x + 0.2 * noise * x.sin() + 0.1 * x.new_tensor(prompts)[:, None] * x.cos()

    def training(self, **changes):
        return Training(self.config, replace(self.problem, **changes), self.lora)

    def run(self, **changes):
        training = self.training(**changes)
        self.steps, self.at = [], {}
        for step in training.run():
            self.steps.append(step)
            self.at[step.iteration] = self.lora.values()
        return training


def assert_same(found, expected, exact=1e-10):
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= exact * other.norm()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr_decay": "cosine", "grad_clip": 0.0, "ema": 0.5, "drift_penalty": 2.0},
        {"lr_decay": "constant", "grad_clip": 1e-3, "ema": 0.0, "prompts": 3},
    ],
)
def test_each_update_is_that_of_autograd(settings):
    """Euler, MMD²_U, penalty, clipping, Adam, its decay and the average, written out again."""
    toy = Toy(held_out=False, **settings)
    network = copy.deepcopy(toy.network)
    for layer in (network.first, network.last):
        layer._forward_hooks.clear()
    base = copy.deepcopy(network)
    values = [v.requires_grad_() for v in toy.lora.values()]
    average = [v.detach().clone() for v in values]
    training = toy.run()
    config, n = toy.config, toy.config.batch_size
    optimizer = torch.optim.Adam(values, lr=config.learning_rate)
    rate = {
        "linear": lambda i: 1 - i / 4,
        "cosine": lambda i: (1 + math.cos(math.pi * i / 4)) / 2,
        "constant": lambda i: 1.0,
    }[config.lr_decay]
    for i in range(4):
        labels = [float(p) for p in toy.prompts[i]]
        merged = {
            f"{name}.weight": getattr(network, name).weight + values[2 * k + 1] @ values[2 * k]
            for k, name in enumerate(("first", "last"))
        }
        drift = []

        def model(x, sigma, merged=merged, labels=labels, drift=drift):
            found = torch.func.functional_call(network, merged, (x, sigma, labels))
            drift.append((found - base(x, sigma, labels)).square().mean())
            return found

        x = euler(SIGMAS)(model, toy.starts[i], None)
        f = toy.features(x, toy.noise[i], toy.prompts[i])
        y, p, r = toy.references, torch.eye(3, dtype=F64)[list(toy.prompts[i])], toy.captions

        def k(a, b, one, other):
            value = (-(a[:, None] - b).square().sum(2) / 2).exp()
            if toy.problem.prompt_features is None:
                return value
            return value * (-(one[:, None] - other).square().sum(2) / 2).exp()

        within = (1 - torch.eye(n, dtype=F64)) / (n * (n - 1))
        between = (1 - torch.eye(9, dtype=F64)) / 72
        mmd = (k(f, f, p, p) * within).sum() + (k(y, y, r, r) * between).sum()
        mmd = mmd - 2 * k(f, y, p, r).mean()
        optimizer.zero_grad()
        (mmd + config.drift_penalty * torch.stack(drift).mean()).backward()
        if config.grad_clip:
            torch.nn.utils.clip_grad_norm_(values, config.grad_clip)
        optimizer.param_groups[0]["lr"] = config.learning_rate * rate(i)
        optimizer.step()
        decay = min(config.ema, (1 + i) / (10 + i)) if config.ema else 0
        average = [
            decay * a + (1 - decay) * v.detach() for a, v in zip(average, values, strict=True)
        ]
        assert training.losses[i] == pytest.approx(mmd.item(), rel=1e-9)
        if i < 3:  # in the end it takes those to keep
            assert_same(toy.at[i + 1], values, 1e-7)  # Adam divides by gradients of any size
    assert_same(training.values, average, 1e-7)
    assert training.best == 4 and training.validated == []
    assert all(step.held_out is None for step in toy.steps)


def test_same_seed_same_result():
    runs = []
    for seed, disturbance in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(disturbance)  # numbers of others
        toy = Toy((ancestral, euler), prompts=3, seed=seed)
        before = torch.get_rng_state()
        training = toy.run()
        assert torch.equal(torch.get_rng_state(), before)
        runs.append((training.losses, training.validated, training.values))
    one, same, other = runs
    assert one[:2] == same[:2] and all(map(torch.equal, one[2], same[2]))
    assert one[0] != other[0] and one[1] != other[1]


def test_micro_batches_change_nothing():
    """With sampler noise, feature noise, prompts, several samplers and the penalty."""
    runs = []
    for size in (6, 1, 4, 50):
        toy = Toy((ancestral, euler), prompts=3, micro_batch=size, drift_penalty=0.5, grad_last_k=2)
        runs.append((toy.run(), toy))
    for training, _ in runs[1:]:
        assert training.losses == pytest.approx(runs[0][0].losses, rel=1e-9)
        assert training.best == runs[0][0].best
        assert_same(training.values, runs[0][0].values, 1e-6)
    assert all(toy.prompts == runs[0][1].prompts for _, toy in runs[1:])


def test_settings_reach_the_gradient():
    plain = Toy(seed=1).run().values
    for settings in ({"grad_last_k": 1}, {"drift_penalty": 3.0}):
        other = Toy(seed=1, **settings).run().values
        assert max((a - b).norm() / b.norm() for a, b in zip(other, plain, strict=True)) > 1e-3


def test_validation_is_on_the_same_noise_each_time():
    toy = Toy()
    training = toy.run()
    starts = {n: [s for s in toy.starts if len(s) == n] for n in (6, 12)}
    assert len(starts[6]) == 4 and len(starts[12]) == 3  # twice as many
    assert all(torch.equal(s, starts[12][0]) for s in starts[12])
    assert len({s.sum().item() for s in starts[6]}) == 4
    assert not torch.equal(starts[12][0][:6], starts[6][0])
    assert [iteration for iteration, _ in training.validated] == [0, 2, 4]
    for step in toy.steps:
        looked = step.iteration % 2 == 0
        assert (step.samples is not None) == (step.held_out is not None) == looked
        if step.iteration:
            assert step.loss == training.losses[step.iteration - 1]
        else:
            assert math.isnan(step.loss)
        if looked:
            assert step.samples.shape == (12, 2)
            assert (step.iteration, step.held_out) in training.validated


def test_validation_judges_the_average():
    """Validation does not change the trained factors."""
    toy, seen = Toy(ema=0.9, iterations=3, validate_every=1, keep="last"), []

    def held_out(features, prompts, random):
        seen.append(toy.lora.values())
        return 0.0, None

    training = toy.training(held_out=held_out)
    average, i = toy.lora.values(), 0
    for step in training.run():
        if step.iteration:
            decay = (1 + i) / (10 + i)
            trained = toy.lora.values()
            average = [decay * a + (1 - decay) * v for a, v in zip(average, trained, strict=True)]
            assert not torch.equal(trained[1], seen[-1][1])
            i += 1
        assert_same(seen[-1][1:], average[1:])
        assert all(map(torch.equal, training.values, seen[-1]))
    assert len(seen) == 4 + 2  # twice in the end, for the comparison
    assert all(map(torch.equal, toy.lora.values(), training.values))


def scripted(*values, compared=(2.0, 1.0)):
    """What validations find, and what the last comparison finds: it draws twice as many samples."""
    values, compared = iter(values), iter(compared)
    return lambda features, prompts, random: (
        next(compared if len(features) == 24 else values),
        None,
    )


@pytest.mark.parametrize("keep, best", [("best", 4), ("last", 10)])
def test_what_is_kept(keep, best):
    toy = Toy(keep=keep, iterations=10, ema=0.0)
    training = toy.run(held_out=scripted(5.0, 4.0, 3.0, 3.0, 6.0, 3.5))
    assert training.best == best and training.ended == ""
    if best < 10:  # the last step comes before the end of the run
        assert all(map(torch.equal, training.values, toy.at[best]))
    assert all(map(torch.equal, toy.lora.values(), training.values))


def test_a_training_that_only_makes_it_worse_gives_back_what_came():
    toy = Toy(iterations=6)
    before = toy.lora.values()
    training = toy.run(held_out=scripted(1.0, 2.0, 1.5, 1.2))
    assert training.best == 0
    assert all(map(torch.equal, toy.lora.values(), before))


def test_in_the_end_new_samples_are_compared_with_those_of_the_model_without_adapters():
    """Also where training continues from adapters: these are not the model alone."""
    toy = Toy()
    continued = [toy.lora.values(), toy.run().values]
    for initial in continued:
        toy.lora.put(initial)
        toy.starts, seen = [], []

        def held_out(features, prompts, random, seen=seen):
            seen.append(features)
            return toy.problem.held_out(features, prompts, random)

        training = toy.run(held_out=held_out)
        start, again = (start for start in toy.starts if len(start) == 24)
        validated = next(start for start in toy.starts if len(start) == 12)
        assert torch.equal(start, again) and not torch.equal(start[:12], validated)
        network, found = Tiny(), []
        for values in (None, training.values):
            if values is not None:
                lora = LoRA(network, ["first", "last"], 2, 2.0)
                for adapter in lora.adapters.values():
                    adapter.double()
                lora.put(values)
            x = start
            for high, low in itertools.pairwise(SIGMAS):
                estimate = network(x, high, [0.0] * 24)
                x = estimate + low / high * (x - estimate)
            found.append(x)
        # Both have the same noise in their features only if they come from these samples.
        noise = [(f - x) / (0.2 * x.sin()) for f, x in zip(seen[-2:], found, strict=True)]
        torch.testing.assert_close(noise[0], noise[1], rtol=1e-8, atol=1e-8)
        assert not torch.equal(*found)
        expected = [toy.problem.held_out(features)[0] for features in seen[-2:]]
        assert training.compared == pytest.approx(expected, rel=1e-12)
        assert training.compared[1] < training.compared[0]


@pytest.mark.parametrize("found", [(1.0, 1.0), (1.0, 1.5), (1.0, math.nan), (-0.2, -0.1)])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_what_is_no_better_than_no_adapters_is_not_handed_out(keep, found):
    """Unless the last ones are asked for, whatever they are."""
    toy = Toy(keep=keep, ema=0.0)
    training = toy.run(held_out=scripted(5.0, 4.0, 3.0, compared=found))
    x, labels = torch.randn(5, 2, dtype=F64), [0.0] * 5
    same = torch.equal(toy.network(x, 1.0, labels), Tiny()(x, 1.0, labels))
    assert all(map(torch.equal, toy.lora.values(), training.values))
    if keep == "best":
        assert same and training.best == 0 and training.compared == (found[0], found[0])
    else:
        assert not same and training.best == 4
    # training can continue from what is handed out
    again = toy.run()
    assert again.best > 0 and again.compared[1] < again.compared[0]


@pytest.mark.parametrize(
    "settings, values, updates",
    [
        ({"patience": 3}, (5, 1, 2, 3, 4, 5), 8),  # the third rise
        ({"patience": 3}, (5, 6, 7, 6.5, 7, 8, 9), 12),  # it fell in between
        ({"patience": 1}, (5, 4, 3, 3, 4), 8),  # as good is no rise
        ({"patience": 0}, range(11), 20),
        ({"patience": 3, "keep": "last"}, range(11), 20),
        ({"patience": 10}, range(11), 20),  # at the end anyway
    ],
)
def test_patience(settings, values, updates):
    toy = Toy(iterations=20, **settings)
    training = toy.run(held_out=scripted(*map(float, values)))
    assert len(training.losses) == updates == toy.steps[-1].iteration
    if updates < 20:
        assert f"after {updates} updates" in training.ended and "in a row" in training.ended
        assert training.best == 2 * min(range(len(values)), key=lambda i: values[i])
    else:
        assert training.ended == ""


def nan_loss(toy):
    """x̂0 is NaN from the sixth batch on; three of them are for validation."""
    plain = toy.problem.denoise

    def denoise(prompts):
        factor = math.nan if len(toy.prompts) >= 5 else 1.0
        model = plain(prompts)
        return lambda x, sigma, rows: factor * model(x, sigma, rows)

    return {"denoise": denoise}


def nan_gradient(toy):
    """The gradient of the square root at 0, in the third update."""

    def features(x, noise, prompts):
        found = toy.problem.features(x, noise, prompts)
        broken = torch.is_grad_enabled() and len(toy.noise) == 4
        return found + (0 * x).abs().sqrt() if broken else found

    return {"features": features}


@pytest.mark.parametrize("broken", [nan_loss, nan_gradient])
def test_numbers_that_are_not_finite_end_it(broken):
    """It keeps the best adapters so far, and gives the reason."""
    toy = Toy(iterations=8, ema=0.0)
    training = toy.run(held_out=scripted(3.0, 1.0, 2.0, 4.0, 5.0), **broken(toy))
    assert training.ended.startswith("after 3 updates, because") and "finite" in training.ended
    assert len(training.losses) == 3 and all(map(math.isfinite, training.losses))
    assert training.best == 2
    assert all(map(torch.equal, training.values, toy.at[2]))
    assert all(map(torch.equal, toy.lora.values(), toy.at[2]))


def test_each_sampler_is_trained_and_the_first_validated():
    toy = Toy((euler, ancestral), iterations=12)
    calls = []
    plain = toy.problem.loss

    def loss(features, prompts, random):
        calls.append(toy.starts[-1])
        return plain(features, prompts, random)

    few = LinearChain.of(euler((2.0, 0.5, 0.0)), 9)
    training = toy.run(loss=loss, chains=(toy.problem.chains[0], few))
    sigmas = {round(start.std().item()) > 2 for start in calls}
    assert sigmas == {True, False} and len(training.losses) == 12
    # a validation begins at the first σ of the first sampler
    assert all(s.std() > 2.5 for s in toy.starts if len(s) == 12)


def test_prompts_are_drawn_as_often_as_their_chances_say():
    toy = Toy(prompts=3, batch_size=8, iterations=20, validate_every=20, grad_last_k=1)
    seen = []
    plain = toy.problem.loss

    def loss(features, prompts, random):
        seen.append(prompts)
        return plain(features, prompts, random)

    toy.run(loss=loss, held_out=None, chances=torch.tensor([0.5, 0.25, 0.25]))
    counts = [[prompts.count(i) for i in range(3)] for prompts in toy.prompts]
    assert counts == [[4, 2, 2]] * 20
    assert len({tuple(prompts) for prompts in toy.prompts}) > 15
    eye = torch.eye(3, dtype=F64)
    assert all(torch.equal(f, eye[p]) for f, p in zip(seen, toy.prompts, strict=True))

    toy = Toy(prompts=3, batch_size=2, iterations=40, validate_every=40, grad_last_k=1)
    toy.run(held_out=None, chances=torch.tensor([0.7, 0.0, 0.3]))
    drawn = [p for prompts in toy.prompts for p in prompts]
    assert drawn.count(1) == 0 and 14 < drawn.count(2) < 34
    # each batch 1.4 of 0, that is one or two
    assert all(prompts.count(0) in (1, 2) for prompts in toy.prompts)


def test_a_model_that_the_adapters_have_no_part_in_is_an_error():
    toy = Toy()
    toy.lora.remove()
    with pytest.raises(ValueError, match="the LoRA has no effect on the samples"):
        toy.run()


def test_training_continues_from_trained_adapters():
    toy = Toy()
    values = toy.run().values
    training = toy.training()
    assert all(map(torch.equal, training.values, values))
    next(training.run())
    assert training.best == 0
