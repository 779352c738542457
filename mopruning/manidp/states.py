"""States: weights and thresholds of a network with gates by name, whoever wrote them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from mopruning.errors import FormatError, StateError
from mopruning.manidp.gates import NOTHING_PRUNED
from mopruning.manidp.structure import CIFAR, IMAGENET, Structure
from mopruning.names import stripped

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
T = TypeVar("T")

_FAMILIES = {"cifar": CIFAR, "imagenet": IMAGENET}
_DESCRIBED = ("blocks", "channels", "classes", "image", "shortcut", "squeeze_rate")

_NORM = ("weight", "bias", "running_mean", "running_var")
_SPELLINGS = {  # MindSpore's names of what a batch normalisation holds
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

_CIFAR_NAMES = (  # the public ResNets of CIFAR and torchvision's names -> the published program's
    (r"^conv1\.", "conv_1_3x3."),
    (r"^bn1\.", "bn_1."),
    (r"^layer(\d+)\.", r"stage_\1."),
    (r"^(stage_\d+\.\d+)\.conv1\.", r"\1.conv_a."),
    (r"^(stage_\d+\.\d+)\.bn1\.", r"\1.bn_a."),
    (r"^(stage_\d+\.\d+)\.conv2\.", r"\1.conv_b."),
    (r"^(stage_\d+\.\d+)\.bn2\.", r"\1.bn_b."),
    (r"^(stage_\d+\.\d+)\.(?:downsample|shortcut)\.0\.", r"\1.downsample."),
    (r"^(?:linear|fc)\.", "classifier."),
)
_IMAGENET_NAMES = ((r"^conv1\.", "conv1_7x7."), (r"^classifier\.", "fc."))


def shapes(structure: Structure, *, gates: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of everything that a network's state holds, in the order of its layers.

    Args:
        structure: The network.
        gates: Whether it has gates.

    >>> from mopruning.manidp.structure import structure
    >>> named = shapes(structure("dyresnet20"))
    >>> named["stage_1.0.mb1.fc1.weight"], named["stage_1.0.mb1.thre"], named["stage_2.0.downsample.weight"]
    ((16, 16), (1,), (32, 16, 1, 1))
    """
    family = structure.family
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        found[f"{name}.weight"] = (outputs, inputs, kernel, kernel)

    def norm(name: str, channels: int) -> None:
        found.update({f"{name}.{part}": (channels,) for part in _NORM})

    convolution(family.stem, structure.channels[0], 3, family.stem_kernel)
    norm(family.stem_norm, structure.channels[0])
    for block in structure.layers:
        convolution(f"{block.name}.{family.conv_a}", block.outputs, block.inputs, 3)
        norm(f"{block.name}.{family.norm_a}", block.outputs)
        convolution(f"{block.name}.{family.conv_b}", block.outputs, block.outputs, 3)
        norm(f"{block.name}.{family.norm_b}", block.outputs)
        if block.changes and structure.shortcut == "conv":
            shortcut = f"{block.name}.downsample" + (".0" if family.shortcut_norm else "")
            convolution(shortcut, block.outputs, block.inputs, 1)
            if family.shortcut_norm:
                norm(f"{block.name}.downsample.1", block.outputs)
        for gate, inputs in zip(block.gates, (block.inputs, block.outputs), strict=True) if gates else ():
            found[f"{gate}.fc1.weight"] = (block.hidden, inputs)
            found[f"{gate}.fc2.weight"] = (block.outputs, block.hidden)
            found[f"{gate}.fc2.bias"] = (block.outputs,)
            found[f"{gate}.thre"] = (1,)
            found[f"{gate}.mask_sum"] = (block.outputs,)
    found[f"{family.classifier}.weight"] = (structure.classes, structure.channels[-1])
    found[f"{family.classifier}.bias"] = (structure.classes,)
    return found


def initial(
    structure: Structure, *, seed: int = 0, thre_init: float = NOTHING_PRUNED, gate_scale: float = 1.0
) -> dict[str, NumPyArray]:
    """Draw the state that a training starts from, the same in every framework.

    Convolutions and gates are drawn from the normal distribution of He et al., 2015, equation 10, as published;
    the bias of a gate is 1.

    Args:
        structure: The network.
        seed: Draws it; each entry depends on its own name alone, so a gate starts alike whatever else is loaded.
        thre_init: Threshold of every gate.
        gate_scale: Weights of each gate's second layer are multiplied by this. With 0 every saliency is 1, so the
            network computes at first what it does without gates. With 1, as published, each gate scales what the next
            one sees, and saliencies of a pretrained network run away in its last blocks.

    Returns:
        float32 arrays by name.
    """
    found = {name: _drawn(name, shape, seed, thre_init) for name, shape in shapes(structure).items()}
    for name, value in found.items():
        if name.endswith(".fc2.weight"):
            value *= np.float32(gate_scale)
    return found


def _drawn(name: str, shape: tuple[int, ...], seed: int, thre_init: float) -> NumPyArray:
    end = name.rpartition(".")[2]
    if len(shape) == 1:
        value = thre_init if end == "thre" else 1.0 if end in ("weight", "running_var") or ".fc2." in name else 0.0
        return np.full(shape, value, np.float32)
    random = np.random.default_rng([seed, *name.encode()])
    drawn: NumPyArray = random.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return drawn.astype(np.float32)


