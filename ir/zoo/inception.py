"""Inception v3, as torchvision has it, without the auxiliary classifier that only training from scratch uses.

Source: Szegedy et al., "Rethinking the inception architecture for computer vision", 2015, table 1, figures 5 to 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.geometry import Pair
from mopruning.ir.zoo.blocks import classify, conv_bn


@dataclass(frozen=True)
class Layer:
    """A convolution with its normalisation and ReLU; with stride 1 it keeps the image's size, with 2 it pads nothing.

    Args:
        name: Name within the module.
        channels: Output channels.
        kernel: Height and width of the kernel.
        stride: Steps of the kernel.
    """

    name: str
    channels: int
    kernel: Pair
    stride: int = 1


Branch = Sequence["Layer | tuple[Layer, Layer]"]
"""Layers one after another; a pair stands side by side and is joined."""


def inception_v3(net: Builder, x: Value, classes: int) -> Value:
    """Define Inception v3.

    Parameter names are torchvision's: ``Conv2d_1a_3x3.conv``, ``Conv2d_1a_3x3.bn``, ...,
    ``Mixed_5b.branch1x1.conv``, ..., ``fc``.
    """
    x = _conv(net, x, "Conv2d_1a_3x3", Layer("", 32, 3, 2))
    x = _conv(net, x, "Conv2d_2a_3x3", Layer("", 32, 3), pad=False)
    x = _conv(net, x, "Conv2d_2b_3x3", Layer("", 64, 3))
    x = net.max_pool(x, "maxpool1", 3, stride=2)
    x = _conv(net, x, "Conv2d_3b_1x1", Layer("", 80, 1))
    x = _conv(net, x, "Conv2d_4a_3x3", Layer("", 192, 3), pad=False)
    x = net.max_pool(x, "maxpool2", 3, stride=2)
    for letter, pooled in zip("bcd", (32, 64, 64), strict=True):
        x = _mixed(net, x, f"Mixed_5{letter}", _mixed_5(), pooled)
    x = _mixed(net, x, "Mixed_6a", _mixed_6a(), None)
    for letter, narrow in zip("bcde", (128, 160, 160, 192), strict=True):
        x = _mixed(net, x, f"Mixed_6{letter}", _mixed_6(narrow), 192)
    x = _mixed(net, x, "Mixed_7a", _mixed_7a(), None)
    for letter in "bc":
        x = _mixed(net, x, f"Mixed_7{letter}", _mixed_7(), 192)
    return classify(net, x, "avgpool", "fc", classes, dropout="dropout")


def _mixed_5() -> list[Branch]:
    return [
        [Layer("branch1x1", 64, 1)],
        [Layer("branch5x5_1", 48, 1), Layer("branch5x5_2", 64, 5)],
        [Layer("branch3x3dbl_1", 64, 1), Layer("branch3x3dbl_2", 96, 3), Layer("branch3x3dbl_3", 96, 3)],
    ]


def _mixed_6a() -> list[Branch]:
    return [
        [Layer("branch3x3", 384, 3, 2)],
        [Layer("branch3x3dbl_1", 64, 1), Layer("branch3x3dbl_2", 96, 3), Layer("branch3x3dbl_3", 96, 3, 2)],
    ]


def _mixed_6(narrow: int) -> list[Branch]:
    row, column = (1, 7), (7, 1)
    return [
        [Layer("branch1x1", 192, 1)],
        [Layer("branch7x7_1", narrow, 1), Layer("branch7x7_2", narrow, row), Layer("branch7x7_3", 192, column)],
        [
            Layer("branch7x7dbl_1", narrow, 1),
            Layer("branch7x7dbl_2", narrow, column),
            Layer("branch7x7dbl_3", narrow, row),
            Layer("branch7x7dbl_4", narrow, column),
            Layer("branch7x7dbl_5", 192, row),
        ],
    ]


def _mixed_7a() -> list[Branch]:
    return [
        [Layer("branch3x3_1", 192, 1), Layer("branch3x3_2", 320, 3, 2)],
        [
            Layer("branch7x7x3_1", 192, 1),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, 3, 2),
        ],
    ]


def _mixed_7() -> list[Branch]:
    def both(name: str) -> tuple[Layer, Layer]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    return [
        [Layer("branch1x1", 320, 1)],
        [Layer("branch3x3_1", 384, 1), both("branch3x3_2")],
        [Layer("branch3x3dbl_1", 448, 1), Layer("branch3x3dbl_2", 384, 3), both("branch3x3dbl_3")],
    ]


def _mixed(net: Builder, x: Value, path: str, branches: Sequence[Branch], pooled: int | None) -> Value:
    """Add branches side by side and a pooling: mean and 1x1 to `pooled` channels, or a maximum that halves it all."""
    parts = []
    for branch in branches:
        part = x
        for layer in branch:
            if isinstance(layer, tuple):
                pair = [_conv(net, part, f"{path}.{one.name}", one) for one in layer]
                part = net.concat(pair, f"{path}.{layer[0].name[:-1]}.concat")
            else:
                part = _conv(net, part, f"{path}.{layer.name}", layer)
        parts.append(part)
    if pooled is None:
        parts.append(net.max_pool(x, f"{path}.branch_pool", 3, stride=2))
    else:
        mean = net.average_pool(x, f"{path}.branch_pool.pool", 3, stride=1, padding=1)
        parts.append(_conv(net, mean, f"{path}.branch_pool", Layer("", pooled, 1)))
    return net.concat(parts, f"{path}.concat")


def _conv(net: Builder, x: Value, path: str, layer: Layer, *, pad: bool = True) -> Value:
    height, width = (layer.kernel, layer.kernel) if isinstance(layer.kernel, int) else layer.kernel
    padding = (height // 2, width // 2) if pad and layer.stride == 1 else 0
    return conv_bn(
        net,
        x,
        f"{path}.conv",
        f"{path}.bn",
        layer.channels,
        layer.kernel,
        stride=layer.stride,
        padding=padding,
        epsilon=0.001,
        relu=f"{path}.relu",
    )
