"""ManiDP in MindSpore: gates, networks, training, on Ascend, GPU or CPU."""

from mopruning.backends.mindspore.manidp import checkpoint
from mopruning.backends.mindspore.manidp.gates import Gate
from mopruning.backends.mindspore.manidp.losses import Loss
from mopruning.backends.mindspore.manidp.networks import Details, DynamicResNet, load_state, network, state_of
from mopruning.backends.mindspore.manidp.training import Training, evaluate

__all__ = [
    "Details",
    "DynamicResNet",
    "Gate",
    "Loss",
    "Training",
    "checkpoint",
    "evaluate",
    "load_state",
    "network",
    "state_of",
]
