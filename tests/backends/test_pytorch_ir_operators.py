"""Every operator of the profile, with every attribute, computes in PyTorch what it computes in onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from mopruning.backends import pytorch  # noqa: E402
from mopruning.backends.pytorch.writer import LOWERINGS  # noqa: E402
from mopruning.ir.operators import OPERATORS  # noqa: E402
from tests.backends.pytorch_ir_networks import assert_close  # noqa: E402
from tests.ir.operator_cases import CASES, ELEMENTS, LAYERS, POOLS, RESIZES, SHAPES, Case  # noqa: E402

MODULE = {
    "BatchNormalization": ["a.layer.weight", "a.layer.bias", "a.layer.running_mean", "a.layer.running_var"],
}


def test_every_operator_has_a_lowering_and_a_case():
    assert set(LOWERINGS) == set(OPERATORS)
    assert {one.operator for one in CASES} == set(OPERATORS)


def compare(one: Case, names: Sequence[str]):
    """Fail unless the network of a case computes what onnxruntime does; return it."""
    network = pytorch.from_ir(one.graph(names)).eval()
    with torch.no_grad():
        actual = network(*(torch.from_numpy(value.copy()) for value in one.inputs))
    actual = actual if isinstance(actual, tuple) else (actual,)
    for got, expected in zip(actual, one.expected(names), strict=True):
        assert_close(got, expected, one.tolerance)
    return network


@pytest.fixture(autouse=True)
def _no_short_kernel_warning():
    # onnxruntime is asked for what it computes, PyTorch for the same: neither should have anything to remark.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def trained(one: Case, names: Sequence[str]) -> set[str]:
    """The names that belong into the state dict: initial states of a recurrent layer do not."""
    held = {name for name, value in zip(names, one.weights, strict=True) if value is not None}
    return held - set(names[3:]) if one.operator in ("LSTM", "GRU") else held


@pytest.mark.parametrize("one", LAYERS, ids=str)
def test_layers_as_modules(one):
    names = MODULE.get(one.operator, ["a.layer.weight", "a.layer.bias", *"cdefg"])[: len(one.weights)]
    network = compare(one, names)
    assert set(network.state_dict()) == trained(one, names)


@pytest.mark.parametrize("one", LAYERS, ids=str)
def test_layers_under_names_that_no_module_gives(one):
    names = [f"0/{one.operator}:{index}" for index in range(len(one.weights))]
    network = compare(one, names)
    assert set(network.state_dict()) == trained(one, names)
    statistics = {"BatchNormalization": names[2:4]}.get(one.operator, [])
    assert {name for name, _ in network.named_parameters()} == set(network.state_dict()) - set(statistics)


@pytest.mark.parametrize("one", [*POOLS, *ELEMENTS, *SHAPES, *RESIZES], ids=str)
def test_operators(one):
    compare(one, [f"layer.{index}" for index in range(len(one.weights))])
