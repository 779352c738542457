"""Gates and losses of MindSpore are those of the NumPy reference; gradients are finite where they are told to flow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor  # noqa: E402

from mopruning import manidp  # noqa: E402
from mopruning.backends.mindspore.manidp import Gate, Loss  # noqa: E402
from mopruning.backends.mindspore.manidp.gates import pool  # noqa: E402
from mopruning.backends.mindspore.manidp.losses import instance_weights, lasso, similarity  # noqa: E402
from mopruning.manidp import Settings  # noqa: E402

EXACT = {"rtol": 1e-5, "atol": 1e-6}


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.fixture
def gate() -> Gate:
    """A gate from 6 channels to 8, whose saliencies lie between 0 and 5."""
    made = Gate(6, 8, 5, clamp_max=2.5)
    made.fc1.weight.set_data(Tensor(drawn(5, 6)))
    made.fc2.weight.set_data(Tensor(drawn(8, 5)))
    made.fc2.bias.set_data(Tensor(np.full(8, 0.5, np.float32)))
    return made


def batch() -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Draw logits, saliencies and features of two gates, and labels; one image does without a gate's channels."""
    saliencies = [np.maximum(drawn(6, width), 0) for width in (8, 16)]
    saliencies[1][2] = 0
    return 2 * drawn(6, 10), saliencies, [drawn(6, width, seed=1) for width in (8, 16)], np.arange(6) % 10


def tensors(arrays: list[np.ndarray]) -> tuple[Tensor, ...]:
    return tuple(Tensor(one) for one in arrays)


def entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows = logits.astype(np.float64)
    return np.log(np.exp(rows).sum(1)) - rows[np.arange(len(labels)), labels]


# ---- gates


def test_gate_is_the_reference(gate):
    seen = np.abs(drawn(7, 6))
    gate.thre.set_data(Tensor(np.full(1, 0.8, np.float32)))
    saliency, factor = (one.asnumpy() for one in gate.set_train(False)(Tensor(seen)))
    weights = (gate.fc1.weight.asnumpy(), gate.fc2.weight.asnumpy(), gate.fc2.bias.asnumpy())
    wanted = manidp.saliency(seen, *weights, clamp_max=2.5)
    np.testing.assert_allclose(saliency, wanted, **EXACT)
    np.testing.assert_array_equal(factor, manidp.gate(saliency, np.float32(0.8)))
    assert 0 < np.count_nonzero(factor) < np.count_nonzero(saliency)
    assert saliency.max() == 2.5


def test_a_saliency_of_the_threshold_itself_is_kept(gate):
    gate.fc2.weight.set_data(Tensor(np.zeros((8, 5), np.float32)))
    bias = np.array([0.1, 0.3, 0.7, 0.9, 1.1, 1.3, 1.7, 1.9], np.float32)
    gate.fc2.bias.set_data(Tensor(bias))
    gate.thre.set_data(Tensor(bias[3:4]))
    _, factor = gate.set_train(False)(Tensor(drawn(2, 6)))
    np.testing.assert_array_equal(factor.asnumpy(), np.tile(np.where(bias >= bias[3], bias, 0), (2, 1)))


def test_sums_are_those_of_training_alone(gate):
    first, second = (Tensor(np.abs(drawn(count, 6))) for count in (3, 4))
    total = sum(gate.set_train()(one)[0].asnumpy().sum(0) for one in (first, second))
    gate.set_train(False)(first)
    np.testing.assert_allclose(gate.mask_sum.asnumpy(), total, **EXACT)
    assert not gate.mask_sum.requires_grad
    assert not gate.thre.requires_grad


def test_pool_is_in_float32():
    images = drawn(2, 3, 4, 4).astype(np.float16)
    found = pool(Tensor(images))
    assert found.dtype == ms.float32
    np.testing.assert_allclose(found.asnumpy(), images.astype(np.float32).mean((2, 3)), **EXACT)


# ---- losses


@pytest.mark.parametrize("gamma", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("limit", [0.0, 0.7])
def test_weights_are_the_reference(limit, gamma):
    loss = np.array([0.0, 0.2, np.nextafter(np.float32(0.7), np.float32(0)), 0.7, 0.9, 50.0], np.float32)
    found = instance_weights(Tensor(loss), Tensor(np.float32(limit)), gamma).asnumpy()
    np.testing.assert_allclose(found, manidp.instance_weights(loss, np.float32(limit), gamma=gamma), **EXACT)
    assert (found > 0).sum() == (3 if limit else 0)


def test_parts_are_the_reference():
    _, saliencies, features, _ = batch()
    weights = np.abs(drawn(6))
    found = float(lasso(tensors(saliencies), Tensor(weights)))
    assert found == pytest.approx(manidp.lasso(saliencies, weights), rel=1e-5)
    for both in zip(saliencies, features, strict=True):
        assert float(similarity(*tensors(both))) == pytest.approx(manidp.similarity(*both), rel=1e-5)


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_loss_is_the_reference(limit):
    logits, saliencies, features, labels = batch()
    settings = Settings(gamma=2.0, lambda_lasso=0.3, lambda_graph=0.7)
    total, cross_entropy, penalty, graph = Loss(settings)(
        *(Tensor(logits), tensors(saliencies), tensors(features)),
        *(Tensor(labels.astype(np.int32)), Tensor(np.float32(limit))),
    )
    each = entropies(logits, labels)
    np.testing.assert_allclose(cross_entropy.asnumpy(), each, rtol=1e-5)
    wanted = manidp.losses(each, saliencies, features, limit, gamma=2.0, lambda_lasso=0.3, lambda_graph=0.7)
    found = (float(cross_entropy.mean()), float(penalty), float(graph), float(total))
    assert found == pytest.approx(dataclasses.astuple(wanted), rel=1e-5, abs=1e-6)
    assert (wanted.lasso > 0) == (limit > 0)


def gradients(settings: Settings, count: int = 6) -> list[list[np.ndarray]]:
    """Return the gradients of the loss by logits, saliencies and features."""
    logits, saliencies, features, labels = batch()
    loss = Loss(settings)

    def total(*parts: Tensor) -> Tensor:
        found, *_ = loss(parts[0], parts[1:3], parts[3:], Tensor(labels[:count].astype(np.int32)), limit)
        return found

    limit = Tensor(np.float32(100.0))
    given = [Tensor(one[:count]) for one in (logits, *saliencies, *features)]
    found = [one.asnumpy() for one in ms.grad(total, (0, 1, 2, 3, 4))(*given)]
    return [found[:1], found[1:3], found[3:]]


def test_gradients_flow_where_they_are_not_detached():
    published = gradients(Settings())
    assert all(one.any() for part in published for one in part)
    assert all(np.isfinite(one).all() for part in published for one in part)  # with a row of zeros in it
    detached = gradients(Settings(detach_features=True, detach_weight=True))
    assert not any(one.any() for one in detached[2])
    np.testing.assert_allclose(detached[1][0], published[1][0], rtol=1e-5, atol=1e-7)
    assert np.abs(detached[0][0] - published[0][0]).max() > 1e-4  # the weight's own gradient is gone


def test_one_image_has_finite_gradients():
    assert all(np.isfinite(one).all() for part in gradients(Settings(), count=1) for one in part)
