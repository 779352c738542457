"""Structures: shapes and names of every layer, and the published sizes of the gates."""

import doctest
from dataclasses import replace

import pytest

from mopruning.errors import RecipeError
from mopruning.manidp import STRUCTURES, Structure, structure
from mopruning.manidp.structure import CIFAR, IMAGENET, Block


def gate_parameters(network: Structure) -> int:
    """Count weights and biases of all gates: fc1 without a bias, fc2 with one."""
    return sum(
        block.hidden * inputs + block.outputs * block.hidden + block.outputs
        for block in network.layers
        for inputs in (block.inputs, block.outputs)
    )


def test_doctests():
    result = doctest.testmod(__import__(Structure.__module__, fromlist=["_"]))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("arch", "gates", "parameters"),
    [
        ("dyresnet20", 18, 62_624),
        ("dyresnet32", 30, 106_080),
        ("dyresnet56", 54, 192_992),
    ],
)
def test_gates_have_as_many_parameters_as_published(arch, gates, parameters):
    network = structure(arch)
    assert len(network.gates) == len(network.gate_channels) == gates
    assert gate_parameters(network) == parameters


def test_cifar_blocks_by_hand():
    layers = structure("dyresnet20").layers
    assert len(layers) == 9
    assert layers[0] == Block("stage_1.0", 16, 16, 1, 32, 16)
    assert layers[3] == Block("stage_2.0", 16, 32, 2, 16, 32)
    assert layers[8] == Block("stage_3.2", 64, 64, 1, 8, 64)
    assert [block.changes for block in layers] == [False] * 3 + [True, False, False] * 2


def test_imagenet_blocks_by_hand():
    layers = structure("dyresnet18").layers
    assert [block.name for block in layers[:3]] == ["layer1.0", "layer1.1", "layer2.0"]
    assert layers[0] == Block("layer1.0", 64, 64, 1, 56, 64)  # narrow: squeezed by 2 // 2
    assert layers[2] == Block("layer2.0", 64, 128, 2, 28, 64)  # wide: squeezed by 2
    assert layers[-1] == Block("layer4.1", 512, 512, 1, 7, 256)
    assert structure("dyresnet34").blocks == (3, 4, 6, 3)
    assert STRUCTURES["resnet34"] == STRUCTURES["dyresnet34"]


def test_order_of_gates_is_that_of_published_thresholds():
    """Index 2 * (3 * stage + block) + {0, 1}."""
    gates = structure("dyresnet20").gates
    for stage in range(3):
        for block in range(3):
            for number in range(2):
                assert gates[2 * (3 * stage + block) + number] == f"stage_{stage + 1}.{block}.mb{number + 1}"


@pytest.mark.parametrize(("rate", "narrow", "wide"), [(1, 64, 128), (2, 64, 64), (4, 32, 32), (1000, 1, 1)])
def test_squeeze_rate(rate, narrow, wide):
    found = {block.outputs: block.hidden for block in structure("dyresnet18", squeeze_rate=rate).layers}
    assert (found[64], found[128]) == (narrow, wide)


def test_sizes_that_halve_to_odd_numbers():
    """Padding keeps the size at stride 1, so stride 2 halves and rounds up."""
    assert [block.side for block in replace(structure("dyresnet20", image=15), blocks=(1, 1, 1)).layers] == [15, 8, 4]
    assert structure("dyresnet18", image=225).stem_side == 57
    assert IMAGENET.stem_pool
    assert not CIFAR.stem_pool


def test_options():
    wide = structure("dyresnet20", classes=100, shortcut="A", width=4, image=64)
    assert wide.channels == (64, 128, 256)
    assert (wide.classes, wide.shortcut, wide.image) == (100, "A", 64)
    assert wide.layers[-1].side == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "dyresnet50"}, "arch must be one of dyresnet20, .*got 'dyresnet50'"),
        ({"shortcut": "B"}, "shortcut must be conv or A, got 'B'"),
        ({"classes": 0}, "classes must be a whole number from 1, got 0"),
        ({"image": -1}, "image must be a whole number from 1, got -1"),
        ({"squeeze_rate": 1.5}, "squeeze_rate must be a whole number from 1, got 1.5"),
        ({"width": 0}, "width must be a whole number from 1, got 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(RecipeError, match=message):
        structure(**{"arch": "dyresnet20"} | arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (1, 1)}, r"must say of the same stages, got \(1, 1\) and \(16, 32, 64\)"),
        ({"blocks": (), "channels": ()}, "must say of the same stages"),
        ({"blocks": (1, 0, 1)}, r"blocks\[1\] must be a whole number from 1, got 0"),
        ({"channels": (16, 32, 0)}, r"channels\[2\] must be a whole number from 1, got 0"),
    ],
)
def test_stages_that_cannot_be(changes, message):
    with pytest.raises(RecipeError, match=message):
        replace(structure("dyresnet20"), **changes)
