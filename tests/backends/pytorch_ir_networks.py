"""Small networks of every family, and what the tests of the IR do with them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mopruning.backends import pytorch


class Block(nn.Module):
    """A residual block as torchvision has it: one ReLU module, used twice."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(F.dropout(self.avgpool(x).flatten(1), 0.1, self.training))


class Vgg(nn.Sequential):
    def __init__(self) -> None:
        features = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2)),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.3, eps=1e-3), nn.ReLU(), nn.MaxPool2d(2)),
        )
        classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5))
        super().__init__(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), classifier)


class Mobile(nn.Sequential):
    """Depthwise, grouped and dilated convolutions, the activations of mobile networks."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()),
            *(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU6()),
            *(nn.Conv2d(8, 16, (3, 1), padding="same", groups=4, dilation=2), nn.SiLU()),
            *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 4 * 4, 5), nn.Hardsigmoid()),
        )


class Decoder(nn.Module):
    """Down, up again by transposed convolution and by resizing, joined; two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 4, 2, 1)
        self.up = nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.slope = nn.PReLU(8)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.slope(self.norm(self.down(x)))
        wide = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        joined = torch.cat([self.up(y), F.interpolate(wide, size=x.shape[2:], mode="nearest")], 1)
        return {"mask": torch.sigmoid(self.head(joined)), "score": y.amax((1, 2, 3))}


class Mlp(nn.Module):
    """Dense layers on more than two axes, with and without bias, one used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.twice = nn.Linear(8, 8, bias=False)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.last = nn.Linear(8, 3)
        self.register_buffer("shift", torch.linspace(-1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.twice(F.leaky_relu(self.twice(self.first(x)), 0.1)))
        return self.last(x * self.scale - self.shift)


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 17, 8) * 0.1)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.encoder(x))[:, 0])


class Bert(nn.Module):
    """Embeddings, attention under a mask, a decoder tied to the word embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(20, 8, padding_idx=0)
        self.position = nn.Embedding(6, 8)
        self.register_buffer("position_ids", torch.arange(6)[None])
        self.norm = nn.LayerNorm(8, eps=1e-12)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.dense = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.1)
        self.decoder = nn.Linear(8, 20)
        self.decoder.weight = self.word.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.word(input_ids) + self.position(self.position_ids[:, : input_ids.shape[1]])
        x = self.dropout(self.norm(x))
        split = [layer(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        scores = split[0] @ split[1].transpose(-1, -2) / 2.0 + bias
        y = (self.dropout(scores.softmax(-1)) @ split[2]).transpose(1, 2).reshape(x.shape)
        return self.decoder(F.gelu(self.norm(x + self.dense(y))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.lstm = nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.gru = nn.GRU(8, 5, batch_first=True, bias=False)
        self.fc = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, _) = self.lstm(self.embed(tokens))
        return self.fc(self.gru(y)[0][:, -1]), h.mean(0)


class Signal(nn.Sequential):
    """One axis: convolutions, pooling, normalisation."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv1d(2, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8, affine=False), nn.ELU(0.5), nn.MaxPool1d(2)),
            *(nn.ConvTranspose1d(8, 4, 4, 2, 1), nn.InstanceNorm1d(4, affine=True), nn.Softplus(), nn.AvgPool1d(2)),
            *(nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(4, 3), nn.LogSoftmax(1)),
        )


class Volume(nn.Sequential):
    """Three axes."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.AvgPool3d(2)),
            *(nn.ConvTranspose3d(4, 2, 2, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 3)),
        )


class Function(nn.Module):
    """A module that computes a function and has no parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def _image() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 16, 16),)


def _tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 10, (3, 7)),)


def _sentence() -> tuple[Tensor, ...]:
    return torch.randint(1, 20, (3, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "resnet": (ResNet, _image),
    "vgg": (Vgg, _image),
    "mobile": (Mobile, _image),
    "decoder": (Decoder, _image),
    "mlp": (Mlp, lambda: (torch.randn(2, 4, 5, 6),)),
    "vit": (VisionTransformer, _image),
    "bert": (Bert, _sentence),
    "recurrent": (Recurrent, _tokens),
    "signal": (Signal, lambda: (torch.randn(3, 2, 32),)),
    "volume": (Volume, lambda: (torch.randn(2, 1, 4, 4, 4),)),
}
"""Name -> how to build the network, and an example input."""


def build(name: str, sparsity: float = 0.5) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Build a network with used statistics and half of its weights zero, in training mode, and an example."""
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    module, inputs = make(), example()
    with torch.no_grad():
        for _ in range(2):
            module(*inputs)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand_like(parameter) > sparsity
    return module, inputs


def outputs_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Run a module for inference."""
    training = module.training
    with torch.no_grad():
        outputs = pytree.tree_leaves(module.eval()(*inputs))
    module.train(training)
    return outputs


def run(model: onnx_ir.Model, inputs: tuple[Tensor, ...]) -> list[np.ndarray[Any, Any]]:
    """Run a model in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = onnx_ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Check that the largest difference is within a share of the range of what is expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.size:
        span = np.ptp(expected.astype(np.float64)) if expected.size > 1 else np.abs(expected).max()
        limit = tolerance * max(span, 1e-6)
        assert np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max() <= limit


def loss_of(module: nn.Module, inputs: tuple[Tensor, ...], seed: int = 1) -> Tensor:
    """Return a loss that depends on every output; dropouts draw from `seed`."""
    torch.manual_seed(seed)
    return sum((output.square().mean() for output in pytree.tree_leaves(module(*inputs))), torch.zeros(()))


_SENT: dict[str, Any] = {}


def sent(name: str) -> tuple[nn.Module, tuple[Tensor, ...], onnx_ir.Model]:
    """Return a network, an example and its model; made once for all tests, as translating takes a second."""
    if name not in _SENT:
        module, inputs = build(name)
        before = everything(module)
        _SENT[name] = module, inputs, pytorch.to_ir(module, inputs), before, everything(module)
    return _SENT[name][:3]


def watched(name: str) -> tuple[Any, Any]:
    """Return `everything` from before and after the translation of a network."""
    sent(name)
    return _SENT[name][3:]


def bits(state: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, bytes]]:
    """Return the types and bytes of a state."""
    return {name: (value.dtype, value.numpy().tobytes()) for name, value in state.items()}


def everything(module: nn.Module) -> dict[str, Any]:
    """Return what translating must leave alone: weights, modes, hooks, gradients, and what is PyTorch's own."""
    parts = list(module.modules())
    return {
        "state": bits(module.state_dict()),
        "modes": [part.training for part in parts],
        "hooks": [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in parts],
        "gradients": [(parameter.grad, parameter.requires_grad) for parameter in module.parameters()],
        "generator": torch.get_rng_state().tolist(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "warnings": list(warnings.filters),
        "logging": [logging.getLogger(name).level for name in ("torch", "torch.onnx", "onnxscript", "")],
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
    }
