"""Settings: the numbers of one ManiDP training, with the published defaults."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from mopruning.errors import RecipeError
from mopruning.manidp.gates import NOTHING_PRUNED

_SHARES = ("target_remain_rate", "remain_ramp")
_POSITIVE = ("lr", "gamma", "clamp_max")
_NOT_NEGATIVE = ("momentum", "decay", "decay_branch", "thre_cls", "lambda_lasso", "lambda_graph")
_COUNTS = ("epochs", "batch_size", "thre_freq", "squeeze_rate")


@dataclass(frozen=True)
class Settings:
    """The numbers of one training; names and defaults are the published program's flags, which have no `remain_ramp`.

    Args:
        target_remain_rate: Share of each layer's channels whose mean saliency reaches the threshold in the end. How
            many an image keeps differs from it.
        remain_ramp: Share of the epochs after which that rate is reached. The published one falls until the last epoch,
            when the learning rate is almost 0 and nothing is learned any more with so few channels.
        lambda_lasso: Weight of the penalty on saliencies.
        lambda_graph: Weight of the distance between similarities.
        thre_cls: An image counts as hard from this times the last epoch's mean cross-entropy on.
        gamma: Exponent of the weight of an easy image.
        thre_freq: Thresholds change after every so many epochs.
        thre_init: Threshold before the first change.
        clamp_max: Largest saliency.
        squeeze_rate: Features of a gate's hidden layer are its channels divided by this (`Structure`).
        epochs: Passes over the training images.
        batch_size: Images of an update.
        lr: Learning rate of the first update; it falls to 0 in a cosine.
        momentum: Of stochastic gradient descent, Nesterov's.
        decay: Weight decay of the network.
        decay_branch: Weight decay of the gates.
        detach_weight: Whether an image's weight is a plain number, instead of carrying the penalty's gradient into the
            cross-entropy, as published.
        detach_features: Whether similarities of features are plain numbers, instead of carrying the similarity loss
            into the network, as published.
        seed: Draws initial gates, order and augmentation of the images.

    Raises:
        RecipeError: If a number is out of range.
    """

    target_remain_rate: float = 0.65
    remain_ramp: float = 1.0
    lambda_lasso: float = 0.1
    lambda_graph: float = 0.1
    thre_cls: float = 0.5
    gamma: float = 1.0
    thre_freq: int = 1
    thre_init: float = NOTHING_PRUNED
    clamp_max: float = 1000.0
    squeeze_rate: int = 2
    epochs: int = 400
    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4
    decay_branch: float = 0.0
    detach_weight: bool = False
    detach_features: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, wanted = getattr(self, field.name), type(field.default)
            if wanted is bool:
                if not isinstance(value, bool):
                    raise RecipeError(f"{field.name} must be True or False, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise RecipeError(f"{field.name} must be a finite number, got {value!r}")
        rules = (
            (_SHARES, "above 0 and at most 1", lambda value: 0 < value <= 1),
            (_POSITIVE, "above 0", lambda value: value > 0),
            (_NOT_NEGATIVE, "0 or more", lambda value: value >= 0),
            (_COUNTS, "a whole number from 1", lambda value: isinstance(value, int) and value >= 1),
        )
        for names, text, holds in rules:
            for name in names:
                if not holds(getattr(self, name)):
                    raise RecipeError(f"{name} must be {text}, got {getattr(self, name)!r}")
