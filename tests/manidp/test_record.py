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


BEGUN = {"amp": "bf16", "gate_scale": 0.5, "pretrain_path": "resnet20.th", "pretrain_gates": True}


def test_how_it_began_is_kept():
    whole = dataclasses.replace(RECORD, **BEGUN)
    assert Record.of(json.loads(json.dumps(whole.values())), "file") == whole
    assert whole.begun == BEGUN
    for name, other in {"amp": "none", "gate_scale": 1.0, "pretrain_path": "other.th", "pretrain_gates": False}.items():
        with pytest.raises(StateError, match=f"{name} {BEGUN[name]!r}, now {other!r}$"):
            dataclasses.replace(whole, **{name: other}).check_same(whole, "file")
        with pytest.raises(StateError, match="expected what a ManiDP training was"):
            Record.of(whole.values() | {name: [1]}, "file")


def test_what_older_checkpoints_do_not_say_is_not_compared():
    whole = dataclasses.replace(RECORD, **BEGUN)
    assert not BEGUN.keys() & RECORD.values().keys()  # which is what earlier versions wrote
    older = Record.of(RECORD.values(), "file")
    assert older.begun == {}
    whole.check_same(older, "file")
    older.check_same(whole, "file")
