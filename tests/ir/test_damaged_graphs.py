"""Damaged graphs: validate refuses, or every pass answers or raises an error of its own; nothing else comes out."""

import random
from contextlib import suppress

import onnx
import onnx_ir
import pytest
from onnx import helper

from mopruning.errors import MopruningError
from mopruning.ir import passes
from mopruning.ir.operators import OPERATORS
from mopruning.ir.validation import UnsupportedOperators, describe, validate
from tests.ir.small_models import encoder, model, node, recurrent, resnet20

SOUND = [
    onnx_ir.to_proto(net)
    for net in (
        resnet20(8),
        encoder(),
        recurrent("LSTM"),
        recurrent("GRU"),
        model({"x": [2]}, [node("Relu", "y", "x")], ["y"]),
    )
]
PASSES = (
    passes.infer_shapes,
    passes.fold_constants,
    lambda net: passes.fold_constants(net, weights=True),
    passes.fold_batchnorm,
    passes.extract,
    passes.cost,
    passes.sparsity,
)


def damaged(seed: int) -> onnx.ModelProto:
    """One of the sound models, changed in one to three places."""
    choice = random.Random(seed)
    proto = onnx.ModelProto()
    proto.CopyFrom(choice.choice(SOUND))
    graph = proto.graph
    values = [name for item in graph.node for name in item.output] + [tensor.name for tensor in graph.initializer]
    for _ in range(choice.randint(1, 3)):
        item, name = choice.choice(graph.node), choice.choice([*values, ""])
        changes = [
            lambda item=item: setattr(item, "op_type", choice.choice([*OPERATORS, "If", "NonZero", "Constant"])),
            lambda item=item, name=name: item.input.__setitem__(choice.randrange(len(item.input)), name),
            lambda item=item, name=name: item.input.append(name),
            lambda item=item, name=name: item.output.__setitem__(0, name),
            lambda item=item: item.attribute.append(
                helper.make_attribute(
                    choice.choice(["axis", "perm", "group", "to"]), choice.choice([1, [1, 2], 1.5, "a"])
                )
            ),
        ]
        if item.attribute:
            attribute = choice.choice(item.attribute)
            changes += [
                lambda attribute=attribute: setattr(attribute, "type", choice.randint(1, 8)),
                lambda attribute=attribute: setattr(attribute, "i", choice.randint(-5, 10**9)),
                lambda attribute=attribute: attribute.ints.append(choice.randint(-3, 10**6)),
                lambda item=item: item.attribute.pop(),
            ]
        if graph.initializer:
            tensor = choice.choice(graph.initializer)
            changes += [
                lambda tensor=tensor, name=name: setattr(tensor, "name", name),
                lambda tensor=tensor: tensor.dims.__setitem__(
                    slice(None), choice.sample(tensor.dims, len(tensor.dims))
                ),
            ]
        choice.choice(changes)()
    return proto


@pytest.mark.parametrize("part", range(4))
def test_no_damage_gets_past_as_another_error(part):
    outcomes = {"refused": 0, "passed": 0}
    for seed in range(part * 50, part * 50 + 50):
        try:
            net = onnx_ir.from_proto(damaged(seed))
        except (onnx_ir.serde.SerdeError, ValueError):
            continue  # onnx_ir itself cannot read it
        assert describe(net)
        try:
            validate(net)
        except UnsupportedOperators:
            outcomes["refused"] += 1
            continue
        outcomes["passed"] += 1
        for one in PASSES:
            with suppress(MopruningError):
                one(net)
    assert min(outcomes.values()) > 2, outcomes
