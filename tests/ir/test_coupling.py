"""Coupling of channels: what each kind of operator joins, fixes and carries on, on graphs made by hand."""

import doctest
import importlib

import numpy as np
import onnx_ir
import pytest

from mopruning.coupling import Coupled
from mopruning.ir import zoo
from mopruning.ir.coupling import coupling, filter_groups
from mopruning.ir.coupling.classes import NONE, Classes
from mopruning.ir.coupling.shaping import reshaped
from mopruning.ir.coupling.walk import RULES
from mopruning.ir.operators import OPERATORS
from tests.ir.channel_graphs import GRAPHS, build
from tests.ir.small_models import content

MODULES = ("classes", "analysis", "shaping", "filter_groups")


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"mopruning.ir.coupling.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def axes(net):
    """For each group: its name, channels, how many are free, and the numbers along each axis of a weight."""
    return [
        (
            group.name,
            group.channels,
            int((~group.fixed).sum()),
            {f"{axis.role} {axis.name}.{axis.axis}": axis.channels.tolist() for axis in group.axes},
        )
        for group in coupling(net).groups
    ]


def weights(net):
    """The same, of weights alone."""
    return [
        (name, channels, free, {key: numbers for key, numbers in along.items() if not key.startswith("follows")})
        for name, channels, free, along in axes(net)
    ]


def test_a_sum_makes_one_group_of_all_that_is_added():
    (first, last) = axes(build("residual"))
    six = list(range(6))
    followers = dict.fromkeys(
        [f"n.{part}" for part in ("weight", "bias", "running_mean", "running_var")] + ["b.bias"], six
    )
    assert first == (
        *("a.weight", 6, 6),
        {
            "produces a.weight.0": six,
            "produces b.weight.0": six,
            "reads b.weight.1": six,
            "reads y.weight.1": six,
            **{f"follows {name}.0": numbers for name, numbers in followers.items()},
        },
    )
    assert last == ("y.weight", 4, 0, {"produces y.weight.0": [0, 1, 2, 3], "follows y.bias.0": [0, 1, 2, 3]})


def test_joined_channels_stay_groups_of_their_own():
    first, second, _ = axes(build("joined"))
    assert first[:3] == ("a.weight", 3, 3)
    assert first[3]["reads y.weight.1"] == first[3]["follows n.weight.0"] == [0, 1, 2, -1, -1, -1, -1]
    assert second[:3] == ("b.weight", 4, 4)
    assert second[3]["reads y.weight.1"] == second[3]["follows n.running_var.0"] == [-1, -1, -1, 0, 1, 2, 3]


def test_groups_of_a_convolution_keep_the_same_places():
    groups = coupling(build("grouped")).groups
    assert weights(build("grouped"))[:2] == [
        ("a.weight", 4, 4, {"produces a.weight.0": [0, 1, 2, 3, 0, 1, 2, 3], "reads b.weight.1": [0, 1, 2, 3]}),
        ("b.weight", 2, 2, {"produces b.weight.0": [0, 1, 0, 1], "reads y.weight.1": [0, 1, 0, 1]}),
    ]
    assert [axis.blocks for axis in groups[0].axes if axis.role == "reads"] == [2]


def test_a_depthwise_convolution_ties_what_comes_out_to_what_goes_in():
    assert weights(build("depthwise"))[0] == (
        *("a.weight", 4, 4),
        {
            "produces a.weight.0": [0, 1, 2, 3],
            "produces b.weight.0": [0, 0, 1, 1, 2, 2, 3, 3],
            "reads y.weight.1": [0, 0, 1, 1, 2, 2, 3, 3],
        },
    )


def test_transposed_convolutions_have_inputs_first():
    first, second, _ = coupling(build("deconvolution")).groups
    assert weights(build("deconvolution"))[:2] == [
        ("a.weight", 3, 3, {"produces a.weight.1": [0, 1, 2, 0, 1, 2], "reads b.weight.0": [0, 1, 2, 0, 1, 2]}),
        (
            *("b.weight", 2, 2),
            {
                "produces b.weight.1": [0, 1],
                "produces c.weight.0": [0, 1, 0, 1],
                "reads y.weight.1": [0, 1, 0, 1],
            },
        ),
    ]
    assert [(axis.canonical, axis.blocks) for axis in first.axes if axis.role != "follows"] == [(0, 1), (1, 1)]
    assert [(axis.name, axis.canonical, axis.blocks) for axis in second.axes if axis.role == "produces"] == [
        ("b.weight", 0, 2),
        ("c.weight", 1, 1),
    ]
    members = filter_groups(build("deconvolution"))[1].members
    assert members == (Coupled("b.weight", (0, 1, 0, 1)), Coupled("c.weight", (0, 1, 0, 1)))


