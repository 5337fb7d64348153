"""Compressed sets: MMD² as double sums, random subsets by enumeration, and memory as it is counted."""

import itertools
import weakref

import pytest
import torch
from mmd_demo.drawing import draw_random
from mmd_pack.mmd_core.kernels.config import KERNELS, KernelConfig
from mmd_pack.mmd_core.kernels.kernels import Gram
from mmd_pack.mmd_core.kernels.prompts import prompt_weights
from mmd_pack.mmd_core.references import compress as compression
from mmd_pack.mmd_core.references import piecewise_kernel
from mmd_pack.mmd_core.references.compress import compress
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

F64 = torch.float64


def clusters(rng, n, shape=(2, 3, 2), modes=5):
    """Latents about a few centres, far from the origin."""
    centres = 2 * torch.randn(modes, *shape, generator=rng) + 5
    members = torch.randint(0, modes, (n,), generator=rng)
    return centres[members] + 0.5 * torch.randn(n, *shape, generator=rng)


def values_of(latents, config):
    """k between all latents, with shape `(N, N)`, in float64."""
    rows = latents.flatten(1).double()
    rows = rows - rows.mean(0) if config.radial else rows
    gram = rows @ rows.T
    return config.resolve(gram, rows.shape[1]).values(Gram.within(gram))


def mmd2_of(values, q, done):
    """Between the measure q and the subset, as double sums."""
    q, w = (q / q.sum()).double(), torch.zeros(len(values), dtype=F64)
    w[done.indices] = done.weights.double()
    return float((w - q) @ values @ (w - q))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_mmd2_is_the_double_sum(name, weighted, rng):
    y, config = clusters(rng, 60), KernelConfig(name)
    q = torch.rand(60, generator=rng) + 0.1 if weighted else torch.ones(60)
    done = compress(y, q, 7, config)
    values = values_of(y, config)
    assert done.mmd2 == pytest.approx(
        mmd2_of(values, q, done), rel=0.01, abs=1e-6 * float(values.abs().max())
    )
    assert done.exact and len(done.indices) <= 7
    assert (done.weights > 0).all() and done.weights.sum() == pytest.approx(1)
    assert done.indices.tolist() == sorted(set(done.indices.tolist()))
    assert done.mmd2 < 0.7 * done.mmd2_random


@pytest.mark.parametrize("name", ["rbf", "energy", "polynomial"])
def test_random_is_the_mean_over_all_subsets(name, rng):
    y, config = clusters(rng, 8), KernelConfig(name)
    values = values_of(y, config)
    found = []
    for subset in itertools.combinations(range(8), 3):
        w = torch.full((8,), -1 / 8, dtype=F64)
        w[list(subset)] += 1 / 3
        found.append(w @ values @ w)
    expected = float(sum(found) / len(found))
    assert compress(y, torch.ones(8), 3, config).mmd2_random == pytest.approx(expected, rel=1e-4)


def test_random_draws_by_weight_if_weights_differ(rng):
    y, config, q = clusters(rng, 6), KernelConfig(), torch.rand(6, generator=rng) + 0.1
    q, values, expected = (q / q.sum()).double(), values_of(y, config), 0.0
    for pair in itertools.product(range(6), repeat=2):
        w = -q.clone()
        for j in pair:
            w[j] += 1 / 2
        expected += float(q[list(pair)].prod() * (w @ values @ w))
    assert compress(y, q, 2, config).mmd2_random == pytest.approx(expected, rel=1e-4)


def test_a_fifth_of_a_random_subsets_mmd2():
    """The bar is set for N = 5000 (tests/studies/benchmarks/compress.py); fewer references make it harder."""
    y = draw_random(3000, torch.Generator().manual_seed(5))[0]
    done = compress(y, torch.ones(3000), 128, KernelConfig())
    assert done.mmd2 < done.mmd2_random / 5


def test_repeated_references_are_one_with_their_weight(rng):
    distinct = clusters(rng, 10)
    times = torch.randint(1, 9, (10,), generator=rng)
    y = distinct.repeat_interleave(times, 0)
    done = compress(y, torch.ones(len(y)), 10, KernelConfig())
    found = {int((distinct - y[j]).abs().sum((1, 2, 3)).argmin()) for j in done.indices}
    assert done.mmd2 < 1e-5 and found == set(range(10))
    again = compress(distinct, times.float(), 4, KernelConfig(bandwidth="fixed", bandwidth_value=3))
    all_of = compress(y, torch.ones(len(y)), 4, KernelConfig(bandwidth="fixed", bandwidth_value=3))
    assert again.mmd2 == pytest.approx(all_of.mmd2, rel=0.02)


