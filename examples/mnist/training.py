"""The training loop of the examples: plain PyTorch, with a place for what prunes beside the optimizer."""

import argparse
from collections.abc import Callable

import torch
from data import Digits
from network import DEVICE, accuracy
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from mopruning import sparsity


def train(
    model: nn.Module,
    digits: Digits,
    options: argparse.Namespace,
    optimizer: Optimizer,
    updates: int,
    reached: Callable[[], float],
    after_update: Callable[[], None] = lambda: None,
    also: int = 0,
) -> None:
    """Train for `options.epochs` epochs of `updates` updates under a cosine schedule; print, and save the weights.

    `reached` tells the sparsity of the pruned weights; `after_update` is called after each update. Every tenth epoch
    is reported, the last, and `also` that one.
    """
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * updates)
    for epoch in range(1, options.epochs + 1):
        model.train()
        for batch in torch.randperm(len(digits.train_labels)).split(options.batch_size):
            images, labels = digits.train_images[batch].to(DEVICE), digits.train_labels[batch].to(DEVICE)
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
            after_update()
        if epoch in (also, options.epochs) or epoch % 10 == 0:
            right = accuracy(model, digits.test_images, digits.test_labels)
            share = f"sparsity of the pruned weights {reached():.4f}"
            print(f"epoch {epoch}/{options.epochs}  accuracy {right:.4f}  {share}")
    print(sparsity(model))
    torch.save(model.state_dict(), options.out)
    print(f"weights: {options.out}")