def test_flattened_channels_repeat():
    (first, second, _) = weights(build("flattened"))
    assert first[3]["reads b.weight.1"] == np.repeat(range(4), 9).tolist()
    assert second == ("b.weight", 5, 5, {"produces b.weight.0": list(range(5)), "reads y.weight.1": list(range(5))})


def test_reshapes_are_followed_however_they_say_the_shape():
    (first, second, _) = weights(build("reshaped_to_dense"))
    assert first[:3] == ("a.weight", 4, 4)
    assert first[3]["reads b.weight.1"] == first[3]["reads d.weight.1"] == np.repeat(range(4), 36).tolist()
    assert second[:3] == ("b.weight", 108, 108)


def test_a_scale_for_each_channel_belongs_to_the_channel():
    (first, second, _) = weights(build("recalibrated"))
    assert list(first[3]) == ["produces a.weight.0", "reads b.weight.1", "produces c.weight.0", "reads y.weight.1"]
    assert second[:3] == ("b.weight", 2, 2)


def test_slopes_and_instance_norms_follow():
    (first, second, _) = axes(build("slopes"))
    assert (
        first[3]["follows slope.0"] == second[3]["follows i.weight.0"] == second[3]["follows i.bias.0"] == [0, 1, 2, 3]
    )


def test_padded_channels_can_go_as_they_are_no_ones():
    (first, _) = weights(build("widened"))
    assert first == (
        *("a.weight", 6, 6),
        {
            "produces a.weight.0": [0, 1, 2],
            "produces b.weight.0": [3, 0, 1, 2, 4, 5],
            "reads b.weight.1": [0, 1, 2],
            "reads y.weight.1": [3, 0, 1, 2, 4, 5],
        },
    )


def test_shuffles_tie_the_same_place_of_each_part():
    (first, _) = weights(build("shuffled"))
    # after the shuffle left and right alternate; its parts of two are added, so three places are one
    assert first[3]["produces a.weight.0"] == [0, 0, 0, 1, 2, 3]
    assert first[3]["reads y.weight.1"] == [0, 0]


def test_chosen_channels_keep_their_identity():
    found = coupling(build("chosen"))
    first, _ = found.groups
    assert weights(build("chosen"))[0][3] == {
        "produces a.weight.0": [0, 1, 2, 3, 4, 5],
        "produces b.weight.0": [1, 2, 3, 4],
        "reads b.weight.1": [4, 0, 0, 5],
        "reads y.weight.1": [1, 2, 3, 4],
    }
    assert np.flatnonzero(first.fixed).tolist() == [2]
    assert first.reasons == ("h (Gather) takes this one out",)


def test_blocks_of_an_image_are_channels_and_back():
    (first, second, _) = weights(build("resized"))
    assert first[3]["reads b.weight.1"] == [0, 1, 2, 3] * 4
    assert second[:3] == ("b.weight", 2, 2)
    assert second[3] == {"produces b.weight.0": [0, 1] * 4, "reads y.weight.1": [0, 1]}


def test_heads_keep_the_same_places_and_products_join_both_factors():
    groups = weights(build("attention"))
    places = [0, 1, 2, 0, 1, 2]
    assert groups[0] == ("q.weight", 3, 3, {"produces q.weight.0": places, "produces k.weight.0": places})
    assert groups[1] == ("v.weight", 3, 3, {"produces v.weight.0": places, "reads o.weight.0": places})
    assert groups[2][:3] == ("o.weight", 4, 0)  # added to what comes in


def test_what_is_normalised_or_reduced_over_stays():
    found = coupling(build("normalised"))
    assert [(group.name, int((~group.fixed).sum()), group.reasons) for group in found.groups] == [
        ("a.weight", 0, ("n (LayerNormalization) normalises over them",)),
        ("b.weight", 5, ()),
        ("c.weight", 0, ("y (ReduceMax) computes over them",)),
    ]
    assert [(axis.name, axis.axis, axis.canonical) for axis in found.groups[1].axes] == [
        ("b.weight", 1, 0),
        ("c.weight", 0, 1),
    ]


def test_a_shared_table_is_one():
    table, dense, rows = coupling(build("words")).groups
    assert {(axis.name, axis.axis): axis.role for axis in table.axes} == {
        ("table", 1): "produces",
        ("l.w", 2): "reads",
        ("k", 1): "produces",
    }
    assert not table.fixed.any()
    assert [(axis.name, axis.axis, axis.canonical) for axis in dense.axes] == [("g.weight", 1, 0), ("k", 0, 1)]
    assert rows.fixed.all()
    # what an embedding makes does not go by filters alone
    assert [(group.names, len(group.fixed)) for group in filter_groups(build("words"))] == [
        *((("k",), 4), (("g.weight",), 0), (("table",), 7)),
    ]


def test_an_operator_without_a_rule_fixes_what_goes_in():
    first, second, _ = coupling(build("unknown")).groups
    assert first.fixed.all()
    assert first.reasons == ("t (TopK): no rule says what this operator does to channels",)
    assert not second.fixed.any()


