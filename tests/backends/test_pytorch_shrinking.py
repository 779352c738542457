"""`pytorch.shrink` and `pytorch.filter_groups`: a pruned module becomes a smaller one that trains on."""

import doctest
import importlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

from mopruning import Recipe  # noqa: E402
from mopruning.backends import pytorch  # noqa: E402

EXAMPLE = torch.zeros(1, 3, 16, 16)


class Block(nn.Module):
    """A residual block that is recalibrated."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.squeeze = nn.Conv2d(channels, 4, 1)
        self.excite = nn.Conv2d(4, channels, 1)

    def forward(self, x):
        y = self.conv2(nn.functional.silu(self.bn1(self.conv1(x))))
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + y * scale


class Network(nn.Module):
    """Blocks, a shuffle, an image made of channels, and dense layers behind a view."""

    def __init__(self):
        super().__init__()
        self.stem, self.prelu = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.PReLU(16)
        self.block = Block(16)
        self.left, self.right = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.up = nn.PixelShuffle(2)
        self.hidden, self.head = nn.Linear(4 * 8 * 8, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.block(self.prelu(self.stem(x)))
        x = torch.cat([self.left(x), self.right(x)], 1)
        n, channels, height, width = x.shape
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)
        x = nn.functional.max_pool2d(self.up(x), 2)
        return self.head(torch.relu(self.hidden(x.reshape(x.shape[0], -1))))


def sizes(module):
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def test_doctests():
    result = doctest.testmod(importlib.import_module("mopruning.backends.pytorch.shrinking"))
    assert result.attempted > 0
    assert result.failed == 0


def test_pruned_by_groups_it_gets_smaller_computes_the_same_and_trains_on():
    torch.manual_seed(0)
    module = Network()
    nn.init.uniform_(module.block.bn1.running_mean, -0.3, 0.3)
    nn.init.uniform_(module.block.bn1.bias, -0.3, 0.3)
    groups = pytorch.filter_groups(module, EXAMPLE)
    recipe = Recipe(sparsity=0.5, granularity="filter:group")
    plan = recipe.plan(sizes(module), groups=groups)
    assert {row.name for row in plan.pruned} >= {name for group in groups for name in group.names if group.free.any()}
    pytorch.Prune(module, recipe=recipe, groups=groups).prune()
    with torch.no_grad():
        module.hidden.bias[:4] = 0.3  # what zero filters leave behind is not always nothing
    small = pytorch.shrink(module, EXAMPLE)

    assert sizes(small)["stem.weight"] == (8, 3, 3, 3)
    assert sizes(small)["prelu.weight"] == (8,)
    assert sizes(small)["block.excite.weight"] == (8, 2, 1, 1)
    assert sizes(small)["block.conv2.weight"] == (8, 1, 3, 3)
    assert sizes(small)["hidden.weight"] == (12, 128)
    assert sizes(small)["head.weight"] == (5, 12)
    assert sizes(module)["stem.weight"] == (16, 3, 3, 3)
    assert small.training
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    with torch.no_grad():
        before, after = module.eval()(images), small.eval()(images)
    assert (before - after).abs().max() <= 1e-5 * (before.max() - before.min())

    assert isinstance(small.train().get_submodule("block.bn1"), nn.BatchNorm2d)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(small(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
