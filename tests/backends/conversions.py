"""Conversions: a pruned network from any framework to any other, compared with what it was where it came from.

The tests carry a small network over every pair, and every network of the zoo once round; `benchmarks/matrix.py`
carries the whole zoo over every pair.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning import BankBalanced, Unstructured, mask
from mopruning.cli.running import difference
from mopruning.ir.parameters import parameters
from mopruning.ir.roles import roles_of

Array: TypeAlias = "np.ndarray[Any, Any]"

FRAMEWORKS = ("pytorch", "mxnet", "tensorflow1", "mindspore", "onnx")
RING = (*FRAMEWORKS, FRAMEWORKS[0])
"""One way through all of them and home."""

PAIRS = tuple((source, target) for source in FRAMEWORKS for target in FRAMEWORKS if source != target)
OUTPUTS = 1e-4  # largest difference, as a share of the output's range
_FEW = 32  # a filter of fewer inputs stays dense: at 90% nothing might be left of it


@dataclass(frozen=True)
class End:
    """How a network gets into a framework, runs there, and comes back.

    Args:
        send: (model, folder) -> the network in the framework, or its file.
        run: (network, inputs) -> outputs, all as the IR has them.
        bring: (network, inputs, open) -> model; the inputs are an example, and whether batches of other sizes follow.
            Where they do not, a reader that has to compile for a second size need not.
        state: network -> its parameters and buffers by name, as the IR has them, where that is to be had without
            translating the network back.
    """

    send: Callable[[onnx_ir.Model, Path], Any]
    run: Callable[[Any, Sequence[Array]], list[Array]]
    bring: Callable[[Any, Sequence[Array], bool], onnx_ir.Model]
    state: Callable[[Any], Mapping[str, Array]] | None = None


def end(framework: str) -> End:
    """Return how a framework is reached; it is imported now."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return _ENDS[framework]()


@dataclass(frozen=True)
class Conversion:
    """How far a network that was converted is from what it was.

    Args:
        network: Name of the network.
        source: Framework that it came from.
        target: Framework that it was taken to.
        difference: Largest difference of the outputs, over all batches, as a share of their range.
        names: Whether parameters and buffers have the same names.
        zeros: Whether the same of them are 0, and the others the same bit for bit.
        seconds: How long reading from one and writing to the other took.
    """

    network: str
    source: str
    target: str
    difference: float
    names: bool
    zeros: bool
    seconds: float

    def problems(self, limit: float = OUTPUTS) -> list[str]:
        """Return what does not hold, in words; outputs may differ by `limit`."""
        found = [] if self.difference <= limit else [f"outputs differ by {self.difference:.1e} of their range"]
        facts = {"names differ": self.names, "zeros or values differ": self.zeros}
        return found + [text for text, holds in facts.items() if not holds]


@dataclass
class Journey:
    """A network in one framework: what it computes there, and the model that is read from it."""

    model: onnx_ir.Model
    outputs: list[list[Array]]
    seconds: float
    state: Mapping[str, Array] = field(default_factory=dict)


def depart(framework: str, model: onnx_ir.Model, batches: Sequence[Sequence[Array]], folder: Path) -> Journey:
    """Put a model into a framework, run it there, and read it back from there."""
    there = end(framework)
    network = there.send(model, _made(folder / f"from_{framework}"))
    outputs = [there.run(network, inputs) for inputs in batches]
    start = time.perf_counter()
    read = there.bring(network, batches[-1], len(batches) > 1)
    return Journey(read, outputs, time.perf_counter() - start, state_of(read))


def arrive(
    name: str, source: str, journey: Journey, target: str, batches: Sequence[Sequence[Array]], folder: Path
) -> Conversion:
    """Take a model that was read from one framework to another, and compare what it is there."""
    there = end(target)
    network, shares, seconds = _taken(source, journey, target, batches, folder)
    state = there.state(network) if there.state else state_of(there.bring(network, batches[-1], len(batches) > 1))
    return Conversion(name, source, target, max(shares), *_alike(journey.state, state), seconds)


def ring(name: str, journey: Journey, batches: Sequence[Sequence[Array]], folder: Path) -> list[Conversion]:
    """Take a model that was read from the first framework of `RING` to each of the others, and home.

    Every framework gets what was read from the one before, and is compared with the first.
    """
    here, found = journey.model, []
    for number, (source, target) in enumerate(itertools.pairwise(RING)):
        there = end(target)
        sent = replace(journey, model=here, seconds=0.0)
        network, shares, seconds = _taken(source, sent, target, batches, folder / str(number))
        if number < len(RING) - 2:
            here = there.bring(network, batches[-1], len(batches) > 1)
            state: Mapping[str, Array] = state_of(here)
        else:
            state = there.state(network) if there.state else state_of(there.bring(network, batches[-1], True))
        found.append(Conversion(name, source, target, max(shares), *_alike(journey.state, state), seconds))
    return found


def _taken(
    source: str, journey: Journey, target: str, batches: Sequence[Sequence[Array]], folder: Path
) -> tuple[Any, list[float], float]:
    """Return a network in the target, how far its outputs are from those in the source, and the seconds it took."""
    there = end(target)
    start = time.perf_counter()
    network = there.send(journey.model, _made(folder / f"{source}_to_{target}"))
    seconds = journey.seconds + time.perf_counter() - start
    results = (there.run(network, inputs) for inputs in batches)
    return network, [difference(*both).share for both in zip(journey.outputs, results, strict=True)], seconds


