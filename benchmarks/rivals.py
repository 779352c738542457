"""Other ways to make masks, as good as we can write them: each takes weights and returns what to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from mopruning.granularity.pattern import LIBRARIES

SPARSITY = 0.9
BANK, BANK_SPARSITY = 64, 0.9375


def by_kthvalue(weight: Tensor) -> Tensor:
    scores = weight.abs()
    return scores > scores.flatten().kthvalue(int(SPARSITY * scores.numel())).values


def by_kthvalue_of_all(weights: Sequence[Tensor]) -> list[Tensor]:
    joined = torch.cat([weight.flatten() for weight in weights]).abs_()
    kept = joined > joined.kthvalue(int(SPARSITY * joined.numel())).values
    parts = torch.split(kept, [weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def rows(weight: Tensor, group: int) -> Tensor:
    """Return |weight| as rows of `group` consecutive input channels."""
    scores = weight.abs()
    return (scores.flatten(2).permute(0, 2, 1) if weight.dim() > 2 else scores).reshape(-1, group)


def _unrow(marks: Tensor, weight: Tensor) -> Tensor:
    if weight.dim() == 2:
        return marks.view(weight.shape)
    return marks.view(weight.shape[0], -1, weight.shape[1]).permute(0, 2, 1).reshape(weight.shape)


def by_topk(weight: Tensor) -> Tensor:
    """Keep the largest of each bank by topk and scatter, on rows: as fast as along axis 1 on the way, or faster."""
    banks = rows(weight, BANK)
    kept = banks.topk(BANK - int(BANK * BANK_SPARSITY), dim=1, sorted=False).indices
    return _unrow(torch.zeros(banks.shape, dtype=torch.bool).scatter_(1, kept, True), weight)


PATTERNS_2_4 = torch.tensor([[float(i in pair) for i in range(4)] for pair in combinations(range(4), 2)])


def by_six_patterns(weight: Tensor) -> Tensor:
    """Keep two of four by the best of six patterns: |w| times all of them, argmax."""
    best = (rows(weight, 4) @ PATTERNS_2_4.T).argmax(dim=1)
    return _unrow(PATTERNS_2_4.bool()[best], weight)


def _keep_top(sums: Tensor) -> Tensor:
    flat = sums.flatten()
    kept = flat.topk(flat.numel() - int(SPARSITY * flat.numel()), sorted=False).indices
    return torch.zeros(flat.shape, dtype=torch.bool).scatter_(0, kept, True).view(sums.shape)


def filters_by_topk(weight: Tensor) -> Tensor:
    return _keep_top(weight.abs().flatten(1).sum(1)).view(-1, *[1] * (weight.dim() - 1)).expand_as(weight).contiguous()


def stripes_by_topk(weight: Tensor) -> Tensor:
    return _keep_top(weight.abs().sum(1, keepdim=True)).expand_as(weight).contiguous()


def blocks_by_topk(weight: Tensor) -> Tensor:
    split = weight.abs().view(weight.shape[0] // 4, 4, weight.shape[1] // 4, 4, -1)
    return _keep_top(split.sum((1, 3), keepdim=True)).expand_as(split).reshape(weight.shape)


KERNEL_PATTERNS = torch.tensor([[float(bit) for bit in pattern] for pattern in LIBRARIES[4]])


def kernels_by_patterns(weight: Tensor) -> Tensor:
    best = (weight.abs().view(-1, 9) @ KERNEL_PATTERNS.T).argmax(dim=1)
    return KERNEL_PATTERNS.bool()[best].view(weight.shape)


def layers_of(weights: Mapping[str, Tensor]) -> list[tuple[nn.Module, str]]:
    layers = []
    for weight in weights.values():
        layer = nn.Module()
        layer.weight = nn.Parameter(weight.clone())
        layers.append((layer, "weight"))
    return layers


def by_l1_unstructured(layers: Sequence[tuple[nn.Module, str]]) -> None:
    for layer, name in layers:
        prune.l1_unstructured(layer, name, SPARSITY)  # type: ignore[no-untyped-call]


def by_global_unstructured(layers: Sequence[tuple[nn.Module, str]]) -> None:
    prune.global_unstructured(layers, prune.L1Unstructured, amount=SPARSITY)
