"""Cost: multiply-accumulates against convolutions of ones, which count them, and against published numbers."""

import doctest
import importlib
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopruning.ir.passes import ShapeError, cost
from mopruning.ir.passes.fold_batchnorm import fold_batchnorm
from tests.ir.small_models import INT64, Weights, array, content, encoder, model, node, put, recurrent, resnet20, run


def test_doctests():
    result = doctest.testmod(importlib.import_module("mopruning.ir.passes.cost"))
    assert result.attempted > 0
    assert result.failed == 0


def counted(net, shape):
    """Run a layer without padding on ones: every product of two ones adds one to the sum of all outputs."""
    return int(run(net, {"x": np.ones(shape, np.float32)})[0].astype(np.float64).sum())


def both_ways(operator, weight_shape, image, seed, **attributes):
    keep = (np.random.default_rng(seed).random(weight_shape) < 0.4).astype(np.float32)
    nets = [
        model({"x": ["N", *image[1:]]}, [node(operator, "layer", "x w", **attributes)], ["layer"], {"w": weight})
        for weight in (np.ones(weight_shape, np.float32), keep)
    ]
    report = cost(nets[1], batch=image[0])
    assert report.macs == counted(nets[0], image)
    assert report.effective_macs == counted(nets[1], image)
    assert (report.parameters, report.nonzeros) == (keep.size, np.count_nonzero(keep))


