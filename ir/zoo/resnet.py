"""ResNets for ImageNet, as torchvision has them, and the one with the deep stem.

Sources: He et al., "Deep residual learning for image recognition", 2015, table 1; the stride stands in the 3x3
convolution. He et al., "Bag of tricks for image classification with convolutional neural networks", 2018, figure 2
(ResNet-C and -D, together known as v1d).
"""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.zoo.blocks import classify, conv_bn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks in each of the four stages, by depth; from 50 on they are bottlenecks."""


def resnet(net: Builder, x: Value, classes: int, depth: int, deep: bool = False, small: bool = False) -> Value:
    """Define a ResNet that classifies; the parameters besides those of `features` are ``fc``."""
    return classify(net, features(net, x, depth, deep, small), "avgpool", "fc", classes)


def features(net: Builder, x: Value, depth: int, deep: bool = False, small: bool = False) -> Value:
    """Define the convolutions of a ResNet: the image at a 32nd of its size, or an eighth with `small`.

    Parameter names are torchvision's: ``conv1``, ``bn1``, ``layer1.0.conv1``, ..., ``layer1.0.downsample.0`` and
    ``.1``. With `deep` they are timm's: ``conv1.0``, ``.1``, ``.3``, ``.4`` and ``.6``, and ``layer1.0.downsample.1``
    and ``.2``, after the average that is ``.0``.

    Args:
        net: The network under construction.
        x: Input image.
        depth: 18, 34, 50 or 101.
        deep: Whether three 3x3 convolutions replace the first 7x7 one and shortcuts average before they convolve.
        small: Whether images are small, as CIFAR's: the first convolution is 3x3 and halves nothing, nor does a pool.
    """
    if small:
        x = conv_bn(net, x, "conv1", "bn1", 64, 3, padding=1, relu="relu")
    elif deep:
        x = conv_bn(net, x, "conv1.0", "conv1.1", 32, 3, stride=2, padding=1, relu="conv1.2")
        x = conv_bn(net, x, "conv1.3", "conv1.4", 32, 3, padding=1, relu="conv1.5")
        x = conv_bn(net, x, "conv1.6", "bn1", 64, 3, padding=1, relu="relu")
    else:
        x = conv_bn(net, x, "conv1", "bn1", 64, 7, stride=2, padding=3, relu="relu")
    if not small:
        x = net.max_pool(x, "maxpool", 3, stride=2, padding=1)
    for stage, count in enumerate(BLOCKS[depth], start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = _block(net, x, f"layer{stage}.{index}", 32 << stage, stride, depth >= 50, deep)
    return x


def _block(net: Builder, x: Value, path: str, width: int, stride: int, bottleneck: bool, deep: bool) -> Value:
    """Add one residual block: two 3x3 convolutions, or a 3x3 one between two 1x1 ones."""
    channels = 4 * width if bottleneck else width
    layers = (
        [(1, 1, width), (3, stride, width), (1, 1, channels)] if bottleneck else [(3, stride, width), (3, 1, width)]
    )
    branch = x
    for index, (kernel, step, size) in enumerate(layers, start=1):
        relu = f"{path}.relu" if index < len(layers) else None
        branch = conv_bn(
            net,
            branch,
            f"{path}.conv{index}",
            f"{path}.bn{index}",
            size,
            kernel,
            stride=step,
            padding=kernel // 2,
            relu=relu,
        )
    if branch.shape != x.shape:
        names = [f"{path}.downsample.{index + deep}" for index in range(2)]
        if deep and stride > 1:
            x = net.average_pool(x, f"{path}.downsample.0", stride, ceil=True, count_padding=False)
            stride = 1
        x = conv_bn(net, x, names[0], names[1], channels, 1, stride=stride)
    return net.relu(net.add(branch, x, f"{path}.add"), f"{path}.relu")
