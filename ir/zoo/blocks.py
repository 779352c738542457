"""Blocks that several families share."""

from __future__ import annotations

from onnx_ir import Value

from mopruning.ir.builder import Builder
from mopruning.ir.geometry import Pair


def conv_bn(
    net: Builder,
    x: Value,
    conv: str,
    norm: str,
    channels: int,
    kernel: Pair,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    groups: int = 1,
    bias: bool = False,
    epsilon: float = 1e-5,
    relu: str | None = None,
    limit: float | None = None,
) -> Value:
    """Add a convolution and its normalisation.

    Args:
        net: The network under construction.
        x: Input image.
        conv: Name of the convolution.
        norm: Name of the normalisation.
        channels: Output channels.
        kernel: Height and width of the kernel.
        stride: Steps of the kernel.
        padding: Rows and columns of zeros on each side.
        groups: Groups of channels that do not mix; the number of input channels makes it depthwise.
        bias: Whether the convolution has one.
        epsilon: Added to the variance by the normalisation.
        relu: Name of the ReLU that follows; none without.
        limit: Upper limit of that ReLU.
    """
    x = net.conv(x, conv, channels, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
    x = net.batch_norm(x, norm, epsilon=epsilon)
    if relu is None:
        return x
    return net.relu(x, relu) if limit is None else net.clip(x, relu, 0.0, limit)


def classify(
    net: Builder, x: Value, pool: str, dense: str, classes: int, *, dropout: str | None = None, ratio: float = 0.5
) -> Value:
    """Add the usual end: average each channel, flatten, drop a share out if `dropout` names it, and a dense layer."""
    x = net.flatten(net.global_average_pool(x, pool), "flatten")
    if dropout is not None:
        x = net.dropout(x, dropout, ratio)
    return net.gemm(x, dense, classes)
