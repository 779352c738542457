"""`Prune` beside a native MindSpore optimizer, in both modes."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, nn  # noqa: E402

from mopruning import Recipe  # noqa: E402
from mopruning.backends import mindspore  # noqa: E402
from mopruning.errors import GranularityWarning, RecipeError, StateError, UnknownNameError  # noqa: E402
from tests.backends.mindspore_networks import batch, drawn, gradients, mlp, share  # noqa: E402


class Published(nn.Cell):
    """The example network of the published documents: one convolution has 127 input channels, no multiple of 64."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(64, 127, 3)
        self.bn1 = nn.BatchNorm2d(127)
        self.conv2 = nn.Conv2d(127, 128, 3)
        self.fc = nn.Dense(128, 10)


@pytest.fixture
def dense():
    return drawn(nn.Dense(128, 16))


def sgd(net, momentum=0.9):
    return nn.SGD(net.trainable_params(), 0.01, momentum)


def steps(optimizer, prune, count, seed=0):
    """Update with drawn gradients, with `prune` after each update."""
    for step in range(count):
        optimizer(gradients(optimizer, 1000 * seed + step))
        prune.prune()


def test_published_call():
    """Positional order and the loop over all parameters are those of the published examples."""
    net = drawn(Published())
    prune_dict = {parameter.name: 0.9375 for parameter in net.trainable_params()}
    given = dict(prune_dict)
    with pytest.warns(GranularityWarning) as caught:
        prune = mindspore.Prune(net, 2, 6, 2, prune_dict)
    assert [str(warning.message) for warning in caught] == [
        "conv2.weight cannot be balanced pruned and will be deleted from the prune_dict: "
        + {row.name: row.reason for row in prune.plan.rows}["conv2.weight"]
    ]
    assert "127" in str(caught[0].message)
    assert prune_dict == given
    assert prune.prune_dict == {"conv1.weight": 0.9375, "fc.weight": 0.9375}

    optimizer = sgd(net)
    shares = []
    for step in range(10):
        steps(optimizer, prune, 1, seed=step)
        shares.append(prune.sparsity()[1])
    assert shares[0] == shares[1] == 0
    assert shares == sorted(shares)
    assert shares[7:] == [0.9375] * 3
    banks = np.moveaxis(net.conv1.weight.asnumpy(), 1, -1).reshape(-1, 64)
    assert ((banks != 0).sum(1) == 4).all()
    assert ((net.fc.weight.asnumpy().reshape(-1, 64) != 0).sum(1) == 4).all()
    assert share(net.conv2.weight) == 0
    assert share(net.bn1.gamma) == 0


def test_after_each_step_of_a_compiled_cell(mode):
    """A compiled graph goes on from the weights that were zeroed between its runs."""
    net = mlp()
    optimizer = sgd(net)
    cell = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)
    prune = mindspore.Prune(net, 1, 4, 1, {"0.weight": 0.75, "2.weight": 0.5}, balance="none", optimizer=optimizer)
    shares, losses = [], []
    for _ in range(12):
        losses.append(float(cell(*batch()).asnumpy()))
        prune.prune()
        shares.append(share(net[0].weight))
    assert shares == sorted(shares)
    assert shares[4:] == [0.75] * 8
    assert share(net[2].weight) == 0.5
    assert losses[-1] < losses[5]


@pytest.mark.parametrize(
    ("balance", "size", "kept"),
    [("fix", 64, 32), ("bank:16", 16, 8), ("2:4", 4, 2), ("1:4", 4, 2), ("none", 2048, 1024)],
)
def test_balance(balance, size, kept, dense):
    mindspore.Prune(dense, prune_dict={"weight": 0.5}, balance=balance).prune()
    assert ((dense.weight.asnumpy().reshape(-1, size) != 0).sum(1) == kept).all()


def test_none_prunes_what_cannot_be_balanced():
    net = drawn(Published())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune = mindspore.Prune(net, prune_dict={"conv2.weight": 0.5}, balance="none")
    prune.prune()
    assert share(net.conv2.weight) == 0.5


def test_transposed_convolutions_are_balanced_along_their_inputs():
    net = drawn(nn.Conv2dTranspose(8, 6, 3, group=2))
    mindspore.Prune(net, prune_dict={"weight": 0.5}, balance="bank:4").prune()
    assert ((net.weight.asnumpy().reshape(2, 4, -1) != 0).sum(1) == 2).all()


def test_sparsity_is_per_parameter_and_of_all_together():
    net = drawn(Published())
    prune = mindspore.Prune(net, prune_dict={"conv1.weight": 0.5, "fc.weight": 0.75, "fc.bias": 0.5})
    assert prune.sparsity() == ({"conv1.weight": 0.0, "fc.weight": 0.0}, 0.0)
    prune.prune()
    conv, fc = net.conv1.weight.size, net.fc.weight.size
    assert prune.sparsity() == ({"conv1.weight": 0.5, "fc.weight": 0.75}, (0.5 * conv + 0.75 * fc) / (conv + fc))


