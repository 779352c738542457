"""Losses of ManiDP as tensors, to be differentiated; the reference is `mopruning.manidp.losses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from mopruning.manidp import Settings
from mopruning.manidp.losses import LEAST, LENGTH


def instance_weights(cross_entropy: Any, limit: Any, gamma: float = 1.0) -> Any:
    """Weigh each image [images] by how easy it is; see `mopruning.manidp.instance_weights`.

    Args:
        cross_entropy: Loss of each image, float32 [images].
        limit: float32 [], a tensor: a graph with a number in it would be compiled anew in every epoch.
        gamma: Exponent.
    """
    easy = ops.logical_and(cross_entropy < limit, limit > 0).astype(ms.float32)
    safe = ops.maximum(limit, LEAST)  # where it is 0, no image is easy
    return easy * ops.pow(ops.maximum((limit - cross_entropy) / safe, LEAST), gamma)


def lasso(saliencies: Sequence[Any], weights: Any) -> Any:
    """Return the penalty on saliencies [images, channels] of each gate; see `mopruning.manidp.lasso`."""
    total = 0.0
    for one in saliencies:
        total = total + ops.mean(ops.mean(one, 1) * weights)
    return total


def similarity(saliencies: Any, features: Any) -> Any:
    """Return how far similarities by saliencies are from those by features; see `mopruning.manidp.similarity`."""
    rows, wanted = _unit(saliencies), _unit(features)
    return ops.mean(ops.square(ops.matmul(wanted, wanted.T) - ops.matmul(rows, rows.T)))


def _unit(rows: Any) -> Any:
    # not the length, whose gradient is no number at a row of zeros
    return rows * ops.rsqrt(ops.maximum(ops.square(rows).sum(1, keepdims=True), LENGTH**2))


class Loss(nn.Cell):  # type: ignore[misc]
    """The loss of a batch and its parts.

    Args:
        settings: Weights of the parts, and what is detached.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.gamma = settings.gamma
        self.lambda_lasso, self.lambda_graph = settings.lambda_lasso, settings.lambda_graph
        self.detach_weight, self.detach_features = settings.detach_weight, settings.detach_features

    def construct(
        self, logits: Any, saliencies: Sequence[Any], features: Sequence[Any], labels: Any, limit: Any
    ) -> tuple[Any, Any, Any, Any]:
        """Return what is minimised, the cross-entropy of each image [images], the penalty and the similarity.

        Args:
            logits: float32 [images, classes].
            saliencies: Of each gate, float32 [images, channels].
            features: Of each gate, float32 [images, channels].
            labels: int32 [images].
            limit: See `instance_weights`.
        """
        cross_entropy = ops.cross_entropy(logits, labels, reduction="none")
        easy = ops.stop_gradient(cross_entropy) if self.detach_weight else cross_entropy
        penalty = lasso(saliencies, instance_weights(easy, limit, self.gamma))
        graph = 0.0
        for saliency, feature in zip(saliencies, features):  # noqa: B905  a graph knows no strict (MindSpore 2.10)
            graph = graph + similarity(saliency, ops.stop_gradient(feature) if self.detach_features else feature)
        total = ops.mean(cross_entropy) + self.lambda_lasso * penalty + self.lambda_graph * graph
        return total, cross_entropy, penalty, graph
