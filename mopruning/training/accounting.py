"""Accounting: how sparse a network is, counted as the published data-parallel program counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Accounting:
    """Shares of zeros.

    Args:
        conv: Of all that is not linear; None where there is nothing.
        linear: Of parameters of a module that is called linear; None where there are none.
        overall: Of both.
    """

    conv: float | None
    linear: float | None
    overall: float

    def __str__(self) -> str:
        """Say it in one line."""
        conv, linear = ("none" if one is None else f"{one:.4%}" for one in (self.conv, self.linear))
        return f"sparsity: ConvLayer {conv}, LinearLayer {linear}, overall {self.overall:.4%}"


def accounting(counts: Mapping[str, tuple[int, int]], heads: Collection[str] = ()) -> Accounting:
    """Count as published: every parameter whose name has no "bias", so that scales of normalisations count as well.

    What has "linear" in its name is linear; all else, a VGG's `classifier` among it, is convolution.

    Args:
        counts: Name of a parameter -> how many of its numbers are zero, and how many it has.
        heads: Modules that are called linear there and otherwise here; see `networks.LINEAR_HEADS`.

    >>> counts = {"conv1.weight": (3, 4), "bn1.weight": (0, 2), "fc.weight": (0, 4), "fc.bias": (9, 9)}
    >>> print(accounting(counts, {"fc"}))
    sparsity: ConvLayer 50.0000%, LinearLayer 0.0000%, overall 30.0000%
    """
    sums = {False: [0, 0], True: [0, 0]}
    for name, pair in counts.items():
        if "bias" not in name:
            linear = "linear" in name or name.rpartition(".")[0] in heads
            sums[linear] = [one + more for one, more in zip(sums[linear], pair, strict=True)]
    conv, dense = (zeros / total if total else None for zeros, total in sums.values())
    zeros, total = (sum(column) for column in zip(*sums.values(), strict=True))
    return Accounting(conv, dense, zeros / total if total else 0.0)
