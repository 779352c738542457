"""ManiDP in PyTorch: gates, networks, training, channels really skipped."""

from mopruning.backends.pytorch.manidp import checkpoint
from mopruning.backends.pytorch.manidp.gates import Gate
from mopruning.backends.pytorch.manidp.losses import Losses, losses
from mopruning.backends.pytorch.manidp.networks import Details, DynamicResNet, load_state, network, state_of
from mopruning.backends.pytorch.manidp.skipping import Skipping
from mopruning.backends.pytorch.manidp.training import Training

__all__ = [
    "Details",
    "DynamicResNet",
    "Gate",
    "Losses",
    "Skipping",
    "Training",
    "checkpoint",
    "load_state",
    "losses",
    "network",
    "state_of",
]
