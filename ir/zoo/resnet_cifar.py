"""ResNets for CIFAR: three stages of 16, 32 and 64 channels, or of four times as many.

Source: He et al., "Deep residual learning for image recognition", 2015, section 4.2.
"""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.geometry import image_of, shape_of
from mopruning.ir.zoo.blocks import classify, conv_bn


def resnet_cifar(
    net: Builder, x: Value, classes: int, depth: int, shortcut: str, stem: int = 16, width: int = 16
) -> Value:
    """Define a CIFAR ResNet of 6n + 2 layers.

    Parameter names are those of the public checkpoints: ``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer1.0.bn1``,
    ``layer1.0.conv2``, ``layer1.0.bn2``, ..., ``linear``; besides ``layer2.0.downsample`` and ``layer3.0.downsample``.

    Args:
        net: The network under construction.
        x: Input image.
        classes: Number of outputs.
        depth: 6n + 2, for n blocks a stage.
        shortcut: Where the shape changes: "conv" is a 1x1 convolution without bias or normalisation; "A" takes every
            second row and column and adds channels of zeros, half of them before the old ones and half after.
        stem: Channels of the first convolution.
        width: Channels of the first stage; each further one has twice as many.
    """
    x = conv_bn(net, x, "conv1", "bn1", stem, 3, padding=1, relu="relu")
    for stage, channels in enumerate((width, 2 * width, 4 * width), start=1):
        for index in range((depth - 2) // 6):
            path = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            widens = index == 0 and (stage > 1 or stem != width)
            branch = conv_bn(
                net, x, f"{path}.conv1", f"{path}.bn1", channels, 3, stride=stride, padding=1, relu=f"{path}.relu"
            )
            branch = conv_bn(net, branch, f"{path}.conv2", f"{path}.bn2", channels, 3, padding=1)
            if widens:
                x = _shortcut(net, x, path, channels, shortcut, stride)
            x = net.relu(net.add(branch, x, f"{path}.add"), f"{path}.relu")
    return classify(net, x, "avgpool", "linear", classes)


def _shortcut(net: Builder, x: Value, path: str, channels: int, kind: str, stride: int) -> Value:
    """Make the image smaller by `stride`, 2 unless `kind` is "conv", and widen it to `channels`."""
    if kind == "conv":
        return net.conv(x, f"{path}.downsample", channels, 1, stride=stride)
    old, height, width = image_of(x, path)
    batch, *_ = shape_of(x)
    name = f"{path}.downsample.slice"
    bounds = {"starts": (0, 0), "ends": (height, width), "axes": (2, 3), "steps": (2, 2)}
    operands = [net.constant(f"{name}.{what}", numbers) for what, numbers in bounds.items()]
    half = (-(-height // 2), -(-width // 2))
    (x,) = net.operation("Slice", name, [x, *operands], [(batch, old, *half)])
    name = f"{path}.downsample.pad"
    before = (channels - old) // 2
    pads = net.constant(f"{name}.pads", (0, before, 0, 0, 0, channels - old - before, 0, 0))
    return net.operation("Pad", name, [x, pads], [(batch, channels, *half)])[0]
