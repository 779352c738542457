"""Round trips: pruned networks through .mopir and ONNX files and back, measured against the original.

The tests hold every figure to its limit, at small image sizes; `benchmarks/round_trips.py` prints them at full size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mopruning import BankBalanced, Unstructured, mask
from mopruning.backends import pytorch
from mopruning.cli.running import difference, run_onnx
from mopruning.ir import zoo
from mopruning.ir.mopir import load, save
from mopruning.ir.onnx_files import read_onnx, write_onnx
from mopruning.ir.parameters import parameters
from tests.backends.pytorch_ir_networks import outputs_of

Array: TypeAlias = "np.ndarray[Any, Any]"

TO_TORCH = "torch -> mopir -> torch"
BY_ONNX = "torch -> onnx -> mopir -> torch"
TO_ONNX = "onnx -> mopir -> onnx"
CHAINS = (TO_TORCH, BY_ONNX, TO_ONNX)

OUTPUTS = 1e-5  # largest difference, as a share of the output's range
LOSSES = 1e-4  # largest relative difference of a loss, and of running statistics
BATCHES = {"mobilenet_v2_cifar": 8}  # its last images are one pixel, of which two have no statistics
FEW = 32  # a filter of fewer inputs stays dense: at 90% nothing might be left of it, and its channel be dead
STEPS = 3
RATE = 0.01  # times gradients that are cut to a norm of 1 each: those of these networks differ by powers of ten


@dataclass(frozen=True)
class Original:
    """A pruned network before it travels.

    Args:
        name: What it is called here.
        module: The network in PyTorch, in training mode.
        inputs: An example of its input.
        model: The same as a model that never was in PyTorch; None for a module written by hand.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    model: onnx_ir.Model | None = None


@dataclass(frozen=True)
class Training:
    """What a network shows while it is trained with the zeros held, by the same data and random numbers.

    Args:
        losses: The loss before each update, and after the last.
        statistics: Running means and variances after the first step.
        moved: Whether the first step changed all of them.
        held: Whether every pruned weight was still 0 in the end, and others were changed.
    """

    losses: tuple[float, ...]
    statistics: Mapping[str, Tensor]
    moved: bool
    held: bool


@dataclass(frozen=True)
class Trip:
    """How far what arrived is from the original.

    Args:
        network: Name of the network.
        chain: One of `CHAINS`.
        sparsity: Share of zeros in the weights of the original.
        difference: Largest difference of the outputs, as a share of their range.
        runtime: The same between the ONNX file on the way, in onnxruntime, and the original in PyTorch; None where
            there is no such file.
        rounding: The same between the original and itself in float64, where `runtime` is larger than is usual: what
            float32 can tell of this network.
        names: Whether the parameters and buffers are the same by name.
        order: Whether they stand in the same order: PyTorch's is that in which modules are defined, which is not always
            that in which the graph calls them.
        weights: Whether they have the same types and shapes and are the same bit for bit.
        zeros: Whether the same of them are 0.
        first: Relative difference of the loss before the first update.
        second: Relative difference of the loss after it.
        statistics: Largest relative difference of the running statistics after one step; None where there are none.
        moved: Whether that step changed the statistics.
        held: Whether training left the zeros as they were.
        losses: Of what arrived: before each update, and after the last.
    """

    network: str
    chain: str
    sparsity: float
    difference: float
    runtime: float | None
    rounding: float
    names: bool
    order: bool
    weights: bool
    zeros: bool
    first: float
    second: float
    statistics: float | None
    moved: bool
    held: bool
    losses: tuple[float, ...] = field(repr=False)

    def problems(self) -> list[str]:
        """Return what does not hold, in words."""
        limits = {
            "outputs differ": (self.difference, OUTPUTS),
            "outputs of PyTorch and onnxruntime differ": (
                self.runtime,
                max(OUTPUTS, 3 * self.rounding),
            ),  # two roundings, in other orders
            "loss at step 1 differs": (self.first, LOSSES),
            "loss after the first update differs": (self.second, LOSSES),
            "running statistics differ": (self.statistics, LOSSES),
        }
        found = [
            f"{text}: {value:.2e}, limit {limit:.0e}"
            for text, (value, limit) in limits.items()
            if value is not None and not value <= limit
        ]
        if not self.losses[-1] < self.losses[0]:
            found.append(f"loss does not fall: {self.losses[0]:.6g} to {self.losses[-1]:.6g}")
        facts = {
            "names differ": self.names,
            "weights differ": self.weights,
            "zeros differ": self.zeros,
            "running statistics stay": self.moved,
            "training loses the zeros, or trains nothing": self.held,
            "nothing is pruned": self.sparsity > 0.25,
        }
        return found + [text for text, holds in facts.items() if not holds]


