"""Losses: weights of images at and around the limit, similarities by a slow double loop, the sum."""

import doctest
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning.manidp import instance_weights, lasso, losses, similarity
from mopruning.manidp.losses import LEAST

module = sys.modules[lasso.__module__]

entries = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 20))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = [math.sqrt(sum(float(v) ** 2 for v in row)) for row in (one, other)]
    if not all(lengths):
        return 0.0
    return sum(float(a) * float(b) for a, b in zip(one, other, strict=True)) / lengths[0] / lengths[1]


def slow_similarity(saliencies: np.ndarray, features: np.ndarray) -> float:
    total, count = 0.0, len(saliencies)
    for i in range(count):
        for j in range(count):
            total += (cosine(features[i], features[j]) - cosine(saliencies[i], saliencies[j])) ** 2
    return total / count**2


def test_doctests():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_weights_at_and_around_the_limit():
    limit = 0.8
    just_below = np.nextafter(limit, 0)
    found = instance_weights(np.array([0.0, 0.2, 0.4, just_below, limit, np.nextafter(limit, 1), 100.0]), limit)
    np.testing.assert_allclose(found, [1.0, 0.75, 0.5, LEAST, 0, 0, 0], rtol=1e-12)
    assert found[3] > 0  # an easy image, if only just
    assert (found[4:] == 0).all()


def test_weights_with_an_exponent():
    loss = np.array([0.0, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(instance_weights(loss, 2.0, gamma=2.0), [1, 0.25, 0.0625, 0])
    np.testing.assert_allclose(instance_weights(loss, 2.0, gamma=0.5), [1, math.sqrt(0.5), 0.5, 0])


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_without_a_limit_no_image_is_easy(limit):
    np.testing.assert_array_equal(instance_weights(np.array([0.0, 0.1]), limit), [0, 0])


@given(entries, st.floats(0.01, 20), st.floats(0.1, 4))
def test_easier_images_weigh_more(loss, limit, gamma):
    weights = instance_weights(np.sort(loss), limit, gamma=gamma)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (np.diff(weights) <= 0).all()


def test_lasso_by_hand():
    first, second = np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([[6.0], [8.0]])
    weights = np.array([1.0, 0.5])
    # (2 * 1 + 2 * 0.5) / 2 + (6 * 1 + 8 * 0.5) / 2: a gate counts alike whatever its channels
    assert lasso([first, second], weights) == 1.5 + 5.0
    assert lasso([first, second], np.zeros(2)) == 0.0


@given(st.data())
def test_similarity_is_that_of_a_double_loop(data):
    count = data.draw(st.integers(1, 5))
    arrays = [
        data.draw(
            hnp.arrays(np.float64, (count, width), elements=st.floats(-4, 4).filter(lambda v: v == 0 or abs(v) > 1e-3))
        )
        for width in (3, 7)
    ]
    assert similarity(*arrays) == pytest.approx(slow_similarity(*arrays), abs=1e-12)


def test_similarity_by_hand():
    saliencies, features = np.array([[1.0, 0.0], [0.0, 9.0]]), np.array([[1.0, 1.0], [2.0, 2.0]])
    assert similarity(saliencies, features) == pytest.approx(2 / 4)  # cosines 0 and 1, in both places off the diagonal
    assert similarity(saliencies, 5 * saliencies) == 0
    assert similarity(np.zeros((2, 2)), np.eye(2)) == pytest.approx(2 / 4)  # a row of zeros stays one, and is no NaN


def test_one_image_is_similar_to_itself():
    assert similarity(np.array([[0.3, 0.4]]), np.array([[5.0, 1.0]])) == pytest.approx(0, abs=1e-15)


def test_sum_of_the_parts():
    rng = np.random.default_rng(0)
    loss = rng.random(6)
    saliencies, features = ([rng.random((6, width)) for width in (4, 8)] for _ in range(2))
    found = losses(loss, saliencies, features, 0.5, gamma=2.0, lambda_lasso=0.3, lambda_graph=7.0)
    assert found.cross_entropy == pytest.approx(loss.mean())
    weights = [((0.5 - one) / 0.5) ** 2 if one < 0.5 else 0.0 for one in loss]
    penalty = sum(sum(row.mean() * w for row, w in zip(one, weights, strict=True)) / 6 for one in saliencies)
    assert found.lasso == pytest.approx(penalty)
    assert found.graph == pytest.approx(sum(map(slow_similarity, saliencies, features)))
    assert found.total == pytest.approx(found.cross_entropy + 0.3 * found.lasso + 7.0 * found.graph)


def test_every_gate_needs_its_features():
    with pytest.raises(ValueError, match="zip"):
        losses(np.ones(2), [np.ones((2, 3))], [], 1.0)
