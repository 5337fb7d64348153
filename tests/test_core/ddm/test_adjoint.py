"""The adjoint against autograd through the whole sampler."""

import weakref
from types import SimpleNamespace

import pytest
import torch
from mmd_pack.mmd_core.ddm import LinearChain, Penalty, accumulate, draw
from mmd_tests.support.ddm_samplers import F64, SAMPLERS, Network, euler, heun, multistep

N = 7


def setting(sampler, rng, dtype=F64):
    """A trained network, the untrained one, and the inputs of a batch."""
    chain = LinearChain.of(sampler, 20)
    network, base = (Network(dtype=dtype, seed=seed, labels=4) for seed in (1, 2))
    start = 7 * torch.randn(N, 3, generator=rng, dtype=dtype)
    noise = torch.randn(chain.draws, N, 3, generator=rng, dtype=dtype)
    labels = torch.randint(4, (N,), generator=rng)

    def model(network):
        return lambda x, sigma, rows: network(x, sigma, labels[list(rows)])

    return SimpleNamespace(
        sampler=sampler, chain=chain, network_before=base, start=start, noise=noise,
        denoise=model(network), base=model(base), parameters=list(network.parameters()),
        goal=torch.randn(N, 3, generator=rng, dtype=dtype),
    )  # fmt: skip


def loss(x, goal):
    """A loss of all samples together that treats each entry differently."""
    return (-torch.cdist(x, goal).square() / 4).exp().mean() + (x * x.roll(1, 0)).sin().sum()


def backprop(s, penalty=0.0, last=0):
    """Autograd through the sampler itself; with `last`, earlier calls have no graph."""
    noise, drifts, calls = iter(s.noise), [], len(s.chain)

    def model(x, sigma):
        early = last and len(drifts) < calls - last
        with torch.set_grad_enabled(not early):
            estimate = s.denoise(x, sigma, range(N))
            drifts.append((estimate - s.base(x, sigma, range(N))).square().mean())
        return estimate

    x = s.sampler(model, s.start, lambda *_: next(noise))
    assert len(drifts) == calls
    total = loss(x, s.goal) + penalty * torch.stack(drifts).mean()
    return torch.autograd.grad(total, s.parameters)


def drawn(s, size):
    """The states, and the gradient of the loss in the samples."""
    found = draw(s.chain, s.denoise, s.start, s.noise, size)
    x = found.samples.requires_grad_()
    return found.states, torch.autograd.grad(loss(x, s.goal), x)[0]


def adjoint(s, size, penalty=0.0, last=0):
    for parameter in s.parameters:
        parameter.grad = None
    states, upstream = drawn(s, size)
    added = Penalty(s.base, penalty) if penalty else None
    accumulate(s.chain, s.denoise, states, upstream, s.parameters, size, last, added)
    return [parameter.grad for parameter in s.parameters]


def assert_same(found, expected, exact):
    for one, other in zip(found, expected, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() / other.norm() < exact


@pytest.mark.parametrize("dtype, exact", [(F64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_is_backpropagation_through_the_whole_sampler(name, dtype, exact, rng):
    """For each size of micro-batches."""
    s = setting(SAMPLERS[name](), rng, dtype)
    expected = backprop(s)
    for size in (1, 3, N, 20):
        assert_same(adjoint(s, size), expected, exact)


@pytest.mark.parametrize("last", [1, 2, 3])
@pytest.mark.parametrize("sampler", [euler, heun, multistep])
def test_through_the_last_calls_only(sampler, last, rng):
    """Like autograd with earlier estimates as constants, which is biased."""
    s = setting(sampler(), rng)
    expected = backprop(s, last=last)
    assert_same(adjoint(s, 3, last=last), expected, 1e-10)
    assert (expected[0] - backprop(s)[0]).norm() > 1e-3 * expected[0].norm()


def test_through_more_calls_than_there_are(rng):
    s = setting(euler(), rng)
    assert_same(adjoint(s, 3, last=99), backprop(s), 1e-10)


@pytest.mark.parametrize("last", [0, 2])
@pytest.mark.parametrize("name", SAMPLERS)
def test_drift_penalty(name, last, rng):
    """The penalty on both models, at states that depend on the parameters."""
    s = setting(SAMPLERS[name](), rng)
    expected = backprop(s, 5.0, last)
    for size in (3, N):
        assert_same(adjoint(s, size, 5.0, last), expected, 1e-10)
    without = adjoint(s, N, 0.0, last)
    assert (expected[0] - without[0]).norm() > 1e-2 * expected[0].norm()


def test_gradients_add_up(rng):
    s = setting(heun(), rng)
    expected = backprop(s)
    states, upstream = drawn(s, 4)
    for _ in range(2):
        accumulate(s.chain, s.denoise, states, upstream, s.parameters, 4)
    assert_same([parameter.grad for parameter in s.parameters], [2 * e for e in expected], 1e-10)


def test_what_a_parameter_has_no_part_in(rng):
    """Layers of a network that it does not use."""
    s = setting(euler(), rng)
    idle = torch.zeros(3, requires_grad=True)
    s.parameters.append(idle)
    assert_same(adjoint(s, 3)[:-1], torch.autograd.grad(through(s), s.parameters[:-1]), 1e-10)
    assert idle.grad is None


def through(s):
    noise = iter(s.noise)
    x = s.sampler(lambda x, sigma: s.denoise(x, sigma, range(N)), s.start, lambda *_: next(noise))
    return loss(x, s.goal)


class _Held:
    def __init__(self, tensor):
        self.tensor = tensor


class Kept:
    """The bytes in graphs besides parameters: now, and at most."""

    def __init__(self, parameters):
        self.now = self.most = 0
        self.known = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)

    def _pack(self, tensor):
        held = _Held(tensor)
        known = tensor.untyped_storage().data_ptr() in self.known
        size = 0 if known else tensor.numel() * tensor.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(held, self._released, size)
        return held

    def _released(self, size):
        self.now -= size


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_holds_one_call_of_one_micro_batch(penalty, rng):
    s = setting(euler(), rng)
    known = [*s.parameters, *s.network_before.parameters()]
    with Kept(known) as one:
        estimate = s.denoise(s.start[:2].clone().requires_grad_(), 1.0, range(2))
    states, upstream = drawn(s, 2)
    with Kept(known) as many:
        added = Penalty(s.base, penalty) if penalty else None
        accumulate(s.chain, s.denoise, states, upstream, s.parameters, 2, 0, added)
    with Kept(known) as whole:
        total = through(s)
    assert many.now == 0
    assert 0 < many.most < 1.2 * one.most
    assert whole.now > 12 * one.most  # 4 calls for 7 samples, not 1 for 2
    assert estimate.requires_grad and total.requires_grad
