"""Moffett pairs: a NumPy reading of the twelve operators is the oracle, onnxruntime runs what was read."""

from __future__ import annotations

import doctest
import json
import random
import zipfile

import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.ir import moffett, moffett_nodes, moffett_operators
from mopruning.ir.moffett import read_moffett, write_moffett
from mopruning.ir.validation import UnsupportedOperators
from tests.ir.moffett_cases import NETS, assert_computes, call, classifier, conv, data, evaluate, floats, save
from tests.ir.small_models import array, content, encoder, resnet20, run


@pytest.mark.parametrize("module", [moffett, moffett_nodes, moffett_operators])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


# Reading


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize(("name", "outputs"), [("classifier", [32]), ("detector", [9, 12])])
def test_a_network_computes_what_its_nodes_say(name, outputs, pickled, tmp_path):
    nodes, arrays = NETS[name]()
    net = read_moffett(*save(tmp_path, nodes, arrays, pickled))
    shape = nodes[0]["shape"]
    x = floats(3, *shape[1:])
    values = evaluate(nodes, arrays, {nodes[0]["node_id"]: x})
    assert_computes(net, [values[number] for number in outputs], x)
    assert set(net.graph.initializers) == set(arrays)
    for key, value in arrays.items():
        np.testing.assert_array_equal(array(net, key), value)
    assert [str(size) for size in net.graph.inputs[0].shape] == ["N", *map(str, shape[1:])]


def test_a_bias_goes_into_its_layer_and_ids_stay(tmp_path):
    net = read_moffett(*save(tmp_path, *classifier()))
    by_name = {one.name: one for one in net.graph}
    assert [value.name for value in by_name["conv2d_20"].inputs] == ["relu_16", "w1", "b1"]
    assert [value.name for value in by_name["dense_31"].inputs[1:]] == ["fc", "fc_bias"]
    assert by_name["conv2d_7"].metadata_props["moffett.node_id"] == "7"
    assert not any("bias_add" in name for name in by_name)


def test_a_bias_that_others_must_not_see_is_added_on_its_own(tmp_path):
    weight, bias = floats(4, 3, 1, 1), floats(4)
    nodes = [data(0, 1, 3, 5, 5), conv(1, 0, "w", weight), call(2, "nn.bias_add", 1, "b"), call(3, "add", 1, 2)]
    x = floats(2, 3, 5, 5)
    values = evaluate(nodes, {"w": weight, "b": bias}, {0: x})
    assert_computes(read_moffett(*save(tmp_path, nodes, {"w": weight, "b": bias})), [values[3]], x)
    net = read_moffett(*save(tmp_path, nodes, {"w": weight, "b": bias}), output_node_ids=[1, 2])
    assert_computes(net, [values[1], values[2]], x)
    write_moffett(net, tmp_path / "new.json", tmp_path / "new.npz")
    back = read_moffett(tmp_path / "new.json", tmp_path / "new.npz", output_node_ids=[1, 2])
    assert_computes(back, [values[1], values[2]], x)


WINDOWS = [
    ("conv", {"padding": [0, 1, 2, 3]}),
    ("conv", {"padding": [2, 1]}),
    ("conv", {"groups": 2, "weight": (4, 3, 3, 3)}),
    ("conv", {"groups": 6, "weight": (6, 1, 3, 3)}),
    ("conv", {"dilation": [2, 1], "strides": [1, 2]}),
    ("max", {"padding": [0, 1, 1, 0]}),
    ("max", {"ceil_mode": True}),
    ("avg", {"padding": [1, 1], "count_include_pad": True}),
    ("avg", {"padding": [1, 1], "count_include_pad": False}),
    ("avg", {"padding": [1, 0, 0, 1], "count_include_pad": True}),
    ("avg", {"ceil_mode": True}),
    ("avg", {"ceil_mode": False}),
]


@pytest.mark.parametrize(("kind", "options"), WINDOWS, ids=str)
def test_windows_keep_padding_groups_dilation_and_rounding(kind, options, tmp_path):
    attributes = dict(options)
    weight = floats(*attributes.pop("weight", (4, 6, 3, 3)))
    if kind == "conv":
        node = conv(1, 0, "w", weight, **attributes)
    else:
        node = call(1, f"nn.{kind}_pool2d", 0, **{"pool_size": [3, 3], "strides": [2, 2], **attributes})
    nodes, x = [data(0, 1, 6, 8, 8), node], floats(2, 6, 8, 8)
    net = read_moffett(*save(tmp_path, nodes, {"w": weight}))
    assert_computes(net, [evaluate(nodes, {"w": weight}, {0: x})[1]], x)
    outputs = write_moffett(net, tmp_path / "new.json", tmp_path / "new.npz")
    again = read_moffett(tmp_path / "new.json", tmp_path / "new.npz", output_node_ids=outputs)
    assert_computes(again, [evaluate(nodes, {"w": weight}, {0: x})[1]], x)


