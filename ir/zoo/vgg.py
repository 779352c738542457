"""VGG networks, for ImageNet as torchvision has them and for CIFAR without the large dense layers.

Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014, table 1.
"""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.geometry import GraphError, image_of
from mopruning.ir.zoo.blocks import classify, conv_bn

WIDTHS = (64, 128, 256, 512, 512)
LAYERS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks, by depth. (8 is known for CIFAR only.)"""


def vgg(net: Builder, x: Value, classes: int, depth: int, batch_norm: bool, hidden: int) -> Value:
    """Define a VGG for ImageNet, with torchvision's parameter names: ``features.0``, ..., ``classifier.6``.

    Its 25,088 dense inputs are 7x7 positions: where the image is larger, they are averages, as in torchvision; what
    torchvision makes of larger sizes than multiples of 224 no single ONNX operator can. Smaller images leave fewer
    positions, and the first dense layer has 512 inputs for each of them, where torchvision would repeat positions.

    Args:
        net: The network under construction.
        x: Input image; height and width are each a multiple of 224, or smaller.
        classes: Number of outputs.
        depth: 11, 13, 16 or 19.
        batch_norm: Whether a normalisation follows each convolution.
        hidden: Features of the two dense layers before the last, 4096 as published.
    """
    place = 0  # in torchvision's one list of layers
    for channels, count in zip(WIDTHS, LAYERS[depth], strict=True):
        for _ in range(count):
            x = net.conv(x, f"features.{place}", channels, 3, padding=1, bias=True)
            if batch_norm:
                place += 1
                x = net.batch_norm(x, f"features.{place}")
            x = net.relu(x, f"features.{place + 1}")
            place += 2
        x = net.max_pool(x, f"features.{place}", 2)
        place += 1
    _, height, width = image_of(x, "avgpool")
    if any(side > 7 and side % 7 for side in (height, width)):
        raise GraphError(
            f"{net.name}: needs images of a multiple of 224 rows and columns, or of fewer than 224: got "
            f"{height}x{width} at the end, not 7x7 or less"
        )
    if max(height, width) > 7:
        x = net.average_pool(x, "avgpool", (max(height // 7, 1), max(width // 7, 1)))
    x = net.flatten(x, "flatten")
    for index in (0, 3):
        x = net.relu(net.gemm(x, f"classifier.{index}", hidden), f"classifier.{index + 1}")
        x = net.dropout(x, f"classifier.{index + 2}", 0.5)
    return net.gemm(x, "classifier.6", classes)


def vgg_cifar(net: Builder, x: Value, classes: int, depth: int) -> Value:
    """Define a VGG for CIFAR: normalised convolutions with biases, three halvings, an average, one dense layer.

    Parameter names: ``block0.0`` (convolution), ``block0.1`` (normalisation), ``block0.3``, ..., ``classifier``.

    Args:
        net: The network under construction.
        x: Input image.
        classes: Number of outputs.
        depth: 8, 11, 13 or 16.
    """
    for block, (channels, count) in enumerate(zip(WIDTHS, LAYERS[depth], strict=True)):
        for index in range(0, 3 * count, 3):
            names = [f"block{block}.{index + offset}" for offset in range(3)]
            x = conv_bn(net, x, names[0], names[1], channels, 3, padding=1, bias=True, relu=names[2])
        if block < 3:
            x = net.max_pool(x, f"pool{block}", 2)
    return classify(net, x, "pool4", "classifier", classes)