def test_the_subset_represents_references_by_weight(rng):
    """One cluster carries all but a little of the weight, and most of the subset's."""
    y = torch.cat([torch.randn(50, 4, generator=rng), 9 + torch.randn(50, 4, generator=rng)])
    q = torch.cat([torch.ones(50), torch.full((50,), 9.0)])
    done = compress(y, q, 12, KernelConfig())
    assert done.weights[done.indices >= 50].sum() == pytest.approx(0.9, abs=0.02)


def test_references_of_weight_0_are_not_there(rng):
    y, q = clusters(rng, 50), torch.ones(50)
    q[::2] = 0
    done = compress(y, q, 9, KernelConfig())
    rest = compress(y[1::2], torch.ones(25), 9, KernelConfig())
    assert torch.equal(done.indices, 2 * rest.indices + 1)
    torch.testing.assert_close(done.weights, rest.weights)
    everything = compress(y, q, 25, KernelConfig())
    assert torch.equal(everything.indices, torch.arange(1, 50, 2))
    assert everything.mmd2 == 0 and everything.weights[0] == pytest.approx(1 / 25)


@pytest.mark.parametrize("count", [20, 21])
def test_as_many_as_there_are_are_kept_as_they_are(count, rng):
    q = torch.rand(20, generator=rng)
    done = compress(clusters(rng, 20), q, count, KernelConfig())
    assert torch.equal(done.indices, torch.arange(20))
    torch.testing.assert_close(done.weights, q / q.sum())


@pytest.mark.parametrize("shape", [(6,), (4, 3), (4, 2, 2), (4, 1, 2, 2)])
def test_any_rank_and_nothing_is_written_into(shape, rng):
    y, q = clusters(rng, 40, shape), torch.ones(40)
    before = y.clone(), q.clone()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, other = (compress(y, q, 5, KernelConfig()) for _ in range(2))
    assert torch.equal(one.indices, other.indices) and torch.equal(one.weights, other.weights)
    assert torch.equal(y, before[0]) and torch.equal(q, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    flat = compress(y.flatten(1), q, 5, KernelConfig())
    assert torch.equal(flat.indices, one.indices)


@pytest.mark.parametrize("name", KERNELS)
def test_equal_references_can_be_compressed(name):
    done = compress(torch.ones(30, 4), torch.ones(30), 4, KernelConfig(name))
    assert done.mmd2 == pytest.approx(0, abs=1e-5) and done.weights.sum() == pytest.approx(1)


def test_features_are_what_is_compared(rng):
    y = clusters(rng, 80, (2, 4, 4))
    pooled = torch.nn.functional.avg_pool2d(y, 2)
    one = compress(y, torch.ones(80), 9, KernelConfig(), features=lambda x: x.mean((2, 3)))
    other = compress(y.mean((2, 3)), torch.ones(80), 9, KernelConfig())
    assert torch.equal(one.indices, other.indices)
    assert not torch.equal(compress(pooled, torch.ones(80), 9, KernelConfig()).indices, one.indices)


def test_short_features_are_computed_once_and_long_ones_when_needed(rng):
    y, seen = clusters(rng, 400, (64,)), []

    def features(x):
        seen.append(len(x))
        return x[:, :16]

    one = compress(y, torch.ones(400), 20, KernelConfig(), features=features)
    assert sum(seen) == 401  # one to know how long they are
    other = compress(y[:, :16], torch.ones(400), 20, KernelConfig())
    assert torch.equal(one.indices, other.indices)
    compress(y, torch.ones(400), 20, KernelConfig(), features=features, memory=2**17)
    assert sum(seen) > 1000


@pytest.mark.parametrize("prompt_kernel", ["cosine", "rbf"])
def test_a_prompt_kernel_multiplies(prompt_kernel, rng):
    y, prompts = clusters(rng, 60), torch.eye(3)[torch.randint(0, 3, (60,), generator=rng)]
    prompts = prompts + 0.1 * torch.rand(60, 3, generator=rng)
    config = KernelConfig(prompt_kernel=prompt_kernel, prompt_bandwidth=0.7)
    done = compress(y, torch.ones(60), 12, config, prompts=prompts)
    values = values_of(y, config) * prompt_weights(prompt_kernel, prompts, prompts, 0.7).double()
    assert done.mmd2 == pytest.approx(mmd2_of(values, torch.ones(60), done), rel=0.01)
    blind = compress(y, torch.ones(60), 12, KernelConfig())
    assert done.mmd2 < 0.8 * mmd2_of(values, torch.ones(60), blind)


# Sets that do not fit into memory


class PeakBytes(TorchDispatchMode):
    """The most bytes of tensors alive at once of those made within it."""

    def __init__(self, *others):
        super().__init__()
        self.alive = {tensor.untyped_storage().data_ptr() for tensor in others}
        self.now = self.peak = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage):
        place, size = storage.data_ptr(), storage.nbytes()
        if size and place not in self.alive:
            self.alive.add(place)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.remove, place, size)

    def remove(self, place, size):
        self.alive.discard(place)
        self.now -= size