@pytest.mark.parametrize("arguments", [{}, {"prune_dict": None}, {"prune_dict": {}}])
def test_nothing_listed_prunes_nothing(arguments, dense):
    before = dense.weight.asnumpy().copy()
    prune = mindspore.Prune(dense, **arguments)
    prune.prune()
    np.testing.assert_array_equal(dense.weight.asnumpy(), before)
    assert prune.sparsity() == ({}, 0.0)


def test_momentum_cannot_revive(dense):
    prune = mindspore.Prune(dense, prune_dict={"weight": 0.5})
    optimizer = sgd(dense, momentum=0.99)
    steps(optimizer, prune, 6)
    assert share(dense.weight) == 0.5
    assert optimizer.accum[0].asnumpy()[dense.weight.asnumpy() == 0].any()  # nobody erased it


def test_given_the_optimizer_its_state_is_zeroed_with_the_masks(dense):
    optimizer = sgd(dense)
    prune = mindspore.Prune(dense, 2, prune_dict={"weight": 0.5}, optimizer=optimizer)
    steps(optimizer, prune, 2)
    accumulated, weight = optimizer.accum[0].asnumpy(), dense.weight.asnumpy()
    assert not accumulated[weight == 0].any()
    assert accumulated[weight != 0].all()


@pytest.mark.parametrize("prune_device", ["default", "cpu"])
def test_prune_device_decides_alike(prune_device, dense):
    twin = drawn(nn.Dense(128, 16))
    mindspore.Prune(dense, recipe={"sparsity": 0.5}).prune()
    mindspore.Prune(twin, prune_device=prune_device, recipe={"sparsity": 0.5}).prune()
    np.testing.assert_array_equal(dense.weight.asnumpy(), twin.weight.asnumpy())


@pytest.mark.parametrize("score", ["movement", "taylor"])
@pytest.mark.parametrize("named", [False, True])
def test_scores_made_of_gradients(score, named, dense):
    prune = mindspore.Prune(dense, recipe={"sparsity": 0.5, "score": score})
    with pytest.raises(StateError, match=r"weight.*none was observed"):
        prune.prune()
    slopes = gradients(sgd(dense))
    product = dense.weight.asnumpy() * slopes[0].asnumpy()
    expected = (-product if score == "movement" else np.abs(product)).ravel().argsort(kind="stable")[:1024]
    prune.prune(dict(zip(["weight", "bias"], slopes, strict=True)) if named else slopes)
    assert share(dense.weight) == 0.5
    assert not dense.weight.asnumpy().ravel()[expected].any()


def test_gradients_of_another_number_of_parameters_are_refused(dense):
    prune = mindspore.Prune(dense, recipe={"sparsity": 0.5, "score": "movement"})
    with pytest.raises(ValueError, match="shorter"):
        prune.prune(gradients(sgd(dense))[:1])


def test_restore_ramps_on_from_the_zeros_there(dense):
    optimizer = sgd(dense)
    steps(optimizer, mindspore.Prune(dense, prune_dict={"weight": 0.5}), 1)
    was_zero = dense.weight.asnumpy() == 0
    prune = mindspore.Prune(dense, 0, 4, 2, {"weight": 0.75}, True)
    shares = []
    for seed in range(6):
        steps(optimizer, prune, 1, seed=seed)
        assert not dense.weight.asnumpy()[was_zero].any()
        shares.append(share(dense.weight))
    assert shares[0] == 0.5
    assert shares == sorted(shares)
    assert shares[-1] == 0.75


@pytest.mark.parametrize("prune_dict", [{}, {"weight": 0.9}])
def test_fix_keeps_the_zeros_there(prune_dict, dense):
    optimizer = sgd(dense)
    steps(optimizer, mindspore.Prune(dense, prune_dict={"weight": 0.5}), 1)
    was_zero = dense.weight.asnumpy() == 0
    prune = mindspore.Prune(dense, 0, 0, 100, prune_dict, False, True)
    steps(optimizer, prune, 4)
    np.testing.assert_array_equal(dense.weight.asnumpy() == 0, was_zero)
    assert prune.sparsity() == ({"weight": 0.5}, 0.5)


