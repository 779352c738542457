"""Batch normalisation over the images of all processes that share a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics, while training, are those of all processes, on any device.

    It computes what `nn.SyncBatchNorm` does, which takes tensors on a GPU only (torch 2.13); images in half precision
    are normalised in float32. All processes must have equally many.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise images [n, channels, height, width]."""
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _summed(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _summed(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self._remember(mean, variance * (count / max(1, count - 1)))
        normalised = centred * (variance + self.eps).rsqrt()[:, None, None]
        if not self.affine:
            return normalised.to(dtype)
        return (normalised * self.weight[:, None, None] + self.bias[:, None, None]).to(dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if share is None else share
        self.running_mean.lerp_(mean, share or 0.0)
        self.running_var.lerp_(variance, share or 0.0)


def normalise_globally(net: nn.Module, device: torch.device) -> nn.Module:
    """Return a network whose batch normalisations see the images of all processes; its modules change in place."""
    if device.type == "cuda":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        return synchronised
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d  # it keeps its parameters, and who refers to it
    return net


class _Sum(torch.autograd.Function):
    """The sum over all processes; the gradient of what each of them makes of it is summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total
