"""References piece by piece: held, held in half precision, or streamed, guidance computes the same."""

import math
from functools import partial

import pytest
import torch
from mmd_pack.mmd_core import (
    Execution,
    Guidance,
    GuidanceConfig,
    KernelConfig,
    Latents,
    Memory,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.comparison import by_features as comparison
from mmd_pack.mmd_core.comparison import latents, rows
from mmd_pack.mmd_core.comparison.nearest import spacing, spacing_in
from mmd_pack.mmd_core.comparison.rows import Rows
from mmd_pack.mmd_core.kernels.config import FEATURE_SPACES
from mmd_tests.studies.benchmarks.peak_memory import tensors_made

F64 = torch.float64
SHAPE = 3, 4, 6
DIM = math.prod(SHAPE)
SIGMAS = [14.0, 6.0, 2.5, 1.0, 0.4, 0.0]


def draw(rng, n, shape=SHAPE, dtype=torch.float32):
    """Latents that are not centred."""
    return (torch.randn(n, *shape, generator=rng, dtype=F64) + 0.7).to(dtype)


def weights(rng, n, dtype=torch.float32):
    """Different ones, of which some are 0."""
    w = torch.rand(n, generator=rng, dtype=F64)
    w[1::4] = 0
    return (w / w.sum()).to(dtype)


def stream_by(monkeypatch, numbers):
    """Streamed pieces and blocks have about so many numbers, whatever the set has."""
    for name, value in {"STREAMED": numbers, "HIGH": numbers, "PART": 1, "HIGH_PART": 1}.items():
        monkeypatch.setattr(rows, name, value)


@pytest.fixture(params=[1, 2 * DIM, 3 * DIM + 5, 10**9])
def pieces_of(request, monkeypatch):
    """How many numbers are handed out together: one latent, two, three, all."""
    monkeypatch.setattr(latents, "PIECE", request.param)
    stream_by(monkeypatch, request.param)
    return request.param


# ---- latents


@pytest.mark.parametrize("first", [0, 1, 6])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("compute", [torch.float32, F64])
def test_pieces_are_all_latents_once(pieces_of, compute, stored, first, rng):
    y = draw(rng, 7, dtype=stored)
    kept, some = y.clone(), Latents(y, weights(rng, 7, compute))
    found, at = [], first
    for which, piece in some.pieces(pieces_of, first):
        step = min(7, max(1, pieces_of // DIM))
        assert which.start == at and len(piece) == which.stop - at == min(step, 7 - at)
        assert piece.dtype == compute
        found.append(piece)
        at = which.stop
    assert at == 7 and torch.equal(torch.cat(found), y[first:].to(compute))
    assert torch.equal(y, kept)


@pytest.mark.parametrize("compute", [torch.float32, F64])
def test_mean_and_spread_are_the_weighted_ones(compute, rng, monkeypatch):
    y, w = draw(rng, 9), weights(rng, 9, compute)
    exact, q = y.double(), w.double()
    mean = (q.view(-1, 1, 1, 1) * exact).sum(0)
    spread = (q * (exact - mean).flatten(1).square().sum(1)).sum().sqrt().item()
    for numbers in (1, 2 * DIM, 10**9):
        monkeypatch.setattr(latents.Latents.pieces, "__defaults__", (numbers, 0, None))
        some = Latents(y, w)
        torch.testing.assert_close(some.mean.double(), mean, rtol=1e-6, atol=1e-6)
        assert some.spread.item() == pytest.approx(spread, rel=1e-6)
    assert Latents(torch.ones(2, *SHAPE), torch.full((2,), 0.5)).spread == 1  # nothing to divide by


def test_what_is_prepared_comes_in_the_space_of_the_samples(pieces_of, rng):
    """As models of video want it: scaled, shifted, and with an axis for frames."""
    y, seen = draw(rng, 7, dtype=torch.float16), []

    def prepare(stored):
        seen.append(stored.dtype)
        return (stored.unsqueeze(2) - 0.1) * 0.5

    some = Latents(y, weights(rng, 7, F64), prepare)
    expected = (y.double().unsqueeze(2) - 0.1) * 0.5
    assert some.shape == (3, 1, 4, 6) and len(some) == 7
    assert torch.equal(torch.cat([piece for _, piece in some.pieces(pieces_of)]), expected)
    assert torch.equal(some.of([5, 2, 2]), expected[[5, 2, 2]])
    assert torch.equal(some.of(torch.tensor([3])), expected[[3]])
    assert set(seen) == {F64}
    rows_ = Rows(some, budget=0)
    torch.testing.assert_close(rows_.of([4]) + rows_.centre, expected[[4]].flatten(1))


def test_a_mapped_file_is_read_and_not_written(tmp_path, rng):
    """A copy-on-write map would grow with what is written into it; here nothing is."""
    y, w = draw(rng, 12), weights(rng, 12)
    path = tmp_path / "latents"
    path.write_bytes(y.numpy().tobytes())
    mapped = torch.from_file(str(path), shared=True, size=y.numel()).view(y.shape)
    for budget in (math.inf, 12 * DIM * 2, 0):
        found, expected = (Rows(Latents(t, w), budget=budget) for t in (mapped, y))
        x = draw(rng, 2).flatten(1)
        assert torch.equal(found.dots(x), expected.dots(x))
        assert torch.equal(found.mix(x[:, :12]), expected.mix(x[:, :12]))
    assert path.read_bytes() == y.numpy().tobytes()


# ---- rows


def budgets(n, dtype=torch.float32, dim=DIM):
    """By how the rows are then kept."""
    whole = n * dim * dtype.itemsize
    half = n * dim * 2
    return {"held": whole, "half": half, "streamed": half - 1}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("compute", [torch.float32, F64])
@pytest.mark.parametrize("how", ["held", "half", "streamed"])
def test_products_are_those_of_all_rows_at_once(how, compute, centred, pieces_of, rng):
    y, w = draw(rng, 11), weights(rng, 11, compute)
    kept = y.clone(), w.clone()
    some = Rows(Latents(y, w), centred, budgets(11, compute)[how])
    held = {"held": compute, "half": torch.float16, "streamed": None}[how]
    assert (some.held is None) == (held is None) and (held is None or some.held.dtype == held)
    exact = y.double().flatten(1)
    if centred:
        exact = exact - w.double() @ exact
        torch.testing.assert_close(some.centre.double(), w.double() @ y.double().flatten(1))
    else:
        assert not some.centre.any()
    # Each number of a row may be off by half a unit in its last place, of 11 bits in half precision.
    last = 2.0**-11 if how == "half" else 2 * torch.finfo(compute).eps
    x = torch.randn(4, DIM, generator=rng, dtype=F64)
    c = torch.randn(4, 11, generator=rng, dtype=F64)
    for found, expected, most in (
        (some.dots(x.to(compute)), x @ exact.T, x.abs() @ exact.abs().T),
        (some.mix(c.to(compute)), c @ exact, c.abs() @ exact.abs()),
        (some.gram(), exact @ exact.T, 2 * exact.abs() @ exact.abs().T),
    ):
        assert found.dtype == compute
        assert ((found - expected).abs() <= last * 1.1 * most + 1e-5 * last).all()
    torch.testing.assert_close(some.gram(), some.gram().T)
    assert torch.equal(y, kept[0]) and torch.equal(w, kept[1])


def test_half_precision_is_for_rows_and_not_for_sums(rng):
    """Sums of thousands of large products would overflow in it, and lose digits."""
    y = 100 * draw(rng, 5, (4096,))
    half = Rows(Latents(y, torch.full((5,), 0.2)), budget=budgets(5, dim=4096)["half"])
    exact = y.double() - y.double().mean(0)
    assert half.held.dtype == torch.float16 and half.gram().diagonal().min() > 65504
    error = (half.gram() - exact @ exact.T).abs().max() / exact.square().sum(1).max()
    assert error < 1e-4


def test_a_row_beyond_half_precision_is_streamed(rng):
    y = draw(rng, 6)
    y[4, 1, 2, 3] = 1e6
    some = Rows(Latents(y, torch.full((6,), 1 / 6)), budget=budgets(6)["half"])
    assert some.held is None
    exact = y.double().flatten(1) - y.double().flatten(1).mean(0)
    torch.testing.assert_close(some.gram().double(), exact @ exact.T, rtol=1e-5, atol=1.0)


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_where_memory_runs_out_while_rows_are_held_they_are_streamed(fails_at, rng, monkeypatch):
    """Others may take what was said to be free: the first row may not fit, or a later one."""
    monkeypatch.setattr(latents, "PIECE", DIM)
    y, w = draw(rng, 5), weights(rng, 5)
    plain, calls = Latents.pieces, []

    def pieces(self, numbers=DIM, first=0, stop=None):
        for i, part in enumerate(plain(self, numbers, first, stop)):
            if numbers == DIM and i == fails_at and len(calls) < 3:  # mean, fp32, fp16
                calls.append(i)
                if len(calls) > 1:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            yield part

    expected = Rows(Latents(y, w), budget=0)
    monkeypatch.setattr(Latents, "pieces", pieces)
    some = Rows(Latents(y, w))
    assert len(calls) == 3 and some.held is None
    torch.testing.assert_close(some.gram(), expected.gram())


# ---- guidance


def make(rng, batch=9, n=40, shape=SHAPE):
    y, x0 = draw(rng, n, shape), draw(rng, batch, shape) * 0.6
    return y, x0, x0 + torch.randn(x0.shape, generator=rng)


def ways(n, numbers, finished):
    """The budgets, and what is to be small, so that references are kept in each way; and the tolerance."""
    gram, others = 4 * (n + finished) ** 2, 4 * finished * numbers
    return {
        "half": (gram + n * numbers * 2 + others, None, 1e-3),
        "streamed": (gram + others, None, 1e-5),
        "compact": (0, 0, 1e-4),
        "compact, half": (n * numbers * 2 + others, 0, 1e-3),
    }


def small(monkeypatch, numbers, always):
    """Pieces of three latents, and inner products of references that find room or not."""
    stream_by(monkeypatch, 3 * numbers + 1)
    monkeypatch.setattr(comparison, "ALWAYS", 2**26 if always is None else always)


def run_of(config, y, budget, rng_seed=3, finished=0, prompts=False, **options):
    rng = torch.Generator().manual_seed(rng_seed)
    w = weights(rng, len(y)) if options.pop("weighted", True) else torch.full((len(y),), 1 / len(y))
    memory = None
    if finished:
        features = torch.rand(finished, 5, generator=rng) if prompts else None
        memory = Memory(draw(rng, finished, y.shape[1:]) - 0.5, features)
    return Guidance(
        config,
        Latents(y, w),
        Schedule(SIGMAS, Window(1e9, 0.0)),
        memory,
        torch.rand(len(y), 5, generator=rng) if prompts else None,
        Execution(record=True, budget=budget),
        **options,
    )


def drawn(run, x0, x, prompts=None):
    """What guidance does over a whole schedule: the displacements, and the trace."""
    moved = []
    for sigma in SIGMAS[:-1]:
        noisy = x0 + (x - x0) * sigma
        moved.append(run(x0, noisy, sigma, prompts) - x0)
    return torch.stack(moved), run.finished(x0 + moved[-2])


def assert_alike(found, expected, tolerance):
    (moved, trace), (all_moved, all_trace) = found, expected
    for a, b in zip(moved[:-1], all_moved[:-1], strict=True):
        assert b.norm() > 1e-3 and ((a - b).norm() / b.norm()).item() < tolerance
    for a, b in zip(trace.rows, all_trace.rows, strict=True):
        assert (a.sigma, a.substeps) == (b.sigma, b.substeps)
        for name in ("mmd2_before", "mmd2_after"):
            scale = all_trace.rows[0].mmd2_before
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=3 * tolerance * scale)
        for name in ("change", "relative", "nearest", "saturated"):
            a_, b_ = getattr(a, name), getattr(b, name)
            assert a_ == pytest.approx(b_, rel=3 * tolerance, abs=1e-6, nan_ok=True)
    assert trace.mmd2 == pytest.approx(
        all_trace.mmd2, abs=3 * tolerance * abs(all_trace.rows[0].mmd2_before)
    )
    assert trace.nearest == all_trace.nearest
    assert trace.distances == pytest.approx(all_trace.distances, rel=3 * tolerance)


WAYS = ["half", "streamed", "compact", "compact, half"]


def compare(how, config, monkeypatch, rng, numbers=DIM, **options):
    y, x0, x = make(rng)
    prompts = torch.rand(len(x0), 5, generator=rng) if options.get("prompts") else None
    small(monkeypatch, numbers, None)
    expected = drawn(run_of(config, y, math.inf, **options), x0, x, prompts)
    budget, always, tolerance = ways(len(y), numbers, options.get("finished", 0))[how]
    small(monkeypatch, numbers, always)
    run, kept = run_of(config, y, budget, **options), (y.clone(), x0.clone(), x.clone())
    space = run.comparison.space
    assert (space.gram is None) == how.startswith("compact")
    held = None if space.rows.held is None else space.rows.held.dtype
    assert held == (torch.float16 if how.endswith("half") else None)
    assert_alike(drawn(run, x0, x, prompts), expected, tolerance)
    assert all(map(torch.equal, (y, x0, x), kept))


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kernel", ["rbf", "energy", "polynomial"])
def test_a_run_is_the_same_however_references_are_kept(kernel, how, monkeypatch, rng):
    """The displacements at every noise level, the trace, the nearest references."""
    compare(how, GuidanceConfig(30.0, kernel=KernelConfig(kernel)), monkeypatch, rng)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "options",
    [
        {"finished": 12},
        {"finished": 12, "prompts": True},
        {"weighted": False},
    ],
    ids=["memory", "memory and prompts", "alike"],
)  # fmt: skip
def test_so_it_is_with_memory_and_prompts(options, how, monkeypatch, rng):
    kernel = KernelConfig(prompt_kernel="cosine" if options.get("prompts") else "none")
    compare(how, GuidanceConfig(30.0, kernel=kernel, preserve=0.8), monkeypatch, rng, **options)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "mode, strength", [("paper", 50.0), ("official", 0.05), ("official_l2norm", 0.05)]
)
def test_so_it_is_in_the_published_modes(mode, strength, how, monkeypatch, rng):
    config = GuidanceConfig(strength, mode=mode)
    compare(how, config, monkeypatch, rng, finished=5)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("companions", [True, False])
