"""A small network for the tests of PyTorch, and what they do with it."""

import torch
from torch import nn


class Net(nn.Module):
    """Two convolutions with normalisation, and a classifier: everything a recipe tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 6)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(x.mean((2, 3)))


def train(model, optimizer, steps=1, seed=0):
    """Run whole training steps on noise."""
    device = next(model.parameters()).device
    for step in range(steps):
        torch.manual_seed(1000 * seed + step)
        optimizer.zero_grad()
        model(torch.randn(4, 4, 8, 8, device=device)).square().mean().backward()
        optimizer.step()


def zeros(parameter) -> int:
    """Count the exact zeros of a parameter."""
    return int((parameter == 0).sum())


def share(parameter) -> float:
    """Return the sparsity of a parameter."""
    return zeros(parameter) / parameter.numel()
