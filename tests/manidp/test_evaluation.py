"""Evaluation: accuracy and cost of a set of images, by hand."""

import numpy as np
import pytest

from mopruning.manidp import Evaluation, cost, macs, structure


def evaluation(predictions: list[int], kept: np.ndarray) -> Evaluation:
    labels = np.array([3, 1, 4, 1])
    return Evaluation(structure("dyresnet20"), np.array(predictions), labels, np.zeros(4), kept)


@pytest.fixture
def every() -> np.ndarray:
    return np.tile(structure("dyresnet20").gate_channels, (4, 1))


def test_accuracy(every):
    assert evaluation([3, 1, 4, 1], every).accuracy == 1.0
    assert evaluation([3, 1, 1, 4], every).accuracy == 0.5
    assert isinstance(evaluation([0, 0, 0, 0], every).accuracy, float)


def test_nothing_pruned_saves_nothing(every):
    found = evaluation([0, 0, 0, 0], every)
    assert found.mean_macs == 40_875_136
    assert found.reduction == 0.0


def test_mean_over_images(every):
    every[0] = 0
    every[1, ::2] //= 2
    found = evaluation([0, 0, 0, 0], every)
    each = [int(macs(found.structure, one[None])[0]) for one in every]
    assert found.macs.tolist() == each
    assert each[0] < each[1] < each[2] == each[3]
    assert found.mean_macs == sum(each) / 4
    assert found.reduction == pytest.approx(1 - sum(each) / 4 / cost(found.structure).total)
