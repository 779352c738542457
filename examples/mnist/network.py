"""The small convolutional network of the examples, and how it is judged."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that the model recognises."""
    model.eval()
    right = sum(
        int((model(part.to(DEVICE)).argmax(1).cpu() == truth).sum())
        for part, truth in zip(images.split(1000), labels.split(1000), strict=True)
    )
    return right / len(labels)
