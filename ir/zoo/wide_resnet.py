"""Wide ResNets for CIFAR.

Source: Zagoruyko and Komodakis, "Wide residual networks", 2016, table 1.
"""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.zoo.blocks import classify


def wide_resnet(net: Builder, x: Value, classes: int, depth: int, width: int) -> Value:
    """Define a wide ResNet of 6n + 4 layers, whose blocks normalise before they convolve.

    Parameter names: ``conv1``, ``block1.layer.0.bn1``, ``.conv1``, ``.bn2``, ``.conv2``, ``.convShortcut`` where the
    width changes, ..., ``bn1``, ``fc``.

    Args:
        net: The network under construction.
        x: Input image.
        classes: Number of outputs.
        depth: 6n + 4, for n blocks a stage.
        width: Multiple of the 16, 32 and 64 channels of a ResNet.
    """
    x = net.conv(x, "conv1", 16, 3, padding=1)
    old = 16
    for stage, channels in enumerate((16 * width, 32 * width, 64 * width), start=1):
        for index in range((depth - 4) // 6):
            path = f"block{stage}.layer.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            active = net.relu(net.batch_norm(x, f"{path}.bn1"), f"{path}.relu1")
            branch = net.conv(active, f"{path}.conv1", channels, 3, stride=stride, padding=1)
            branch = net.relu(net.batch_norm(branch, f"{path}.bn2"), f"{path}.relu2")
            branch = net.conv(branch, f"{path}.conv2", channels, 3, padding=1)
            if old != channels:
                x = net.conv(active, f"{path}.convShortcut", channels, 1, stride=stride)
            x = net.add(x, branch, f"{path}.add")
            old = channels
    return classify(net, net.relu(net.batch_norm(x, "bn1"), "relu"), "avgpool", "fc", classes)
