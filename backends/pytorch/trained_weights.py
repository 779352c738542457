"""Trained weights: into a network of the zoo, and out of it."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir
import torch
from torch import nn

from mopruning import ir
from mopruning.backends.pytorch.checkpoint import read_checkpoint, write_weights
from mopruning.errors import StateError
from mopruning.names import stripped
from mopruning.training.networks import own_names

_COUNTER = "num_batches_tracked"  # what PyTorch's normalisations have and the zoo's do not


def load_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load the weights of a checkpoint into a network in place.

    Args:
        net: The network.
        path: A state dict, alone or inside a checkpoint, whose names may begin with `module.`.

    Raises:
        FormatError: If the file is damaged, contains code or holds no state dict.
        StateError: If it is of another network.
        OSError: If it cannot be read.
    """
    own = net.state_dict()
    found = {stripped(name): value for name, value in read_checkpoint(path).weights().items()}
    found = {name: value for name, value in own_names(found, own).items() if not name.endswith(_COUNTER)}
    missing = [name for name in own if name not in found and not name.endswith(_COUNTER)]
    other = [name for name in found if name not in own]
    shapes = [
        f"{name!r} has shape {list(found[name].shape)}, expected {list(own[name].shape)}"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    said = [
        *([f"it lacks {_few(missing)}"] if missing else []),
        *([f"the network has no {_few(other)}"] if other else []),
        *shapes[:3],
    ]
    if said:
        raise StateError(f"{os.fspath(path)}: weights of another network: {'; '.join(said)}")
    net.load_state_dict(found, strict=False)


def pretrained_file(model: str) -> Path:
    """Return the file of torchvision's weights of a network for ImageNet, in the cache of `torch.hub`.

    Raises:
        FileNotFoundError: If it is not there; nothing is downloaded.
    """
    folder = Path(torch.hub.get_dir(), "checkpoints")
    pattern = "inception_v3_google-*.pth" if model == "inceptionv3" else f"{model}-*.pth"
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(
            f"--pretrained: {folder} has no {pattern}; put torchvision's file there, or name it with --weight_file"
        )
    return files[0]


def save_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the state dict of a network, plain, under its own names; whole or not at all."""
    write_weights(path, {name: value.cpu().numpy() for name, value in net.state_dict().items()})


def to_mopir(model: onnx_ir.Model, path: Path) -> Path:
    """Write the network of a checkpoint as .mopir beside it.

    Args:
        model: The network; its weights are replaced in place.
        path: A checkpoint with its state dict.

    Returns:
        The file that was written.
    """
    for name, value in read_checkpoint(path).weights().items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = onnx_ir.Tensor(value.contiguous().numpy(), name=name)
    target = path.with_name(f"{path.name.removesuffix('.pth')}.mopir")
    ir.save(model, target)
    return target


def _few(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
