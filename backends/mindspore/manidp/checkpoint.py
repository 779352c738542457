"""Checkpoints: of a training, to go on from; and weights with thresholds from any file that holds them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.arrays import on_host
from mopruning.backends.mindspore.manidp.networks import DynamicResNet, load_state, network
from mopruning.backends.mindspore.manidp.training import Training
from mopruning.errors import FormatError, StateError
from mopruning.files import FORMATS, WeightFile, format_of
from mopruning.ir.mindspore_ckpt import Checkpoint, read_checkpoint
from mopruning.ir.roles import roles_of
from mopruning.manidp import STRUCTURES, Structure, states, structure
from mopruning.manidp.record import Record
from mopruning.manidp.structure import SHORTCUTS
from mopruning.model_files import GRAPH_FORMATS, read_model

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_TEXT = "manidp"  # under which a .ckpt file holds what the training was
_TEXT_CODE = "utf-32-le"  # in which MindSpore keeps text, by way of NumPy
_NOTHING = "{}".encode(_TEXT_CODE)
_TORCH = (".th", ".tar")  # further endings of PyTorch's files
_THRESHOLDS = "thres.npy"
_OPTIMIZER = re.compile(  # what MindSpore's optimizers and training cells keep in a checkpoint beside the network
    r"(moments|accum|stat|momentum)\..*|learning_rate|momentum|weight_decay|global_step|scale_(sense|value)|"
    r"current_iterator_step|last_overflow_iterator_step|counter|epoch_num|step_num"
)


def save(training: Training, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint that `mindspore.load_checkpoint` reads, whole or not at all.

    It holds the weights and thresholds of the network under MindSpore's names, what the optimizer remembers, and as
    text structure, settings and the state of the controller.
    """
    text = json.dumps(training.record.values() | {"training": training.control.state_dict()})
    own = {parameter.name: parameter.asnumpy() for parameter in training.net.get_parameters()}
    Checkpoint(Path(path), own | training.state_dict(), {_TEXT: text.encode(_TEXT_CODE)}).save(path)


def restore(training: Training, path: str | os.PathLike[str]) -> None:
    """Go on in place where a checkpoint was written.

    Raises:
        FormatError: If the file is no such checkpoint.
        StateError: If it is of another training: another network, other images or other settings.
        OSError: If it cannot be read.
    """
    file = read_checkpoint(path)
    values = _told(file)
    if "training" not in values:
        raise FormatError(f"{path}: expected a checkpoint of a ManiDP training")
    saved = Record.of(values, str(path))
    training.record.check_same(saved, str(path))
    training.begun = {**training.begun, **saved.begun}
    training.load_state_dict(file.tensors)
    load_state(training.net, read_state(path)[0], str(path))
    training.control.load_state_dict(values["training"])


def load_pretrained(net: DynamicResNet, path: str | os.PathLike[str], *, gates: bool = False) -> None:
    """Load the weights of a dense network in place, the gates staying as they are, or of one with gates.

    Args:
        net: The network.
        path: A file of weights of any format, under the names of this project, of the published program, of torchvision
            or of the public ResNets of CIFAR.
        gates: Whether weights and thresholds of gates are in it and loaded too.

    Raises:
        FormatError: If the file is damaged, contains code or holds no weights.
        ImportError: If it is PyTorch's and PyTorch is not installed.
        StateError: If it is of another network.
        OSError: If it cannot be read.
    """
    load_state(net, read_state(path)[0], str(path), gates=gates)