def test_a_transposed_weight_is_turned_where_its_channels_say_so(tmp_path):
    weight = floats(6, 4, 4, 4)
    attributes = {"channels": 4, "strides": [2, 2], "padding": [1, 1, 1, 1], "kernel_size": [4, 4]}
    nodes = [data(0, 1, 6, 5, 5), call(1, "nn.conv2d_transpose", 0, "up", **attributes, W_shape=[6, 4, 4, 4])]
    x = floats(2, 6, 5, 5)
    expected = evaluate(nodes, {"up": weight}, {0: x})[1]
    assert_computes(read_moffett(*save(tmp_path, nodes, {"up": weight})), [expected], x)
    nodes[1] = call(1, "nn.conv2d_transpose", 0, "up", **attributes, W_shape=[4, 6, 4, 4])
    net = read_moffett(*save(tmp_path, nodes, {"up": weight.swapaxes(0, 1).copy()}))
    assert_computes(net, [expected], x)
    assert array(net, "up").shape == (6, 4, 4, 4)


# Parts and edits


def test_a_part_of_the_network_takes_and_gives_what_is_named(tmp_path):
    nodes, arrays = classifier()
    files, x = save(tmp_path, nodes, arrays), floats(2, 3, 16, 16)
    values = evaluate(nodes, arrays, {3: x})
    net = read_moffett(*files, input_node_ids=[16], output_node_ids=[27, 22])
    assert [str(size) for size in net.graph.inputs[0].shape] == ["N", "8", "8", "8"]
    assert set(net.graph.initializers) == {"w1", "b1"}
    assert_computes(net, [values[27], values[22]], values[16].astype(np.float32))
    assert_computes(read_moffett(*files, input_node_ids=[22]), [values[32]], values[22].astype(np.float32))
    assert_computes(read_moffett(*files, output_node_ids=[20]), [values[20]], x)
    several = read_moffett(*files, input_node_ids=[20, 16])
    assert_computes(several, [values[32]], values[20].astype(np.float32), values[16].astype(np.float32))
    # a bias behind a cut has no layer to go into
    assert_computes(read_moffett(*files, input_node_ids=[31]), [values[32]], values[31].astype(np.float32))


def test_ids_that_are_read_and_not_there_are_inputs(tmp_path):
    nodes, arrays = classifier()
    values = evaluate(nodes, arrays, {3: (x := floats(2, 3, 16, 16))})
    net = read_moffett(*save(tmp_path, nodes[5:], arrays))
    assert [value.name for value in net.graph.inputs] == ["node_16", "node_20"]
    assert [str(size) for size in net.graph.inputs[1].shape][:2] == ["N", "None"]
    given = [values[number].astype(np.float32) for number in (16, 20)]
    assert_computes(net, [values[32]], *given)
    assert x.shape == (2, 3, 16, 16)


def test_what_leads_nowhere_is_left_out_even_if_it_is_unknown(tmp_path):
    nodes, arrays = classifier()
    nodes.insert(4, call(17, "nn.mystery", 16))
    net = read_moffett(*save(tmp_path, nodes, arrays), output_node_ids=[32])
    assert len(net.graph) == 10
    with pytest.raises(UnsupportedOperators, match=r"node 17' \(nn\.mystery\): unknown; known are nn\.conv2d"):
        read_moffett(*save(tmp_path, nodes, arrays))
    before = [data(0, 1, 3, 16, 16), call(1, "nn.mystery", 0), *classifier()[0][1:]]
    before[2]["inputs"][0] = 1
    net = read_moffett(*save(tmp_path, before, arrays), input_node_ids=[1])
    assert [str(size) for size in net.graph.inputs[0].shape] == ["N", "3", "None", "None"]


def test_all_unknown_operators_are_listed(tmp_path):
    nodes = [data(0, 1, 3, 8, 8), call(1, "nn.mystery", 0), call(2, "nn.relu", 1), call(5, "clip", 2)]
    with pytest.raises(UnsupportedOperators) as error:
        read_moffett(*save(tmp_path, nodes, {}))
    assert [problem.node for problem in error.value.problems] == ["node 1", "node 5"]


EDITS = {"strides": [1, 1], "padding": [0, 0], "pool_size": [1, 1]}


