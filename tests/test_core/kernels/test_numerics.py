"""How exact guidance is in float32, in half precision and with TF32: some cells of benchmarks/numerics.py."""

import random
import threading
import time

import pytest
import torch
from mmd_pack.mmd_core import (
    Execution,
    Guidance,
    GuidanceConfig,
    Latents,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.kernels.precision import full_precision
from mmd_tests.studies.benchmarks.numerics import Tf32, errors, rounded

RADIAL = ["rbf", "imq", "laplacian", "energy"]
DIMS = [64, 16_384]
SIGMAS, EVERYWHERE = [5.0, 1.0, 0.0], Window(1e9, 0)


def test_tf32_keeps_ten_bits_of_factors_and_nothing_of_sums():
    assert rounded(torch.tensor([1 + 2**-10, 1 + 2**-12, -3.0])).tolist() == [1 + 2**-10, 1, -3]
    a, b = torch.full((1, 4), 1 + 2.0**-12), torch.full((4, 1), 4096.0)
    with Tf32():
        assert (a @ b).item() == 4 * 4096
        assert (a * 4096).sum().item() == 4 * 4097
        assert torch.addmm(torch.tensor([[2.0**-12]]), a, b * 0).item() == 2.0**-12
    assert (a @ b).item() == 4 * 4097


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kernel", RADIAL)
def test_kernels_of_distances_do_not_depend_on_the_origin(kernel, dim, offset):
    """Measured: 1e-6."""
    assert errors(kernel, "held", dim, offset)[0] < 5e-6


@pytest.mark.long
def test_so_it_is_for_large_latents():
    """Measured: 8e-6, of sums of so many products."""
    assert errors("rbf", "held", 262_144, 1000.0, n=20)[0] < 3e-5


@pytest.mark.parametrize("kernel", [*RADIAL, "polynomial", "linear"])
@pytest.mark.parametrize("dim", DIMS)
def test_streamed_as_held_and_half_precision_to_three_digits(dim, kernel):
    """Measured: the same as if held; up to 2e-4 in half precision."""
    assert errors(kernel, "streamed", dim, 0.0)[0] < 5e-6
    assert errors(kernel, "fp16", dim, 0.0)[0] < 4e-4


@pytest.mark.parametrize("kernel", ["polynomial", "linear"])
@pytest.mark.parametrize("offset, most", [(0.0, 2e-6), (1.0, 2e-5), (10.0, 2e-4)])
def test_kernels_of_products_lose_digits_with_the_origin(offset, most, kernel):
    """They see the origin: at 10 deviations from it, which no latents are, measured 6e-5."""
    for dim in DIMS:
        assert errors(kernel, "held", dim, offset)[0] < most


@pytest.fixture(params=["highest", "high"])
def chosen(request):
    """How exact matrix products are for all others: with TF32 or without."""
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision("highest")


def precision():
    matmul = torch.backends.cuda.matmul
    return getattr(matmul, "fp32_precision", None) or matmul.allow_tf32


def test_tf32_is_off_within_guidance_and_as_chosen_afterwards(chosen):
    """With it kernels of distances would be 1e-3 off, kernels of products much more (benchmarks/numerics.py)."""
    seen, x = [], torch.randn(8, 4, 4, 4)

    def noting(latents):
        seen.append(precision())
        return latents

    y = Latents(torch.randn(9, 4, 4, 4), torch.full((9,), 1 / 9), noting)
    run = Guidance(GuidanceConfig(), y, Schedule(SIGMAS, EVERYWHERE), execution=Execution(budget=0))
    run(x, x + 1, 5.0)
    run.finished(x)
    with pytest.raises(RuntimeError):
        run(x[:, :2], x, 5.0)
    assert len(seen) > 5 and set(seen[1:]) <= {"ieee", False}  # the first: its shape is asked
    assert torch.get_float32_matmul_precision() == chosen


MATMUL = torch.backends.cuda.matmul
WAYS = {
    "none": lambda: None,
    "allow_tf32": lambda: setattr(MATMUL, "allow_tf32", True),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "fp32_precision": lambda: setattr(MATMUL, "fp32_precision", "tf32"),
}


def settings():
    """All that can be read of the setting; None where torch refuses, as its own products would."""
    found = [precision()]
    for ask in (lambda: MATMUL.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(ask())
        except RuntimeError:
            found.append(None)
    return found


@pytest.fixture(params=WAYS)
def way(request):
    if request.param == "fp32_precision" and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has one setting")
    WAYS[request.param]()
    yield request.param
    torch.set_float32_matmul_precision("highest")


def test_every_way_to_allow_tf32_is_restored(way):
    before = settings()
    with full_precision():
        # torch's products on AMD read this setting, and fail where its two settings differ.
        assert MATMUL.allow_tf32 is False and precision() in ("ieee", "none", False)
    assert settings() == before


def test_parts_that_overlap_share_the_setting(way):
    """As two threads do: the one that began first ends first."""
    before, one, other = settings(), full_precision(), full_precision()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert MATMUL.allow_tf32 is False
    other.__exit__(None, None, None)
    assert settings() == before


@pytest.mark.parametrize("chosen", ["high", "medium"])
def test_what_another_thread_sets_meanwhile_stays(way, chosen):
    with full_precision():
        torch.set_float32_matmul_precision(chosen)
        after = settings()
    assert settings() == after


def test_threads_that_enter_and_leave_at_random_restore_the_setting(way):
    before, wrong = settings(), []

    def compare(seed):
        rng = random.Random(seed)
        for _ in range(200):
            with full_precision():
                time.sleep(rng.random() * 1e-4)
                wrong.extend([1] * MATMUL.allow_tf32)

    threads = [threading.Thread(target=compare, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong and settings() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 is a GPU's")
def test_tf32_makes_no_difference_on_a_gpu():
    y, x = torch.randn(40, 4, 32, 32), torch.randn(8, 4, 32, 32, device="cuda")
    moved = []
    for each in ("high", "highest"):
        torch.set_float32_matmul_precision(each)
        latents = Latents(y, torch.full((40,), 1 / 40, device="cuda"))
        run = Guidance(GuidanceConfig(), latents, Schedule(SIGMAS, EVERYWHERE))
        moved.append(run(x, x + 1, 5.0) - x)
    assert (moved[0] - moved[1]).norm() < 1e-3 * moved[0].norm()
