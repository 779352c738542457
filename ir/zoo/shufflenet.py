"""ShuffleNetV2, for ImageNet as torchvision has it and for CIFAR.

Source: Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design", 2018, figure 3 (c, d)
and table 5, width 1.0.
"""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.geometry import sample_of
from mopruning.ir.zoo.blocks import classify, conv_bn

STAGES = ((116, 4), (232, 8), (464, 4))
"""Output channels and blocks of each stage; the first block halves the image."""


def shufflenet_v2(net: Builder, x: Value, classes: int) -> Value:
    """Define ShuffleNetV2 with torchvision's names: ``conv1.0``, ``stage2.0.branch1.0``, ..., ``conv5.0``, ``fc``."""
    x = conv_bn(net, x, "conv1.0", "conv1.1", 24, 3, stride=2, padding=1, relu="conv1.2")
    x = net.max_pool(x, "maxpool", 3, stride=2, padding=1)
    for stage, (channels, count) in enumerate(STAGES, start=2):
        for index in range(count):
            path = f"stage{stage}.{index}"
            left = [f"{path}.branch1.{at}" for at in range(5)]
            right = [f"{path}.branch2.{at}" for at in range(8)]
            x = _block(net, x, path, channels, left, right, halves=index == 0)
    x = conv_bn(net, x, "conv5.0", "conv5.1", 1024, 1, relu="conv5.2")
    return classify(net, x, "avgpool", "fc", classes)


def shufflenet_v2_cifar(net: Builder, x: Value, classes: int) -> Value:
    """Define ShuffleNetV2 for 32x32 images: a 1x1 first convolution and no pooling before the first stage.

    Parameter names: ``conv1``, ``bn1``, ``layer1.0.conv1`` to ``conv5`` with ``bn1`` to ``bn5`` (1 and 2 on the left
    branch), ``layer1.1.conv1`` to ``conv3`` with ``bn1`` to ``bn3``, ..., ``conv2``, ``bn2``, ``linear``.
    """
    x = conv_bn(net, x, "conv1", "bn1", 24, 1, relu="relu")
    for stage, (channels, count) in enumerate(STAGES, start=1):
        for index in range(count):
            path = f"layer{stage}.{index}"
            pairs = [name for at in range(1, 6) for name in (f"{path}.conv{at}", f"{path}.bn{at}")]
            pairs = pairs if index == 0 else pairs[:4] + pairs  # a block of one branch numbers it from 1
            left = [*pairs[:4], f"{path}.relu"]
            right = [*pairs[4:6], f"{path}.relu", *pairs[6:10], f"{path}.relu"]
            x = _block(net, x, path, channels, left, right, halves=index == 0)
    x = conv_bn(net, x, "conv2", "bn2", 1024, 1, relu="relu")
    return classify(net, x, "avgpool", "linear", classes)


def _block(net: Builder, x: Value, path: str, channels: int, left: list[str], right: list[str], halves: bool) -> Value:
    """Add one block: half the channels through the right branch, the rest as it is or through the left; then shuffle.

    `left` names depthwise convolution, normalisation, 1x1 convolution, normalisation, ReLU; `right` names 1x1
    convolution, normalisation, ReLU, depthwise convolution, normalisation, 1x1 convolution, normalisation, ReLU.
    """
    half = channels // 2
    if halves:
        inputs, *_ = sample_of(x)
        kept = conv_bn(net, x, left[0], left[1], inputs, 3, stride=2, padding=1, groups=inputs)
        kept = conv_bn(net, kept, left[2], left[3], half, 1, relu=left[4])
    else:
        kept, x = net.split(x, f"{path}.chunk", (half, half))
    x = conv_bn(net, x, right[0], right[1], half, 1, relu=right[2])
    x = conv_bn(net, x, right[3], right[4], half, 3, stride=2 if halves else 1, padding=1, groups=half)
    x = conv_bn(net, x, right[5], right[6], half, 1, relu=right[7])
    x = net.concat([kept, x], f"{path}.concat")
    _, *size = sample_of(x)
    x = net.reshape(x, f"{path}.shuffle.pair", (2, half, *size))
    x = net.transpose(x, f"{path}.shuffle.swap", (2, 1, 3, 4))
    return net.reshape(x, f"{path}.shuffle.join", (channels, *size))