def test_so_it_is_for_companions_and_without_preserve(companions, how, monkeypatch, rng):
    compare(how, GuidanceConfig(20.0, preserve=0, companions=companions), monkeypatch, rng)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("space, numbers", [("low_pass", 3 * 2 * 3), ("channel_stats", 3 + 9)])
def test_so_it_is_in_feature_spaces(space, numbers, how, monkeypatch, rng):
    config = GuidanceConfig(20.0, kernel=KernelConfig(feature_space=space, pool=2))
    compare(how, config, monkeypatch, rng, numbers)


@pytest.mark.parametrize("space", FEATURE_SPACES)
def test_pieces_of_any_size_are_as_good_as_the_whole(space, monkeypatch, rng):
    y, x0, x = make(rng)
    config = GuidanceConfig(20.0, kernel=KernelConfig(feature_space=space, pool=2, patch_size=2))
    found = []
    for piece in (10**9, 1, 5 * DIM):
        monkeypatch.setattr(latents.Latents.pieces, "__defaults__", (piece, 0, None))
        stream_by(monkeypatch, piece)
        found.append(drawn(run_of(config, y, math.inf), x0, x))
    assert_alike(found[1], found[0], 1e-4)
    assert_alike(found[2], found[0], 1e-4)


def test_a_sample_of_references_stands_for_many(monkeypatch, rng):
    """Where not even their inner products find room: bandwidth, spacing and MMD² come from some of them."""
    from mmd_pack.mmd_core.comparison import gram_space

    y, x0, x = make(rng, n=400)
    whole = run_of(GuidanceConfig(30.0), y, math.inf, weighted=False)
    small(monkeypatch, DIM, 0)
    monkeypatch.setattr(gram_space, "MAX_SAMPLED_REFERENCES", 150)
    some = run_of(GuidanceConfig(30.0), y, 0, weighted=False)
    index, gram = some.comparison.space.sample
    assert len(index) == len(gram) == 134  # each third
    assert some.comparison.kernel.bandwidths == pytest.approx(
        whole.comparison.kernel.bandwidths, rel=0.02
    )
    assert some.comparison.spacing.item() == pytest.approx(
        whole.comparison.spacing.item(), rel=1e-4
    )
    (a, a_trace), (b, b_trace) = (drawn(run, x0, x) for run in (some, whole))
    assert ((a - b).norm() / b.norm()).item() < 0.02
    assert a_trace.nearest == b_trace.nearest
    scale = b_trace.rows[0].mmd2_before
    assert a_trace.rows[0].mmd2_before == pytest.approx(scale, rel=0.05)
    assert a_trace.mmd2 == pytest.approx(b_trace.mmd2, abs=0.05 * scale)


