"""Torch-Pruning, the rival in cutting out channels (`torch-pruning`, in the extra `test`)."""

from __future__ import annotations

import torch_pruning
from torch import Tensor, nn


def cut(network: nn.Module, example: Tensor, ratio: float) -> nn.Module:
    """Cut out in place a share of the channels of every group, by sum of magnitudes; the last layer stays."""
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=1)
    torch_pruning.pruner.BasePruner(
        network.eval(), example, importance=importance, pruning_ratio=ratio, ignored_layers=[last]
    ).step()
    return network
