"""The device that is not there refuses what a real one refuses, and counts what it waits for."""

import copy

import pytest
import torch
from mmd_tests.support.pretended_device import (
    Inexact,
    Missing,
    MixedDevices,
    NotReproducible,
    OnDevice,
    PretendedDevice,
    on_device,
)
from mmd_tests.support.pretended_streams import Race


@pytest.fixture
def device():
    with PretendedDevice(tf32=False) as entered:
        yield entered


def test_tensors_say_where_they_are_and_compute(device):
    a = torch.arange(6.0).view(2, 3)
    b = a.to("cuda")
    assert b.device == torch.device("cuda:0") and isinstance(b, OnDevice)
    made = torch.zeros(4, device=b.device), torch.tensor([1, 2], device="cuda"), b.new_ones(2)
    assert all(isinstance(t, OnDevice) for t in made)
    assert torch.equal((b @ b.T).cpu(), a @ a.T)
    assert torch.equal(b[torch.tensor([1])].cpu(), a[1:])  # as on CUDA, an index may be on the CPU
    assert torch.equal((b * torch.tensor(2.0)).cpu(), 2 * a)  # and a number, too
    changed = b.clone()
    changed[1:].mul_(2)
    changed.diagonal().zero_()
    assert changed.cpu().tolist() == [[0, 1, 2], [6, 0, 10]]
    with torch.inference_mode():
        assert torch.equal(torch.tensordot(b, b.T, 1).cpu(), a @ a.T)
        assert torch.zeros(3, device="cuda").squeeze_().add_(1).device == b.device


def test_models_move(device):
    layer = torch.nn.Linear(3, 2)
    expected = layer(torch.ones(1, 3))
    moved = copy.deepcopy(layer.to("cuda"))
    assert isinstance(moved.weight, torch.nn.Parameter) and moved.weight.device.type == "cuda"
    assert torch.equal(moved(torch.ones(1, 3, device="cuda")).cpu(), expected)
    assert layer.cpu().weight.device.type == "cpu"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda a, b: a + b,
        lambda a, b: a @ b,
        lambda a, b: torch.cat([a, b]),
        lambda a, b: a[torch.zeros(1, dtype=torch.long, device="cuda")],
        lambda a, b: b.where(a > 0, 0),
        lambda a, b: b.addmm_(a, b),
        lambda a, b: torch.randn(3, device="cuda", generator=torch.Generator()),
        lambda a, b: torch.randn(3, generator=torch.Generator("cuda")),
        lambda a, b: b.normal_(generator=torch.Generator()),
    ],
)
def test_devices_do_not_mix(mistake, device):
    a = torch.ones(2, 2)
    with pytest.raises(MixedDevices, match="test_pretended_device.py"):
        mistake(a, on_device(a))


def test_generators_of_the_device_draw_there(device):
    one, other = (torch.Generator("cuda").manual_seed(3) for _ in range(2))
    assert isinstance(one, torch.Generator) and one.device.type == "cuda"
    drawn = torch.randn(4, device="cuda", generator=one)
    assert torch.equal(drawn.cpu(), torch.empty(4, device="cuda").normal_(generator=other).cpu())


def test_dtypes_and_operators_that_a_device_lacks():
    with PretendedDevice(forbidden={torch.float64}, missing={"_linalg_eigh"}):
        one = torch.eye(2, device="cuda")
        torch.linalg.eigh(torch.eye(2, dtype=torch.float64))  # the CPU has both
        for asks in (lambda: one.double(), lambda: torch.zeros(1, dtype=torch.float64).cuda()):
            with pytest.raises(Missing, match="float64"):
                asks()
        with pytest.raises(Missing, match="eigh"):
            torch.linalg.eigh(one)


@pytest.mark.parametrize("ask", [torch.mm, torch.matmul, torch.cdist, lambda a, b: a @ b[None]])
def test_products_that_keep_three_digits(ask):
    with PretendedDevice():
        one = torch.randn(40, 40, device="cuda")
        with pytest.raises(Inexact):
            ask(one, one)
        torch.backends.cuda.matmul.allow_tf32 = False
        ask(one, one)


@pytest.mark.parametrize(
    "add",
    [
        lambda x, i: x.index_add_(0, i, torch.ones_like(x)),
        lambda x, i: x.scatter_add_(0, i, torch.ones_like(x)),
        lambda x, i: x.index_put_((i,), torch.ones_like(x), accumulate=True),
        lambda x, i: torch.bincount(i, weights=x),
        lambda x, i: x.cumsum(0),
    ],
)
def test_sums_of_floats_in_the_order_of_threads(add, device):
    x, i = torch.zeros(4, device="cuda"), torch.zeros(4, dtype=torch.long, device="cuda")
    with pytest.raises(NotReproducible):
        add(x, i)
    i.clone().index_add_(0, i, torch.ones_like(i))  # whole numbers add up in any order


@pytest.mark.parametrize(
    "ask, waits",
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: float(x[0, 0]), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: torch.ones(3).to(x), 1),
        (lambda x: torch.ones(3).to(x.device, non_blocking=True), 1),  # its memory is not pinned
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: torch.linalg.eigvalsh(x), 1),
        (lambda x: x[torch.tensor([0])], 1),
        (lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True), 0),
        (lambda x: (x @ x.T + torch.eye(3, device=x.device)).norm(), 0),
        (lambda x: x.new_full((3,), 2.0) + torch.arange(3, device=x.device), 0),
        (lambda x: x.where(x > 0, 1), 0),
    ],
)
def test_waits_are_counted(ask, waits, device):
    x = on_device(torch.eye(3))
    device.forget()
    ask(x)
    assert len(device.waits) == waits, device.waits
    assert all("test_pretended_device.py" in wait.line for wait in device.waits)


def test_operators_and_bytes_are_counted(device):
    x = torch.zeros(256, 4, device="cuda")
    before = device.bytes
    device.forget()
    y = (x.T[1:] * 2).unsqueeze(0)  # views are none
    assert [operator.name for operator in device.operators] == ["mul"]
    assert device.bytes == before + 3 * 256 * 4
    z = y @ x
    assert device.operators[-1].products == 3 * 256 * 4
    del y, z
    assert device.bytes == before and device.peak == before + 3 * 256 * 4 + 3 * 4 * 4


def test_streams_that_do_not_wait(device):
    stream, buffer = torch.cuda.Stream(), torch.ones(4).pin_memory()
    with torch.cuda.stream(stream):
        arriving = buffer.to("cuda", non_blocking=True)
        done = stream.record_event()
    with pytest.raises(Race, match="still reads"):
        buffer.fill_(2)
    with pytest.raises(Race, match="did not wait"):
        arriving + 1
    torch.cuda.current_stream().wait_event(done)
    arriving.record_stream(torch.cuda.current_stream())
    done.synchronize()
    buffer.fill_(2)
    assert (arriving + 1).cpu().tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("recorded", [False, True])
def test_memory_that_another_stream_still_uses(recorded):
    device = PretendedDevice()
    with device:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            made = torch.ones(4, device="cuda")
        torch.cuda.current_stream().wait_stream(stream)
        made.mul(2)
        if recorded:
            made.record_stream(torch.cuda.current_stream())
        del made
        found, device.streams.found = device.streams.found, []
    assert bool(found) is not recorded
