"""Shrinking: fewer channels, the same outputs, and a reason for each zero filter that stays."""

import doctest
import importlib

import numpy as np
import pytest

from mopruning import ir
from mopruning.ir import zoo
from mopruning.ir.coupling import coupling
from mopruning.ir.operators import OPERATORS
from mopruning.ir.passes import cost, infer_shapes, shrink, shrink_report
from mopruning.ir.passes.constant_channels import RULES, ConstantChannels
from mopruning.ir.passes.constant_functions import FUNCTIONS
from mopruning.ir.validation import validate
from tests.ir.channel_graphs import GRAPHS, build, conv, dense, feeds, norm, random_graph, shake, zero_filters
from tests.ir.small_models import Weights, array, content, model, node, put, run, whole

NETWORKS = {
    "resnet20_cifar": {},
    "resnet20_cifar A": {"shortcut": "A"},
    "vgg8_cifar": {},
    "mobilenet_v2_cifar": {},
    "shufflenet_v2_cifar": {},
    "squeezenet1_1": {"image": 48},
    "mnist_cnn": {},
}


@pytest.mark.parametrize("name", ["shrink"])
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"mopruning.ir.passes.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def sizes(net):
    return {name: tuple(value.const_value.shape) for name, value in net.graph.initializers.items()}


def same(net, small, share=1e-5, seed=0):
    """Whether both give the same, and the smaller network is a sound one."""
    validate(small)
    infer_shapes(small)
    inputs = feeds(net, seed)
    for before, after in zip(run(net, inputs), run(small, inputs), strict=True):
        assert before.shape == after.shape
        assert abs(before - after).max() <= share * max(np.ptp(before), 1e-3)


@pytest.mark.parametrize("coupled", [True, False], ids=["groups", "filters"])
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_by_hand(name, coupled):
    for seed in range(2):
        net = build(name, seed)
        zero_filters(net, 0.5, seed, coupled)
        before = content(net)
        small = shrink(net)
        assert content(net) == before
        same(net, small)
        again = shrink_report(small)
        assert again.left == again.filters


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_zoo(name):
    options = NETWORKS[name]
    net = zoo.build(name.split()[0], **{"classes": 10, **options})
    shake(net)
    zero_filters(net, 0.5, seed=1)
    found = shrink_report(net)
    same(net, found.model)
    before, after = cost(net), cost(found.model)
    assert after.parameters < 0.45 * before.parameters
    assert after.macs < 0.55 * before.macs
    # of each group, at most one constant channel stays for each of its readers
    channels = sum(group.channels for group in coupling(net).groups)
    assert sum(row.zeros > 0 for row in found.rows) <= len(found.rows)
    assert all(row.why for row in found.rows if row.zeros)
    assert sum(group.channels for group in coupling(found.model).groups) < 0.75 * channels


@pytest.mark.parametrize("seed", range(14))
def test_random_graphs(seed):
    net = random_graph(seed)
    zero_filters(net, (0.3, 0.5, 0.8)[seed % 3], seed, coupled=bool(seed % 2))
    found = shrink_report(net)
    same(net, found.model, seed=seed)
    again = shrink_report(found.model)
    assert again.left == again.filters


def test_public_name():
    assert ir.shrink is shrink


@pytest.mark.parametrize("name", ["residual", "words", "widened"])
def test_nothing_to_remove_gives_an_equal_network(name):
    net = build(name)
    small = shrink(net)
    assert small is not net
    assert content(small) == content(net)
    weights = small.graph.initializers
    assert all(weights[key].const_value is value.const_value for key, value in net.graph.initializers.items())


def chain(*nodes, **weights):
    """A graph [N, 3, 6, 6] -> y of such nodes."""
    w = Weights()
    made = [one(w) if callable(one) else one for one in nodes]
    w.update({name: np.asarray(values) for name, values in weights.items()})
    return model({"x": ["N", 3, 6, 6]}, made, ["y"], w)


def zeroed(net, name, *filters, axis=0):
    weight = array(net, name).copy()
    np.moveaxis(weight, axis, 0)[list(filters)] = 0
    put(net, name, weight)


