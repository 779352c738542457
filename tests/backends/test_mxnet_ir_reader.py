"""What is read of MXNet: Gluon networks of many kinds, files of all versions, and files that are damaged or hostile."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)
pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from mopruning.backends.mxnet.exporting.symbol_file import read_text
from mopruning.backends.mxnet.framework import gluon, mx
from mopruning.backends.mxnet.reader import to_ir
from mopruning.backends.mxnet.symbol_files import params_of, read_symbol, run_symbol
from mopruning.backends.mxnet.writer import from_ir
from mopruning.errors import FormatError
from mopruning.ir import mxnet_params
from mopruning.ir.roles import roles_of
from mopruning.ir.validation import UnsupportedOperators
from tests.backends.mxnet_ir_networks import CASES, array, assert_close, built, floats, outputs_of
from tests.ir.small_models import run

nn = gluon.nn


@pytest.mark.parametrize("name", CASES)
def test_gluon_networks_arrive_and_return(name):
    network, inputs = built(name)
    expected = outputs_of(network, inputs)
    example = [array(content) for content in inputs]
    net = to_ir(network, example[0] if len(example) == 1 else example)
    names = [str(value.name) for value in net.graph.inputs]
    found = run(net, dict(zip(names, inputs, strict=True)))
    assert_close(found, expected)
    assert set(network.collect_params()) >= set(net.graph.initializers) & set(network.collect_params())
    back = from_ir(net)
    assert_close(outputs_of(back, inputs), expected)
    assert set(back.collect_params()) == set(network.collect_params())
    for key, one in network.collect_params().items():
        if not (key.endswith("gamma") and "batchnorm1" in key):  # a fixed scale counts as 1
            np.testing.assert_array_equal(back.collect_params()[key].data().asnumpy(), one.data().asnumpy())
    network.hybridize()
    outputs_of(network, inputs)
    again = to_ir(network, example)
    assert [(one.op_type, one.name) for one in again.graph] == [(one.op_type, one.name) for one in net.graph]


def test_networks_train_on_after_the_way_there_and_back():
    """Gluon's own network and what came back of it go the same way, running statistics included."""
    network = nn.HybridSequential()
    network.add(nn.Conv2D(4, 3, in_channels=3), nn.BatchNorm(in_channels=4), nn.Activation("relu"), nn.Flatten())
    network.add(nn.Dense(3, in_units=64))
    network.initialize(mx.init.Xavier())
    content = floats(4, 3, 6, 6)
    back = from_ir(to_ir(network, array(content)))
    results = []
    for one in (network, back):
        trainer = gluon.Trainer(one.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
        for _ in range(4):
            with mx.autograd.record():
                loss = (one(array(content)) - 1).square().mean()
            loss.backward()
            trainer.step(1)
        results.append({key: value.data().asnumpy() for key, value in one.collect_params().items()})
    assert set(results[0]) == set(results[1])
    for key, value in results[0].items():
        np.testing.assert_allclose(results[1][key], value, rtol=1e-4, atol=1e-5)


def test_fixed_scales_and_constants_do_not_train():
    network, inputs = built("layers")
    net = to_ir(network, [array(content) for content in inputs])
    roles = roles_of(net)
    fixed = next(name for name in roles if name.endswith("batchnorm1_gamma"))
    assert roles[fixed] == "constant"
    np.testing.assert_array_equal(net.graph.initializers[fixed].const_value.numpy(), np.ones(8, np.float32))
    back = from_ir(net)
    assert back.collect_params()[fixed].grad_req == "null"
    offset = next(name for name in roles if name.endswith("offset"))
    assert roles[offset] == "constant"
    assert back.collect_params()[offset].grad_req == "null"


def test_open_and_fixed_batches():
    network, (content,) = built("signal")
    assert [str(v.shape) for v in to_ir(network, array(content)).graph.inputs] == ["[N,3,11]"]
    fixed = to_ir(network, array(content), dynamic_batch=False)
    assert [str(v.shape) for v in fixed.graph.inputs] == ["[2,3,11]"]
    assert_close(run(fixed, {"data": content}), outputs_of(network, [content]))


def published(folder, keys=("attrs",), *, outputs=True):
    """A pair of files as Module's checkpoints are, its attributes under `keys`; the network, and its input."""
    x = mx.sym.var("data")
    x = mx.sym.Convolution(x, name="conv0", kernel=(3, 3), num_filter=4, pad=(1, 1))
    x = mx.sym.BatchNorm(x, name="bn0", fix_gamma=True, eps=2e-5)
    x = mx.sym.Pooling(mx.sym.Activation(x, act_type="relu"), kernel=(2, 2), stride=(2, 2), pool_type="max")
    x = mx.sym.FullyConnected(x, name="fc", num_hidden=3)
    x = mx.sym.SoftmaxOutput(x, name="softmax")
    shapes = {"data": (2, 3, 6, 6)}
    content, statistics = {}, {}
    for names, sizes, target in (
        (x.list_arguments(), x.infer_shape(**shapes)[0], content),
        (x.list_auxiliary_states(), x.infer_shape(**shapes)[2], statistics),
    ):
        target.update({name: array(np.abs(floats(*size)) + 0.5) for name, size in zip(names, sizes, strict=True)})
    for name in ("data", "softmax_label"):
        del content[name]
    mx.model.save_checkpoint(str(folder / "net"), 3, x, content, statistics)
    file = folder / "net-symbol.json"
    text = json.loads(file.read_text())
    for node in text["nodes"]:
        given = node.pop("attrs", {})
        parts = [dict(list(given.items())[index :: len(keys)]) for index in range(len(keys))]
        node.update(zip(keys, parts, strict=True))
    file.write_text(json.dumps(text))
    return file


@pytest.mark.parametrize("keys", [("attrs",), ("attr",), ("param", "attr"), ("param",)])
def test_checkpoints_of_all_versions(keys, tmp_path):
    file = published(tmp_path, keys)
    net = read_symbol(file)
    assert [str(v.shape) for v in net.graph.inputs] == ["[N,3,H,W]"]
    assert [v.name for v in net.graph.outputs] == ["softmax"]
    assert [one.op_type for one in net.graph] == [
        *("Conv", "BatchNormalization", "Relu", "MaxPool", "Flatten", "Gemm", "Softmax")
    ]
    assert set(net.graph.initializers) == {
        *("conv0_weight", "conv0_bias", "bn0_gamma", "bn0_beta", "bn0_moving_mean", "bn0_moving_var"),
        *("fc_weight", "fc_bias"),
    }
    content = floats(2, 3, 6, 6)
    expected = run_symbol(file, [content]) if keys in (("attrs",), ("attr",)) else None
    found = run(net, {"data": content})
    np.testing.assert_allclose(found[0].sum(1), 1, rtol=1e-5)
    if expected is not None:
        assert_close(found, expected)
    sized = read_symbol(file, shapes={"data": ["N", 3, 6, 6]})
    assert_close(outputs_of(from_ir(sized), [content]), found)


def test_files_before_statistics_were_nodes(tmp_path):
    file = published(tmp_path)
    text = json.loads(file.read_text())
    norm = next(node for node in text["nodes"] if node["op"] == "BatchNorm")
    norm["inputs"] = norm["inputs"][:3]
    file.write_text(json.dumps(text))
    assert {"bn0_moving_mean", "bn0_moving_var"} < set(read_symbol(file).graph.initializers)


def test_which_parameters_belong_to_a_symbol(tmp_path):
    file = published(tmp_path)
    assert params_of(file).name == "net-0003.params"
    (tmp_path / "net2-0001.params").write_bytes(b"")
    assert params_of(file).name == "net-0003.params"
    (tmp_path / "net.params").write_bytes(b"")
    with pytest.raises(FormatError, match=r"several files.*net-0003.params, net.params"):
        read_symbol(file)
    assert read_symbol(file, tmp_path / "net-0003.params").graph.name == "net"
    for one in tmp_path.glob("net*.params"):
        one.unlink()
    with pytest.raises(FileNotFoundError, match=r"net-0000\.params"):
        read_symbol(file)


def test_files_that_do_not_belong_together_say_so(tmp_path):
    file = published(tmp_path)
    network = nn.Conv2D(4, 3, in_channels=3)
    network.initialize()
    network.save_parameters(str(tmp_path / "net-0003.params"))
    with pytest.raises(FormatError, match=r"no 'conv0_weight'; they have weight, bias.*use export"):
        read_symbol(file)
    mxnet_params.write(tmp_path / "net-0003.params", {"arg:a": np.ones(2), "aux:a": np.ones(2)})
    with pytest.raises(FormatError, match="two arrays are called 'a'"):
        read_symbol(file)


def test_all_that_cannot_be_read_is_listed():
    def body(op, x):
        y = op.contrib.box_nms(op.SVMOutput(x, x) + op.digamma(x)) if hasattr(op, "digamma") else op.gamma(x)
        return op.linalg.potrf(y) + op.Activation(op.arctan(x), act_type="relu")

    network = nn.HybridLambda(body)
    with pytest.raises(UnsupportedOperators, match="cannot be expressed in the operator profile") as raised:
        to_ir(network, array(floats(2, 2)))
    assert {problem.operator for problem in raised.value.problems} == {"gamma", "arctan"}


def test_networks_that_cannot_be_traced_are_refused():
    with pytest.raises(TypeError, match="HybridBlock"):
        to_ir("net", array(floats(1)))
    with pytest.raises(FormatError, match="example"):
        to_ir(nn.Dense(2, in_units=3))
    with pytest.raises(FormatError, match="not initialised"):
        to_ir(nn.Dense(2), array(floats(1, 3)))

    class Python(gluon.Block):
        def forward(self, x):
            return x if x.sum().asscalar() > 0 else -x

    with pytest.raises(FormatError, match="cannot be traced"):
        to_ir(Python(), array(floats(1, 3)))


VARIABLE = {"op": "null", "name": "x", "inputs": []}


def symbol(*nodes, heads=((1, 0, 0),), **more):
    return json.dumps({"nodes": [VARIABLE, *nodes], "arg_nodes": [0], "heads": heads, **more})


def call(operator, attributes=None, inputs=((0, 0, 0),)):
    return {"op": operator, "name": "y", "inputs": inputs, "attrs": attributes or {}}


HOSTILE = {
    "": "no JSON",
    "[]": "an object with nodes",
    "{}": "an object with nodes",
    '{"nodes": 3}': "nodes: expected a list",
    '{"nodes": [], "heads": []}': "no outputs",
    '{"nodes": [3], "heads": []}': "node 0: expected an object",
    "[" * 100_000: "no JSON",
    symbol(call("relu", inputs=[[1, 0, 0]])): "a node that comes before",
    symbol(call("relu", inputs=[[-1, 0, 0]])): "a node that comes before",
    symbol(call("relu", inputs=[["0", 0]])): "[node, output]",
    symbol(call("relu", inputs=[])): "has 0 inputs",
    symbol(call("relu"), heads=[[9, 0, 0]]): "a node that comes before",
    symbol(call("relu"), heads=[[1, 4, 0]]): "has no output 4",
    symbol(call("relu", {"a": 3})): "attributes that are texts",
    symbol(call("transpose", {"axes": "(0, 7)"})): "its axis 7",
    symbol(call("transpose", {"axes": "__import__('os')"})): "expected whole numbers",
    symbol(call("sum", {"keepdims": "perhaps"})): "expected True or False",
    symbol(call("clip", {"a_min": "low"})): "expected a number",
    symbol(call("Reshape", {"shape": "(-4, 3)"})): "needs two sizes",
    symbol(call("Reshape", {"shape": "(7, 9)"})): "12 numbers do not make an array of 63",
    symbol(call("SliceChannel", {"num_outputs": "1000000000"})): "num_outputs",
    symbol(call("slice", {"begin": "(0,)", "end": "(1,)", "step": "(0,)"})): "step is 0",
    symbol(call("_full", {"shape": "(100000, 100000)", "value": "1"}, [])): "too many numbers",
    symbol(call("_arange", {"start": "0", "stop": "1e18"}, [])): "too many numbers",
    symbol(call("Cast", {"dtype": "complex64"})): "its type complex64",
    symbol(call("_foreach")): "no translation",
    symbol({**call("relu"), "subgraphs": []}): "subgraph",
    symbol({**call("relu"), "name": None}): "a name",
}


@pytest.mark.parametrize(
    ("text", "words"), HOSTILE.items(), ids=lambda value: value[-60:] if len(value) > 60 else value
)
def test_hostile_symbols_are_refused(text, words, tmp_path):
    file = tmp_path / "net-symbol.json"
    file.write_text(text)
    mxnet_params.write(tmp_path / "net-0000.params", {"unused": np.ones(1, np.float32)})
    with pytest.raises(FormatError) as raised:
        read_symbol(file, shapes={"x": [2, 6]} if '"inputs": [[0, 0, 0]]' in text else None)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 700


def test_notes_of_any_kind_are_taken_or_left():
    for noted in ("{", "[]", '{"role": "king", "shape": "big", "scalar": 3, "index": -1}'):
        variable = {**VARIABLE, "attrs": {"__mopruning__": noted}}
        text = json.dumps({"nodes": [variable, call("relu")], "arg_nodes": [0], "heads": [[1, 0, 0]]})
        assert read_text(text).nodes[0].name == "x"


def test_symbols_run_as_they_are_read(tmp_path):
    network, inputs = built("layers")
    network.hybridize()
    expected = outputs_of(network, inputs)
    network.export(str(tmp_path / "net"))
    file = tmp_path / "net-symbol.json"
    assert_close(run_symbol(file, inputs), expected)
    shape = ["N", *inputs[0].shape[1:]]
    assert_close(run(read_symbol(file, shapes={"data": shape}), {"data": inputs[0]}), expected)
    with pytest.raises(FormatError, match="'image' is no input of the network; its inputs are data"):
        read_symbol(file, shapes={"image": shape})


JUNK = ["0", "-1", "9" * 30, "()", "(-1, -2, -3)", "1e400", "nan", "None", "abc", "((1, 2), (3, 4))", "(-4, -1, 2)"]


@pytest.mark.parametrize("name", ["layers", "elements", "lstm both"])
def test_attributes_of_any_kind_are_read_or_refused(name, tmp_path):
    network, inputs = built(name)
    network.hybridize()
    outputs_of(network, inputs)
    network.export(str(tmp_path / "net"))
    file = tmp_path / "net-symbol.json"
    whole = json.loads(file.read_text())
    refused = []
    for place, node in enumerate(whole["nodes"]):
        for index, key in enumerate(node.get("attrs", {}) if node["op"] != "null" else ()):
            text = json.loads(json.dumps(whole))
            text["nodes"][place]["attrs"][key] = JUNK[(place + index) % len(JUNK)]
            file.write_text(json.dumps(text))
            try:
                read_symbol(file, shapes={"data": ["N", *inputs[0].shape[1:]]})
            except FormatError as error:
                refused.append(str(error))
    assert len(refused) > 3
    assert all(str(file) in text or "cannot be expressed" in text for text in refused)