def test_the_spacing_of_rows_is_that_of_their_inner_products(pieces_of, rng):
    y = draw(rng, 30)
    some = Latents(y, torch.full((30,), 1 / 30))
    expected = spacing_in(Rows(some).gram()).item()
    for how, budget in budgets(30).items():
        assert spacing(Rows(some, budget=budget)).item() == pytest.approx(expected, rel=1e-3), how


# ---- memory


def test_streamed_references_are_never_together(monkeypatch, rng):
    """Set-up and a call hold a few pieces of them, whatever their number."""
    n, batch, shape = 400, 2, (4, 16, 16)
    numbers = math.prod(shape)
    piece = 4 * 8 * numbers  # bytes of eight latents
    y, x0, x = make(rng, batch, n, shape)
    stream_by(monkeypatch, 8 * numbers)
    monkeypatch.setattr(latents.Latents.pieces, "__defaults__", (8 * numbers, 0, None))
    config, gram = GuidanceConfig(10.0), 4 * n * n
    for budget, always, grams in ((gram, None, 12 * gram), (0, 0, 0)):
        monkeypatch.setattr(comparison, "ALWAYS", 2**26 if always is None else always)
        references = Latents(y, torch.full((n,), 1 / n))
        schedule, execution = Schedule(SIGMAS, Window(1e9, 0.0)), Execution(budget=budget)
        build = partial(Guidance, config, references, schedule, execution=execution)
        if grams:
            # The median over all pairs of references takes a dozen matrices of them.
            made = tensors_made(build, on_gpu=False)
            assert made.peak < 5 * piece + grams and made.kept < gram + piece
        else:
            name = "mmd_pack.mmd_core.comparison.gram_space.MAX_SAMPLED_REFERENCES"
            monkeypatch.setattr(name, 20)
            made = tensors_made(build, on_gpu=False)
            assert made.peak < 6 * piece < n * numbers
        call = tensors_made(lambda run=made.result: run(x0, x, 2.5), on_gpu=False)
        own = 4 * batch * numbers
        assert call.peak < 4 * piece + 6 * own + 40 * 4 * batch * (batch + n)
        assert call.peak < n * numbers  # a quarter of the references