def original(name: str, image: int | None = None, **options: Any) -> Original:
    """Build a network of the zoo, prune it, and make it such as training leaves networks.

    Pruned is to 50% in banks of 64 where that fits at least half of the weights' numbers (others stay dense), else to
    90% unstructured. What is left is scaled to the variance 2 / inputs, so that each layer's output is as large as its
    input, whatever the depth and the initial weights: an output that hardly depends on the image would compare well
    with almost anything. Scales and biases are no longer 1 and 0, running statistics are those of a batch of images.
    Options are those of `zoo.build`.
    """
    model = zoo.build(name, image=image, **options)
    rng = np.random.default_rng(0)
    found = parameters(model)
    fits = {key: not BankBalanced(64).misfit(one.canonical(_content(one.value)).shape) for key, one in found.items()}
    sizes = {key: _content(one.value).size for key, one in found.items() if one.role == "weight"}
    banks = sum(size for key, size in sizes.items() if fits[key]) >= sum(sizes.values()) / 2
    for key, one in found.items():
        array = _content(one.value).copy()
        if one.role == "weight":
            rows = one.canonical(array)
            if (fits[key] or not banks) and math.prod(rows.shape[1:]) >= FEW:
                keep = mask(np.abs(rows), BankBalanced(64) if banks else Unstructured(), 0.5 if banks else 0.9)
                rows[~keep] = 0
            array *= np.float32(math.sqrt(2 / math.prod(rows.shape[1:]) / np.mean(np.square(rows), dtype=np.float64)))
        else:
            array += rng.normal(0, 0.1, array.shape).astype(np.float32)
        one.value.const_value = onnx_ir.Tensor(array, name=key)
    module = pytorch.from_ir(model)
    torch.manual_seed(0)
    size = tuple(map(int, model.graph.inputs[0].shape[1:]))  # type: ignore[index]
    large = size[-1] > 200
    inputs = (torch.randn(1 if large else BATCHES.get(name, 2), *size),)
    _settle(module, torch.randn(2 if large else 16, *size))
    for key, buffer in module.named_buffers():
        model.graph.initializers[key].const_value = onnx_ir.Tensor(buffer.numpy().copy(), name=key)
    return Original(name, module, inputs, model)


def trips(
    network: Original, folder: Path, sent: onnx_ir.Model | None = None, chains: Sequence[str] = CHAINS
) -> list[Trip]:
    """Send a network through chains, by files in a folder, and compare what arrives with it.

    The network is not changed. The chains from PyTorch share the translation, which takes longest; it may be passed as
    `sent`.
    """
    outputs = arrays(outputs_of(network.module, network.inputs))
    state = state_of(network.module)
    images = [value.numpy() for value in network.inputs]
    expected = train(copy.deepcopy(network.module), network.inputs, steps=1)
    sent = sent or pytorch.to_ir(network.module, network.inputs)
    way, end = folder / "way.onnx", folder / "end.onnx"
    result = []
    for chain in chains:
        arrived = pytorch.from_ir(_travel(chain, sent, network.model or sent, folder / "net.mopir", way, end))
        by_file = None if chain == TO_TORCH else run_onnx(way, images)
        alike = [_compare(state, state_of(arrived))]
        if chain == TO_ONNX:
            assert by_file is not None
            share = difference(by_file, run_onnx(end, images)).share
            alike.append(_compare(_initializers(way), _initializers(end)))
        else:
            share = difference(outputs, arrays(outputs_of(arrived, network.inputs))).share
        names, order, weights, zeros = map(all, zip(*alike, strict=True))
        runtime = None if by_file is None else difference(outputs, by_file).share
        training = train(arrived, network.inputs)
        result.append(
            Trip(
                network=network.name,
                chain=chain,
                sparsity=_sparsity(state),
                difference=share,
                runtime=runtime,
                rounding=rounding(network, outputs) if runtime is not None and runtime > OUTPUTS else 0.0,
                names=names,
                order=order,
                weights=weights,
                zeros=zeros,
                first=_relative(training.losses[0], expected.losses[0]),
                second=_relative(training.losses[1], expected.losses[1]),
                statistics=_furthest(training.statistics, expected.statistics),
                moved=training.moved,
                held=training.held,
                losses=training.losses,
            )
        )
    return result


