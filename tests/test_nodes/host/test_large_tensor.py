"""Tensors that are too large for the memory, and their statistics."""

import errno
import os

import folder_paths
import pytest
import torch
from mmd_pack.nodes.host import large_tensor

pytestmark = pytest.mark.comfy


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Everything beyond 1000 bytes is large."""
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(large_tensor, "IN_MEMORY", 1000)
    return large_tensor


@pytest.fixture
def mapped(monkeypatch):
    """The status of each file that is mapped."""
    files, from_file = [], torch.from_file

    def noted(path, **options):
        files.append(os.stat(path))
        return from_file(path, **options)

    monkeypatch.setattr(torch, "from_file", noted)
    return files


def test_a_small_tensor_is_in_memory(module, mapped):
    tensor = module.allocate((10, 5, 5))
    assert tensor.shape == (10, 5, 5) and tensor.dtype == torch.float32
    assert mapped == []


def test_a_large_one_lies_in_a_file_that_goes_with_it(module, mapped, tmp_path):
    tensor = module.allocate((11, 5, 5))
    assert tensor.shape == (11, 5, 5) and tensor.dtype == torch.float32
    assert [file.st_size for file in mapped] == [4 * 275]
    assert mapped[0].st_dev == (tmp_path / "temp").stat().st_dev
    content = torch.randn(11, 5, 5)
    for j, row in enumerate(content):
        tensor[j : j + 1] = row
    assert torch.equal(tensor, content)
    assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == 4 * 275


@pytest.mark.skipif("os.name != 'posix'", reason="Windows keeps mapped files until ComfyUI starts")
def test_the_file_is_gone_from_its_folder_at_once(module, tmp_path):
    tensor = module.allocate((1000, 10))
    tensor.fill_(3.0)
    assert list((tmp_path / "temp").iterdir()) == []
    assert tensor.sum() == 30_000


def test_without_room_for_the_file_it_is_in_memory(module, monkeypatch, tmp_path, caplog):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_reserve", full)
    tensor = module.allocate((1000, 10))
    assert tensor.shape == (1000, 10) and "No space left" in caplog.text
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.parametrize("nameless", [True, False])
def test_a_file_with_a_name_serves_where_the_system_needs_one(
    module, monkeypatch, mapped, tmp_path, nameless
):
    """As on Windows, where the paths of open files do not exist."""
    exists = os.path.exists
    monkeypatch.setattr(
        os.path, "exists", lambda path: exists(path) and (nameless or "/dev/fd" not in str(path))
    )
    tensor = module.allocate((11, 5, 5)).fill_(2.0)
    assert tensor.sum() == 550
    assert [file.st_size for file in mapped] == [4 * 275]
    if os.name == "posix":
        assert mapped[0].st_nlink == (0 if nameless else 1)
        assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.parametrize("has_fallocate", [True, False])
def test_a_disk_that_is_too_small_is_noticed_before_it_is_full(
    module, monkeypatch, tmp_path, has_fallocate
):
    """Writing beyond it through the map would kill the process."""
    if not has_fallocate:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError):
        module._reserve(file, str(tmp_path), 2**60)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3), (50, 4, 3, 3), (7, 2, 1, 2, 2)])
def test_the_spread_is_that_of_all_numbers_and_between_latents(module, monkeypatch, shape):
    monkeypatch.setattr(module, "PIECE", 40)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 100
    exact = latents.double()
    overall, between = module.spread(latents)
    if latents.numel() > 1:
        assert abs(overall - exact.std()) < 1e-6
    assert abs(between - exact.std(0, correction=0).mean()) < 1e-6


def test_equal_latents_have_no_spread_between_them(module):
    latents = torch.randn(1, 4, 3, 3).expand(9, -1, -1, -1)
    assert module.spread(latents)[1] < 1e-6
