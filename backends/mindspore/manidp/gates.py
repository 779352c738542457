"""Gate: says which channels of a layer an image keeps, and how strongly."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mopruning.manidp import NOTHING_PRUNED


class Gate(nn.Cell):  # type: ignore[misc]
    """Scales each channel by its saliency for the image, or by 0 where that is below the threshold.

    In training mode, saliencies are added up in `mask_sum` in place. Weights are zeros: `network` draws them.

    Args:
        inputs: Channels that it looks at.
        channels: Channels that it decides on.
        hidden: Features of its hidden layer.
        clamp_max: Largest saliency.

    >>> pi, factor = Gate(3, 4, 2)(ops.zeros((5, 3)))
    >>> pi.shape, float(factor.sum())
    ((5, 4), 20.0)
    """

    def __init__(self, inputs: int, channels: int, hidden: int, clamp_max: float = 1000.0) -> None:
        super().__init__()
        self.fc1 = nn.Dense(inputs, hidden, weight_init="zeros", has_bias=False)
        self.fc2 = nn.Dense(hidden, channels, weight_init="zeros", bias_init="ones")
        self.clamp_max = clamp_max
        # from arrays: a number of Python becomes float64 on some paths of MindSpore 2.10
        self.thre = Parameter(Tensor(np.full(1, NOTHING_PRUNED, np.float32)), requires_grad=False)
        self.mask_sum = Parameter(Tensor(np.zeros(channels, np.float32)), requires_grad=False)

    def construct(self, pooled: Any) -> tuple[Any, Any]:
        """Return saliencies and factors, float32 [images, channels].

        Args:
            pooled: Global averages of what the layer gets, float32 [images, inputs].
        """
        saliency = ops.minimum(ops.relu(self.fc2(ops.relu(self.fc1(pooled)))), self.clamp_max)
        if self.training:
            ops.assign_add(self.mask_sum, ops.stop_gradient(saliency).sum(0))
        return saliency, saliency * (saliency >= self.thre).astype(ms.float32)


def pool(x: Any) -> Any:
    """Return the global average of each channel of [images, channels, h, w], float32 [images, channels]."""
    return ops.mean(x.astype(ms.float32), (2, 3))