def test_what_is_added_to_an_input_stays():
    first, *_ = coupling(build("with_input")).groups
    assert first.fixed.all()
    assert first.reasons == ("s (Add) takes them with values that have to stay",)


def test_the_model_is_not_changed_and_no_weight_is_read():
    net = zoo.build("resnet8_cifar", image=8)
    before = content(net)
    coupling(net)
    assert content(net) == before

    def refuse() -> onnx_ir.Tensor:
        raise AssertionError("a weight was read")

    for value in net.graph.initializers.values():
        tensor = value.const_value
        value.const_value = onnx_ir.LazyTensor(refuse, tensor.dtype, tensor.shape, name=value.name)
    assert len(coupling(net).groups) == 7


def test_values_are_tracked_group_by_group():
    net = build("joined")
    found = coupling(net)
    (value,) = net.graph.node("c").outputs
    assert {
        axis: [(group.name, numbers.tolist()) for group, numbers in parts] for axis, parts in found.along(value).items()
    } == {1: [("a.weight", [0, 1, 2, -1, -1, -1, -1]), ("b.weight", [-1, -1, -1, 0, 1, 2, 3])]}
    assert found.along(net.graph.inputs[0]) == {}


def test_a_group_and_the_whole_can_be_read():
    found = coupling(build("joined"))
    assert str(found.groups[0]).splitlines() == [
        "a.weight: 3 channels, 3 of them free",
        "  produces  a.weight        axis 0  3  a (Conv)",
        "  follows   a.bias          axis 0  3  a (Conv)",
        *(
            f"  follows   n.{part:14}axis 0  3  n (BatchNormalization)"
            for part in ("weight", "bias", "running_mean", "running_var")
        ),
        "  reads     y.weight        axis 1  3  y (Conv)",
    ]
    assert str(found).endswith(" y is an output of the graph")
    assert str(found.groups[0].axes[-1]) == "y.weight axis 1 (3 of them)"


@pytest.mark.parametrize("name", GRAPHS)
def test_every_axis_has_its_numbers(name):
    net = build(name)
    found = coupling(net)
    for group in found.groups:
        seen = np.zeros(group.channels, bool)
        for axis in group.axes:
            shape = net.graph.initializers[axis.name].const_value.shape
            assert axis.channels.dtype == np.int64
            assert axis.channels.shape == (shape[axis.axis],)
            assert axis.channels.max() < group.channels
            if axis.role == "produces":
                seen[axis.channels[axis.channels >= 0]] = True
        assert seen.all()


def test_the_rules_are_operators_of_the_profile():
    assert set(RULES) <= set(OPERATORS)


@pytest.mark.parametrize(
    ("before", "after", "tracked", "expected"),
    [
        (("N", 2, 3), ("N", 3, 2), [0, 1], (2, [[0, 0, 1], [0, 1, 1]])),  # it crosses: all are tied
        (("N", 4, "H", "W"), ("N", "M"), [0, 1, 2, 3], None),  # nothing is known of the sizes
        (("N", 6), ("N", 1, 6, 1), [0, 1, 2, 3, 4, 5], (2, [[0], [1], [2], [3], [4], [5]])),
        (("N", 6), ("N", 3, 2), [0, 0, 1, 1, 2, 2], (1, [[0, 1], [2, 3], [4, 5]])),  # what was repeated is cut again
        (("N", 5, 4), ("M", 4), [0, 1, 2, 3], (1, [[0], [1], [2], [3]])),
        (("T", "N", 6), ("T", "M", 3), [0, 1, 2, 3, 4, 5], (2, [[0, 3], [1, 4], [2, 5]])),  # heads go to the batch
        (("T", "M", 3), ("T", "N", 6), [0, 1, 2], (2, [[0], [1], [2], [0], [1], [2]])),
        (("T", "M", 4), ("T", "N", 6), [0, 1, 2, 3], None),
    ],
)
def test_reshapes(before, after, tracked, expected):
    axis = before.index(len(tracked)) if len(tracked) in before else 1
    found = reshaped(before, after, {axis: np.array(tracked)})
    assert (None if axis not in found else (found[axis][0], found[axis][1].tolist())) == expected


def test_classes_join_across_long_chains():
    classes = Classes()
    numbers = classes.fresh(5000)
    order = np.random.default_rng(0).permutation(5000)
    classes.join(numbers[order[:-1]], numbers[order[1:]], "")
    assert np.unique(classes.find(numbers)).tolist() == [0]
    more = classes.fresh(2)
    classes.join(more, np.array([NONE, 0]), "why")
    assert classes.find(more).tolist() == [5000, 0]
    assert {why: fixed.tolist() for why, fixed in classes.fixed().items()} == {"why": [5000]}