def named(structure: Structure, state: Mapping[str, T]) -> dict[str, T]:
    """Return a state under this project's names, which are those of the published program.

    Prefixes of wrappers are dropped, and so are counters of batches. The names of torchvision, of the public ResNets of
    CIFAR and those that MindSpore has for normalisations are turned into the published ones.

    >>> from mopruning.manidp.structure import structure
    >>> list(named(structure("dyresnet20"), {"module.layer1.0.bn2.weight": 1, "module.linear.bias": 2}))
    ['stage_1.0.bn_b.weight', 'classifier.bias']
    """
    rules = _CIFAR_NAMES if structure.family is CIFAR else _IMAGENET_NAMES
    found = {}
    for key, value in state.items():
        name = stripped(key)
        for pattern, spelling in rules:
            name = re.sub(pattern, spelling, name)
        layer, _, end = name.rpartition(".")
        if end != "num_batches_tracked":
            found[f"{layer}.{_SPELLINGS.get(end, end)}" if layer else name] = value
    return found


def accepted(structure: Structure, state: Mapping[str, T], where: str, *, gates: bool = True) -> dict[str, T]:
    """Return a state, whoever named it, as a network loads it: under this project's names, and checked.

    Args:
        structure: The network.
        state: Arrays or tensors by name; see `named`.
        where: What errors call it.
        gates: Whether weights and thresholds of gates are in it; without, those in it are dropped.

    Raises:
        StateError: If entries are missing, unexpected or of another shape.
    """
    found = named(structure, state)
    if not gates:
        found = without_gates(found)
    check(structure, found, where, gates=gates)
    return found


def without_gates(state: Mapping[str, T]) -> dict[str, T]:
    """Return a state without what belongs to gates: everything with "mb" in its name, as published."""
    return {name: value for name, value in state.items() if "mb" not in name}


def check(structure: Structure, state: Mapping[str, Any], where: str, *, gates: bool = True) -> None:
    """Check that a state holds what a network needs and nothing else.

    Args:
        structure: The network.
        state: Arrays or tensors by name, after `named`.
        where: What errors call it.
        gates: Whether gates are expected. Sums of saliencies are not: only a training needs them.

    Raises:
        StateError: If entries are missing, unexpected or of another shape.
    """
    wanted = shapes(structure, gates=gates)
    missing = [name for name in wanted if name not in state and not name.endswith(".mask_sum")]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        faults = [
            f"{what}: {_some(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names
        ]
        raise StateError(f"{where}: is no state of this network; {'; '.join(faults)}{_hint(missing, unexpected)}")
    for name, value in state.items():
        if tuple(value.shape) != wanted[name]:
            raise StateError(f"{where}: {name!r} has shape {list(value.shape)}, expected {list(wanted[name])}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _hint(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    if missing and all(".downsample" in name for name in missing):
        return ". Its shortcuts have no weights: --shortcut A"
    if unexpected and all(".downsample" in name for name in unexpected):
        return ". Its shortcuts have weights: --shortcut conv"
    if missing and all(name.endswith(".thre") for name in missing):
        return ". Thresholds were published in a file of their own, thres.npy"
    if missing and all(".mb" in name for name in missing):
        return ". It is a dense network, without gates"
    return ""


def thresholds(structure: Structure, state: Mapping[str, Any]) -> NumPyArray:
    """Return the thresholds of a state, float64 [gates], in the order of `Structure.gates`."""
    return np.array([state[f"{gate}.thre"].item() for gate in structure.gates])


def threshold_entries(structure: Structure, values: NumPyArray) -> dict[str, NumPyArray]:
    """Return thresholds as entries of a state, float32 [1] each.

    Raises:
        StateError: If there are more or fewer than gates, or one is not finite.

    >>> from mopruning.manidp.structure import structure
    >>> list(threshold_entries(structure("dyresnet20"), np.arange(18)).items())[1]
    ('stage_1.0.mb2.thre', array([1.], dtype=float32))
    """
    flat = np.asarray(values, np.float64)
    if flat.shape != (len(structure.gates),) or not np.isfinite(flat).all():
        raise StateError(
            f"thresholds: expected {len(structure.gates)} finite numbers, 2 a block, got {flat.dtype} {flat.shape}"
        )
    return {f"{gate}.thre": np.array([value], np.float32) for gate, value in zip(structure.gates, flat, strict=True)}


def read_thresholds(structure: Structure, path: str | os.PathLike[str]) -> dict[str, NumPyArray]:
    """Read the published file of thresholds, thres.npy: one number for each gate.

    Returns:
        Entries of a state.

    Raises:
        FormatError: If the file is damaged or holds something else.
        StateError: If it belongs to a network with more or fewer gates.
    """
    try:
        values = np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise ValueError("it holds no array of numbers")
    except (ValueError, EOFError) as error:
        raise FormatError(f"{os.fspath(path)}: expected an array of thresholds: {error}") from error
    return threshold_entries(structure, values.reshape(-1))


def description(structure: Structure) -> dict[str, Any]:
    """Return a structure as plain values, for a file; `described` reads them.

    >>> from mopruning.manidp.structure import structure
    >>> described(description(structure("dyresnet18"))) == structure("dyresnet18")
    True
    """
    family = next(name for name, family in _FAMILIES.items() if family == structure.family)
    values = {name: getattr(structure, name) for name in _DESCRIBED}
    return {"family": family} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def described(values: Mapping[str, Any]) -> Structure:
    """Return the structure that `description` was taken of.

    Raises:
        StateError: If an entry is missing or out of range.
    """
    try:
        plain = {name: values[name] for name in _DESCRIBED}
        plain.update({name: tuple(plain[name]) for name in ("blocks", "channels")})
        return Structure(_FAMILIES[values["family"]], **plain)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"structure of a saved network: expected {', '.join(_DESCRIBED)}: {error!r}") from error