def read_network(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    shortcut: str | None = None,
    thresholds: str | os.PathLike[str] | None = None,
    squeeze_rate: int = 2,
    clamp_max: float = 1000.0,
    amp_level: str = "O0",
) -> tuple[DynamicResNet, Record | None]:
    """Read a network with its thresholds from a file of any format.

    Args:
        path: A MindSpore or PyTorch checkpoint, or another file of weights, such as .mopir.
        arch: A key of `STRUCTURES`; by default what the file says, or else what its weights fit.
        shortcut: One of `SHORTCUTS`; likewise.
        thresholds: The published file of thresholds, for weights without; by default thres.npy beside them.
        squeeze_rate: See `Structure`; used where the file does not say it.
        clamp_max: Largest saliency; used where the file does not say it.
        amp_level: One of `networks.AMP_LEVELS`.

    Returns:
        The network, in evaluation mode, and what the training was that wrote the file, where it says so.

    Raises:
        FormatError: If the file is damaged, contains code or holds no weights.
        ImportError: If it is PyTorch's and PyTorch is not installed.
        StateError: If the weights are those of another network, or there are no thresholds.
        OSError: If a file cannot be read.
    """
    state, values = read_state(path)
    record = Record.of(values, str(path)) if values else None
    if record is not None and arch is None and shortcut is None:
        chosen, clamp_max = record.structure, record.settings.clamp_max
    else:
        chosen = _fitting(state, arch, shortcut, squeeze_rate)
    net = network(chosen, clamp_max=clamp_max, amp_level=amp_level)
    found = states.named(chosen, state)
    if not any(name.endswith(".thre") for name in found):
        beside = Path(thresholds) if thresholds is not None else Path(path).with_name(_THRESHOLDS)
        if thresholds is not None or beside.exists():
            found |= states.read_thresholds(chosen, beside)
    elif thresholds is not None:
        raise StateError(f"{path}: holds thresholds; {os.fspath(thresholds)} would be others")
    load_state(net, found, str(path))
    return net.set_train(False), record


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, NumPyArray], Mapping[str, Any]]:
    """Read weights, and thresholds if there are any, from a file of any format that holds them.

    Args:
        path: A file of weights, or of a network as `to_ir` or an export to ONNX leaves it.

    Returns:
        Arrays by the file's own names, without what belongs to an optimizer; and what a training of this project wrote
        beside them, empty for a file of another origin.

    Raises:
        FormatError: If the suffix is unknown, or the file is damaged, contains code or holds no weights.
        ImportError: If the format's framework is not installed; the message says how to install it.
        OSError: If it cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS and suffix in GRAPH_FORMATS:
        return _of_network(path), {}
    row = FORMATS[".pth"] if suffix in _TORCH else format_of(path)
    file: WeightFile = getattr(row.load(), row.reader)(path)
    if "graph" in getattr(file, "texts", ()):  # a .mopir file may hold a network, constants and all
        return _of_network(path), {}
    tensors = file.weights()
    every = tensors | {further: tensors[first] for further, first in file.aliases.items()}
    return {name: on_host(value) for name, value in every.items() if not _OPTIMIZER.fullmatch(name)}, _told(file)


def _of_network(path: str | os.PathLike[str]) -> dict[str, NumPyArray]:
    model = read_model(path)
    held = model.graph.initializers
    kept = [name for name, role in roles_of(model).items() if role != "constant"]
    return {name: held[name].const_value.numpy() for name in kept}  # type: ignore[union-attr]


def _told(file: WeightFile) -> Mapping[str, Any]:
    """Return what a training of any framework wrote beside the weights; nothing where the file is of another origin."""
    if isinstance(file, Checkpoint):
        try:
            values = json.loads(file.texts.get(_TEXT, _NOTHING).decode(_TEXT_CODE))
        except ValueError as error:
            raise FormatError(f"{file.path}: text {_TEXT!r} is damaged: {error}") from error
    else:
        values = getattr(file, "content", {})  # of a PyTorch checkpoint
    return values if isinstance(values, Mapping) and "structure" in values else {}


def _fitting(state: Mapping[str, Any], arch: str | None, shortcut: str | None, squeeze_rate: int) -> Structure:
    """Return the first structure that has parameters of these names and shapes; without any, the one asked for."""
    found = [
        structure(name, shortcut=kind, squeeze_rate=squeeze_rate)
        for name in ([arch] if arch else STRUCTURES)
        for kind in ([shortcut] if shortcut else SHORTCUTS)
    ]
    held = {id(one): {name: tuple(value.shape) for name, value in states.named(one, state).items()} for one in found}
    for one in found:
        needed = {
            name: shape for name, shape in states.shapes(one).items() if not name.endswith((".thre", ".mask_sum"))
        }
        if all(held[id(one)].get(name) == shape for name, shape in needed.items()):
            return one
    return found[0]