def _alike(before: Mapping[str, Array], after: Mapping[str, Array]) -> tuple[bool, bool]:
    """Say whether two states have the same names, and the same bits."""
    names = before.keys() == after.keys()
    return names, names and all(_bits(array) == _bits(after[key]) for key, array in before.items())


def pruned(model: onnx_ir.Model) -> onnx_ir.Model:
    """Return a model of the zoo pruned in banks of 64 to 93.75% where that fits, else to 90%, and scaled.

    What is left is scaled to the variance 2 / inputs, so that signals stay as large as they are through all layers: the
    output of a network whose layers are nearly 0 says little about its parts. Filters of few inputs stay dense.
    """
    result = model.clone()
    for name, one in parameters(result).items():
        content = result.graph.initializers[name].const_value
        assert content is not None
        array = content.numpy().copy()
        if one.role != "weight":
            continue
        rows = one.canonical(array)
        inputs = math.prod(rows.shape[1:])
        if inputs >= _FEW:
            banks = BankBalanced(64).misfit(rows.shape) is None
            rows[~mask(np.abs(rows), BankBalanced(64) if banks else Unstructured(), 0.9375 if banks else 0.9)] = 0
        array *= np.float32(math.sqrt(2 / inputs / np.mean(np.square(rows), dtype=np.float64)))
        result.graph.initializers[name].const_value = onnx_ir.Tensor(array, name=name)
    return result


def state_of(model: onnx_ir.Model) -> dict[str, Array]:
    """Return the parameters and buffers of a model by name."""
    roles = roles_of(model)
    values = model.graph.initializers.items()
    return {name: value.const_value.numpy() for name, value in values if roles[name] != "constant"}  # type: ignore[union-attr]


def batches_for(model: onnx_ir.Model, sizes: Sequence[int] = (1, 3)) -> list[list[Array]]:
    """Draw random batches of these sizes for the inputs of a model, images all of them."""
    rng = np.random.default_rng(0)
    shapes = [[int(size) for size in value.shape[1:]] for value in model.graph.inputs]
    return [[rng.standard_normal((size, *shape)).astype(np.float32) for shape in shapes] for size in sizes]


def _bits(array: Array) -> tuple[Any, ...]:
    return array.shape, array.dtype, np.ascontiguousarray(array).tobytes()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pytorch() -> End:
    import torch

    from mopruning.backends import pytorch

    def run(network: Any, inputs: Sequence[Array]) -> list[Array]:
        network.eval()
        with torch.no_grad():
            outputs = network(*map(torch.from_numpy, inputs))
        return [one.numpy() for one in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return End(
        lambda model, folder: pytorch.from_ir(model),
        run,
        lambda network, inputs, _: pytorch.to_ir(network, tuple(map(torch.from_numpy, inputs))),
        lambda network: {
            name: value.numpy() for name, value in network.state_dict().items() if not name.endswith("batches_tracked")
        },
    )


def _mxnet() -> End:
    from mopruning.backends import mxnet

    def send(model: onnx_ir.Model, folder: Path) -> Path:
        mxnet.write_symbol(model, folder / "net-symbol.json")
        return folder / "net-symbol.json"

    return End(send, mxnet.run_symbol, lambda path, *_: mxnet.read_symbol(path))


def _tensorflow1() -> End:
    from mopruning.backends import tensorflow1

    def send(model: onnx_ir.Model, folder: Path) -> Path:
        tensorflow1.write_meta(model, folder / "net.meta")
        return folder / "net.meta"

    return End(send, tensorflow1.run_meta, lambda path, *_: tensorflow1.read_meta(path))


def _mindspore() -> End:
    import mindspore

    from mopruning.backends import mindspore as adapter

    def run(network: Any, inputs: Sequence[Array]) -> list[Array]:
        network.set_train(False)
        outputs = network(*map(mindspore.Tensor, inputs))
        return [one.asnumpy() for one in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return End(
        lambda model, folder: adapter.from_ir(model),
        run,
        lambda network, inputs, open_: adapter.to_ir(
            network, tuple(map(mindspore.Tensor, inputs)), dynamic_batch=open_
        ),
        lambda network: {name: value.asnumpy() for name, value in network.parameters_dict().items()},
    )


def _onnx() -> End:
    from mopruning.cli.running import run_onnx
    from mopruning.ir.onnx_files import read_onnx, write_onnx

    def send(model: onnx_ir.Model, folder: Path) -> Path:
        write_onnx(model, folder / "net.onnx")
        return folder / "net.onnx"

    return End(send, run_onnx, lambda path, *_: read_onnx(path))


_ENVIRONMENT = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # with AVX-512, MindSpore 2.10 takes oneDNN's reference convolution, 12 times slower
    "TF_CPP_MIN_LOG_LEVEL": "2",
}

_ENDS: Mapping[str, Callable[[], End]] = {
    "pytorch": _pytorch,
    "mxnet": _mxnet,
    "tensorflow1": _tensorflow1,
    "mindspore": _mindspore,
    "onnx": _onnx,
}