@given(
    st.sampled_from(["Conv", "ConvTranspose"]),
    st.integers(1, 3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(1, 2),
    st.integers(0, 5),
)
def test_convolutions(operator, groups, channels, kernel, strides, dilation, seed):
    inputs, outputs = channels[0] * groups, channels[1] * groups
    first = (outputs, channels[0]) if operator == "Conv" else (inputs, channels[1])
    both_ways(
        operator,
        (*first, *kernel),
        (2, inputs, 6, 7),
        seed,
        group=groups,
        strides=list(strides),
        dilations=[dilation] * 2,
    )


@pytest.mark.parametrize("transposed", [0, 1])
def test_dense_layers(transposed):
    both_ways("Gemm", (7, 5) if transposed else (5, 7), (3, 5), 0, transB=transposed)
    both_ways("MatMul", (5, 7), (3, 5), 0)
    both_ways("MatMul", (5, 7), (3, 4, 5), 0)


def test_resnet20_has_its_known_cost():
    net = resnet20()
    before = content(net)
    report = cost(net, image=32)
    assert content(net) == before
    assert report.macs == report.effective_macs == 40_813_184
    assert report.parameters == 272_282
    assert report.inputs == {"image": (1, 3, 32, 32)}
    assert cost(net, image=(32, 64)).macs == 2 * 40_813_184 - 640
    assert cost(net, image=32, batch=3).macs == 3 * 40_813_184
    assert cost(net, shapes={"image": (1, 3, 32, 32)}) == report
    assert cost(fold_batchnorm(net), image=32).macs == report.macs


def test_zeros_make_the_effective_cost():
    net = resnet20(32)
    weight = array(net, "layer1.0.conv1.weight").copy()
    weight[:, :12] = 0.0
    put(net, "layer1.0.conv1.weight", weight)
    report = cost(net)
    row = next(row for row in report.rows if row.node == "layer1.0.conv1")
    assert (row.macs, row.effective_macs) == (16 * 16 * 9 * 1024, 16 * 4 * 9 * 1024)
    assert report.macs - report.effective_macs == row.macs - row.effective_macs
    assert report.parameters - report.nonzeros == 16 * 12 * 9


def test_encoder_counts_attention_and_knows_transposed_weights():
    net = encoder(hidden=16, heads=4)
    weight = array(net, "up.weight").copy()
    weight[:32] = 0.0
    put(net, "up.weight", weight)
    report = cost(net)
    tokens, hidden = 6, 16
    dense = tokens * (4 * hidden * hidden + 2 * hidden * 4 * hidden)
    assert report.macs == dense + 2 * tokens * tokens * hidden
    assert report.effective_macs == report.macs - tokens * hidden * 32
    rows = {row.node: row for row in report.rows}
    assert rows["scores"].macs == tokens * tokens * hidden
    assert (rows["up.matmul"].parameters, rows["up.matmul"].nonzeros) == (hidden * 64, hidden * 32)
    assert rows["embedded"].parameters == tokens * hidden  # the position embedding is an operand of an Add
    assert rows["tokens"].parameters == 30 * hidden
    names = ("weight", "bias", "positions")
    assert report.parameters == sum(
        value.const_value.size for name, value in net.graph.initializers.items() if name.endswith(names)
    )


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_recurrent_layers_count_each_step(operator, gates):
    net = recurrent(operator)
    put(net, "w", array(net, "w") * np.float32([[[0]], [[1]]]))  # none of the inputs of the forward direction
    report = cost(net, shapes={"x": (7, 2, 5)})
    steps = 7 * 2
    assert report.macs == steps * 2 * gates * 3 * (5 + 3)
    assert report.effective_macs == report.macs - steps * gates * 3 * 5
    assert report.parameters == 2 * gates * 3 * (5 + 3 + 2)


def test_a_weight_that_is_computed_from_others_counts_by_its_own_zeros():
    w = np.arange(12, dtype=np.float32).reshape(4, 3) % 3
    nodes = [node("Slice", "part", "w zero two zero"), node("Gemm", "y", "x part", transB=1)]
    net = model({"x": ["N", 3]}, nodes, ["y"], {"w": w, "zero": np.array([0]), "two": np.array([2])})
    report = cost(net)
    assert (report.macs, report.effective_macs) == (6, 4)


def test_a_shared_weight_is_counted_once_and_used_twice():
    w = {"w": np.eye(3, dtype=np.float32)}
    net = model({"x": ["N", 3]}, [node("Gemm", "a", "x w", transB=1), node("Gemm", "b", "a w", transB=1)], ["b"], w)
    report = cost(net)
    assert [(row.macs, row.parameters) for row in report.rows] == [(9, 9), (9, 0)]
    assert (report.macs, report.effective_macs, report.parameters, report.nonzeros) == (18, 6, 9, 3)


def test_what_is_no_parameter_is_not_counted():
    weights = {
        "ratio": np.float32(0.5),
        "low": np.float32(0),
        "scales": np.float32([1, 1, 2, 2]),
        "half": np.float32(0.5),
        "gain": np.ones((1, 2, 1, 1), np.float32),
    }
    nodes = [
        node("Dropout", "drop", "x ratio"),
        node("Clip", "clip", "drop low"),
        node("Resize", "up", "clip _ scales", mode="nearest"),
        node("Mul", "halved", "up half"),
        node("Mul", "y", "halved gain"),
    ]
    report = cost(model({"x": ["N", 2, 4, 4]}, nodes, ["y"], weights))
    assert [(row.node, row.parameters) for row in report.rows] == [("y", 2)]
    assert report.rows[0].output == (1, 2, 8, 8)


def test_many_products_of_computed_values():
    """In blocks of attention, each of which has four ways from its output to its input."""
    w, nodes, x = Weights(), [], "x"
    for block in (f"{place}." for place in range(40)):
        nodes += [node("MatMul", block + part, f"{x} {w.make(f'{block}{part}.weight', 4, 4)}") for part in "qkv"]
        nodes += [
            node("Transpose", f"{block}t", f"{block}k", perm=[0, 2, 1]),
            node("MatMul", f"{block}scores", f"{block}q {block}t"),
            node("Softmax", f"{block}soft", f"{block}scores"),
            node("MatMul", f"{block}mixed", f"{block}soft {block}v"),
            node("Add", f"{block}sum", f"{x} {block}mixed"),
        ]
        x = f"{block}sum"
    net = model({"x": ["N", 3, 4]}, nodes, [x], w)
    start = time.process_time()
    report = cost(net)
    assert time.process_time() - start < 2  # 4**40 ways cannot be walked one by one
    assert report.macs == 40 * (3 * 3 * 4 * 4 + 2 * 3 * 3 * 4)


def test_table_text_and_numbers_agree():
    report = cost(resnet20(32))
    text = str(report)
    lines = text.splitlines()
    assert lines[0].split() == ["node", "operator", "output", "MACs", "effective", "parameters", "non-zeros"]
    assert lines[1].split() == ["conv1", "Conv", "1x16x32x32", "442,368", "442,368", "432", "432"]
    assert lines[-2].split()[:2] == ["total", "40,813,184"]
    assert lines[-1] == "for image 1x3x32x32"
    table = report.table()
    assert table.row_count == len(report.rows) == len(lines) - 3
    document = json.loads(json.dumps(report.to_dict()))
    assert document["total"]["macs"] == sum(row["macs"] for row in document["nodes"]) == report.macs


def test_open_sizes_are_asked_for():
    with pytest.raises(ShapeError, match=r"the shape of 'image' is open \(1, 3, H, H\).*image= or shapes="):
        cost(resnet20())
    with pytest.raises(ShapeError, match="shapes: 'ids' is no input of the model; its inputs are image"):
        cost(resnet20(), shapes={"ids": (1, 2)})
    tokens = model(
        {"ids": ["N", "S"]},
        [node("Gather", "y", "w ids")],
        ["y"],
        {"w": np.ones((9, 2), np.float32)},
        types={"ids": INT64},
    )
    with pytest.raises(ShapeError, match="'ids' is open"):
        cost(tokens)
    assert cost(tokens, shapes={"ids": (1, 5)}).parameters == 18


def test_an_image_size_that_does_not_fit_is_refused():
    nodes = [node("Flatten", "flat", "x"), node("Gemm", "y", "flat w", transB=1)]
    net = model({"x": ["N", 1, 2, 2]}, nodes, ["y"], {"w": np.ones((3, 4), np.float32)})
    assert cost(net).macs == 12
    with pytest.raises(ShapeError, match="do not fit together"):
        cost(net, image=3)
