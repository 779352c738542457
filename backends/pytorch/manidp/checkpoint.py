"""Checkpoints of a ManiDP training: everything that it needs to go on, and that evaluating its network needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mopruning.backends.pytorch.checkpoint import load, read_checkpoint
from mopruning.backends.pytorch.manidp.networks import DynamicResNet, load_state, network, state_of
from mopruning.backends.pytorch.manidp.training import Training
from mopruning.errors import FormatError
from mopruning.ir.atomic import atomic
from mopruning.manidp.record import Record

_KEYS = ("structure", "settings", "normalize", "epoch", "state_dict", "training")


def save(training: Training, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint that `torch.load(path, weights_only=True)` reads, whole or not at all.

    It holds the weights and thresholds of the network, its structure, settings, the epochs completed, and the states
    of optimizer and controller.
    """
    content = {
        **training.record.values(),
        "epoch": training.control.epoch,
        "state_dict": state_of(training.net),
        "training": training.state_dict(),
    }
    with atomic(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def restore(training: Training, path: str | os.PathLike[str]) -> None:
    """Go on in place where a checkpoint was written.

    Raises:
        FormatError: If the file is no such checkpoint.
        StateError: If it is of another training: another network, other images or other settings.
        OSError: If it cannot be read.
    """
    content = read(path)
    saved = Record.of(content, str(path))
    training.record.check_same(saved, str(path))
    training.begun = {"amp": training.begun["amp"], **saved.begun}
    load_state(training.net, content["state_dict"], str(path))
    training.load_state_dict(content["training"])


def read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        FormatError: If the file is no such checkpoint.
        OSError: If it cannot be read.
    """
    content = load(Path(path))
    if not isinstance(content, Mapping) or any(key not in content for key in _KEYS):
        raise FormatError(f"{path}: expected a checkpoint of a ManiDP training, with {', '.join(_KEYS)}")
    return content


def read_network(path: str | os.PathLike[str]) -> DynamicResNet:
    """Read the network of a checkpoint, with its thresholds, in evaluation mode.

    Raises:
        FormatError: If the file is no such checkpoint.
        StateError: If what it says of the training is damaged, or its weights are of another network.
        OSError: If it cannot be read.
    """
    content = read(path)
    record = Record.of(content, str(path))
    net = network(record.structure, clamp_max=record.settings.clamp_max)
    load_state(net, content["state_dict"], str(path))
    return net.eval()


def load_pretrained(net: DynamicResNet, path: str | os.PathLike[str], *, gates: bool = False) -> None:
    """Load the weights of a dense network in place, the gates staying as they are, or of one with gates.

    Args:
        net: The network.
        path: A state dict under the names of this project, of the published program, of torchvision or of the public
            ResNets of CIFAR, alone or inside a checkpoint.
        gates: Whether weights and thresholds of gates are in it and loaded too.

    Raises:
        FormatError: If the file is damaged, contains code or holds no state dict.
        StateError: If it is of another network.
        OSError: If it cannot be read.
    """
    load_state(net, read_checkpoint(path).weights(), str(path), gates=gates)
