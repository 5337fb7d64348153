"""Makes a process one of the workers, as `launch.py` or torchrun started it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as distributed
from mmd_pack.mmd_core.comparison.workers import DistributedWorkers
from torch import Tensor

PATIENCE = timedelta(minutes=30)  # of a worker for the others


class CountedWorkers(DistributedWorkers):
    """Workers that count what they receive.

    Attributes:
        received: Bytes, of its own rows too.
    """

    received = 0

    def gather(self, own: Tensor) -> Tensor:
        every = super().gather(own)
        self.received += every.numel() * every.element_size()
        return every


@contextmanager
def joined() -> Iterator[tuple[CountedWorkers, torch.device]]:
    """The workers, and this one's device: NCCL where each has a GPU, else gloo on the CPU."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local, beside = (int(os.environ.get(f"LOCAL_{k}", n)) for k, n in (("RANK", rank), ("WORLD_SIZE", size)))  # fmt: skip
    device = torch.device("cpu")
    if torch.cuda.device_count() >= beside:
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "gloo" if device.type == "cpu" else "nccl",
        init_method=os.environ.get("MMD_MEETING", "env://"),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    try:
        yield CountedWorkers(), device
    finally:
        distributed.destroy_process_group()
