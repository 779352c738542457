"""Every operator of the profile, with every attribute, computes in MindSpore what it computes in onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mindspore", exc_type=ImportError)
pytest.importorskip("onnxruntime")

from mindspore import Tensor

from mopruning.backends.mindspore.reader import to_ir
from mopruning.backends.mindspore.writer import LOWERINGS, from_ir
from mopruning.ir.operators import OPERATORS
from mopruning.ir.validation import UnsupportedOperators
from tests.backends.mindspore_ir_networks import distance, expected, outputs
from tests.ir.operator_cases import CASES, LAYERS

REFUSED = {"Range": "are computed", "ConstantOfShape": "which no input has"}
"""Operators whose result has a size that is only known when the network runs."""

APPROXIMATE = ("LSTM", "GRU", "Tanh", "Mish", "Gelu")
"""Operators of which MindSpore 2.10 computes the hyperbolic tangent on a CPU to 1e-4 only."""

NAMES = ["a.layer.weight", "a.layer.bias", "a.layer.running_mean", "a.layer.running_var", *"cde"]


def limit(one) -> float:
    return 1e-4 if one.operator in APPROXIMATE else max(one.tolerance, 1e-5)


def inputs_of(one) -> list[np.ndarray]:
    return [np.asarray(value).copy() for value in one.inputs]


def test_every_operator_has_a_lowering():
    assert set(LOWERINGS) == set(OPERATORS)


@pytest.mark.parametrize("one", [one for one in CASES if one.operator not in REFUSED], ids=str)
def test_operators(one):
    net = one.graph(NAMES[: len(one.weights)])
    wanted = one.expected(NAMES[: len(one.weights)])
    actual = outputs(from_ir(net), *inputs_of(one))
    assert [value.dtype for value in actual] == [value.dtype for value in wanted]
    if all(value.size for value in wanted):
        whole = [[value.astype(np.float64) for value in values] for values in (actual, wanted)]
        assert distance(*whole) <= limit(one)


@pytest.mark.parametrize("one", LAYERS, ids=str)
def test_layers_under_names_that_no_layer_gives(one):
    names = [f"0/{one.operator}:{index}" for index in range(len(one.weights))]
    net = one.graph(names)
    cell = from_ir(net)
    assert distance(outputs(cell, *inputs_of(one)), one.expected(names)) <= limit(one)
    states = names[3:] if one.operator in ("LSTM", "GRU") else []
    given = {name for name, value in zip(names, one.weights, strict=True) if value is not None}
    assert {parameter.name for parameter in cell.get_parameters()} == given - set(states)


@pytest.mark.parametrize("one", LAYERS[::3], ids=str)
def test_layers_return(one):
    names = NAMES[: len(one.weights)]
    back = to_ir(from_ir(one.graph(names)), [Tensor(value) for value in inputs_of(one)], dynamic_batch=False)
    assert distance(expected(back, *inputs_of(one)), one.expected(names)) <= limit(one)


@pytest.mark.parametrize("one", [one for one in CASES if one.operator in REFUSED], ids=str)
def test_what_cannot_be_expressed_is_refused(one):
    with pytest.raises(UnsupportedOperators, match=REFUSED[one.operator]):
        from_ir(one.graph(NAMES[: len(one.weights)]))
