"""Torch-Pruning, the rival in cutting out channels (`torch-pruning`, in the extra `test`)."""

from __future__ import annotations

from collections.abc import Collection

import torch_pruning
from torch import Tensor, nn


def cut(network: nn.Module, example: Tensor, ratio: float, untouched: Collection[str] = ()) -> nn.Module:
    """Cut out in place a share of the channels of every group, by sum of magnitudes.

    The last layer keeps its outputs, and so do the modules named in `untouched`.
    """
    modules = dict(network.named_modules())
    last = [module for module in modules.values() if isinstance(module, nn.Linear)][-1]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=1)
    ignored = [last, *(modules[name] for name in untouched)]
    torch_pruning.pruner.BasePruner(
        network.eval(), example, importance=importance, pruning_ratio=ratio, ignored_layers=ignored
    ).step()
    return network
