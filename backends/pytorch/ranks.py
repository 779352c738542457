"""Ranks: the processes that share a training."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mopruning.errors import MopruningError, RecipeError

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
        parts = self.everyone(list(arrays))
        return [np.concatenate(same) for same in zip(*parts, strict=True)]

    def everyone(self, one: Any) -> list[Any]:
        """Return what every process passes, in the order of the processes: any object that can be pickled."""
        if self.count == 1:
            return [one]
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, one)
        return parts

    def share(self, count: int) -> slice:
        """Return which of `count` items, one after the other, are this process's."""
        return slice(count * self.rank // self.count, count * (self.rank + 1) // self.count)


def averaged(net: nn.Module, device: torch.device, *, sync_buffers: bool = True) -> nn.Module:
    """Return a network that all processes begin with alike, and whose gradients are averaged over them.

    Args:
        net: The network; its parameters and buffers become those of the first process, in place.
        device: Where is trained.
        sync_buffers: Whether buffers become those of the first process before every forward pass as well.
    """
    devices = [device] if device.type == "cuda" else None
    if sync_buffers:
        return DistributedDataParallel(net, devices)
    # torch 2.13 warns of the older name, which also leaves buffers as they are in the beginning
    known = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {"forward_sync_buffers" if known else "broadcast_buffers": False}
    return DistributedDataParallel(net, devices, **options)


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


def chosen_device(name: str) -> torch.device:
    """Return the device that a process trains on; of several GPUs, each process that torchrun started has one.

    Args:
        name: "cpu", "cuda", or "auto" for a GPU where there is one for each process of this machine.

    Raises:
        RecipeError: If there is no such device.
    """
    present, number = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name == "cpu" or (name == "auto" and not present):
        return torch.device("cpu")
    if present < wanted:
        raise RecipeError(f"--device {name}: {wanted} processes need a GPU each, this machine has {present}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


@contextmanager
def together(device: str) -> Iterator[tuple[torch.device, Ranks]]:
    """Join the processes that share a training, and end this one with one line where an error is one of the user's.

    Args:
        device: See `chosen_device`.

    Yields:
        The device, and which of the processes this is.
    """
    program, ranks = Path(sys.argv[0]).name, Ranks()
    try:
        chosen = chosen_device(device)
        ranks = join(chosen)
        yield chosen, ranks
    except (MopruningError, OSError, ImportError) as error:
        sys.exit(f"{program}: {error}")
    except RuntimeError as error:
        # what gloo says of a process that is gone, in torch 2.13; NCCL says DistBackendError, one of the DistErrors
        gone = isinstance(error, dist.DistError) or "closed by peer" in str(error) or "reset by peer" in str(error)
        if ranks.count == 1 or not gone:
            raise
        said = str(error).partition("\n")[0]
        sys.exit(f"{program}: rank {ranks.rank}: another process is gone ({said}); start all again with --resume")
    leave(ranks)
