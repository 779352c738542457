"""Networks of the zoo, pruned: each goes round all frameworks, and computes as the original when it is back.

One of every kind does so with batches of two sizes, goes through files and back, and trains as the original, too. So do
modules written by hand, which nothing of this project has made.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from mopruning.backends import pytorch  # noqa: E402
from mopruning.ir import zoo  # noqa: E402
from mopruning.ir.mopir import load  # noqa: E402
from mopruning.ir.passes.fold_batchnorm import fold_batchnorm  # noqa: E402
from tests.backends import round_trips  # noqa: E402
from tests.backends.conversions import FRAMEWORKS, OUTPUTS, RING, Journey, batches_for, ring, state_of  # noqa: E402
from tests.backends.presence import require  # noqa: E402
from tests.backends.pytorch_ir_networks import NETWORKS, outputs_of, sent  # noqa: E402
from tests.backends.round_trips import BY_ONNX, CHAINS, TO_ONNX, Original, Trip, arrays, original, rounding, trips  # noqa: E402
from tests.backends.small_zoo import NAMES, SIBLINGS, small_options, small_side  # noqa: E402

ZOO_CHAINS = (BY_ONNX, TO_ONNX)  # the first passes through a .mopir file, too


def wanted(found: list[Trip], chains: tuple[str, ...] = CHAINS) -> None:
    assert {trip.chain: trip.problems() for trip in found} == {chain: [] for chain in chains}


@functools.lru_cache(maxsize=1)
def translated(name: str) -> tuple[Original, onnx_ir.Model]:
    """Return a pruned network and its translation, which takes longest and serves two tests in turn."""
    network = original(name, small_side(name), **small_options(name))
    return network, pytorch.to_ir(network.module, network.inputs)


def by_files(name: str, folder) -> None:
    network, model = translated(name)
    found = trips(network, folder, model, ZOO_CHAINS)
    wanted(found, ZOO_CHAINS)
    assert all(trip.order for trip in found)


def by_frameworks(name: str, folder) -> None:
    for framework in FRAMEWORKS:
        if framework != "onnx":
            require(framework)
    network, model = translated(name)
    batches = batches_for(model, (1, 3) if name in NAMES else (3,))
    outputs = [arrays(outputs_of(network.module, tuple(map(torch.from_numpy, inputs)))) for inputs in batches]
    found = ring(name, Journey(model, outputs, 0.0, state_of(model)), batches, folder)
    limit = OUTPUTS
    if max(one.difference for one in found) > limit:  # more than float32 can tell of most networks
        limit = max(limit, 3 * rounding(network, arrays(outputs_of(network.module, network.inputs))))
    problems = {f"to {one.target}": one.problems(limit) for one in found}
    assert problems == {f"to {framework}": [] for framework in RING[1:]}


WAYS = [
    (name, way)
    for name in zoo.names()
    for way in (by_files, by_frameworks)
    if name in NAMES or (way is by_frameworks and name not in SIBLINGS)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), WAYS, ids=lambda part: getattr(part, "__name__", part))
def test_networks_of_the_zoo_return_as_they_were(name, way, tmp_path):
    way(name, tmp_path)


@pytest.mark.parametrize("name", NETWORKS)
def test_modules_written_by_hand_return_as_they_were(name, tmp_path):
    module, inputs, model = sent(name)
    wanted(trips(Original(name, module, inputs), tmp_path, model))


def put(model: onnx_ir.Model, name: str, change) -> onnx_ir.Model:
    value = model.graph.initializers[name]
    value.const_value = onnx_ir.Tensor(change(value.const_value.numpy().copy()), name=name)
    return model


def renamed(model: onnx_ir.Model) -> onnx_ir.Model:
    model.graph.initializers["bn1.bias"].name = "bn1.beta"
    return model


DAMAGES = {
    "weight": (lambda model: put(model, "conv2.weight", lambda array: array * np.float32(1.001)), "weights differ"),
    "zeros": (lambda model: put(model, "fc.weight", lambda array: array + np.float32(1e-6)), "zeros differ"),
    "name": (renamed, "names differ"),
    "statistics": (
        lambda model: put(model, "bn1.running_mean", lambda array: array + 1),
        "running statistics differ: ",
    ),
    "normalisation": (fold_batchnorm, "loss at step 1 differs: "),
}


@pytest.fixture(scope="module")
def digits():
    network = original("mnist_cnn")
    return network, pytorch.to_ir(network.module, network.inputs)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_return_as_it_was_is_seen(damage, digits, tmp_path, monkeypatch):
    change, problem = DAMAGES[damage]
    monkeypatch.setattr(round_trips, "load", lambda path: change(load(path)))
    network, translated = digits
    found = trips(network, tmp_path, translated)
    assert all(any(text.startswith(problem) for text in trip.problems()) for trip in found)
