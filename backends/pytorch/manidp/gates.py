"""Gate: says which channels of a layer an image keeps, and how strongly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mopruning.manidp import NOTHING_PRUNED


class Gate(nn.Module):
    """Scales each channel by its saliency for the image, or by 0 where that is below the threshold.

    In training mode, saliencies are added up in `mask_sum` in place.

    Args:
        inputs: Channels that it looks at.
        channels: Channels that it decides on.
        hidden: Features of its hidden layer.
        clamp_max: Largest saliency.

    >>> pi, factor = Gate(3, 4, 2)(torch.zeros(5, 3))
    >>> pi.shape, factor.sum().item()
    (torch.Size([5, 4]), 20.0)
    """

    thre: Tensor
    mask_sum: Tensor

    def __init__(self, inputs: int, channels: int, hidden: int, clamp_max: float = 1000.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels)
        self.clamp_max = clamp_max
        nn.init.kaiming_normal_(self.fc1.weight)
        nn.init.kaiming_normal_(self.fc2.weight)
        nn.init.ones_(self.fc2.bias)
        self.register_buffer("thre", torch.full((1,), NOTHING_PRUNED))
        self.register_buffer("mask_sum", torch.zeros(channels))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return saliencies and factors, float32 [images, channels].

        Args:
            pooled: Global averages of what the layer gets, float32 [images, inputs].
        """
        if torch.is_autocast_enabled(pooled.device.type):
            # a saliency in bfloat16 has three digits, and a threshold must not fall between them
            with torch.autocast(pooled.device.type, enabled=False):
                return self._decide(pooled)
        return self._decide(pooled)

    def _decide(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        saliency = self.saliency(pooled)
        if self.training:
            self.mask_sum += saliency.detach().sum(0)
        return saliency, saliency * (saliency >= self.thre).to(saliency.dtype)

    def saliency(self, pooled: Tensor) -> Tensor:
        """Return how much each channel matters to each image [images, channels]; see `mopruning.manidp.saliency`."""
        return F.relu(self.fc2(F.relu(self.fc1(pooled)))).clamp(max=self.clamp_max)


def pool(x: Tensor) -> Tensor:
    """Return the global average of each channel of [images, channels, h, w], float32 [images, channels]."""
    return x.mean((2, 3), dtype=torch.float32)
