"""Two networks for digits."""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.zoo.blocks import conv_bn


def mnist_cnn(net: Builder, x: Value, classes: int) -> Value:
    """Define the published MNIST example: convolutions to 64, 128 and 256 channels, each halving the image; one dense.

    Parameter names: ``conv1``, ``bn1``, ... ``conv3``, ``bn3``, ``fc``.
    """
    for index, channels in enumerate((64, 128, 256), start=1):
        x = conv_bn(net, x, f"conv{index}", f"bn{index}", channels, 3, stride=2, relu=f"relu{index}")
    return net.gemm(net.flatten(x, "flatten"), "fc", classes)


def lenet5(net: Builder, x: Value, classes: int, variant: str) -> Value:
    """Define LeNet-5, with ReLU and max-pooling.

    "lecun" has the layers of LeCun et al., "Gradient-based learning applied to document recognition", 1998, figure 2
    (``conv1``, ``conv2``, ``fc1`` to ``fc3``); "wide" is the one of advertorch 0.2.3, whose trained weights are public
    (``conv1``, ``conv2``, ``linear1``, ``linear2``).
    """
    wide = variant == "wide"
    x = net.relu(
        net.conv(x, "conv1", 32 if wide else 6, 3 if wide else 5, padding=1 if wide else 2, bias=True), "relu1"
    )
    x = net.max_pool(x, "maxpool1", 2)
    x = net.relu(net.conv(x, "conv2", 64 if wide else 16, 3 if wide else 5, padding=int(wide), bias=True), "relu2")
    x = net.flatten(net.max_pool(x, "maxpool2", 2), "flatten")
    for index, features in enumerate((200,) if wide else (120, 84), start=1):
        x = net.relu(net.gemm(x, f"{'linear' if wide else 'fc'}{index}", features), f"relu{index + 2}")
    return net.gemm(x, "linear2" if wide else "fc3", classes)
