"""From any framework to any other: what arrives computes the same, under the same names, with the same zeros."""

from __future__ import annotations

import pytest

from mopruning.ir import zoo
from tests.backends.conversions import (
    PAIRS,
    Conversion,
    Journey,
    arrive,
    batches_for,
    depart,
    pruned,
)
from tests.backends.presence import require

pytest.importorskip("onnxruntime")

NETWORK = "resnet8_cifar"


@pytest.fixture(scope="module")
def journeys(tmp_path_factory: pytest.TempPathFactory):
    """What is known of the network in each framework, made when it is first asked for."""
    model, known = pruned(zoo.build(NETWORK, image=31)), {}
    batches = batches_for(model)

    def journey(framework: str) -> Journey:
        if framework not in known:
            known[framework] = depart(framework, model, batches, tmp_path_factory.mktemp(framework))
        return known[framework]

    return journey, batches


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda name: name)
def test_every_framework_reaches_every_other(source, target, journeys, tmp_path):
    for framework in (source, target):
        if framework != "onnx":
            require(framework)
    journey, batches = journeys
    found = arrive(NETWORK, source, journey(source), target, batches, tmp_path)
    assert found.problems() == []


def test_what_does_not_arrive_as_it_was_is_seen():
    good = Conversion("net", "pytorch", "mxnet", 1e-6, True, True, 1.0)
    assert good.problems() == []
    bad = Conversion("net", "pytorch", "mxnet", float("nan"), False, False, 1.0)
    assert len(bad.problems()) == 3
