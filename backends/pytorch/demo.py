"""The demonstration: a small convolutional network on real handwritten digits, trained dense, then bank-balanced.

Network and recipe follow the published MNIST example: three convolutions of 64, 128 and 256 channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mopruning import datasets
from mopruning.backends.pytorch.optimizers import SGDSparse

BATCH = 128
DENSE_EPOCHS = 15
RAMP_EPOCHS = 12
FINE_TUNE_EPOCHS = 13
EPOCHS = DENSE_EPOCHS + RAMP_EPOCHS + FINE_TUNE_EPOCHS


@dataclass(frozen=True)
class Digits:
    """Images [n, 1, 28, 28] float32 in 0 to 1 and labels [n] int64, in two parts."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass
class Progress:
    """What was measured after each epoch."""

    steps: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    sparsity: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """A finished demonstration.

    Args:
        model: The sparse network.
        optimizer: Its optimizer, whose `plan` says what happened to each parameter.
        dense_accuracy: Share of test images recognised before pruning.
        sparse_accuracy: The same after the whole training.
        progress: Measurements of every epoch.
        ramp_start: Optimizer step at which the ramp began.
        ramp_end: Optimizer step at which it reached the target.
    """

    model: nn.Module
    optimizer: SGDSparse
    dense_accuracy: float
    sparse_accuracy: float
    progress: Progress
    ramp_start: int
    ramp_end: int


def load_digits() -> Digits:
    """Load scikit-learn's handwritten digits, scaled from 8x8 to 28x28, every fifth image kept for testing.

    Raises:
        ImportError: If scikit-learn is not installed.

    Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (1,797 images).
    """
    parts = []
    for split in ("train", "test"):
        data = datasets.load("digits", split)
        images = torch.from_numpy(data.scaled())
        images = nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
        parts += [images, torch.from_numpy(data.labels)]
    return Digits(*parts)


def network() -> nn.Sequential:
    """Build the published network: 64-128-256 channels, 3x3, stride 2, with BatchNorm and ReLU, then 1024 -> 10."""
    model = nn.Sequential()
    for number, (inputs, outputs) in enumerate(((1, 64), (64, 128), (128, 256)), start=1):
        model.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, 3, stride=2, bias=False))
        model.add_module(f"bn{number}", nn.BatchNorm2d(outputs))
        model.add_module(f"relu{number}", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(1024, 10))
    return model


def run(sparsity: float, granularity: str, seed: int, after_epoch: Callable[[Outcome, int], None]) -> Outcome:
    """Train dense, ramp to the target sparsity, fine-tune.

    Args:
        sparsity: Target, 0 to 1.
        granularity: Text of a granularity, such as "bank:64".
        seed: Seed of weights and batches; the same seed gives the same network on the same machine.
        after_epoch: Called with the outcome so far and the number of epochs done.
    """
    torch.manual_seed(seed)
    digits = load_digits()
    model = network()
    steps = math.ceil(len(digits.train_labels) / BATCH)
    ramp_start, ramp_end = DENSE_EPOCHS * steps, (DENSE_EPOCHS + RAMP_EPOCHS) * steps
    optimizer = SGDSparse(
        model.named_parameters(),
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        target_sparsity=sparsity,
        granularity=granularity,
        pretrain_step=ramp_start,
        sparse_step=ramp_end - ramp_start,
        frequency=steps / 2,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _two_cosines(ramp_start, EPOCHS * steps))
    progress = Progress()
    dense = accuracy = 0.0
    outcome = Outcome(model, optimizer, dense, accuracy, progress, ramp_start, ramp_end)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for batch in torch.randperm(len(digits.train_labels)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.train_images[batch]), digits.train_labels[batch]).backward()
            optimizer.step()
            schedule.step()
        accuracy = evaluate(model, digits)
        dense = accuracy if epoch == DENSE_EPOCHS else dense
        progress.steps.append(epoch * steps)
        progress.accuracy.append(accuracy)
        progress.sparsity.append(optimizer.pruner.sparsity if optimizer.pruner else 0.0)
        outcome = Outcome(model, optimizer, dense, accuracy, progress, ramp_start, ramp_end)
        after_epoch(outcome, epoch)
    return outcome


def evaluate(model: nn.Module, digits: Digits) -> float:
    """Return the share of test images that the model recognises."""
    return float((predictions(model, digits.test_images) == digits.test_labels).float().mean())


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class that the model, set to evaluation in place, sees in each image."""
    model.eval()
    with torch.no_grad():
        classes: Tensor = model(images).argmax(1)
    return classes


def _two_cosines(turn: int, end: int) -> Callable[[int], float]:
    """Learning-rate factor: from 1 to 0 while dense, and once more from the start of the ramp."""

    def factor(step: int) -> float:
        begin, stop = (0, turn) if step < turn else (turn, end)
        return 0.5 * (1.0 + math.cos(math.pi * (step - begin) / max(1, stop - begin)))

    return factor
