"""What `to_ir` makes of modules: names, conventions, wrappers, and every kind of layer and function."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from mopruning.backends import pytorch  # noqa: E402
from mopruning.backends.pytorch.notes import Notes  # noqa: E402
from mopruning.ir.parameters import parameters  # noqa: E402
from tests.backends.pytorch_ir_networks import (  # noqa: E402
    Function,
    ResNet,
    VisionTransformer,
    assert_close,
    outputs_of,
    run,
    sent,
)


def nodes(model):
    return [(node.name, node.op_type) for node in model.graph]


def shape(value):
    return [size if isinstance(size, int) else size.value for size in value.shape]


def check(module, *inputs, **options):
    """Translate, and compare onnxruntime and the returned network with the module; return model and network."""
    model = pytorch.to_ir(module, inputs, **options)
    network = pytorch.from_ir(model)
    expected = outputs_of(module, inputs)
    for actual, other, wanted in zip(run(model, inputs), outputs_of(network, inputs), expected, strict=True):
        assert_close(actual, wanted)
        assert_close(other, wanted)
    return model, network


@pytest.fixture(scope="module")
def resnet():
    return pytorch.to_ir(ResNet(), torch.zeros(1, 3, 16, 16))


def test_nodes_are_called_as_the_modules(resnet):
    assert nodes(resnet) == [
        *(("conv1", "Conv"), ("bn1", "BatchNormalization"), ("relu", "Relu"), ("maxpool", "MaxPool")),
        *(("layer1.0.conv1", "Conv"), ("layer1.0.bn1", "BatchNormalization"), ("layer1.0.relu", "Relu")),
        *(("layer1.0.conv2", "Conv"), ("layer1.0.bn2", "BatchNormalization"), ("layer1.0.add", "Add")),
        ("layer1.0.relu_1", "Relu"),
        *(("layer1.1.conv1", "Conv"), ("layer1.1.bn1", "BatchNormalization"), ("layer1.1.relu", "Relu")),
        *(("layer1.1.conv2", "Conv"), ("layer1.1.bn2", "BatchNormalization")),
        *(("layer1.1.downsample.0", "Conv"), ("layer1.1.downsample.1", "BatchNormalization")),
        *(("layer1.1.add", "Add"), ("layer1.1.relu_1", "Relu")),
        *(("avgpool", "GlobalAveragePool"), ("flatten", "Flatten"), ("dropout", "Dropout"), ("fc", "Gemm")),
    ]


def test_model_follows_the_conventions(resnet):
    graph = resnet.graph
    assert dict(resnet.opset_imports) == {"": 20}
    assert resnet.ir_version == 10
    assert graph.name == "ResNet"
    assert resnet.metadata_props["mopruning.source"] == "pytorch"
    assert resnet.metadata_props["mopruning.layout"] == "NCHW"
    assert [(value.name, shape(value)) for value in graph.inputs] == [("x", ["N", 3, 16, 16])]
    assert [(value.name, shape(value)) for value in graph.outputs] == [("output", ["N", 5])]
    assert len(graph.node("bn1").inputs) == 5
    assert all(
        set(node.attributes) <= {"epsilon", "momentum"} for node in graph if node.op_type == "BatchNormalization"
    )
    assert graph.node("dropout").inputs[1].name == "dropout.ratio"
    assert graph.node("dropout").inputs[1].const_value.numpy() == np.float32(0.1)
    assert len(graph.node("dropout").inputs) == 2
    assert len(graph.node("conv1").inputs) == 2  # no bias of zeros
    names = list(ResNet().state_dict())
    expected = [name for name in names if not name.endswith("num_batches_tracked")]
    assert [name for name in graph.initializers if name in names] == expected
    assert not any(node.metadata_props or node.doc_string for node in graph)
    assert not any(value.metadata_props for value in graph.initializers.values())
    shapes = [value.shape for node in graph for value in node.outputs]
    assert all(each is not None and each[0] == onnx_ir.SymbolicDim("N") for each in shapes)


def test_dense_layer_on_more_axes_keeps_its_weight_as_it_is():
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
    model, network = check(module, torch.randn(2, 5, 4))
    assert nodes(model) == [
        *(("0.transpose", "Transpose"), ("0", "MatMul"), ("0.add", "Add")),
        *(("1.transpose", "Transpose"), ("1", "MatMul")),
    ]
    assert list(model.graph.initializers) == ["0.weight", "0.bias", "1.weight"]
    assert shape(model.graph.initializers["0.weight"]) == [3, 4]
    assert {name: (one.role, one.node.name) for name, one in parameters(model).items()}["0.weight"] == ("weight", "0")
    assert type(network.get_submodule("0")) is nn.Linear


def test_batch_size_can_be_fixed():
    model, _ = check(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), torch.randn(4, 3, 8, 8), dynamic_batch=False)
    assert shape(model.graph.inputs[0]) == [4, 3, 8, 8]
    assert shape(model.graph.outputs[0]) == [4, 72]


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_any_batch_size_of_the_example_will_do(batch):
    model = pytorch.to_ir(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(batch, 3, 4))
    assert shape(model.graph.inputs[0]) == ["N", 3, 4]
    x = torch.randn(3, 3, 4)
    assert run(model, (x,))[0].shape == (3, 2)


def test_examples_by_name_and_inputs_without_a_batch():
    class Scaled(nn.Module):
        def forward(self, x, *, scale=None, offset):
            return {"scaled": x * scale, "all": [offset + 1, x]}

    example = {"x": torch.ones(2, 3), "offset": torch.ones(4), "scale": torch.ones(3)}
    model = pytorch.to_ir(Scaled(), example)
    assert {value.name: shape(value) for value in model.graph.inputs} == {"x": ["N", 3], "offset": [4], "scale": [3]}
    assert [value.name for value in model.graph.outputs] == ["scaled", "all_0", "all_1"]


def test_outputs_that_are_inputs_or_stand_twice():
    model = pytorch.to_ir(Function(lambda x: (x, x, x.relu(), x.relu(), None)), torch.randn(2, 3))
    x = torch.randn(2, 3)
    results = run(model, (x,))
    assert len({value.name for value in (*model.graph.inputs, *model.graph.outputs)}) == 5
    for actual, expected in zip(results, (x, x, x.relu(), x.relu()), strict=True):
        assert_close(actual, expected)


def test_wrappers_are_looked_through():
    module = nn.Sequential(nn.Linear(4, 2))
    expected = pytorch.to_ir(module, torch.zeros(2, 4))
    for wrapped in (nn.DataParallel(module), torch.compile(module), torch.compile(nn.DataParallel(module))):
        model = pytorch.to_ir(wrapped, torch.zeros(2, 4))
        assert list(model.graph.initializers) == list(expected.graph.initializers) == ["0.weight", "0.bias"]
        assert nodes(model) == nodes(expected)


def test_shared_modules_share_their_parameters():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
            self.other = self.one

        def forward(self, x):
            return self.other(self.one(x))

    model, network = check(Twice(), torch.randn(2, 3, 8, 8))
    names = [name for name in model.graph.initializers if "." in name]
    assert names == [
        "one.0.weight",
        "one.0.bias",
        "one.1.weight",
        "one.1.bias",
        "one.1.running_mean",
        "one.1.running_var",
    ]
    calls = [node.target for node in network.graph.nodes if node.op == "call_module"]
    assert calls == ["one.0", "one.1", "one.0", "one.1"]


def test_tied_weights_stay_tied():
    _, inputs, model = sent("bert")
    network = pytorch.from_ir(model)
    assert "decoder.weight" not in model.graph.initializers
    assert len(model.graph.initializers["word.weight"].uses()) == 2
    assert type(network.word) is nn.Embedding
    assert network.word.padding_idx == 0
    network(*inputs).sum().backward()
    assert network.word.weight.grad[1:].abs().sum() > 0


def test_attention_keeps_its_dropout_and_its_parameters():
    _, _, model = sent("vit")
    ratios = [float(node.inputs[1].const_value.numpy()) for node in model.graph if node.op_type == "Dropout"]
    assert (
        ratios == [pytest.approx(0.1)] * 8
    )  # in each layer: the attention, the hidden layer, and two residual branches
    assert set(VisionTransformer().state_dict()) <= set(model.graph.initializers)
    assert {"encoder.layers.0.self_attn.in_proj", "encoder.layers.0.self_attn.out_proj"} <= {n for n, _ in nodes(model)}
    assert not any(node.op_type == "Attention" for node in model.graph)


@pytest.mark.parametrize("causal", [False, True])
def test_scaled_dot_product_attention(causal):
    def attend(q, k, v, mask):
        plain = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=0.3 if causal else None)
        return (
            plain,
            F.scaled_dot_product_attention(q, k, v, mask),
            F.scaled_dot_product_attention(q, k, v, mask.float()),
        )

    q, k, v = (torch.randn(2, 2, 5, 4) for _ in range(3))
    mask = torch.rand(2, 1, 5, 5) > 0.3
    mask[..., 0] = True
    check(Function(attend), q, k, v, mask)


def test_recurrent_weights_keep_names_and_layout():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True, dropout=0.2)
            self.start = nn.Parameter(torch.zeros(4, 1, 4))

        def forward(self, x):
            start = self.start.expand(-1, x.shape[0], -1).contiguous()
            return self.rnn(x, (start, start))

    module = Net()
    model, network = check(module, torch.randn(2, 6, 3))
    assert type(network.rnn) is nn.LSTM
    assert (network.rnn.num_layers, network.rnn.bidirectional, network.rnn.dropout) == (2, True, 0.2)
    assert set(network.state_dict()) == set(module.state_dict())
    assert [name for name, operator in nodes(model) if operator == "LSTM"] == ["rnn.l0", "rnn.l1"]
    for name, value in module.state_dict().items():
        assert np.array_equal(model.graph.initializers[name].const_value.numpy(), value.numpy())


def test_buffers_constants_and_trained_numbers_are_told_apart():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.randn(4))
            self.register_buffer("mask", torch.rand(1, 80) > 0.5, persistent=False)
            self.gain = nn.Parameter(torch.tensor(0.5))
            self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)

        def forward(self, x):
            y = (x - self.shift) * self.gain * self.frozen * 1.5 @ torch.ones(4, 80)
            return y.masked_fill(self.mask, 0.0)

    module = Net()
    model, network = check(module, torch.randn(2, 4))
    assert json.loads(model.metadata_props["mopruning.roles"])["shift"] == "buffer"
    assert set(network.state_dict()) == set(module.state_dict()) == {"shift", "gain", "frozen"}
    assert {name for name, _ in network.named_parameters()} == {"gain", "frozen"}


def test_batchnorm_without_parameters_and_cumulative_average():
    module = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, 1e-3, 0.25)
    )
    module(torch.randn(4, 3, 8, 8))
    module[2].num_batches_tracked += 5
    model, network = check(module, torch.randn(2, 3, 8, 8))
    notes = Notes.of(model)
    assert (dict(notes.batches), notes.cumulative) == ({"*": 1, "2": 6}, ("1",))
    for path in "012":
        original, returned = module.get_submodule(path), network.get_submodule(path)
        assert (original.eps, original.momentum, original.affine) == (returned.eps, returned.momentum, returned.affine)
        assert int(original.num_batches_tracked) == int(returned.num_batches_tracked)
    x = torch.randn(4, 3, 8, 8)
    module.train()(x), network.train()(x)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_batchnorm_without_statistics_trains_and_computes_by_the_batch():
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    x = torch.randn(4, 3, 8, 8)
    _, network = check(module, x)
    network.train()
    network(x).square().sum().backward()
    assert network.state_dict().keys() == module.state_dict().keys()


def test_weights_that_are_computed():
    masked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    prune.l1_unstructured(masked[0], "weight", 0.5)
    masked(torch.randn(1, 3, 8, 8))
    _, network = check(masked, torch.randn(2, 3, 8, 8))
    assert {name for name, _ in network.named_parameters()} == {"0.weight_orig", "0.bias"}
    normed = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten())
    _, network = check(normed, torch.randn(2, 3, 8, 8))
    assert set(network.state_dict()) == set(normed.state_dict())


def test_pool_windows_that_only_older_onnx_would_keep():
    module = nn.Sequential(nn.MaxPool2d(2, 2, 1, ceil_mode=True), nn.AvgPool2d(2, 3, 1, True, False))
    model, _ = check(module, torch.randn(2, 3, 10, 9))
    for node in model.graph:
        assert "ceil_mode" not in node.attributes
    declared = [shape(value) for node in model.graph for value in node.outputs]
    assert declared == [["N", 3, 6, 5], ["N", 3, 3, 2]]


ACTIVATIONS = [
    *(nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.Mish(), nn.ELU(0.5), nn.CELU(0.7), nn.SELU()),
    *(
        nn.LeakyReLU(0.2),
        nn.PReLU(),
        nn.PReLU(3),
        nn.Softplus(),
        nn.Softplus(2.0),
        nn.LogSoftmax(1),
        nn.Hardtanh(-1, 0.5),
    ),
    *(nn.Softsign(), nn.LogSigmoid(), nn.GLU(2), nn.GELU(), nn.GELU("tanh"), nn.Tanhshrink(), nn.Softshrink()),
]
FUNCTIONS = {
    "arithmetic": lambda x: (x / 2 - 1) ** 2 + torch.exp(-x.abs()) * torch.rsqrt(x * x + 1) - torch.log1p(x * x),
    "reductions": lambda x: (x.std(1), x.var((2, 3)), x.amin(2), x.prod(1), x.norm(dim=1), torch.logsumexp(x, 1)),
    "ordering": lambda x: (x.topk(2, -1)[0], x.argmax(1), x.cumsum(1), x.max(1).values),
    "parts": lambda x: (
        x[:, 1:, ::2],
        x[:, :, -1],
        x[:, [0, 2]],
        x.unbind(1)[1],
        x.chunk(2, 3)[1],
        x.split([1, 2], 1)[1],
    ),
    "axes": lambda x: (
        x.flatten(2).transpose(1, 2),
        x.permute(0, 2, 3, 1),
        torch.stack([x, x], 1),
        x.repeat(1, 2, 1, 1),
    ),
    "shapes": lambda x: (
        x.view(x.shape[0], 3, -1).sum(-1),
        x.reshape(-1, 8),
        x.new_zeros(x.shape[0], 2) + x[:, :2, 0, 0],
    ),
    "choices": lambda x: (torch.where(x > 0, x, x * 0.1), x.clamp(-0.5, 0.5), x.masked_fill(x < 0, -1.0), x.tril()),
    "shuffles": lambda x: (F.pixel_unshuffle(x, 2), F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2), x.roll(1, 2), x.flip(1)),
    "pads": lambda x: (
        F.pad(x, (1, 2, 0, 1), "reflect"),
        F.pad(x, (2, 1, 1, 0), "circular"),
        F.pad(x, (1, -1), value=2.0),
    ),
    "pools": lambda x: (
        F.adaptive_avg_pool2d(x, (3, 5)),
        F.adaptive_avg_pool2d(x, (4, 2)),
        F.adaptive_max_pool2d(x, 1),
    ),
    "squeezes": lambda x: (
        x.squeeze(1),
        x[:, :1].squeeze(1),
        x.mean((2, 3), keepdim=True).squeeze(),
        x.mean().reshape(1),
    ),
    "norms": lambda x: (
        F.normalize(x),
        F.local_response_norm(x, 3),
        F.layer_norm(x, (8, 8)),
        F.cosine_similarity(x, x + 1),
    ),
}


def test_activations():
    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.ModuleList(ACTIVATIONS)

        def forward(self, x):
            return [module(x) for module in self.each]

    torch.manual_seed(3)
    _, network = check(All(), torch.randn(2, 3, 8, 8) * 3)
    assert {path for path, part in network.named_modules() if type(part) is nn.PReLU} == {"each.9", "each.10"}


@pytest.mark.parametrize("names", [list(FUNCTIONS)[:6], list(FUNCTIONS)[6:]], ids=lambda names: names[0])
def test_functions(names):
    torch.manual_seed(3)
    check(Function(lambda x: [FUNCTIONS[name](x) for name in names]), torch.randn(2, 3, 8, 8))
