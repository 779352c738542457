"""CenterNet on a ResNet, with a deconvolution head.

Sources: Zhou et al., "Objects as points", 2019, sections 4 and 5 (the three outputs); Xiao et al., "Simple baselines
for human pose estimation and tracking", 2018, section 2 (the head).
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.zoo.blocks import conv_bn
from mopruning.ir.zoo.resnet import features

PRIOR = -2.19
"""Bias of the heatmap, ``-log((1 - p) / p)`` for p = 0.1: every place starts with that probability.

Source: Lin et al., "Focal loss for dense object detection", 2017, section 4.1.
"""
DEVIATION = 0.001
"""Standard deviation of the weights of the three outputs (Xiao et al., 2018); larger ones saturate the heatmap."""


def centernet(net: Builder, x: Value, classes: int, depth: int) -> Mapping[str, Value]:
    """Define CenterNet, whose outputs lie on a grid of a quarter of the image's height and width.

    Parameter names: those of the ResNet, then ``deconv_layers.0`` (convolution), ``.1`` (normalisation), ``.3``
    (transposed convolution), ``.4`` (normalisation), ``.6``, ..., and ``hm.0``, ``hm.2``, ``wh.0``, ``wh.2``,
    ``reg.0``, ``reg.2``. As in the published graph, the network called v1d has the plain 7x7 stem.

    Args:
        net: The network under construction.
        x: Input image; height and width are multiples of 32.
        classes: Kinds of objects.
        depth: Depth of the ResNet.

    Returns:
        "heatmap" [N, classes, h, w]: probability that an object of the class has its centre there; "wh" [N, 2, h, w]:
        its width and height; "reg" [N, 2, h, w]: offset of its centre from the place. Both in steps of the grid.
    """
    x = features(net, x, depth)
    for index, channels in enumerate((256, 128, 64)):
        layer = [f"deconv_layers.{6 * index + offset}" for offset in range(6)]
        x = conv_bn(net, x, layer[0], layer[1], channels, 3, padding=1, bias=True, relu=layer[2])
        x = net.conv_transpose(x, layer[3], channels, 4, stride=2, padding=1)
        x = net.relu(net.batch_norm(x, layer[4]), layer[5])
    heatmap = net.sigmoid(_head(net, x, "hm", classes, PRIOR), "hm.sigmoid")
    return {"heatmap": heatmap, "wh": _head(net, x, "wh", 2), "reg": _head(net, x, "reg", 2)}


def _head(net: Builder, x: Value, path: str, channels: int, bias: float = 0.0) -> Value:
    """Add a 3x3 convolution and one to the output's channels."""
    x = net.relu(net.conv(x, f"{path}.0", 64, 3, padding=1, bias=True, deviation=DEVIATION), f"{path}.1")
    return net.conv(x, f"{path}.2", channels, 1, bias=True, bias_value=bias, deviation=DEVIATION)
