"""Parameters that ranks share out between them (`DTensor`, as `fully_shard` makes them), as the core sees them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mopruning.errors import RecipeError
from mopruning.layouts import Layout
from mopruning.sharding import Sharded
from mopruning.shards import Shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from mopruning.backends.pytorch.weights import Weights

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def is_distributed(tensor: object) -> bool:
    """Tell whether a tensor is a `DTensor`; whoever made one has imported their module, which takes its time."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return what lies here of a tensor, sharing its memory: all of it, unless it is a `DTensor`."""
    here: Tensor = tensor.to_local() if is_distributed(tensor) else tensor  # type: ignore[attr-defined]
    return here


def place_of(weights: Weights) -> Sharded | None:
    """Return where parameters lie, None where all lie whole in this process."""
    for parameter in weights.parameters.values():
        if shared := _shared_dimensions(parameter):
            mesh: DeviceMesh = parameter.device_mesh  # type: ignore[attr-defined]
            return Sharded(Shards(weights, mesh, shared[0]), TorchExchange(mesh, shared[0]))
    return None


class Shards(Mapping[str, Shard]):
    """How parameters are shared out, by name, as they are when looked up; those that lie whole are not there.

    Args:
        weights: The parameters.
        mesh: The devices that they are shared out between.
        dimension: The dimension of the mesh along which they are.

    Raises:
        RecipeError: When a parameter is looked up that is shared out in a way that is not supported, or between other
            ranks.
    """

    def __init__(self, weights: Weights, mesh: DeviceMesh, dimension: int) -> None:
        self._weights, self._between = weights, _ranks(mesh, dimension)

    def __getitem__(self, name: str) -> Shard:
        parameter: Any = self._weights.parameters[name]
        shard = _shard(name, parameter, self._weights.layout(name))
        if shard is None:
            raise KeyError(name)
        ranks = _ranks(parameter.device_mesh, _shared_dimensions(parameter)[0])
        if ranks != self._between:
            raise RecipeError(
                f"{name} is shared out between ranks {ranks}, other parameters between {self._between}; prune them by "
                "optimizers of their own"
            )
        return shard

    def __iter__(self) -> Iterator[str]:
        return (name for name, tensor in self._weights.parameters.items() if _shared_dimensions(tensor))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class TorchExchange:
    """What ranks tell each other, through a process group.

    Args:
        mesh: The devices that parameters are shared out between.
        dimension: The dimension of the mesh along which they are.
    """

    def __init__(self, mesh: DeviceMesh, dimension: int) -> None:
        self._mesh, self._dimension = mesh, dimension
        self.rank = mesh.get_local_rank(dimension)
        self.size = mesh.size(dimension)

    def add(self, values: NumPyArray) -> NumPyArray:
        """Return the sum over all ranks of arrays of one shape."""
        return self._reduced(values, torch.distributed.ReduceOp.SUM)

    def largest(self, values: NumPyArray) -> NumPyArray:
        """Return the largest of all ranks' arrays of one shape, elementwise."""
        return self._reduced(values, torch.distributed.ReduceOp.MAX)

    def gather(self, values: NumPyArray) -> NumPyArray:
        """Return all ranks' arrays of one shape along a new first axis."""
        mine = self._sent(values)
        theirs = [torch.empty_like(mine) for _ in range(self.size)]
        torch.distributed.all_gather(theirs, mine, group=self._mesh.get_group(self._dimension))
        return torch.stack(theirs).cpu().numpy()

    def _reduced(self, values: NumPyArray, operation: Any) -> NumPyArray:
        sent = self._sent(values)
        torch.distributed.all_reduce(sent, op=operation, group=self._mesh.get_group(self._dimension))
        return sent.cpu().numpy()

    def _sent(self, values: NumPyArray) -> Tensor:
        """Return a copy where the group can send it from: NCCL takes no memory of the host."""
        return torch.tensor(values, device=self._mesh.device_type)


def spread_out(weights: Weights, name: str, score: Tensor) -> Tensor:
    """Return canonical scores that lie here as a `DTensor`, where their parameter is one; checkpoints know those."""
    parameter: Any = weights.parameters[name]
    shard = _shard(name, parameter, weights.layout(name))
    if shard is None:
        return score
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor import Shard as Along

    placements = [Along(shard.axis) if one.is_shard() else one for one in parameter.placements]
    stride = torch.empty(shard.shape, device="meta").stride()
    whole: Tensor = DTensor.from_local(
        score, parameter.device_mesh, placements, run_check=False, shape=torch.Size(shard.shape), stride=stride
    )
    return whole


def _shared_dimensions(parameter: Any) -> list[int]:
    """Return the dimensions of its mesh along which a parameter is not the same on every rank."""
    placements = parameter.placements if is_distributed(parameter) else ()
    return [dimension for dimension, one in enumerate(placements) if not one.is_replicate()]


def _shard(name: str, parameter: Any, layout: Layout) -> Shard | None:
    shared = _shared_dimensions(parameter)
    if not shared:
        return None
    from torch.distributed.tensor import Shard as Along

    placement = parameter.placements[shared[0]]
    if len(shared) > 1 or type(placement) is not Along:
        raise RecipeError(
            f"{name} is placed as {tuple(parameter.placements)}; only parameters of which one axis is shared out can "
            "be pruned, as fully_shard does it (a mesh of one dimension, or replicated along the others)"
        )
    if layout.groups > 1 and placement.dim < 2:
        raise RecipeError(
            f"{name}: ranks share out the channels of a transposed convolution with {layout.groups} groups, whose "
            "output channels then lie scattered; skip it, or let fully_shard ignore it (ignored_params)"
        )
    axis = {0: 1, 1: 0}.get(placement.dim, placement.dim) if layout.groups else placement.dim
    extent, ranks = parameter.shape[placement.dim], parameter.device_mesh.size(shared[0])
    step = -(-extent // ranks)  # equal chunks, rounded up, until nothing is left, as torch.chunk makes them
    borders = tuple(min(rank * step, extent) for rank in range(ranks + 1))
    rank = parameter.device_mesh.get_local_rank(shared[0])
    shard = Shard(layout.shape(tuple(parameter.shape)), axis, borders, rank)
    held = layout.shape(tuple(local(parameter.detach()).shape))
    if held != shard.held:
        raise RecipeError(f"{name} {shard.shape}: rank {rank} holds {held} of it, expected {shard.held}")
    return shard


def _ranks(mesh: DeviceMesh, dimension: int) -> list[int]:
    return torch.distributed.get_process_group_ranks(mesh.get_group(dimension))