def train(network: nn.Module, inputs: tuple[Tensor, ...], steps: int = STEPS) -> Training:
    """Train a network in place for a few steps on one batch, with its zeros held, and say what was seen.

    Every step draws the same random numbers, so that dropouts drop the same, here and in the original.
    """
    network.train()
    before = {key: value.detach().clone() for key, value in network.named_parameters() if value.ndim > 1}
    running = {key: value.clone() for key, value in network.named_buffers() if "running" in key}
    optimizer = pytorch.SGDSparse(network, lr=RATE, fix_sparsity=True)
    losses, statistics = [], {}
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(network, inputs)
        loss.backward()
        for parameter in network.parameters():
            nn.utils.clip_grad_norm_(parameter, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step == 0:
            statistics = {key: value.clone() for key, value in network.named_buffers() if key in running}
    with torch.no_grad():
        losses.append(loss_of(network, inputs).item())
    after = dict(network.named_parameters())
    held = all(
        not torch.where(value == 0, after[key], 0).any() and not torch.equal(after[key], value)
        for key, value in before.items()
    )
    moved = all(not torch.equal(statistics[key], value) for key, value in running.items())
    return Training(tuple(losses), statistics, moved, held)


def loss_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the cross entropy with fixed labels for a classifier, else a loss that depends on every output."""
    torch.manual_seed(1)
    total = torch.zeros(())
    for output in pytree.tree_leaves(network(*inputs)):
        labels = torch.arange(len(output))
        total = total + (
            F.cross_entropy(output, labels % output.shape[1]) if output.ndim == 2 else output.square().mean()
        )
    return total


def state_of(module: nn.Module) -> dict[str, Array]:
    """Return what the state dict of a module holds, sharing its memory; of the names of one tensor the first."""
    own: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {key: one.detach().numpy() for key, one in state.items() if own.setdefault(id(one), key) == key}


def _travel(chain: str, sent: onnx_ir.Model, model: onnx_ir.Model, net: Path, way: Path, end: Path) -> onnx_ir.Model:
    """Take a model along a chain, by the files that are named; return what is read in the end."""
    if chain == TO_TORCH:
        save(sent, net)
        return load(net)
    write_onnx(sent if chain == BY_ONNX else model, way)
    save(read_onnx(way), net)
    if chain == BY_ONNX:
        return load(net)
    write_onnx(load(net), end)
    return read_onnx(end)


def rounding(network: Original, outputs: list[Array]) -> float:
    """Return the largest difference between a network's outputs and those it has in float64."""
    inputs = tuple(value.double() if value.is_floating_point() else value for value in network.inputs)
    return difference(arrays(outputs_of(copy.deepcopy(network.module).double(), inputs)), outputs).share


def _settle(module: nn.Module, images: Tensor) -> None:
    """Make the running statistics those of a batch, in place.

    A channel that hardly varies there, as pruning leaves some, counts as if it varied a tenth as much as the others: it
    would otherwise blow up rounding errors, and comparisons would see nothing else.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
    if norms:
        with torch.no_grad():
            module(images)
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
        variance = part.running_var
        assert variance is not None
        variance.clamp_(min=float(variance.mean()) / 10)


def _content(value: onnx_ir.Value) -> Array:
    assert value.const_value is not None
    return value.const_value.numpy()


def arrays(outputs: Sequence[Tensor]) -> list[Array]:
    return [output.numpy() for output in outputs]


def _initializers(file: Path) -> dict[str, Array]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}


def _sparsity(state: Mapping[str, Array]) -> float:
    weights = [array for array in state.values() if array.ndim > 1]
    return 1 - sum(np.count_nonzero(array) for array in weights) / sum(array.size for array in weights)


def _compare(before: Mapping[str, Array], after: Mapping[str, Array]) -> tuple[bool, bool, bool, bool]:
    """Say whether names, their order, bits and zeros are the same."""
    names = before.keys() == after.keys()
    bits = names and all(_bits(array, after[key]) for key, array in before.items())
    zeros = names and all(np.array_equal(array == 0, after[key] == 0) for key, array in before.items())
    return names, list(before) == list(after), bits, zeros


def _bits(before: Array, after: Array) -> bool:
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        return False
    one, other = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (before, after))
    return np.array_equal(one, other)


def _relative(actual: float, expected: float) -> float:
    return abs(actual - expected) / abs(expected) if expected else math.inf


def _furthest(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float | None:
    if actual.keys() != expected.keys():
        return math.inf
    pairs = [(actual[key], value) for key, value in expected.items()]
    return max((float((one - other).abs().max() / other.abs().max()) for one, other in pairs), default=None)
