"""What initializers are: by their use, and by what the metadata say."""

import doctest
import importlib

import pytest

from mopruning.ir.builder import Builder
from mopruning.ir.roles import ROLES, default_roles, noted_roles, roles_metadata, roles_of


@pytest.mark.parametrize("name", ["roles", "attributes"])
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"mopruning.ir.{name}"))
    assert result.attempted
    assert not result.failed


def small():
    net = Builder("small")
    x = net.batch_norm(net.conv(net.input("x", (3, 8, 8)), "conv", 4, 3), "bn")
    return net.model({"output": net.dropout(x, "drop")})


def test_use_tells_parameters_buffers_and_constants():
    roles = default_roles(small())
    assert roles["conv.weight"] == roles["bn.weight"] == "parameter"
    assert roles["bn.running_mean"] == roles["bn.running_var"] == "buffer"
    assert roles["drop.ratio"] == "constant"


def test_metadata_hold_only_what_use_does_not_tell():
    model = small()
    roles = default_roles(model)
    assert roles_metadata(model, roles) == {}
    told = roles | {"drop.ratio": "parameter"}
    model.metadata_props.update(roles_metadata(model, told))
    assert model.metadata_props[ROLES] == '{"drop.ratio":"parameter"}'
    assert roles_of(model) == told


@pytest.mark.parametrize("content", ["", "{", "[]", "9" * 5000, '{"drop.ratio": 3}', '{"drop.ratio": "what"}'])
def test_roles_that_make_no_sense_are_ignored(content):
    model = small()
    model.metadata_props[ROLES] = content
    assert noted_roles(model) == {}
    assert roles_of(model) == default_roles(model)
