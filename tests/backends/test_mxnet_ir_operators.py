"""Every operator of the profile, with every attribute, computes in MXNet what it computes in onnxruntime, both ways."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)
pytest.importorskip("onnxruntime")

from mopruning.backends.mxnet.symbol_files import read_symbol, run_symbol, write_symbol
from mopruning.backends.mxnet.writer import LOWERINGS, from_ir
from mopruning.ir.operators import OPERATORS
from mopruning.ir.validation import UnsupportedOperators
from tests.backends.mxnet_ir_networks import assert_close, outputs_of
from tests.ir.operator_cases import ELEMENTS, LAYERS, POOLS, RESIZES, SHAPES
from tests.ir.small_models import run

REFUSED = {
    "Range": "no such operator",
    "ConstantOfShape": "is computed",
    "Reshape": "no elements",
    "Slice": "no elements",
}
"""Operators of which some cases have no place in MXNet: numbers that are only known later, and empty arrays."""

WITH_WEIGHTS = {one.operator for one in LAYERS}
CASES = [*LAYERS, *POOLS, *ELEMENTS, *SHAPES, *RESIZES]


def named(one):
    names = ["a.layer.weight", "a.layer.bias", "a.layer.mean", "a.layer.variance", *"cde"]
    return one.graph(names[: len(one.weights)])


def is_refused(one) -> bool:
    empty = any(0 in value.shape for value in one.inputs)
    if one.operator == "Slice":
        return [list(value) for value in one.weights] == [[3], [3], [1], [-1]]
    return one.operator in ("Range", "ConstantOfShape") or empty


def test_every_operator_has_a_lowering_and_a_case():
    assert set(LOWERINGS) == set(OPERATORS) - {"Range"}
    assert {one.operator for one in CASES} == set(OPERATORS)


@pytest.mark.parametrize("one", [one for one in CASES if not is_refused(one)], ids=str)
def test_operators_there_and_back(one, tmp_path):
    net = named(one)
    inputs = {f"x{index}": np.asarray(value) for index, value in enumerate(one.inputs)}
    expected = run(net, inputs)
    assert_close(outputs_of(from_ir(net), [*inputs.values()]), expected, one.tolerance)
    write_symbol(net, tmp_path / "net-symbol.json")
    back = read_symbol(tmp_path / "net-symbol.json")
    given = [str(value.name) for value in back.graph.inputs]
    returned = run(back, {name: inputs[name] for name in given})
    returned = [value.reshape(value.shape or (1,)) for value in returned]
    assert_close(returned, expected, one.tolerance)
    if one.operator in WITH_WEIGHTS:
        own = run_symbol(tmp_path / "net-symbol.json", [inputs[name] for name in given])
        assert_close(own, expected, one.tolerance)


@pytest.mark.parametrize("one", [one for one in CASES if is_refused(one)], ids=str)
def test_what_cannot_be_expressed_is_refused(one):
    with pytest.raises(UnsupportedOperators, match=REFUSED[one.operator]):
        from_ir(named(one))
