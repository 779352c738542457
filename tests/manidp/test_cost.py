"""Cost: published multiply-accumulates, a count layer by layer, and the paper's reductions."""

import doctest
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopruning.manidp import STRUCTURES, Cost, Structure, cost, macs, structure
from mopruning.manidp.structure import CIFAR

module = sys.modules[Cost.__module__]

SMALL = Structure(CIFAR, (1, 1, 1), (8, 16, 32), 10, 16)


def slow_macs(network: Structure, kept: list[int]) -> int:
    """Count one image layer by layer, pixel by pixel, for CIFAR's networks."""
    side = network.image
    total = network.channels[0] * 3 * 9 * side * side  # stem
    inputs, gates = network.channels[0], iter(kept)
    for stage, (count, outputs) in enumerate(zip(network.blocks, network.channels, strict=True)):
        for number in range(count):
            if stage and not number:
                side //= 2
                if network.shortcut == "conv":
                    total += inputs * outputs * side * side
            first, second = next(gates), next(gates)
            total += 9 * side * side * (inputs * first + first * second)
            total += inputs * outputs + outputs * outputs  # first gate, hidden as wide as its channels
            total += outputs * outputs + outputs * outputs
            inputs = outputs
    return total + inputs * network.classes


def test_doctests():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("arch", "dense", "gates"),
    [
        ("dyresnet20", 40_813_184, 61_952),
        ("dyresnet32", 69_124_736, 104_960),
        ("dyresnet56", 125_747_840, 190_976),
    ],
)
def test_published_figures(arch, dense, gates):
    assert cost(structure(arch)) == Cost(dense, gates)
    assert cost(structure(arch)).total == dense + gates


def test_imagenet_figures():
    """Usual figures of ResNet-18 and 34 at 224 pixels."""
    assert cost(structure("dyresnet18")).dense == 1_814_073_344
    assert cost(structure("dyresnet34")).dense == 3_663_761_408


def test_shortcuts_of_option_a_cost_nothing():
    saved = 16 * 32 * 16**2 + 32 * 64 * 8**2
    assert cost(structure("dyresnet20", shortcut="A")).dense == 40_813_184 - saved


@pytest.mark.parametrize(
    ("arch", "rate", "reduction"),
    [
        ("dyresnet20", 0.576, 0.542),
        ("dyresnet32", 0.489, 0.632),
        ("dyresnet56", 0.498, 0.624),
        ("dyresnet56", 0.6, 0.518),
    ],
)
def test_uniform_keep_rates_reach_the_paper_s_reductions(arch, rate, reduction):
    """The count is linear in each gate, so all or nothing with the probability of the rate has the same mean."""
    network = structure(arch)
    every = np.asarray(network.gate_channels)
    number = np.arange(len(every)) % 2
    cases = [every * np.where(number, second, first) for first in (0, 1) for second in (0, 1)]
    chances = [(rate if first else 1 - rate) * (rate if second else 1 - rate) for first in (0, 1) for second in (0, 1)]
    mean = float(np.average(macs(network, np.stack(cases)), weights=chances))
    assert 1 - mean / cost(network).total == pytest.approx(reduction, abs=0.0015)


@given(st.lists(st.tuples(*(st.integers(0, n) for n in SMALL.gate_channels)), min_size=1, max_size=4))
def test_each_image_costs_what_its_layers_do(kept):
    found = macs(SMALL, np.array(kept))
    assert found.dtype == np.int64
    assert found.tolist() == [slow_macs(SMALL, list(one)) for one in kept]
    conv_free = replace(SMALL, shortcut="A")
    assert macs(conv_free, np.array(kept)).tolist() == [slow_macs(conv_free, list(one)) for one in kept]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64])
def test_narrow_counts_do_not_overflow(dtype):
    every = np.array([structure("dyresnet56").gate_channels], dtype)
    assert macs(structure("dyresnet56"), every).tolist() == [125_747_840 + 190_976]


def test_no_image():
    assert macs(SMALL, np.zeros((0, 6), np.int64)).shape == (0,)


@pytest.mark.parametrize("arch", STRUCTURES)
def test_every_architecture_costs_least_with_nothing_kept(arch):
    network = structure(arch)
    gates = len(network.gates)
    every, none = macs(network, np.array([network.gate_channels, [0] * gates]))
    assert every == cost(network).total
    assert 0 < none < every / 3


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (np.ones((2, 5), np.int64), r"expected whole numbers \[images, 6\], one a gate, got int64 \(2, 5\)"),
        (np.ones(6, np.int64), r"got int64 \(6,\)"),
        (np.ones((2, 6)), r"got float64"),
        (np.array([[8, 8, 16, 16, 32, 33]]), "more than it has"),
        (np.array([[8, 8, 16, 16, 32, -1]]), "negative"),
    ],
)
def test_counts_that_do_not_fit(kept, message):
    with pytest.raises(ValueError, match=message):
        macs(SMALL, kept)
