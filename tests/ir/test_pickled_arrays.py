"""Pickled dicts of arrays: arrays come out, and nothing else ever does."""

from __future__ import annotations

import doctest
import json
import os
import pickle
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.ir import pickled_arrays
from mopruning.ir.moffett import read_moffett
from mopruning.ir.pickled_arrays import read_pickled
from tests.ir.moffett_cases import Arrays, classifier, floats


def test_doctests():
    result = doctest.testmod(pickled_arrays)
    assert result.attempted > 0
    assert result.failed == 0


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ({"w": Hostile()}, r"refused: the pickle asks for \w+\.mkdir"),
        (Hostile(), r"refused: the pickle asks for \w+\.mkdir"),
        ({"w": np.array([Hostile()])}, r"refused: the pickle asks for \w+\.mkdir"),
        ({"w": [1.0]}, "'w' is a list, expected a NumPy array"),
        ({"w": np.array(["text"])}, "dtype 'U4' is not read"),
        ({"w": np.array([None])}, "'w' is damaged: it holds Python objects"),
        ({1: np.ones(2)}, "names must be text, got 1"),
        ([np.ones(2)], "the pickle holds a list, expected a dict"),
    ],
)
def test_pickles_of_anything_but_arrays_are_refused(thing, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.json").write_text(json.dumps(classifier()[0]))
    for whole in (thing, np.array(thing, object) if isinstance(thing, dict) else thing):
        with pytest.raises(FormatError, match=message):
            read_pickled(pickle.dumps(whole), "net.npz")
    if isinstance(thing, dict):
        np.savez(tmp_path / "net.npz", thing)
        with pytest.raises(FormatError, match=message):
            read_moffett(tmp_path / "net.json", tmp_path / "net.npz")
    assert not (tmp_path / "executed").exists()


def variety() -> Arrays:
    return {
        "a": floats(2, 3),
        "fortran": np.asfortranarray(floats(3, 4)),
        "big-endian": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 3), np.float16),
        "scalar": np.array(3.0),
        "flags": np.array([True, False]),
        "strided": np.arange(12).reshape(3, 4)[:, ::2],
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(protocol):
    arrays = variety()
    for whole in (arrays, np.array(arrays, object)):
        back = read_pickled(pickle.dumps(whole, protocol=protocol), "net.npz")
        assert list(back) == list(arrays)
        for name, value in arrays.items():
            np.testing.assert_array_equal(back[name], value)
            assert back[name].dtype == value.dtype.newbyteorder("=")


def test_damaged_pickles_give_an_error_and_take_no_memory():
    chance, refused = random.Random(0), 0
    tracemalloc.start()
    try:
        for protocol in (2, 3, 4, 5):
            whole = pickle.dumps(variety(), protocol=protocol)
            for _ in range(400):
                damaged = bytearray(whole)
                for _ in range(chance.randint(1, 3)):
                    damaged[chance.randrange(len(damaged))] = chance.randrange(256)
                try:
                    read_pickled(bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])]), "x")
                except FormatError:
                    refused += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 800 < refused < 1600
    assert peak < 10_000_000


def test_a_pickle_that_asks_for_memory_it_does_not_bring_is_refused():
    for opcode in (pickle.BINBYTES8, pickle.BYTEARRAY8, pickle.BINUNICODE8, pickle.FRAME):
        with pytest.raises(FormatError):
            read_pickled(pickle.PROTO + b"\5" + opcode + (1 << 40).to_bytes(8, "little") + b"few.", "net.npz")
