"""MobileNetV2, for ImageNet as torchvision has it and for CIFAR.

Source: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018, table 2.
"""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.geometry import sample_of
from mopruning.ir.zoo.blocks import classify, conv_bn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks, stride of the first block."""


def mobilenet_v2(net: Builder, x: Value, classes: int) -> Value:
    """Define MobileNetV2 with torchvision's parameter names: ``features.0.0``, ``features.1.conv.0.0``, ..."""
    x = conv_bn(net, x, "features.0.0", "features.0.1", 32, 3, stride=2, padding=1, relu="features.0.2", limit=6.0)
    place = 1
    for expansion, channels, count, first in STAGES:
        for index in range(count):
            path = f"features.{place}.conv"
            names = [(f"{path}.{at}.0", f"{path}.{at}.1", f"{path}.{at}.2") for at in range(1 if expansion == 1 else 2)]
            last = (f"{path}.{len(names)}", f"{path}.{len(names) + 1}")
            stride = first if index == 0 else 1
            x = _block(net, x, f"features.{place}", names, last, expansion, channels, stride, 6.0)
            place += 1
    path = f"features.{place}"
    x = conv_bn(net, x, f"{path}.0", f"{path}.1", 1280, 1, relu=f"{path}.2", limit=6.0)
    return classify(net, x, "avgpool", "classifier.1", classes, dropout="classifier.0", ratio=0.2)


def mobilenet_v2_cifar(net: Builder, x: Value, classes: int, width: float) -> Value:
    """Define MobileNetV2 for 32x32 images: half the width, a full-size second stage, plain ReLU, no dropout.

    Parameter names: ``conv1.0``, ``conv1.1``, ``blocks.0.0.conv.0``, ..., ``conv2.0``, ``conv2.1``, ``classifier.0``.

    Args:
        net: The network under construction.
        x: Input image.
        classes: Number of outputs.
        width: Factor on the channels of every stage.
    """
    x = conv_bn(net, x, "conv1.0", "conv1.1", int(32 * width), 3, stride=2, padding=1, relu="conv1.2")
    for stage, (expansion, channels, count, first) in enumerate(STAGES):
        for index in range(count):
            path = f"blocks.{stage}.{index}"
            layers = [f"{path}.conv.{at}" for at in range(8)]
            names = [(layers[0], layers[1], layers[2]), (layers[3], layers[4], layers[5])]
            stride = first if index == 0 and stage != 1 else 1
            last = (layers[6], layers[7])
            x = _block(net, x, path, names, last, expansion, int(channels * width), stride, None)
    x = conv_bn(net, x, "conv2.0", "conv2.1", max(1280, int(1280 * width)), 1, relu="conv2.2")
    return classify(net, x, "avgpool", "classifier.0", classes)


def _block(
    net: Builder,
    x: Value,
    path: str,
    names: list[tuple[str, str, str]],
    last: tuple[str, str],
    expansion: int,
    channels: int,
    stride: int,
    limit: float | None,
) -> Value:
    """Add one inverted residual: 1x1 to more channels if `names` has two rows, 3x3 depthwise, 1x1 without ReLU."""
    inputs, *_ = sample_of(x)
    hidden = inputs * expansion
    branch = x
    for conv, norm, relu in names[:-1]:
        branch = conv_bn(net, branch, conv, norm, hidden, 1, relu=relu, limit=limit)
    conv, norm, relu = names[-1]
    branch = conv_bn(
        net, branch, conv, norm, hidden, 3, stride=stride, padding=1, groups=hidden, relu=relu, limit=limit
    )
    branch = conv_bn(net, branch, *last, channels, 1)
    return net.add(x, branch, f"{path}.add") if stride == 1 and inputs == channels else branch
