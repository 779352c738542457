"""Networks of MindSpore: names, states, families, precisions; the same outputs in both modes."""

from __future__ import annotations

import doctest
import importlib
from contextlib import contextmanager

import numpy as np
import pytest

from tests.backends.conftest import in_mode as mode_of

in_mode = contextmanager(mode_of)
ms = pytest.importorskip("mindspore")

from mindspore import Tensor  # noqa: E402

from mopruning.backends.mindspore.manidp import DynamicResNet, load_state, network, state_of  # noqa: E402
from mopruning.errors import RecipeError, StateError  # noqa: E402
from mopruning.manidp import Structure, states, structure  # noqa: E402
from mopruning.manidp.structure import CIFAR, IMAGENET  # noqa: E402

SMALL = Structure(CIFAR, (1, 1, 1), (8, 16, 32), 10, 16)
KINDS = {
    "conv": SMALL,
    "A": Structure(CIFAR, (1, 1, 1), (8, 16, 32), 10, 16, shortcut="A"),
    "imagenet": Structure(IMAGENET, (1, 1, 1, 1), (8, 16, 88, 96), 7, 32),
}


def images(kind: Structure = SMALL, count: int = 4) -> Tensor:
    side = kind.image
    return Tensor(np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32))


@pytest.mark.parametrize("name", ["gates", "networks"])
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"mopruning.backends.mindspore.manidp.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_every_framework(kind):
    net = network(KINDS[kind], seed=3, thre_init=-1.0)
    state = state_of(net)
    wanted = states.initial(KINDS[kind], seed=3, thre_init=-1.0)
    assert list(state) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    names = {parameter.name for parameter in net.get_parameters()}
    assert len(names) == len(state)
    assert f"{KINDS[kind].family.stem_norm}.moving_variance" in names  # MindSpore's own names are kept inside
    trained = {parameter.name for parameter in net.trainable_params()}
    assert not any(name.endswith((".thre", ".mask_sum")) for name in trained)


@pytest.mark.parametrize(("arch", "gates"), [("dyresnet20", 62_624), ("dyresnet56", 192_992)])
def test_gates_have_as_many_parameters_as_published(arch, gates):
    net = DynamicResNet(structure(arch))
    sizes = {one.name: one.size for one in net.trainable_params()}
    assert sum(size for name, size in sizes.items() if ".mb" in name) == gates
    assert sum(size for name, size in sizes.items() if ".mb" not in name) == {20: 272_282, 56: 855_578}[int(arch[-2:])]


@pytest.mark.parametrize("kind", KINDS)
def test_both_modes_compute_the_same(kind):
    """Saliencies grow from gate to gate in an untrained network: tolerances are relative."""
    net = network(KINDS[kind], gate_scale=0.3).set_train(False)
    net.set_thresholds([1.0] * len(net.gates))
    shown = {}
    for name in ("PYNATIVE", "GRAPH"):
        with in_mode(name):
            shown[name] = net.details(images(KINDS[kind]))
            plain = net(images(KINDS[kind]))
        np.testing.assert_array_equal(plain.asnumpy(), shown[name].logits.asnumpy())
    one, other = shown["PYNATIVE"], shown["GRAPH"]
    np.testing.assert_allclose(one.logits.asnumpy(), other.logits.asnumpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(one.kept(), other.kept())
    assert one.kept().shape == (4, len(KINDS[kind].gates))
    assert [saliency.shape[1] for saliency in one.saliencies] == list(KINDS[kind].gate_channels)
    assert 0 < one.kept().sum() < 4 * sum(KINDS[kind].gate_channels)


def test_without_gates_is_the_dense_network():
    """Gates whose saliencies are all 1 change nothing, and a dense pass neither looks at them nor counts them."""
    net = network(SMALL, gate_scale=0.0).set_train(False)
    with_gates, dense = net(images()).asnumpy(), net(images(), False, False).asnumpy()
    np.testing.assert_allclose(with_gates, dense, rtol=1e-5, atol=1e-6)
    net.set_thresholds([1.5] * 6)
    assert np.abs(net(images()).asnumpy() - dense).max() > 1e-3
    np.testing.assert_array_equal(net(images(), False, False).asnumpy(), dense)
    net.set_train()(images(), False, False)
    assert not any(gate.mask_sum.asnumpy().any() for gate in net.gates)


def test_details_are_those_of_the_blocks():
    net = network(SMALL).set_train(False)
    net.set_thresholds([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert [float(gate.thre.asnumpy()[0]) for gate in net.gates] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    shown = net.details(images())
    for saliency, factor, gate in zip(shown.saliencies, shown.factors, net.gates, strict=True):
        pi, thre = saliency.asnumpy(), gate.thre.asnumpy()
        np.testing.assert_array_equal(factor.asnumpy(), np.where(pi >= thre, pi, 0))
    first = shown.features[0].asnumpy()
    assert (first >= 0).all()  # behind a ReLU
    assert (shown.features[1].asnumpy() < 0).any()  # before one
    counts = [np.count_nonzero(factor.asnumpy(), axis=1) for factor in shown.factors]
    np.testing.assert_array_equal(shown.kept(), np.stack(counts, 1))
    every = network(SMALL, gate_scale=0.0).set_train(False).details(images()).kept()
    assert (every == SMALL.gate_channels).all()


def test_sums_can_be_reset():
    net = network(SMALL).set_train()
    net.details(images())
    assert all(gate.mask_sum.asnumpy().any() for gate in net.gates)
    net.reset_sums()
    assert not any(gate.mask_sum.asnumpy().any() for gate in net.gates)


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_float16(level):
    """Half precision changes logits a little, and neither the dtype of weights nor that of saliencies."""
    state = states.initial(SMALL, gate_scale=0.1)
    exact, half = DynamicResNet(SMALL), DynamicResNet(SMALL, amp_level=level)
    for net in (exact, half):
        load_state(net, state)
        net.set_train(False)
    one, other = exact.details(images()), half.details(images())
    assert {parameter.dtype for parameter in half.get_parameters()} == {ms.float32}
    assert other.logits.dtype == other.saliencies[3].dtype == other.factors[3].dtype == ms.float32
    difference = np.abs(one.logits.asnumpy() - other.logits.asnumpy()).max()
    assert 0 < difference < 0.02 * np.abs(one.logits.asnumpy()).max()


def test_unknown_precision():
    with pytest.raises(RecipeError, match="amp_level must be one of O0, O1, O2, O3, got 'O4'"):
        DynamicResNet(SMALL, amp_level="O4")


def test_states_that_do_not_fit():
    net = network(SMALL)
    with pytest.raises(StateError, match=r"somewhere: is no state of this network; missing: conv_1_3x3\.weight"):
        load_state(net, {}, "somewhere")
    state = state_of(net)
    state["classifier.bias"] = np.zeros(11, np.float32)
    with pytest.raises(StateError, match=r"'classifier.bias' has shape \[11\], expected \[10\]"):
        load_state(net, state)


def test_weights_of_a_dense_network_leave_gates_alone():
    net, other = network(SMALL, seed=1), states.initial(SMALL, seed=2)
    before = state_of(net)
    load_state(net, other, gates=False)
    after = state_of(net)
    for name, value in after.items():
        wanted = before if ".mb" in name else other
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
