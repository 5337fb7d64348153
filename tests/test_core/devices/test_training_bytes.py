"""Adapters in training: what lies on the device, and what waits in main memory."""

from types import SimpleNamespace

import pytest
import torch
from mmd_pack.mmd_core.ddm import DDMConfig, LoRA, Training, adapter_numbers, layers
from mmd_tests.support.pretended_device import PretendedDevice, on_device
from mmd_tests.support.small_networks import Transformer

COPIES = 4  # that the estimate of nodes/ddm/training/training_report.py counts


@pytest.fixture
def device():
    with torch.no_grad(), PretendedDevice() as entered:
        yield entered


def test_average_and_best_adapters_take_no_memory_of_the_device(device):
    network = Transformer()
    names = layers(network, "all")
    lora = LoRA(network, names, 8, 8.0).to(torch.device("cuda"))
    numbers = adapter_numbers(network, names, 8)
    assert numbers == sum(parameter.numel() for parameter in lora.parameters)
    assert device.bytes == 4 * numbers
    optimizer = torch.optim.Adam(lora.parameters, foreach=False)
    training = Training(DDMConfig(), SimpleNamespace(held_out=None), lora)
    for i in range(2):
        for parameter in lora.parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        training._update_average(i)
        training._validate(i, 0.0)
        optimizer.zero_grad()
    assert device.peak == pytest.approx(COPIES * 4 * numbers, rel=0.2)
    kept = [*training.values, *training._average, *lora.values()]
    assert {value.device.type for value in kept} == {"cpu"}
    before = lora.parameters[1].cpu()
    lora.put([value + 1 for value in lora.values()])
    assert torch.equal(lora.parameters[1].cpu(), before + 1)
    assert on_device(before).device == lora.parameters[1].device