@pytest.mark.parametrize("n, count, dim", [
    (300, 20, 8),  # all at once
    (500, 20, 8),  # in chunks
    (400, 190, 8),  # and in parts
    (200, 10, 4096),  # long rows
])  # fmt: skip
def test_memory_stays_within_its_setting(n, count, dim, rng):
    y, q = clusters(rng, n, (dim,)), torch.ones(n)
    with PeakBytes(y, q) as bytes_:
        done = compress(y, q, count, KernelConfig(), memory=2**21)
    assert 2**18 < bytes_.peak < 2**21
    assert 0.9 * count < len(done.indices) <= count


def test_chunks_cost_little(rng):
    """Next to what is reached with all kernel values at hand."""
    y, q = draw_random(1500, torch.Generator().manual_seed(2))[0], torch.ones(1500)
    whole = compress(y, q, 48, KernelConfig())
    chunks = compress(y, q, 48, KernelConfig(), memory=2**22)
    assert chunks.exact and chunks.mmd2 < 1.15 * whole.mmd2
    assert chunks.mmd2_random == pytest.approx(whole.mmd2_random, rel=0.03)


@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_and_parts_report_the_mmd2_of_the_whole_set(weighted, rng):
    y, config = clusters(rng, 1200), KernelConfig(bandwidth="fixed", bandwidth_value=4.0)
    q = torch.rand(1200, generator=rng) + 0.1 if weighted else torch.ones(1200)
    done = compress(y, q, 200, config, memory=2**21)
    assert done.exact and len(done.indices) == 200
    assert done.mmd2 == pytest.approx(mmd2_of(values_of(y, config), q, done), rel=0.01)


@pytest.mark.parametrize("weighted", [False, True])
def test_similarity_is_estimated_well_and_said_to_be(weighted, rng, monkeypatch):
    """Also if like follows like, as in folders."""
    y = clusters(rng, 2500)
    y = y[y.flatten(1)[:, 0].argsort()]
    q = torch.rand(2500, generator=rng) + 0.5 if weighted else torch.ones(2500)
    exact = compress(y, q, 10, KernelConfig(), memory=2**22)
    monkeypatch.setattr(compression, "EXACT", 0)
    monkeypatch.setattr(piecewise_kernel, "SAMPLE", 400)
    about = compress(y, q, 10, KernelConfig(), memory=2**22)
    assert exact.exact and not about.exact
    assert torch.equal(about.indices, exact.indices)
    assert about.mmd2_random == pytest.approx(exact.mmd2_random, rel=0.02)
    assert about.mmd2 == pytest.approx(exact.mmd2, rel=0.2)


def test_latents_may_lie_in_a_file(rng, tmp_path):
    y = clusters(rng, 500)
    mapped = torch.from_file(str(tmp_path / "y"), shared=True, size=y.numel()).view(y.shape)
    mapped.copy_(y)
    for memory in (2**31, 2**20):
        one = compress(mapped, torch.ones(500), 20, KernelConfig(), memory=memory)
        other = compress(y, torch.ones(500), 20, KernelConfig(), memory=memory)
        assert torch.equal(one.indices, other.indices) and one.mmd2 == other.mmd2


def test_latents_are_read_in_pieces(rng):
    y, longest = clusters(rng, 600, (512,)), []

    def features(x):
        longest.append(len(x))
        return x

    compress(y, torch.ones(600), 20, KernelConfig(), features=features, memory=2**22)
    assert max(longest) * 512 * 4 < 2**22 / 16


@pytest.mark.parametrize("memory", [2**31, 2**20])
def test_progress_grows_to_1_and_may_stop_the_work(memory, rng):
    y, told = clusters(rng, 900), []
    compress(y, torch.ones(900), 150, KernelConfig(), memory=memory, progress=told.append)
    assert told == sorted(told) and told[-1] == pytest.approx(1) and len(told) > 20

    def stop(share):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compress(y, torch.ones(900), 150, KernelConfig(), memory=memory, progress=stop)


@pytest.mark.parametrize("count, memory, trouble", [
    (0, 2**31, "count must be at least 1"), (300, 2**20, "raise memory or lower count"),
])  # fmt: skip
def test_counts_that_cannot_be(count, memory, trouble, rng):
    with pytest.raises(ValueError, match=trouble):
        compress(clusters(rng, 400), torch.ones(400), count, KernelConfig(), memory=memory)
