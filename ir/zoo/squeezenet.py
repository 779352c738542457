"""SqueezeNet 1.0 and 1.1, as torchvision has them.

Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016, table 1; 1.1 is the
authors' later release with earlier pooling.
"""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder

SQUEEZED = (16, 16, 32, 32, 48, 48, 64, 64)
"""Narrow width of each of the eight fire modules; each half of its output has four times that."""
POOLS = {"1_0": (2, 6, 11), "1_1": (2, 5, 8)}
"""Places of the poolings in torchvision's list of layers, where fire modules fill the rest of 3 to 12."""


def squeezenet(net: Builder, x: Value, classes: int, version: str) -> Value:
    """Define SqueezeNet; parameter names: ``features.0``, ``features.3.squeeze``, ``.expand1x1``, ... ``classifier.1``.

    Args:
        net: The network under construction.
        x: Input image.
        classes: Number of outputs.
        version: "1_0" or "1_1".
    """
    channels, kernel = (96, 7) if version == "1_0" else (64, 3)
    x = net.relu(net.conv(x, "features.0", channels, kernel, stride=2, bias=True), "features.1")
    narrow = iter(SQUEEZED)
    for place in range(2, 13):
        path = f"features.{place}"
        x = (
            net.max_pool(x, path, 3, stride=2, ceil=True)
            if place in POOLS[version]
            else _fire(net, x, path, next(narrow))
        )
    x = net.conv(net.dropout(x, "classifier.0", 0.5), "classifier.1", classes, 1, bias=True)
    return net.flatten(net.global_average_pool(net.relu(x, "classifier.2"), "classifier.3"), "flatten")


def _fire(net: Builder, x: Value, path: str, narrow: int) -> Value:
    """Add one fire module: 1x1 to few channels, then 1x1 and 3x3 side by side to many."""
    x = net.relu(net.conv(x, f"{path}.squeeze", narrow, 1, bias=True), f"{path}.squeeze_activation")
    parts = [
        net.relu(
            net.conv(x, f"{path}.expand{side}x{side}", 4 * narrow, side, padding=side // 2, bias=True),
            f"{path}.expand{side}x{side}_activation",
        )
        for side in (1, 3)
    ]
    return net.concat(parts, f"{path}.concat")