@pytest.mark.parametrize("restore", [False, True])
def test_state_survives_a_file(restore, dense, tmp_path):
    if restore:
        mindspore.Prune(dense, prune_dict={"weight": 0.25}, balance="none").prune()
    arguments = (1, 8, 2, {"weight": 0.9375}, restore)
    prune = mindspore.Prune(dense, *arguments)
    optimizer = sgd(dense)
    steps(optimizer, prune, 4)
    path = str(tmp_path / "checkpoint.ckpt")
    ms.save_checkpoint(optimizer, path, append_dict=prune.state_dict())  # the optimizer holds the weights too
    steps(optimizer, prune, 8, seed=1)

    twin = drawn(nn.Dense(128, 16), seed=7)
    second, second_prune = sgd(twin), mindspore.Prune(twin, *arguments)
    state = ms.load_checkpoint(path)
    ms.load_param_into_net(second, state)
    second_prune.load_state_dict(state)
    steps(second, second_prune, 8, seed=1)
    np.testing.assert_array_equal(twin.weight.asnumpy(), dense.weight.asnumpy())
    assert share(twin.weight) == 0.9375


def test_loaded_masks_zero_weights_and_state_at_once(dense):
    donor = drawn(nn.Dense(128, 16), seed=7)
    prune = mindspore.Prune(donor, prune_dict={"weight": 0.5})
    prune.prune()
    optimizer = sgd(dense)
    receiver = mindspore.Prune(dense, prune_dict={"weight": 0.5}, optimizer=optimizer)
    optimizer(gradients(optimizer))
    receiver.load_state_dict(prune.state_dict())
    np.testing.assert_array_equal(dense.weight.asnumpy() == 0, donor.weight.asnumpy() == 0)
    assert not optimizer.accum[0].asnumpy()[dense.weight.asnumpy() == 0].any()


def test_state_of_another_plan_or_of_none_is_refused(dense):
    prune = mindspore.Prune(dense, prune_dict={"weight": 0.5})
    before = dense.weight.asnumpy().copy()
    other = mindspore.Prune(drawn(nn.Dense(64, 16)), prune_dict={"weight": 0.5})
    other.prune()
    with pytest.raises(StateError, match=r"weight: shape 16x128 here, 16x64 there"):
        prune.load_state_dict(other.state_dict())
    good = mindspore.Prune(drawn(nn.Dense(128, 16)), prune_dict={"weight": 0.5})
    good.prune()
    state = good.state_dict()
    newer = state["mopruning.plan"].asnumpy().tobytes().replace(b'"version": 1', b'"version": 9')
    for damage, message in (
        (
            {"mopruning.mask.weight": Tensor(np.ones(3, np.bool_))},
            r"mask\.weight is damaged: expected shape \(16, 128\)",
        ),
        ({"mopruning.plan": Tensor(np.frombuffer(newer, np.uint8))}, "version 9"),
        ({"mopruning.plan": Tensor(np.zeros(3, np.uint8))}, "mopruning.plan is damaged"),
    ):
        with pytest.raises(StateError, match=message):
            prune.load_state_dict({**state, **damage})
    without = {name: value for name, value in state.items() if name != "mopruning.mask.weight"}
    with pytest.raises(StateError, match=r"mask\.weight is damaged.*None"):
        prune.load_state_dict(without)
    with pytest.raises(StateError, match=r"lacks mopruning\.step"):
        prune.load_state_dict({})
    np.testing.assert_array_equal(dense.weight.asnumpy(), before)


def test_mistakes_are_explained(dense):
    with pytest.raises(UnknownNameError, match=r"prune_dict: 'wieght' .* 'weight'"):
        mindspore.Prune(dense, prune_dict={"wieght": 0.5})
    with pytest.raises(RecipeError, match="balance"):
        mindspore.Prune(dense, prune_dict={"weight": 0.5}, balance="fixed")
    with pytest.raises(RecipeError, match="prune_device"):
        mindspore.Prune(dense, prune_dict={"weight": 0.5}, prune_device="gpu")
    with pytest.raises(RecipeError, match="L1"):
        mindspore.Prune(dense, recipe={"sparsity": 0.5, "l1": 0.1})


def test_recipe_in_place_of_the_arguments(dense, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("sparsity: 0.75\ngranularity: 1:4\n")
    for recipe in (Recipe(sparsity=0.75, granularity="1:4"), path):
        prune = mindspore.Prune(dense, recipe=recipe)
        prune.prune()
        assert prune.sparsity() == ({"weight": 0.75}, 0.75)


def test_agrees_with_the_sparse_optimizer(dense):
    """Two ways to the same masks, where no momentum tells them apart."""
    twin = drawn(nn.Dense(128, 16))
    optimizer = mindspore.SGDSparse(
        twin, 0.01, special_sparsity_dict={"weight": 0.9}, sparse_step=6, frequency=2, granularity="bank:64"
    )
    native, prune = sgd(dense, momentum=0.0), mindspore.Prune(dense, 0, 6, 2, {"weight": 0.9})
    for step in range(10):
        steps(native, prune, 1, seed=step)
        optimizer(gradients(native, 1000 * step))
        np.testing.assert_array_equal(dense.weight.asnumpy(), twin.weight.asnumpy())
    assert re.search(r"weight\s+16x128\s+bank:64\s+0\.9", str(prune.plan))
