"""The small convolutional network of the examples, in MXNet's Gluon."""

from collections.abc import Sequence

import mopruning.backends.mxnet  # noqa: F401  first: it helps MXNet to import beside a present-day NumPy

# isort: split
import mxnet as mx
import numpy as np
from mxnet.gluon import nn

CONTEXT = mx.gpu() if mx.context.num_gpus() else mx.cpu()


def network(channels: Sequence[int] = (64, 128, 256)) -> nn.HybridSequential:
    """Build three 3x3 convolutions of stride 2, each with BatchNorm and ReLU, and a dense layer to ten classes."""
    net = nn.HybridSequential(prefix="")
    for i, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False), start=1):
        net.add(nn.Conv2D(outputs, 3, strides=2, in_channels=inputs, prefix=f"conv{i}_"))
        net.add(nn.BatchNorm(in_channels=outputs, prefix=f"bn{i}_"))
        net.add(nn.Activation("relu", prefix=f"relu{i}_"))
    net.add(nn.Flatten())
    net.add(nn.Dense(10, in_units=4 * channels[-1], prefix="dense1_"))  # 28x28 images end as 2x2
    # Uniform within 1 / sqrt(inputs), as PyTorch and MindSpore begin by default.
    net.initialize(mx.init.Xavier(rnd_type="uniform", factor_type="in", magnitude=1), CONTEXT)
    net.hybridize()
    return net


def predict(net: nn.HybridSequential, images: np.ndarray) -> np.ndarray:
    """Return the scores of images."""
    return net(mx.nd.array(images, CONTEXT)).asnumpy()


def weights(net: nn.HybridSequential) -> dict[str, np.ndarray]:
    """Return what trains, by name."""
    parameters = net.collect_params().items()
    return {name: parameter.data().asnumpy() for name, parameter in parameters if parameter.grad_req != "null"}
