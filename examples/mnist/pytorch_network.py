"""The small convolutional network of the examples, in PyTorch."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(channels: Sequence[int] = (64, 128, 256)) -> nn.Sequential:
    """Build three 3x3 convolutions of stride 2, each with BatchNorm and ReLU, and a linear layer to ten classes."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False), start=1):
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, stride=2)
        layers[f"bn{i}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{i}"] = nn.ReLU()
    layers["flatten"] = nn.Flatten()
    layers["linear1"] = nn.Linear(4 * channels[-1], 10)  # 28x28 images end as 2x2
    return nn.Sequential(layers).to(DEVICE)


@torch.no_grad()
def predict(net: nn.Module, images: np.ndarray) -> np.ndarray:
    """Return the scores of images; leaves the network ready to train."""
    net.eval()
    scores = net(torch.from_numpy(images).to(DEVICE)).cpu().numpy()
    net.train()
    return scores


def weights(net: nn.Module) -> dict[str, np.ndarray]:
    """Return what trains, by name."""
    return {name: weight.detach().cpu().numpy() for name, weight in net.named_parameters()}
