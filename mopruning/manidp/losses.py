"""Losses of ManiDP by NumPy: the reference for what frameworks differentiate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

LEAST = 1e-10
"""Smallest base of an instance weight: a power of 0 has no gradient."""

LENGTH = 1e-12
"""Smallest length that a row is divided by: one of zeros stays one of zeros."""


@dataclass(frozen=True)
class Losses:
    """The parts of the loss of one batch.

    Args:
        cross_entropy: Mean over the images.
        lasso: Weighted mean saliency, summed over gates.
        graph: Distance between similarities of saliencies and of features, summed over gates.
        total: What is minimised.
    """

    cross_entropy: float
    lasso: float
    graph: float
    total: float


def instance_weights(cross_entropy: NumPyArray, limit: float, *, gamma: float = 1.0) -> NumPyArray:
    """Weigh each image by how easy it is: 0 from the limit on, ``((limit - loss) / limit) ** gamma`` below it.

    An image that the network gets wrong keeps all its channels; the easier one is, the more its saliencies are pushed
    down.

    Args:
        cross_entropy: Loss of each image [images].
        limit: Loss from which on an image counts as hard; `thre_cls` times the mean of the last epoch.
        gamma: Exponent.

    Returns:
        [images], from 0 to 1.

    Source: Tang et al., CVPR 2021 (the adaptive penalty; there without `thre_cls` and the exponent).

    >>> instance_weights(np.array([0.0, 1.0, 3.0]), 2.0)
    array([1. , 0.5, 0. ])
    """
    if limit <= 0:
        return np.zeros_like(cross_entropy)
    return np.where(cross_entropy < limit, np.maximum((limit - cross_entropy) / limit, LEAST) ** gamma, 0)


def lasso(saliencies: Sequence[NumPyArray], weights: NumPyArray) -> float:
    """Return the penalty on saliencies: of each gate the weighted mean over images of the mean over channels, summed.

    Args:
        saliencies: Of each gate [images, channels].
        weights: Of each image [images].
    """
    return float(sum(np.mean(one.mean(axis=1) * weights) for one in saliencies))


def similarity(saliencies: NumPyArray, features: NumPyArray) -> float:
    """Return how far the cosine similarities of images by saliencies are from those by features.

    ``||F F^T - A A^T||_F^2 / images^2``, where the rows of A and F are those given, of length 1.

    Args:
        saliencies: [images, channels].
        features: Global averages of the features that the gate applies to, before it does [images, channels].

    Source: Tang et al., CVPR 2021 (similarity of instances).
    """
    rows, wanted = _unit(saliencies), _unit(features)
    return float(np.sum((wanted @ wanted.T - rows @ rows.T) ** 2) / len(rows) ** 2)


def losses(
    cross_entropy: NumPyArray,
    saliencies: Sequence[NumPyArray],
    features: Sequence[NumPyArray],
    limit: float,
    *,
    gamma: float = 1.0,
    lambda_lasso: float = 0.1,
    lambda_graph: float = 0.1,
) -> Losses:
    """Return the loss of a batch and its parts.

    Args:
        cross_entropy: Loss of each image [images].
        saliencies: Of each gate [images, channels].
        features: Of each gate [images, channels]; see `similarity`.
        limit: See `instance_weights`.
        gamma: See `instance_weights`.
        lambda_lasso: Weight of the penalty.
        lambda_graph: Weight of the similarity.
    """
    penalty = lasso(saliencies, instance_weights(cross_entropy, limit, gamma=gamma))
    graph = sum(similarity(*both) for both in zip(saliencies, features, strict=True))
    mean = float(cross_entropy.mean())
    return Losses(mean, penalty, graph, mean + lambda_lasso * penalty + lambda_graph * graph)


def _unit(rows: NumPyArray) -> NumPyArray:
    unit: NumPyArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), LENGTH)
    return unit
