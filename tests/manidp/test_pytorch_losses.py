"""Losses in PyTorch: the reference's numbers, and gradients that go where the options say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mopruning.backends.pytorch.manidp import Details, losses, network  # noqa: E402
from mopruning.backends.pytorch.manidp.losses import instance_weights, lasso, similarity  # noqa: E402
from mopruning.manidp import Settings, Structure  # noqa: E402
from mopruning.manidp import instance_weights as wanted_weights  # noqa: E402
from mopruning.manidp import lasso as wanted_lasso  # noqa: E402
from mopruning.manidp import losses as wanted_losses  # noqa: E402
from mopruning.manidp import similarity as wanted_similarity  # noqa: E402
from mopruning.manidp.structure import CIFAR  # noqa: E402

TINY = Structure(CIFAR, (1, 1, 1), (4, 6, 8), classes=10, image=16)
SETTINGS = Settings(gamma=2.0, lambda_lasso=0.3, lambda_graph=0.7)


def shown(count: int, gates: int = 3) -> tuple[Details, torch.Tensor]:
    rng = np.random.default_rng(count)

    def rows() -> list[torch.Tensor]:
        drawn = [np.maximum(rng.standard_normal((count, 5 + i)), 0).astype(np.float32) for i in range(gates)]
        return [torch.from_numpy(one).requires_grad_() for one in drawn]

    logits = torch.from_numpy(3 * rng.standard_normal((count, 4)).astype(np.float32)).requires_grad_()
    details = Details(logits, rows(), [], rows())
    details.factors = details.saliencies
    return details, torch.from_numpy(rng.integers(0, 4, count))


def numpy(tensors) -> list[np.ndarray]:
    return [one.detach().numpy() for one in tensors]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("limit", [0.0, 0.4, 1.0, 50.0])
def test_instance_weights_are_the_reference_s(limit, gamma):
    loss = np.array([0.0, 0.2, 0.4, np.nextafter(np.float32(0.4), np.float32(0)), 1.0, 7.0], np.float32)
    found = instance_weights(torch.from_numpy(loss), limit, gamma=gamma)
    np.testing.assert_allclose(found, wanted_weights(loss, limit, gamma=gamma), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_parts_are_the_reference_s(count):
    details, _ = shown(count)
    weights = np.random.default_rng(0).random(count).astype(np.float32)
    saliencies, features = numpy(details.saliencies), numpy(details.features)
    found = lasso(details.saliencies, torch.from_numpy(weights)).item()
    assert found == pytest.approx(wanted_lasso(saliencies, weights), rel=1e-5, abs=1e-5)
    for one, other, pi, feature in zip(details.saliencies, details.features, saliencies, features, strict=False):
        other, feature = other[:, :5], feature[:, :5]
        assert similarity(one, other).item() == pytest.approx(wanted_similarity(pi, feature), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("limit", [0.0, 0.5, 2.0])
def test_the_loss_is_the_reference_s(count, limit):
    details, labels = shown(count)
    found = losses(details, labels, limit, SETTINGS)
    each = found.cross_entropy.detach().numpy()
    logits = details.logits.detach().double().numpy()
    by_hand = np.log(np.exp(logits).sum(1)) - logits[np.arange(count), labels.numpy()]
    np.testing.assert_allclose(each, by_hand, rtol=1e-5, atol=1e-5)
    options = {"gamma": 2.0, "lambda_lasso": 0.3, "lambda_graph": 0.7}
    wanted = wanted_losses(by_hand, numpy(details.saliencies), numpy(details.features), limit, **options)
    assert found.lasso.item() == pytest.approx(wanted.lasso, rel=1e-5, abs=1e-5)
    assert found.graph.item() == pytest.approx(wanted.graph, rel=1e-5, abs=1e-5)
    assert found.total.item() == pytest.approx(wanted.total, rel=1e-5, abs=1e-5)


def gradients(settings: Settings, limit: float) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Return the gradients of the loss without its cross-entropy, of logits, saliencies and features."""
    details, labels = shown(6)
    found = losses(details, labels, limit, settings)
    rest = settings.lambda_lasso * found.lasso + settings.lambda_graph * found.graph
    inputs = [details.logits, *details.saliencies, *details.features]
    slopes = torch.autograd.grad(rest, inputs, allow_unused=True, materialize_grads=True)
    return slopes[0], list(slopes[1:4]), list(slopes[4:])


@pytest.mark.parametrize("detach_weight", [False, True])
@pytest.mark.parametrize("detach_features", [False, True])
def test_gradients_flow_as_the_options_say(detach_weight, detach_features):
    chosen = dataclasses.replace(SETTINGS, detach_weight=detach_weight, detach_features=detach_features)
    logits, saliencies, features = gradients(chosen, limit=2.0)
    assert logits.any() == (not detach_weight)
    assert all(one.any() for one in saliencies)
    assert all(one.any() == (not detach_features) for one in features)


def test_detaching_changes_no_number():
    details, labels = shown(6)
    both = dataclasses.replace(SETTINGS, detach_weight=True, detach_features=True)
    assert losses(details, labels, 2.0, both).total.item() == losses(details, labels, 2.0, SETTINGS).total.item()


def test_hard_images_are_not_penalised():
    details, labels = shown(6)
    found = losses(details, labels, 2.0, dataclasses.replace(SETTINGS, detach_weight=True))
    hard = found.cross_entropy >= 2.0
    assert 0 < hard.sum() < 6
    (slope,) = torch.autograd.grad(found.lasso, details.saliencies[0])
    assert not slope[hard].any()
    assert slope[~hard].all(dim=1).all()


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_one_image_gives_no_nan(scale):
    net = network(TINY, gate_scale=scale).train()
    found = losses(net.details(torch.ones(1, 3, 16, 16)), torch.zeros(1, dtype=torch.int64), 5.0, Settings())
    found.total.backward()
    assert torch.isfinite(found.total)
    assert all(torch.isfinite(value.grad).all() for value in net.parameters())


def test_saliencies_of_zero_give_no_nan():
    net = network(TINY).train()
    with torch.no_grad():
        for one in net.gates:
            one.fc2.weight.zero_()
            one.fc2.bias.fill_(-1)
    found = losses(net.details(torch.rand(4, 3, 16, 16)), torch.arange(4), 5.0, Settings())
    found.total.backward()
    assert all(torch.isfinite(value.grad).all() for value in net.parameters() if value.grad is not None)


def test_lower_precision_ends_before_the_loss():
    details, labels = shown(6)
    details.logits = details.logits.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(details, labels, 2.0, SETTINGS)
    assert {found.cross_entropy.dtype, found.lasso.dtype, found.graph.dtype, found.total.dtype} == {torch.float32}
    wanted = wanted_similarity(*numpy((details.saliencies[0], details.features[0])))
    assert similarity(details.saliencies[0], details.features[0]).item() == pytest.approx(wanted, rel=1e-5)