def test_constants_go_into_the_bias_where_nothing_is_padded():
    net = chain(
        lambda w: conv(w, "a", "x", 4, 3),
        node("Sigmoid", "s", "a"),
        lambda w: conv(w, "b", "s", 4, 4, pads=[0] * 4),
        lambda w: conv(w, "y", "b", 2, 4, kernel=1),
    )
    zeroed(net, "a.weight", 0, 2, 3)
    small = shrink(net)
    same(net, small)
    assert sizes(small)["a.weight"] == (1, 3, 3, 3)
    constant = 1 / (1 + np.exp(-array(net, "a.bias")[[0, 2, 3]]))
    expected = array(net, "b.bias") + array(net, "b.weight")[:, [0, 2, 3]].sum((2, 3)) @ constant
    np.testing.assert_allclose(array(small, "b.bias"), expected, rtol=1e-6)
    np.testing.assert_array_equal(array(small, "b.weight"), array(net, "b.weight")[:, [1]])


def test_constants_go_into_the_mean_of_the_normalisation_behind():
    net = chain(
        lambda w: conv(w, "a", "x", 4, 3),
        lambda w: conv(w, "b", "a", 4, 4, kernel=1, bias=False),
        lambda w: norm(w, "n", "b", 4),
        lambda w: conv(w, "y", "n", 2, 4),
    )
    zeroed(net, "a.weight", 1, 2)
    small = shrink(net)
    same(net, small)
    assert list(small.graph.initializers) == list(net.graph.initializers)  # no new bias
    more = array(net, "b.weight")[:, [1, 2], 0, 0] @ array(net, "a.bias")[[1, 2]]
    np.testing.assert_allclose(array(small, "n.running_mean"), array(net, "n.running_mean") - more, rtol=1e-5)


def test_a_layer_without_a_bias_gets_one():
    net = chain(
        lambda w: conv(w, "a", "x", 4, 3),
        lambda w: conv(w, "b", "a", 5, 4, kernel=1, bias=False),
        node("Relu", "r", "b"),
        lambda w: conv(w, "y", "r", 2, 5),
    )
    zeroed(net, "a.weight", 0)
    zeroed(net, "b.weight", 4)
    small = shrink(net)
    same(net, small)
    assert sizes(small)["b.bias"] == (4,)
    expected = array(net, "b.weight")[:4, 0, 0, 0] * array(net, "a.bias")[0]
    np.testing.assert_allclose(array(small, "b.bias"), expected, rtol=1e-6)


def test_where_it_is_padded_one_constant_stands_for_all():
    net = chain(
        lambda w: conv(w, "a", "x", 5, 3),
        lambda w: conv(w, "y", "a", 2, 5),
    )
    put(net, "a.bias", np.float32([0.5, 2.0, -1.0, 0.1, 0.0]))
    zeroed(net, "a.weight", 0, 1, 2, 4)
    found = shrink_report(net)
    same(net, found.model)
    np.testing.assert_array_equal(array(found.model, "a.bias"), np.float32([2.0, 0.1]))  # the largest stays; 0 goes
    weight = array(net, "y.weight").astype(np.float64)
    expected = weight[:, 1] + 0.25 * weight[:, 0] - 0.5 * weight[:, 2]
    np.testing.assert_allclose(array(found.model, "y.weight")[:, 0], expected, rtol=1e-5)
    (row, _) = found.rows
    assert (row.filters, row.left, row.zeros, row.why) == (5, 2, 1, "a constant that y needs")


def test_a_small_constant_does_not_stand_for_a_large_one():
    net = chain(lambda w: conv(w, "a", "x", 3, 3), lambda w: conv(w, "b", "a", 3, 3), lambda w: conv(w, "y", "b", 2, 3))
    put(net, "a.bias", np.float32([1.0, 1e-4, 0.3]))
    zeroed(net, "a.weight", 0, 1)
    zeroed(net, "y.weight", 2, axis=1)
    small = shrink(net)
    same(net, small)
    np.testing.assert_array_equal(array(small, "a.bias"), np.float32([1.0, 0.3]))