@pytest.mark.parametrize(
    "edits",
    [
        {25: EDITS, 7: {"strides": [1, 1]}},
        {"25": EDITS, "7": {"strides": 1}},
        [(25, EDITS), (7, {"stride": 1})],
        [{"node_id": 25, **EDITS}, {"node_id": 7, "attrs": {"stride": [1, 1]}}],
        [{"node_id": 25, "stride": 1, "kernel_size": 1, "padding": 0}, {"node_id": 7, "strides": [1, 1]}],
    ],
    ids=["mapping", "keys of JSON", "pairs", "mappings", "names of PyTorch"],
)
def test_edits_change_attributes_and_nothing_else(edits, tmp_path):
    nodes, arrays = classifier()
    before = json.dumps(nodes)
    net = read_moffett(*save(tmp_path, nodes, arrays), update_node_cfg=edits)
    changed = json.loads(before)
    changed[1]["attrs"]["strides"] = [1, 1]
    changed[7]["attrs"] |= EDITS
    x = floats(2, 3, 16, 16)
    assert_computes(net, [evaluate(changed, arrays, {3: x})[32]], x)
    plain = read_moffett(tmp_path / "net.json", tmp_path / "net.npz")  # nothing of an edit stays behind
    assert_computes(plain, [evaluate(nodes, arrays, {3: x})[32]], x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_node_cfg": {24: {"strides": [1, 1]}}}, "update_node_cfg: there is no node 24; did you mean 25"),
        ({"update_node_cfg": {3: {"strides": [1, 1]}}}, "update_node_cfg: there is no node 3"),
        ({"update_node_cfg": {7: {"stripes": [1, 1]}}}, r"node 7 \(nn\.conv2d\): its attribute 'stripes' is not known"),
        ({"update_node_cfg": {7: {"strides": [0, 1]}}}, r"node 7 \(nn\.conv2d\): its strides must be 1 or more"),
        (
            {"update_node_cfg": {7: {"kernel_size": [5, 5]}}},
            r"node 7 .* its kernel_size is \[5, 5\], but its weight is",
        ),
        ({"update_node_cfg": [{"strides": [1, 1]}]}, "update_node_cfg: expected a node id and a mapping"),
        ({"input_node_ids": [99]}, "input_node_ids: there is no node 99"),
        ({"output_node_ids": [13]}, "output_node_ids: there is no node 13; did you mean 12 or 16"),
        ({"output_node_ids": [32, 32]}, "names a node twice"),
        ({"input_node_ids": [20]}, r"input_node_ids: the outputs \[32\] need node 3 as well"),
        ({"input_node_ids": [16], "output_node_ids": [12]}, "need node 3 as well"),
        ({"input_node_ids": [22, 27]}, "input_node_ids: node 22 does not lead to"),
        ({"input_node_ids": [32]}, "no operator lies between"),
    ],
)
def test_wrong_requests_are_refused(options, message, tmp_path):
    with pytest.raises(FormatError, match=message):
        read_moffett(*save(tmp_path, *classifier()), **options)


# Writing


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_what_is_written_has_the_same_ids_and_parameters(name, pickled, tmp_path):
    nodes, arrays = NETS[name]()
    net = read_moffett(*save(tmp_path, nodes, arrays))
    before = content(net)
    outputs = write_moffett(net, tmp_path / "new.json", tmp_path / "new.npz", pickled=pickled)
    assert content(net) == before
    assert outputs == {"classifier": (32,), "detector": (9, 12)}[name]
    written = json.loads((tmp_path / "new.json").read_text())
    assert [(node["node_id"], node.get("inputs")) for node in written] == [
        (node["node_id"], node.get("inputs")) for node in nodes
    ]
    with np.load(tmp_path / "new.npz", allow_pickle=pickled) as saved:
        back = saved["arr_0"].item() if pickled else dict(saved)
    assert {key: value.tobytes() for key, value in back.items()} == {
        key: value.tobytes() for key, value in arrays.items()
    }
    x = floats(2, *nodes[0]["shape"][1:])
    values = evaluate(written, back, {nodes[0]["node_id"]: x})
    assert_computes(net, [values[number] for number in outputs], x)


def test_a_network_of_other_origin_is_written(tmp_path):
    net = resnet20(32)
    (output,) = write_moffett(net, tmp_path / "net.json", tmp_path / "net.npz")
    written = json.loads((tmp_path / "net.json").read_text())
    assert [node["node_id"] for node in written] == list(range(output + 1))
    back = read_moffett(tmp_path / "net.json", tmp_path / "net.npz")
    assert set(back.graph.initializers) == set(net.graph.initializers)
    x = floats(2, 3, 32, 32)
    np.testing.assert_allclose(run(back, {"image": x})[0], run(net, {"image": x})[0], rtol=1e-4, atol=1e-4)


