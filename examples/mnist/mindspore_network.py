"""The small convolutional network of the examples, in MindSpore."""

import os
from collections import OrderedDict
from collections.abc import Sequence

# With AVX-512, MindSpore 2.10 on a CPU gets oneDNN's reference convolution, seen 30 times as slow as what it gets for
# AVX2. oneDNN reads this once, before it first computes.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import numpy as np
from mindspore import Tensor, nn


def network(channels: Sequence[int] = (64, 128, 256)) -> nn.SequentialCell:
    """Build three 3x3 convolutions of stride 2, each with BatchNorm and ReLU, and a dense layer to ten classes."""
    layers: OrderedDict[str, nn.Cell] = OrderedDict()
    for i, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False), start=1):
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, stride=2, pad_mode="valid", has_bias=True)
        layers[f"bn{i}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{i}"] = nn.ReLU()
    layers["flatten"] = nn.Flatten()
    layers["dense1"] = nn.Dense(4 * channels[-1], 10)  # 28x28 images end as 2x2
    return nn.SequentialCell(layers).set_train()


def predict(net: nn.Cell, images: np.ndarray) -> np.ndarray:
    """Return the scores of images; leaves the network ready to train."""
    net.set_train(False)
    scores = net(Tensor(images)).asnumpy()
    net.set_train()
    return scores


def weights(net: nn.Cell) -> dict[str, np.ndarray]:
    """Return what trains, by name."""
    return {parameter.name: parameter.asnumpy() for parameter in net.trainable_params()}
