"""Ranks: the processes that share a training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Ranks:
    """Which of the processes this is; alone by default, where nothing is sent.

    Args:
        rank: Number of this process.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors in place by their sums over all processes."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors in place by their means over all processes."""
        self.add_up(tensors)
        for tensor in tensors if self.count > 1 else ():
            tensor /= self.count

    def gathered(self, arrays: Sequence[NumPyArray]) -> list[NumPyArray]:
        """Return arrays with those of all processes one after the other along the first axis."""
        if self.count == 1:
            return list(arrays)
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, list(arrays))
        return [np.concatenate(same) for same in zip(*parts, strict=True)]

    def share(self, count: int) -> slice:
        """Return which of `count` items, one after the other, are this process's."""
        return slice(count * self.rank // self.count, count * (self.rank + 1) // self.count)


def join(device: torch.device) -> Ranks:
    """Join the processes that torchrun has started; alone where it has not."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), count)


def leave(ranks: Ranks) -> None:
    """Leave the processes that were joined."""
    if ranks.count > 1:
        dist.destroy_process_group()
