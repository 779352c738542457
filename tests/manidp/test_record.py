"""Record: what a training was, written and read back, and compared with what it is to be."""

import dataclasses
import doctest
import json
import sys

import pytest

from mopruning.errors import StateError
from mopruning.manidp import Settings, structure
from mopruning.manidp.record import Record

RECORD = Record(structure("dyresnet18", classes=7, width=2), Settings(epochs=3, detach_weight=True), "imagenet")


def test_doctests():
    result = doctest.testmod(sys.modules[Record.__module__])
    assert result.attempted > 0
    assert result.failed == 0


def test_it_passes_through_text():
    assert Record.of(json.loads(json.dumps(RECORD.values())), "file") == RECORD


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        RECORD.values() | {"structure": {"family": "mnist"}},
        RECORD.values() | {"settings": {"lr": "fast"}},
        RECORD.values() | {"settings": {"speed": 1.0}},
        RECORD.values() | {"structure": None},
    ],
)
def test_damaged_records(damaged):
    with pytest.raises(StateError, match=r"net\.ckpt: expected what a ManiDP training was"):
        Record.of(damaged, "net.ckpt")


def test_the_same_training():
    RECORD.check_same(dataclasses.replace(RECORD), "file")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"normalize": "cifar"}, "normalize 'cifar', now 'imagenet'$"),
        ({"settings": Settings(epochs=4, detach_weight=True)}, "epochs 4, now 3$"),
        ({"structure": structure("dyresnet18", classes=8, width=2)}, "classes 8, now 7$"),
        (
            {"settings": Settings(lr=0.5, epochs=3), "normalize": "none"},
            "lr 0.5, now 0.05; detach_weight False, now True; normalize 'none', now 'imagenet'$",
        ),
    ],
)
def test_another_training_is_told(other, message):
    with pytest.raises(StateError, match=f"^file: was written by a training with {message}"):
        RECORD.check_same(dataclasses.replace(RECORD, **other), "file")