def test_channels_that_nothing_reads_go_with_their_producers():
    net = chain(
        lambda w: conv(w, "a", "x", 4, 3),
        lambda w: conv(w, "b", "a", 5, 4),
        lambda w: conv(w, "y", "b", 2, 5),
    )
    zeroed(net, "y.weight", 0, 3, axis=1)  # nobody reads these of b,
    weight = array(net, "b.weight").copy()
    weight[[1, 2, 4], 2] = 0  # and they alone read this of a
    put(net, "b.weight", weight)
    small = shrink(net)
    same(net, small)
    assert sizes(small)["b.weight"] == (3, 3, 3, 3)
    assert sizes(small)["a.weight"] == (3, 3, 3, 3)


def test_a_scale_of_zero_is_a_zero_filter():
    net = chain(
        lambda w: conv(w, "a", "x", 4, 3, bias=False),
        lambda w: norm(w, "n", "a", 4),
        node("Relu", "r", "n"),
        lambda w: conv(w, "y", "r", 2, 4, pads=[0] * 4),
    )
    zeroed(net, "n.weight", 1, 3)
    small = shrink(net)
    same(net, small)
    assert sizes(small)["a.weight"] == (2, 3, 3, 3)


def test_heads_of_attention_shrink_alike():
    net = build("attention")
    for name in "qv":  # of a product it is enough that one factor is zero
        zeroed(net, f"{name}.weight", 1, 4)  # the second place of both heads
        zeroed(net, f"{name}.bias", 1, 4)
    zeroed(net, "v.weight", 0)  # of one head alone
    small = shrink(net)
    same(net, small)
    assert [sizes(small)[f"{name}.weight"] for name in "qkvo"] == [(4, 4), (4, 4), (4, 4), (4, 4)]
    assert array(small, "heads").tolist() == [0, 5, 2, 2]


def test_groups_of_a_convolution_stay_alike():
    net = build("grouped")
    zeroed(net, "a.weight", 1, 2, 5)  # 1 and 5 are one place of both groups
    small = shrink(net)
    same(net, small)
    assert sizes(small)["a.weight"] == (6, 3, 3, 3)
    assert sizes(small)["b.weight"] == (4, 3, 3, 3)
    assert small.graph.node("b").attributes["group"].as_int() == 2


def test_depthwise_convolutions_have_fewer_groups():
    net = build("depthwise")
    zeroed(net, "a.weight", 0, 3)
    zeroed(net, "b.weight", 0, 1, 6, 7)
    small = shrink(net)
    same(net, small)
    assert small.graph.node("b").attributes["group"].as_int() == 2
    assert sizes(small)["b.weight"] == (4, 1, 3, 3)


def test_a_constant_that_two_nodes_share_is_left_to_the_other():
    w = Weights()
    w["shape"] = whole(0, 4, 36)
    nodes = [
        *(conv(w, "a", "x", 4, 3), node("Reshape", "f", "a shape"), node("ReduceMean", "m", "f last")),
        *(conv(w, "b", "x", 4, 3), node("Reshape", "y", "b shape"), node("Squeeze", "s", "m last")),
        dense(w, "z", "s", 2, 4),
    ]
    w["last"] = whole(2)
    net = model({"x": ["N", 3, 6, 6]}, nodes, ["y", "z"], w)
    zeroed(net, "a.weight", 1)
    small = shrink(net)
    same(net, small)
    assert array(small, "shape").tolist() == [0, 4, 36]
    assert array(small, "shape.less").tolist() == [0, 3, 36]


def test_a_weight_that_two_layers_share_takes_nothing_over():
    w = Weights()
    nodes = [
        *(conv(w, "first", "x", 4, 3), conv(w, "a", "first", 4, 4), node("Conv", "b", "a a.weight", pads=[1] * 4)),
        conv(w, "y", "b", 2, 4),
    ]
    net = model({"x": ["N", 3, 6, 6]}, nodes, ["y"], w)
    for name in ("first.weight", "a.weight"):
        zeroed(net, name, 1, 2)
    found = shrink_report(net)
    same(net, found.model)
    assert found.rows[0].why == "b reads it"
    for name in ("first.bias", "a.bias"):  # without a constant there is nothing to take over
        put(net, name, array(net, name) * np.float32([1, 1, 0, 1]))
    found = shrink_report(net)
    same(net, found.model)
    assert sizes(found.model)["a.weight"] == (3, 3, 3, 3)