@pytest.mark.parametrize("kernel", ["rbf", "energy", "polynomial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_call_takes_three_batches_beside_the_references(dtype, kernel, rng):
    n, batch, shape = 50, 8, (4, 64, 64)
    y, x0, x = make(rng, batch, n, shape)
    run = run_of(GuidanceConfig(30.0, kernel=KernelConfig(kernel)), y, math.inf)
    run.record = False
    x0, x = x0.to(dtype), x.to(dtype)
    run(x0, x, 2.5)
    made = tensors_made(lambda: run(x0, x, 2.5), on_gpu=False)
    own, matrices = 4 * batch * math.prod(shape), 30 * 4 * batch * (batch + n)
    copies = 0 if dtype == torch.float32 else 2 * own  # x̂0 and x in fp32
    assert made.peak <= 3 * own + matrices + copies


# ---- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_on_a_gpu_what_is_streamed_is_what_is_held(stored, rng, monkeypatch):
    """While pieces arrive, those before are worked on, on another stream: many times, of odd sizes."""
    n, shape = 203, (4, 64, 64)
    numbers = math.prod(shape)
    y, x = draw(rng, n, shape, stored), draw(rng, 6, shape).flatten(1).cuda()
    w = weights(rng, n).cuda()
    held = Rows(Latents(y, w), budget=math.inf)
    c = torch.randn(6, n, generator=rng).cuda()
    expected = held.dots(x), held.mix(c), held.gram()
    for step in (1, 7, 64, 500):
        stream_by(monkeypatch, step * numbers)
        streamed = Rows(Latents(y, w), budget=0)
        assert streamed.held is None
        for _ in range(5):
            for found, right in zip(
                (streamed.dots(x), streamed.mix(c), streamed.gram()), expected, strict=True
            ):
                torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4 * right.abs().max())
        for which, piece in Latents(y, w).pieces(step * numbers):
            torch.cuda._sleep(1_000_000)  # the consumer falls behind
            assert torch.equal(piece.cpu(), y[which].float())
        few = Latents(y, w).pieces(step * numbers)
        next(few)
        few.close()  # while a piece is on its way
