"""TEAM: the processes that torchrun starts for one training. Each takes its part of every batch; gradients are averaged.

Without torchrun a team is this process alone. Noise and batches depend on the seed and the step, so that a team of any size
computes the same gradients up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Team:
    """A process's place in a team; the first, of rank 0, writes what is kept."""

    rank: int = 0
    size: int = 1

    @property
    def own(self) -> slice:
        """Return which items of a batch are this process's: all of them in a team of one."""
        return slice(self.rank, None, self.size)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their means over the team."""
        if self.size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)
                tensor /= self.size

    def wait(self) -> None:
        """Wait until every process of the team is here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Team()


def follows() -> bool:
    """Say whether torchrun started this process as one that the first of a team reports for."""
    return os.environ.get("RANK", "0") != "0"


@contextmanager
def join(device: torch.device) -> Iterator[tuple[Team, torch.device]]:
    """Join the team that torchrun started, if it did; yield it with this process's device: a GPU each, where they are GPUs."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), size), device
    finally:
        distributed.destroy_process_group()
