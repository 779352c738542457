"""Losses of ManiDP as tensors, to be differentiated; the reference is `mopruning.manidp.losses`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mopruning.backends.pytorch.manidp.networks import Details
from mopruning.manidp import Settings
from mopruning.manidp.losses import LEAST, LENGTH


@dataclass
class Losses:
    """The parts of the loss of one batch, scalars.

    Args:
        cross_entropy: Of each image [images].
        lasso: Weighted mean saliency, summed over gates.
        graph: Distance between similarities of saliencies and of features, summed over gates.
        total: What is minimised.
    """

    cross_entropy: Tensor
    lasso: Tensor
    graph: Tensor
    total: Tensor


def instance_weights(cross_entropy: Tensor, limit: float, *, gamma: float = 1.0) -> Tensor:
    """Weigh each image [images] by how easy it is; see `mopruning.manidp.instance_weights`."""
    if limit <= 0:
        return torch.zeros_like(cross_entropy)
    easy = (cross_entropy < limit).to(cross_entropy.dtype)
    return easy * ((limit - cross_entropy) / limit).clamp(min=LEAST) ** gamma


def lasso(saliencies: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the penalty on saliencies [images, channels] of each gate; see `mopruning.manidp.lasso`."""
    return torch.stack([(one.mean(1) * weights).mean() for one in saliencies]).sum()


def similarity(saliencies: Tensor, features: Tensor) -> Tensor:
    """Return how far similarities by saliencies are from those by features; see `mopruning.manidp.similarity`."""
    rows, wanted = (F.normalize(one, dim=1, eps=LENGTH) for one in (saliencies, features))
    return (wanted @ wanted.T - rows @ rows.T).square().mean()


def losses(shown: Details, labels: Tensor, limit: float, settings: Settings) -> Losses:
    """Return the loss of a batch and its parts, in float32.

    Args:
        shown: What the network computed.
        labels: int64 [images].
        limit: See `instance_weights`.
        settings: Weights of the parts, and what is detached.
    """
    with torch.autocast(shown.logits.device.type, enabled=False):
        cross_entropy = F.cross_entropy(shown.logits.float(), labels, reduction="none")
        easy = cross_entropy.detach() if settings.detach_weight else cross_entropy
        features = [one.detach() if settings.detach_features else one for one in shown.features]
        penalty = lasso(shown.saliencies, instance_weights(easy, limit, gamma=settings.gamma))
        graph = torch.stack([similarity(*both) for both in zip(shown.saliencies, features, strict=True)]).sum()
        total = cross_entropy.mean() + settings.lambda_lasso * penalty + settings.lambda_graph * graph
    return Losses(cross_entropy, penalty, graph, total)
