"""Sparsity of a model's weights: counted and conforming in the canonical layout, however they are stored."""

import doctest
import importlib
import json

import numpy as np
import pytest

import mopruning
from mopruning import NM, BankBalanced, mask
from mopruning.ir.passes import sparsity
from tests.ir.small_models import Weights, array, content, encoder, model, node, put, resnet20


def test_doctests():
    result = doctest.testmod(importlib.import_module("mopruning.ir.passes.sparsity"))
    assert result.attempted > 0
    assert result.failed == 0


def test_zeros_agree_with_the_core_and_only_weights_are_listed():
    net = resnet20()
    for name in ("layer1.0.conv1.weight", "layer3.2.conv2.weight", "fc.weight"):
        values = array(net, name)
        put(net, name, values * mask(np.abs(values), NM(1, 4), 0.75))
    before = content(net)
    found = sparsity(net)
    assert content(net) == before
    weights = {name: array(net, name) for name in net.graph.initializers if array(net, name).ndim > 1}
    assert found.total == mopruning.sparsity(weights)
    patterns = {row.counted.name: row.conformity.patterns() for row in found.rows}
    assert patterns["layer1.0.conv1.weight"] == ("1:4", "2:8", "4:16", "4 of 16")
    assert patterns["fc.weight"] == ("1:4", "2:8", "4:16", "16 of 64")
    assert patterns["layer2.1.conv1.weight"] == ()


@pytest.mark.parametrize(
    ("operator", "shape", "attributes", "stored"),
    [
        ("Conv", (8, 64, 3, 3), {}, lambda w: w),
        ("ConvTranspose", (8, 64, 3, 3), {}, lambda w: w.swapaxes(0, 1)),
        ("Gemm", (8, 64), {"transB": 1}, lambda w: w),
        ("Gemm", (8, 64), {}, lambda w: w.T),
        ("MatMul", (8, 64), {}, lambda w: w.T),
    ],
)
def test_a_pattern_shows_whatever_the_layout(operator, shape, attributes, stored):
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    w *= mask(np.abs(w), BankBalanced(64), 60 / 64)
    image = ["N", 64, *(5 for _ in shape[2:])]
    nodes = [node(operator, "layer", "x w", **attributes)]
    (row,) = sparsity(model({"x": image}, nodes, ["layer"], {"w": np.ascontiguousarray(stored(w))})).rows
    assert row.counted.shape == shape
    assert row.conformity.banks[64] == (4, 4)
    assert (row.node, row.operator) == ("layer", operator)


def test_a_transposed_dense_weight_is_read_as_it_lies():
    net = encoder(hidden=16)
    values = array(net, "up.weight")
    put(net, "up.weight", values * mask(np.abs(values), NM(2, 4), 0.5))
    rows = {row.counted.name: row for row in sparsity(net).rows}
    assert rows["up.weight"].counted.shape == (64, 16)
    assert rows["up.weight"].conformity.nm[4] == 2
    assert rows["up.weight"].node == "up.matmul"


def test_text_table_and_numbers_agree():
    w = Weights()
    w.make("conv.weight", 2, 4, 1, 1)
    w["conv.weight"][0] = 0.0
    found = sparsity(model({"x": ["N", 4, 2, 2]}, [node("Conv", "conv", "x conv.weight")], ["conv"], w))
    assert str(found).splitlines()[1].split() == ["conv.weight", "conv", "2x4x1x1", "4", "8", "0.5000", "-"]
    assert str(found).splitlines()[-1].split() == ["total", "4", "8", "0.5000"]
    assert found.table().row_count == 1
    document = json.loads(json.dumps(found.to_dict()))
    assert document["total"]["sparsity"] == 0.5
    assert document["parameters"]["conv.weight"]["conformity"]["zero_filters"] == [1, 2]


def test_a_model_without_weights_has_no_rows():
    found = sparsity(model({"x": [2]}, [node("Relu", "y", "x")], ["y"]))
    assert found.rows == ()
    assert found.total.sparsity == 0.0
    assert "total" in str(found)
