"""The builder against ONNX's own inference, onnxruntime and PyTorch; its names, initial weights and refusals."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")

from mopruning.ir import builder, geometry, initial  # noqa: E402
from mopruning.ir.builder import Builder  # noqa: E402
from mopruning.ir.geometry import GraphError, windows  # noqa: E402
from mopruning.ir.initial import Initial  # noqa: E402


def run(model, x):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = onnx_ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def arrays(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def image(channels=4, height=9, width=11, seed=0):
    net = Builder("test", seed)
    return net, net.input("x", (channels, height, width))


def everything():
    """One graph with every layer."""
    net, x = image(4, 17, 19)
    x = net.batch_norm(net.conv(x, "conv", 8, (3, 5), stride=(1, 2), padding=(1, 2), bias=True), "bn", epsilon=0.001)
    x = net.relu(net.conv(x, "dilated", 8, 3, padding=2, dilation=2, groups=4), "relu")
    x = net.conv_transpose(
        x, "up", 6, 4, stride=(2, 1), padding=1, output_padding=(1, 0), dilation=(1, 2), groups=2, bias=True
    )
    x = net.max_pool(net.clip(x, "clip", 0.0, 6.0), "max", 3, stride=2, ceil=True)
    x = net.average_pool(net.sigmoid(x, "sigmoid"), "mean", 3, stride=1, padding=1)
    left, right = net.split(x, "split", (2, 4))
    x = net.concat([right, left], "concat")
    _, height, width = (int(size) for size in x.shape[1:])
    paired = net.reshape(x, "pair", (2, 3, height, width))
    x = net.add(net.reshape(net.transpose(paired, "swap", (2, 1, 3, 4)), "join", (6, height, width)), x, "add")
    pooled = net.dropout(net.flatten(net.global_average_pool(x, "pool"), "flatten"), "dropout", 0.3)
    return net.model({"map": x, "output": net.gemm(pooled, "fc", 5)})


def test_shapes_are_those_that_onnx_infers():
    model = everything()
    declared = {value.name: list(value.shape) for node in model.graph for value in node.outputs}
    bare = onnx_ir.to_proto(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    found = {
        value.name: [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    assert found == {
        name: [size if isinstance(size, int) else size.value for size in s] for name, s in declared.items()
    }
    onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_every_layer_computes_what_pytorch_computes(torch, batch):
    F = torch.nn.functional  # noqa: N806
    model = everything()
    w = {name: torch.tensor(array) for name, array in arrays(model).items()}
    generator = np.random.default_rng(0)
    data = generator.normal(size=(batch, 4, 17, 19)).astype(np.float32)
    x = F.conv2d(torch.tensor(data), w["conv.weight"], w["conv.bias"], stride=(1, 2), padding=(1, 2))
    x = x / math.sqrt(1.0 + 0.001)
    x = F.relu(F.conv2d(x, w["dilated.weight"], padding=2, dilation=2, groups=4))
    x = F.conv_transpose2d(x, w["up.weight"], w["up.bias"], (2, 1), 1, (1, 0), groups=2, dilation=(1, 2))
    x = F.max_pool2d(F.relu6(x), 3, 2, ceil_mode=True)
    x = F.avg_pool2d(torch.sigmoid(x), 3, 1, 1)
    x = torch.cat([x[:, 2:], x[:, :2]], 1)
    x = x + x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
    expected = [x, F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])]
    for got, want in zip(run(model, data), expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counted", [True, False])
def test_padding_counts_in_a_mean_only_when_asked(counted):
    net, x = image(1, 4, 4)
    model = net.model({"y": net.average_pool(x, "pool", 2, padding=1, count_padding=counted)})
    corner = run(model, np.ones((1, 1, 4, 4), np.float32))[0][0, 0, 0, 0]
    assert corner == (0.25 if counted else 1.0)


def test_momentum_is_the_share_that_stays():
    net, x = image()
    net.batch_norm(x, "bn", momentum=0.01)
    (node,) = net.model({}).graph
    assert node.attributes["momentum"].as_float() == pytest.approx(0.99)
    assert node.attributes.get("training_mode") is None


def test_layers_without_parameters_may_repeat_their_name_and_others_not():
    net, x = image()
    names = [net.relu(x, "relu").name for _ in range(3)]
    assert names == ["relu", "relu_1", "relu_2"]
    net.conv(x, "conv", 4, 1)
    with pytest.raises(GraphError, match=r"'conv.weight' is given twice"):
        net.conv(x, "conv", 4, 1)


def test_constants_take_the_number_of_their_layer():
    net, x = image()
    for _ in range(2):
        x = net.clip(x, "relu6", 0.0, 6.0)
    assert list(net.model({"y": x}).graph.initializers) == ["relu6.min", "relu6.max", "relu6_1.min", "relu6_1.max"]


def test_an_output_gets_the_name_it_is_asked_to_have():
    net, x = image()
    model = net.model({"input_again": net.relu(x, "relu")})
    assert [value.name for value in model.graph.outputs] == ["input_again"]
    assert [node.name for node in model.graph] == ["relu"]
    net, x = image()
    with pytest.raises(GraphError, match="'x' is given twice"):
        net.model({"x": net.relu(x, "relu")})


def weights(seed, extra=False):
    net, x = image(16, seed=seed)
    if extra:
        net.conv(x, "another", 8, 3)
    x = net.conv(x, "conv", 64, 3)
    x = net.conv(x, "depthwise", 64, 3, groups=64, padding=1)
    return arrays(net.model({"y": net.gemm(net.flatten(net.global_average_pool(x, "pool"), "flat"), "fc", 500)}))


def test_initial_weights_depend_on_seed_and_name_only():
    first, again, other, larger = weights(7), weights(7), weights(8), weights(7, extra=True)
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[name])
        np.testing.assert_array_equal(array, larger[name])
        assert not np.array_equal(array, other[name])


def test_initial_weights_have_the_stated_spread():
    drawn = weights(0)
    assert drawn["conv.weight"].std() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)
    assert drawn["depthwise.weight"].std() == pytest.approx(math.sqrt(2 / 9), rel=0.1)  # one output a group
    for name in ("fc.weight", "fc.bias"):
        assert np.abs(drawn[name]).max() == pytest.approx(1 / 8, rel=0.02)
        assert drawn[name].std() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.1)
        assert abs(drawn[name].mean()) < 0.01


def test_stated_initial_values_replace_the_usual():
    net, x = image(64)
    model = net.model({"y": net.conv(x, "conv", 64, 3, bias=True, bias_value=-2.19, deviation=0.5)})
    assert arrays(model)["conv.weight"].std() == pytest.approx(0.5, rel=0.05)
    np.testing.assert_array_equal(arrays(model)["conv.bias"], np.full(64, -2.19, np.float32))


def test_weights_are_drawn_once_and_only_when_used(monkeypatch):
    drawn = []
    draw = Initial.__call__
    monkeypatch.setattr(Initial, "__call__", lambda self: drawn.append(self.name) or draw(self))
    net, x = image()
    model = net.model({"y": net.conv(x, "conv", 4, 3)})
    assert "conv.weight" in str(model)
    assert drawn == []
    first = arrays(model)["conv.weight"]
    assert arrays(model)["conv.weight"] is first
    assert drawn == ["conv.weight"]


REFUSED = {
    "window": (lambda net, x: net.conv(x, "stem", 8, 12), r"stem: a window of 12 does not fit into 9 \+ 2 \* 0"),
    "groups": (lambda net, x: net.conv(x, "stem", 6, 3, groups=4), "stem: 4 groups must divide 4 input and 6 output"),
    "no groups": (lambda net, x: net.conv(x, "stem", 6, 3, groups=0), "stem: 0 groups"),
    "dense on image": (
        lambda net, x: net.gemm(x, "fc", 3),
        r"fc: a dense layer needs \[N, inputs\], got \['N', 4, 9, 11\]",
    ),
    "add": (lambda net, x: net.add(x, net.max_pool(x, "p", 2), "sum"), r"sum: cannot add \['N', 4, 9, 11\] and"),
    "concat": (lambda net, x: net.concat([x, net.max_pool(x, "p", 2)], "join"), "join: cannot join"),
    "split": (lambda net, x: net.split(x, "cut", (1, 2)), r"cut: parts of \[1, 2\] do not make up 4 channels"),
    "reshape": (lambda net, x: net.reshape(x, "shape", (4, 9, 12)), r"shape: samples of \[4, 9, 11\] cannot become"),
    "transpose": (lambda net, x: net.transpose(x, "swap", (0, 2, 1, 3)), "swap: .* is no order of the axes"),
    "vector": (lambda net, x: net.conv(net.flatten(x, "flat"), "stem", 3, 1), "stem: needs images"),
    "ceil": (lambda net, x: net.max_pool(x, "p", 1, stride=3, ceil=True), "p: with ceil the last window of 1 would"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    layer, message = REFUSED[case]
    with pytest.raises(GraphError, match=message):
        layer(*image())


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0"])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(GraphError, match="seed must be a whole number"):
        Builder("net", seed)


SIZE = st.integers(1, 40)


@given(SIZE, st.integers(1, 9), st.integers(1, 5), st.integers(0, 4), st.booleans())
def test_windows_counts_the_windows(side, span, stride, padding, ceil):
    starts = range(-padding, side + padding, stride)
    inside = [start for start in starts if start + span <= side + padding]
    if not inside:
        with pytest.raises(GraphError, match="does not fit"):
            windows("layer", [side], [span], [stride], [padding], ceil)
        return
    last, expected = inside[-1], len(inside)
    if ceil and last + span < side + padding:  # something is left for one more
        last, expected = last + stride, expected + 1
    if ceil and last >= side:  # PyTorch drops it, ONNX does not
        with pytest.raises(GraphError, match="would start outside"):
            windows("layer", [side], [span], [stride], [padding], ceil)
    else:
        assert windows("layer", [side], [span], [stride], [padding], ceil) == (expected,)


@pytest.mark.parametrize("module", [builder, geometry, initial])
def test_doctests(module):
    failed, attempted = doctest.testmod(module)
    assert attempted >= 1
    assert failed == 0
