"""Networks on their way from the IR to MXNet and back: outputs, names, zeros, and training where they arrive."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from mopruning import BankBalanced, Unstructured, mask  # noqa: E402
from mopruning.backends import mxnet  # noqa: E402
from mopruning.backends.mxnet.framework import gluon, mx  # noqa: E402
from mopruning.backends.mxnet.reader import to_ir  # noqa: E402
from mopruning.backends.mxnet.symbol_files import params_of, read_symbol, run_symbol, write_symbol  # noqa: E402
from mopruning.backends.mxnet.writer import from_ir  # noqa: E402
from mopruning.errors import FormatError  # noqa: E402
from mopruning.ir import zoo  # noqa: E402
from mopruning.ir.builder import Builder  # noqa: E402
from mopruning.ir.parameters import parameters  # noqa: E402
from mopruning.ir.validation import UnsupportedOperators  # noqa: E402
from tests.backends.mxnet_ir_networks import array, assert_close, floats, outputs_of  # noqa: E402
from tests.ir.small_models import INT64, model, node, run  # noqa: E402

NETWORKS = [("lenet5", 28, 1), ("resnet8_cifar", 31, 3), ("shufflenet_v2_cifar", 32, 1), ("squeezenet1_1", 65, 3)]
MODULES = ("reader", "writer", "symbol_files", "exporting.symbol_file")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(f"mopruning.backends.mxnet.{name}")
    assert doctest.testmod(module).failed == 0


def pruned(name, image):
    """A network of the zoo, its weights pruned to 90%, in banks where these fit."""
    net = zoo.build(name, image=image)
    for key, one in parameters(net).items():
        content = one.value.const_value.numpy().copy()
        if one.role == "weight":
            rows = one.canonical(content)
            fits = not BankBalanced(64).misfit(rows.shape)
            rows[~mask(np.abs(rows), BankBalanced(64) if fits else Unstructured(), 0.9)] = 0
            content *= 3  # as large as before, so that outputs depend on what comes in
        one.value.const_value = onnx_ir.Tensor(content, name=key)
    return net


def contents(net):
    return {name: value.const_value.numpy() for name, value in net.graph.initializers.items()}


@pytest.mark.parametrize(("name", "image", "batch"), NETWORKS)
def test_zoo_networks_arrive_and_return(name, image, batch, tmp_path):
    net = pruned(name, image)
    (value,) = net.graph.inputs
    x = floats(batch, *list(value.shape)[1:])
    expected = run(net, {value.name: x})
    network = from_ir(net)
    assert_close(outputs_of(network, [x]), expected)
    trained = {key: one for key, one in network.collect_params().items() if one.grad_req == "write"}
    assert set(trained) == {key for key, one in parameters(net).items()}
    for key, one in network.collect_params().items():
        np.testing.assert_array_equal(one.data().asnumpy(), contents(net)[key])
    back = to_ir(network)
    write_symbol(net, tmp_path / "net-symbol.json")
    for returned in (back, read_symbol(tmp_path / "net-symbol.json")):
        assert sorted((one.op_type, one.name) for one in returned.graph) == sorted(
            (one.op_type, one.name) for one in net.graph
        )
        np.testing.assert_array_equal(run(returned, {value.name: x})[0], expected[0])
        assert [(v.name, str(v.shape)) for v in returned.graph.inputs] == [(value.name, str(value.shape))]
        assert [v.name for v in returned.graph.outputs] == [v.name for v in net.graph.outputs]
        before, after = contents(net), contents(returned)
        assert set(before) == set(after)
        for key, content in before.items():
            if content.dtype.kind == "f":
                assert content.tobytes() == after[key].tobytes()
    assert_close(run_symbol(tmp_path / "net-symbol.json", [x]), expected)


@pytest.mark.parametrize("name", ["lenet5", "resnet8_cifar"])
def test_arrivals_train_and_keep_their_zeros(name):
    net = pruned(name, None)
    network = from_ir(net)
    before = {key: one.data().asnumpy() for key, one in network.collect_params().items()}
    optimizer = mxnet.SGDSparse(param_name=network, learning_rate=0.02, fix_sparsity=True)
    trainer = gluon.Trainer(network.collect_params(), optimizer)
    x, labels = array(floats(8, *list(net.graph.inputs[0].shape)[1:])), array(np.arange(8, dtype=np.float32))
    loss_of, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
    for _ in range(6):
        with mx.autograd.record():
            loss = loss_of(network(x), labels)
        loss.backward()
        trainer.step(8)
        losses.append(float(loss.mean().asscalar()))
    assert losses[-1] < losses[0]
    assert any(value.ndim > 1 and (value == 0).mean() > 0.85 for value in before.values())
    for key, one in network.collect_params().items():
        after = one.data().asnumpy()
        assert not np.array_equal(after, before[key]), key
        if before[key].ndim > 1:
            np.testing.assert_array_equal(after == 0, before[key] == 0)


def test_batch_norm_moves_its_statistics_by_the_momentum_and_dropout_drops():
    net = Builder("net")
    x = net.batch_norm(net.input("x", (4, 3, 3)), "bn", momentum=0.25)
    network = from_ir(net.model({"output": net.dropout(x, "drop", 0.5)}))
    content = floats(5, 4, 3, 3) + 3
    assert not (outputs_of(network, [content])[0] == 0).any()
    with mx.autograd.record():
        output = network(array(content))
    output.backward()
    assert 0.3 < (output.asnumpy() == 0).mean() < 0.7
    mean, variance = (network.collect_params()[f"bn.running_{what}"].data().asnumpy() for what in ("mean", "var"))
    np.testing.assert_allclose(mean, 0.25 * content.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.75 + 0.25 * content.var((0, 2, 3)), rtol=1e-5)  # of the batch itself
    assert network.collect_params()["bn.running_mean"].grad_req == "null"


def test_saving_exporting_hybridizing_and_casting(tmp_path):
    net = zoo.build("resnet8_cifar")
    network, x = from_ir(net), floats(2, 3, 32, 32)
    expected = outputs_of(network, [x])
    network.save_parameters(str(tmp_path / "own.params"))
    other = from_ir(zoo.build("resnet8_cifar", seed=1))
    other.load_parameters(str(tmp_path / "own.params"))
    np.testing.assert_array_equal(outputs_of(other, [x])[0], expected[0])
    network.hybridize(static_alloc=True, static_shape=True)
    assert_close(outputs_of(network, [x]), expected)
    network.export(str(tmp_path / "net"), epoch=7)
    assert params_of(tmp_path / "net-symbol.json").name == "net-0007.params"
    back = read_symbol(tmp_path / "net-symbol.json")
    np.testing.assert_array_equal(run(back, {"input": x})[0], run(net, {"input": x})[0])
    (tmp_path / "net-0007.params").rename(tmp_path / "net.params")
    assert list(read_symbol(tmp_path / "net-symbol.json").graph.initializers) == list(back.graph.initializers)
    # names without "arg:" and "aux:", as save_parameters writes them
    (tmp_path / "own.params").replace(tmp_path / "net.params")
    assert list(read_symbol(tmp_path / "net-symbol.json").graph.initializers) == list(back.graph.initializers)
    network.cast("float16")
    types = {key: np.dtype(one.dtype).name for key, one in network.collect_params().items()}
    assert {types["conv1.weight"], types["linear.bias"]} == {"float16"}  # which MXNet computes with on a GPU alone
    assert {one for key, one in types.items() if "bn" in key} == {"float32"}


def test_two_contexts_hold_the_same_network():
    network, x = from_ir(zoo.build("lenet5")), floats(2, 1, 28, 28)
    expected = outputs_of(network, [x])
    contexts = [mx.cpu(0), mx.cpu(1)]
    network.collect_params().reset_ctx(contexts)
    for context in contexts:
        assert_close([network(array(x).as_in_context(context)).asnumpy()], expected)


def test_inputs_keep_their_order_and_types(tmp_path):
    nodes = [
        node("Cast", "float", "index", to=1),
        node("Sub", "difference", "second first"),
        node("Mul", "y", "difference float"),
        node("Identity", "z", "first"),
    ]
    net = model({"first": ["N", 3], "index": ["N", 1], "second": ["N", 3]}, nodes, ["y", "z"], types={"index": INT64})
    inputs = {"first": floats(4, 3), "index": np.array([[3], [1], [-2], [0]]), "second": floats(4, 3)}
    expected = run(net, inputs)
    assert_close(outputs_of(from_ir(net), [*inputs.values()]), expected)
    write_symbol(net, tmp_path / "net-symbol.json")
    back = read_symbol(tmp_path / "net-symbol.json")
    assert [(v.name, str(v.shape), v.dtype.name) for v in back.graph.inputs] == [
        ("first", "[N,3]", "FLOAT"),
        ("index", "[N,1]", "INT64"),
        ("second", "[N,3]", "FLOAT"),
    ]
    assert [v.name for v in back.graph.outputs] == ["y", "z"]
    assert_close(run(back, inputs), expected)
    assert_close(run_symbol(tmp_path / "net-symbol.json", [*inputs.values()]), expected)


def test_shapes_that_depend_on_the_batch():
    nodes = [
        node("Shape", "shape", "x"),
        node("Gather", "n", "shape zero"),
        node("Concat", "target", "n tail", axis=0),
        node("Expand", "tokens", "token target"),
        node("Concat", "joined", "tokens x", axis=1),
        node("ConstantOfShape", "zeros", "shape"),
        node("Add", "y", "x zeros"),
        node("Reshape", "flat", "joined target2"),
    ]
    weights = {"token": floats(1, 1, 4), "tail": np.array([1, 4]), "zero": np.array([0]), "target2": np.array([0, -1])}
    net = model({"x": ["N", 2, 4]}, nodes, ["flat", "y"], weights)
    network = from_ir(net)
    for batch in (1, 3):
        x = floats(batch, 2, 4)
        assert_close(outputs_of(network, [x]), run(net, {"x": x}))
    assert network.collect_params()["token"].grad_req == "write"
    assert network.collect_params()["token"].shape == (1, 1, 4)


def test_all_that_cannot_be_expressed_is_listed():
    nodes = [
        node("Range", "range", "a b c"),
        node("Slice", "slice", "x a1 b1"),
        node("Relu", "relu", "slice"),
        node("MatMul", "whole", "m m"),
    ]
    inputs = {"x": ["N", 4], "a": [], "b": [], "c": [], "a1": [1], "b1": [1], "m": [2, 2]}
    types = dict.fromkeys(("a", "b", "c", "a1", "b1", "m"), INT64)
    with pytest.raises(UnsupportedOperators, match="cannot be expressed in MXNet, 3 problems") as raised:
        from_ir(model(inputs, nodes, ["range", "relu", "whole"], types=types))
    assert [problem.node for problem in raised.value.problems] == ["range", "slice", "whole"]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "é", "a:0", "1", "a,b", "{x}"])
def test_any_printable_name_goes_there_and_back(name, tmp_path):
    nodes = [node("Gemm", f"{name}.fc", f"x {name}", transB=1)]
    net = model({"x": [2, 3]}, nodes, [f"{name}.fc"], {name: floats(4, 3)})
    write_symbol(net, tmp_path / "net-symbol.json")
    back = read_symbol(tmp_path / "net-symbol.json")
    assert list(back.graph.initializers) == list(net.graph.initializers)
    assert [one.name for one in back.graph] == [f"{name}.fc"]
    x = floats(2, 3)
    assert_close(run(back, {"x": x}), outputs_of(from_ir(net), [x]))


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "\x1b[31m"])
def test_names_that_are_not_printable_are_refused(name):
    nodes = [node("Gemm", "fc", "x weight", transB=1)]
    net = model({"x": [2, 3]}, nodes, ["fc"], {"weight": floats(4, 3)})
    net.graph.initializers["weight"].name = name
    with pytest.raises(FormatError, match="printable"):
        from_ir(net)


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "net-symbol.json"
    write_symbol(zoo.build("lenet5"), path)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    assert set(before) == {"net-symbol.json", "net-0000.params"}
    bad = model({"x": ["N", 2], "a": [], "b": [], "c": []}, [node("Range", "y", "a b c")], ["y"])
    with pytest.raises(UnsupportedOperators):
        write_symbol(bad, path)
    with pytest.raises(OSError, match="there is no such folder"):
        write_symbol(zoo.build("lenet5"), tmp_path / "none" / "net-symbol.json")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