def test_what_the_format_cannot_express_is_listed_and_nothing_written(tmp_path):
    net = encoder()
    with pytest.raises(UnsupportedOperators, match="a Moffett graph cannot express that") as error:
        write_moffett(net, tmp_path / "net.json", tmp_path / "net.npz")
    assert {"LayerNormalization", "MatMul", "Softmax"} <= {problem.operator for problem in error.value.problems}
    with pytest.raises(FormatError, match="its sizes must be known but for the batch"):
        write_moffett(resnet20(), tmp_path / "net.json", tmp_path / "net.npz")
    assert list(tmp_path.iterdir()) == []


# Damaged and hostile files


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("{", "net.json: is no JSON"),
        ("[1]", "expected a node with a whole number as its node_id, got 1"),
        ([data(0, 1), data(0, 1)], r"node 0 \(input\): its id is given twice"),
        ([call(2, "nn.relu", 5), call(5, "nn.relu", 1)], "node 2 .* reads node 5, which comes only later"),
        ([{"node_id": 1, "node_type": "What"}], "node 1: expected the node_type 'Var' or 'Call', got 'What'"),
        ([data(0, 1, 3), call(1, "nn.relu", 0, 0)], r"node 1 \(nn\.relu\): has 2 inputs, expected 1: x"),
        (
            [data(0, 1, 3), call(1, "nn.dense", 0, 0)],
            "node 1 .* expected the name of its weight among its inputs, got 0",
        ),
        ([data(0, 1, 3), call(1, "add", 0, "w")], "node 1 .* expected a node id among its inputs, got 'w'"),
        ([data(0, 1, 3), call(1, "nn.dense", 0, "v")], r"node 1 \(nn\.dense\): there is no parameter 'v'"),
        ([data(0, 1, 3), call(1, "nn.dense", 0, "w", units=9)], r"its _shape is \[9, 3\], but its weight is \[2, 3\]"),
        ([data(0, 1, 3, 8, 8), call(1, "nn.conv2d", 0, "w")], "its weight must have four axes"),
        ([data(0, 1, 4), call(1, "nn.dense", 0, "w")], "its shapes do not fit together"),
        ([data(0, 1, 3, 8, 8), call(1, "nn.max_pool2d", 0)], "its attribute 'pool_size' is missing"),
        ([data(0, 1, 3, 8, 8), call(1, "nn.max_pool2d", 0, pool_size=[2, 2], layout="NHWC")], "its layout is 'NHWC'"),
        (
            [data(0, 1, 3, 8, 8), call(1, "nn.max_pool2d", 0, pool_size=[2, 2], padding=[1, 1, 1])],
            "its padding must be one, two or four",
        ),
        ([data(0, 1, 3, 8, 8), call(1, "nn.bias_add", 0, "b", axis=3)], "its axis is 3, expected 1"),
        ([data(0, 1)], "no operator lies between"),
    ],
)
def test_wrong_graphs_are_refused(nodes, message, tmp_path):
    with pytest.raises(FormatError, match=message):
        read_moffett(*save(tmp_path, nodes, {"w": floats(2, 3), "b": floats(3)}))


@pytest.mark.parametrize("content_", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_what_is_no_npz_is_refused(content_, tmp_path):
    (tmp_path / "net.json").write_text("[]")
    (tmp_path / "net.npz").write_bytes(content_)
    with pytest.raises(FormatError, match=r"truncated, or no \.npz file"):
        read_moffett(tmp_path / "net.json", tmp_path / "net.npz")
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("arr_0.npy", content_)
    with pytest.raises(FormatError, match=r"net\.npz: .*"):
        read_moffett(tmp_path / "net.json", tmp_path / "net.npz")


def test_mutated_pairs_give_an_error_or_a_model(tmp_path):
    chance, refused = random.Random(0), 0
    for round_ in range(300):
        files = save(tmp_path, *NETS[chance.choice(sorted(NETS))](), pickled=round_ % 2 == 0)
        damaged = bytearray(files[round_ % 3 == 0].read_bytes())
        for _ in range(chance.randint(1, 2)):
            damaged[chance.randrange(len(damaged))] = chance.choice(b'0123456789[]{},"- \0\xff')
        files[round_ % 3 == 0].write_bytes(damaged)
        try:
            read_moffett(*files)
        except FormatError:
            refused += 1
    assert 200 < refused < 300