def test_a_network_without_any_group_is_left():
    """One filter is no group, and a scale makes no channels."""
    net = model(
        {"x": ["N", 1, 6, 6]},
        [node("Mul", "m", "x scale"), node("Conv", "y", "m w")],
        ["y"],
        {"scale": np.float32([1, 0, 2]).reshape(3, 1, 1), "w": np.ones((1, 3, 1, 1), np.float32)},
    )
    found = shrink_report(net)
    assert content(found.model) == content(net)
    assert found.rows == ()


def test_what_stays_is_told():
    net = build("with_input")
    zeroed(net, "a.weight", 1)
    zeroed(net, "b.weight", 0)
    zeroed(net, "y.weight", 1)
    put(net, "b.bias", np.zeros(4, np.float32))
    found = shrink_report(net)
    assert str(found).splitlines() == [
        "parameter  filters  left  zero filters that stay  why",
        "a.weight         3     3                       1  s (Add) takes them with values that have to stay",
        "b.weight         4     3                       0  -",
        "y.weight         2     2                       1  y is an output of the graph",
        "total            9     8                       2",
    ]
    assert found.to_dict()["weights"][1] == {"parameter": "b.weight", "filters": 4, "left": 3, "zeros": 0, "why": ""}
    assert found.table().row_count == 3


def test_a_sum_stays_where_one_part_is_not_zero():
    net = build("residual")
    zeroed(net, "b.weight", 0, 1, 2)
    zeroed(net, "a.weight", 2)
    found = shrink_report(net)
    same(net, found.model)
    first, second, _ = found.rows
    assert first.why == "a constant that b needs"
    assert second.why == "not zero in a.weight; a constant that b needs"


def test_channels_that_only_padding_adds_to_go_with_their_filters():
    net = chain(
        *(lambda w: conv(w, "a", "x", 4, 3), lambda w: conv(w, "b", "x", 8, 3, bias=False)),
        *(node("Pad", "p", "a pads"), node("Add", "sum", "b p"), lambda w: conv(w, "y", "sum", 2, 8)),
        pads=np.array([0, 2, 0, 0, 0, 2, 0, 0]),
    )
    zeroed(net, "b.weight", 0, 1, 3, 6)
    found = shrink_report(net)
    same(net, found.model)
    assert [(row.left, row.zeros) for row in found.rows if row.parameter == "b.weight"] == [(5, 1)]
    assert array(found.model, "a.weight").shape[0] == 4


def test_a_network_of_zeros_keeps_one_channel_of_each():
    net = zoo.build("resnet8_cifar")
    shake(net)
    zero_filters(net, 2.0)
    found = shrink_report(net)
    same(net, found.model)
    assert {row.left for row in found.rows if row.parameter != "linear.weight"} == {1}


def test_every_function_gives_the_constants_that_it_computes():
    """What is taken for constant is what onnxruntime gives, for each function of one value."""
    assert len(FUNCTIONS) >= 20
    for name in FUNCTIONS:
        net = chain(lambda w: conv(w, "a", "x", 4, 3), node(name, "f", "a"), lambda w: conv(w, "y", "f", 2, 4))
        put(net, "a.bias", np.float32([0.3, 0.7, 1.6, -0.4 if OPERATORS[name].kind == "activation" else 1.1]))
        zeroed(net, "a.weight", 0, 2, 3)
        (value,) = net.graph.node("f").outputs
        known = ConstantChannels(net.graph, coupling(net)).of(value, 1, 4)
        (given,) = run(net, feeds(net), ["f"])
        assert np.isnan(known).tolist() == [False, True, False, False]
        np.testing.assert_allclose(given[0, [0, 2, 3], 2, 2], known[[0, 2, 3]], rtol=1e-5, err_msg=name)


def test_every_rule_is_for_an_operator_of_the_profile():
    assert set(RULES) <= set(OPERATORS)
