"""How a MindSpore sparse optimizer is made: call forms, names, plans, errors, checkpoints of others."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, nn  # noqa: E402

from mopruning import BankBalanced, Recipe  # noqa: E402
from mopruning.backends import mindspore  # noqa: E402
from mopruning.backends.mindspore.device import DeviceError  # noqa: E402
from mopruning.backends.mindspore.hooks import native_arguments  # noqa: E402
from mopruning.errors import MopruningError, RecipeError, StateError, UnknownNameError, WeightError  # noqa: E402
from mopruning.sparse_arguments import SPARSE_ARGUMENTS  # noqa: E402
from tests.backends import mindspore_harness  # noqa: E402
from tests.backends.mindspore_networks import ConvNet, drawn, gradients, mlp, share, values  # noqa: E402

CLASSES = [name for name in mindspore.__all__ if name.endswith("Sparse")]


@pytest.fixture
def net():
    return drawn(ConvNet())


def train(optimizer, steps=1, seed=0):
    for step in range(steps):
        optimizer(gradients(optimizer, 1000 * seed + step))


# --- classes ---------------------------------------------------------------------------------------------------------


def test_every_optimizer_of_mindspore_has_a_sparse_class():
    native = {n for n, c in vars(nn).items() if inspect.isclass(c) and issubclass(c, nn.Optimizer)}
    # LARS and OptTFTWrapper wrap an optimizer, as SparseOptimizer does; Lamb has no kernel on a CPU, and is wrapped.
    assert {name + "Sparse" for name in native - {"Optimizer", "LARS", "OptTFTWrapper", "Lamb"}} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_contract_covers_every_class(name):
    assert name in {case.cls for case in mindspore_harness.CASES}


@pytest.mark.parametrize("name", ["MomentumSparse", "SGDSparse", "AdamSparse"])
def test_contract_covers_every_native_argument(name):
    """Of the classes that the framework's users reach for first."""
    native = set(inspect.signature(native_arguments(getattr(mindspore, name).native)).parameters) - {"params", "kwargs"}
    covered = {key for case in mindspore_harness.CASES if case.cls == name for key in case.options}
    assert covered == native


@pytest.mark.parametrize("name", CLASSES)
def test_signature_is_the_native_one_and_the_sparse_arguments(name):
    native = inspect.signature(native_arguments(getattr(nn, name.removesuffix("Sparse")))).parameters
    shown = inspect.signature(getattr(mindspore, name)).parameters
    taken = [key for key, value in native.items() if value.kind is not inspect.Parameter.VAR_KEYWORD]
    assert taken[0] == "params"
    assert list(shown)[: len(taken)] == taken
    assert {key: shown[key].default for key in taken} == {key: native[key].default for key in taken}
    assert {"param_name", "recipe", "target_sparsity", "granularity", "fix_sparsity"} <= set(shown) - set(native)
    assert not SPARSE_ARGUMENTS & set(native)


# --- call forms ------------------------------------------------------------------------------------------------------

FORMS = {
    "network": lambda n, lr, **a: mindspore.SGDSparse(n, lr, **a),
    "list": lambda n, lr, **a: mindspore.SGDSparse(n.trainable_params(), lr, **a),
    "names": lambda n, lr, **a: mindspore.SGDSparse(n.parameters_and_names(), lr, **a),
    "published": lambda n, lr, **a: mindspore.SGDSparse(
        n.trainable_params(), lr, param_name=n.parameters_and_names(), **a
    ),
    "list with network": lambda n, lr, **a: mindspore.SGDSparse(n.trainable_params(), lr, param_name=n, **a),
    "groups": lambda n, lr, **a: mindspore.SGDSparse(
        [
            {"params": n.conv1.trainable_params() + n.bn1.trainable_params(), "lr": 0.2},
            {"params": n.conv2.trainable_params() + n.fc.trainable_params(), "weight_decay": 0.1},
        ],
        lr,
        param_name=n,
        **a,
    ),
    "wrapper": lambda n, lr, **a: mindspore.SparseOptimizer(nn.SGD(n.trainable_params(), lr), **a),
    "wrapper with network": lambda n, lr, **a: mindspore.SparseOptimizer(nn.SGD(n.trainable_params(), lr), n, **a),
}


@pytest.mark.parametrize("form", FORMS)
def test_call_forms_agree(form, net):
    optimizer = FORMS[form](net, 0.1, target_sparsity=0.5, special_sparsity_dict={"fc.weight": 0.75})
    assert isinstance(optimizer, nn.Optimizer)
    train(optimizer)
    assert {row.name for row in optimizer.plan.pruned} == {"conv1.weight", "conv2.weight", "fc.weight"}
    assert (share(net.conv1.weight), share(net.conv2.weight), share(net.fc.weight)) == (0.5, 0.5, 0.75)
    assert share(net.fc.bias) == 0


def test_only_the_network_tells_transposed_convolutions():
    net = drawn(nn.Conv2dTranspose(64, 32, 3))
    arguments = {"target_sparsity": 0.9375, "granularity": "bank:64"}
    for params in (net, net.parameters_and_names()):
        plan = mindspore.SGDSparse(params, **arguments).plan
        assert [(row.name, row.shape, str(row.granularity)) for row in plan.rows] == [
            ("weight", (32, 64, 3, 3), "bank:64")
        ]
    plan = mindspore.SGDSparse(net.trainable_params(), **arguments).plan
    assert "input channels (32) are no multiple" in plan.rows[0].reason


def test_parameters_outside_the_optimizer_are_left_alone(net):
    before = net.conv2.weight.asnumpy().copy()
    optimizer = mindspore.SGDSparse(net.fc.trainable_params(), 0.1, target_sparsity=0.5, param_name=net)
    train(optimizer)
    assert [row.name for row in optimizer.plan.rows] == ["fc.weight", "fc.bias"]
    np.testing.assert_array_equal(net.conv2.weight.asnumpy(), before)


def test_one_dimensional_parameters_stay_dense_unless_asked_for(net):
    listed = {p.name: 0.5 for p in net.trainable_params()}  # the published loop over all parameters
    optimizer = mindspore.SGDSparse(net, 0.1, special_sparsity_dict=listed)
    reasons = {row.name: row.reason for row in optimizer.plan.rows if row.granularity is None}
    assert set(reasons) == {p.name for p in net.trainable_params() if len(p.shape) == 1}
    assert all("1-D" in reason for reason in reasons.values())
    optimizer = mindspore.SGDSparse(net, 0.1, target_sparsity=0.5, include_1d=True)
    train(optimizer)
    assert share(net.fc.bias) == share(net.bn1.gamma) == 0.5


def test_keywords_no_sparse(net):
    optimizer = mindspore.SGDSparse(net, 0.1, target_sparsity=0.5, keywords_no_sparse=["conv1", "never there"])
    train(optimizer)
    assert share(net.conv1.weight) == 0
    assert share(net.conv2.weight) == 0.5


def test_sparse_block_groups_input_channels():
    net = drawn(nn.SequentialCell(nn.Conv2d(8, 4, 3), nn.Conv2d(6, 4, 3), nn.Dense(8, 4)))
    optimizer = mindspore.SGDSparse(
        net, 0.1, target_sparsity=0.5, sparse_block={"1d": [1], "2d": [1, 1], "4d": [-1, 4, -1, 1]}
    )
    train(optimizer)
    tiles = net[0].weight.asnumpy().reshape(4, 2, 4, 3, 3)  # [out, group, 4, height, width]
    assert ((tiles == 0).sum((0, 2, 3)) == 4 * 4 * 3 // 2).all()
    assert share(net[1].weight) == 0  # 6 input channels: the published hardware rule leaves it dense
    assert share(net[2].weight) == 0.5


def test_float_frequency_as_the_published_scripts_pass(net):
    optimizer = mindspore.SGDSparse(net, 0.01, target_sparsity=0.8, pretrain_step=2, sparse_step=12, frequency=12 / 5)
    seen = []
    for step in range(16):
        train(optimizer, seed=step)
        seen.append(share(net.conv2.weight))
    changes = [step + 1 for step in range(1, 16) if seen[step] != seen[step - 1]]
    assert changes == [4, 6, 8, 10, 12, 14]  # the first update, at 2, is still at sparsity 0
    assert seen[-1] == pytest.approx(0.8, abs=1 / 576)


@pytest.mark.parametrize("form", ["object", "mapping", "text", "path"])
def test_recipe_argument(form, net, tmp_path):
    text = "sparsity: 0.5\ngranularity: 2:4\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    sources = {
        "object": Recipe(sparsity=0.5, granularity="2:4"),
        "mapping": {"sparsity": 0.5, "granularity": "2:4"},
        "text": text,
        "path": Path(path),
    }
    optimizer = mindspore.AdamSparse(net, recipe=sources[form])
    train(optimizer)
    groups = np.moveaxis(net.conv2.weight.asnumpy(), 1, -1).reshape(-1, 4)
    assert ((groups == 0).sum(1) == 2).all()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_misspelt_name_offers_the_nearest(net):
    with pytest.raises(UnknownNameError, match=r"special_sparsity_dict: 'conv1_weight' .* 'conv1.weight'"):
        mindspore.SGDSparse(net, special_sparsity_dict={"conv1_weight": 0.5})


def test_nan_weight_names_the_parameter_and_stays_due(net):
    optimizer = mindspore.SGDSparse(net, 0.1, target_sparsity=0.5)
    good = net.conv2.weight.asnumpy().copy()
    bad = good.copy()
    bad[0, 0, 0, 0] = np.nan
    net.conv2.weight.set_data(Tensor(bad))
    for _ in range(2):
        with pytest.raises(WeightError, match=r"conv2\.weight: 1 NaN and 0 infinite of 576"):
            train(optimizer)
    ms.ops.assign(net.conv2.weight, Tensor(good))
    train(optimizer)
    assert share(net.conv2.weight) == 0.5


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda n: mindspore.SGDSparse(n, target_sparsity=90), RecipeError, "0.9"),
        (lambda n: mindspore.SGDSparse(n, target_sparsity=0.5, recipe={}), TypeError, "not both"),
        (lambda n: mindspore.SGDSparse(n, target_sparcity=0.5), TypeError, "target_sparcity"),
        (lambda n: mindspore.SGDSparse(n, target_sparsity=0.5, prune_device="gpu"), RecipeError, "prune_device"),
        (lambda n: mindspore.SGDSparse(n, target_sparsity=0.5, score="magnitud"), RecipeError, "'magnitude'"),
        (lambda n: mindspore.SparseOptimizer(n, target_sparsity=0.5), TypeError, "mindspore.nn.Optimizer, got ConvNet"),
        (
            lambda n: mindspore.SparseOptimizer(nn.SGD(n.trainable_params()), n, lr=0.5),
            TypeError,
            "unknown arguments lr",
        ),
        (
            lambda n: mindspore.SGDSparse(n.trainable_params(), target_sparsity=0.5, param_name=mlp()),
            RecipeError,
            "another model",
        ),
        (
            lambda n: mindspore.SparseOptimizer(mindspore.SGDSparse(n, target_sparsity=0.5), target_sparsity=0.5),
            TypeError,
            "sparse already",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_explained(build, error, message, net):
    with pytest.raises(error, match=re.escape(message)):
        build(net)


def test_penalty_without_anything_to_prune_warns(net):
    with pytest.warns(UserWarning, match="L1"):
        mindspore.SGDSparse(net, 0.1, L1_regularization=True)


def test_plan_is_printable_and_says_why(net):
    optimizer = mindspore.SGDSparse(net, 0.1, target_sparsity=0.9375, granularity=BankBalanced(8))
    text = str(optimizer.plan)
    assert "conv1.weight  8x4x3x3  dense" in text
    assert "input channels (4)" in text
    assert "1-D (bias or normalisation)" in text


# --- devices ---------------------------------------------------------------------------------------------------------


def test_absent_devices_are_named_with_those_present():
    assert mindspore.devices()[-1] == "CPU"
    absent = next(target for target in ("Ascend", "GPU") if target not in mindspore.devices())
    present = re.escape(", ".join(mindspore.devices()))
    with pytest.raises(DeviceError, match=rf"device_target '{absent}' is not present; present here: {present}"):
        mindspore.use_device(absent)
    with pytest.raises(MopruningError, match=rf"'TPU' is none of Ascend, GPU, CPU; present here: {present}"):
        mindspore.use_device("TPU")
    mindspore.use_device(ms.get_context("device_target"))  # again, after computations


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_state_of_another_plan_is_refused(net, tmp_path):
    """Parameters of MindSpore load without asking; the pruner refuses them when it is asked next."""
    other = mindspore.MomentumSparse(drawn(ConvNet()), 0.1, 0.9, target_sparsity=0.9)
    train(other)
    ms.save_checkpoint(other, str(tmp_path / "other.ckpt"))
    optimizer = mindspore.MomentumSparse(net, 0.1, 0.9, target_sparsity=0.5, pretrain_step=3)
    ms.load_param_into_net(optimizer, ms.load_checkpoint(str(tmp_path / "other.ckpt")))
    with pytest.raises(StateError, match=r"another plan: conv1\.weight: target 0\.5 here, 0\.9 there"):
        _ = optimizer.pruner
    with pytest.raises(StateError, match="another plan"):
        train(optimizer, 3)


def test_network_checkpoint_is_plain(net, tmp_path):
    optimizer = mindspore.AdamSparse(net, target_sparsity=0.5)
    train(optimizer, 2)
    ms.save_checkpoint(net, str(tmp_path / "net.ckpt"))
    state = ms.load_checkpoint(str(tmp_path / "net.ckpt"))
    plain = ConvNet()
    assert set(state) == {p.name for p in plain.get_parameters()}
    assert ms.load_param_into_net(plain, state, strict_load=True) == ([], [])
    np.testing.assert_array_equal(plain.conv2.weight.asnumpy(), net.conv2.weight.asnumpy())
    assert share(plain.conv2.weight) == 0.5


def test_native_optimizer_loads_the_checkpoint_of_a_sparse_one(net, tmp_path):
    optimizer = mindspore.AdamSparse(net, target_sparsity=0.5)
    train(optimizer, 2)
    ms.save_checkpoint(optimizer, str(tmp_path / "training.ckpt"))
    twin = ConvNet()
    native = nn.Adam(twin.trainable_params())
    missing, _ = ms.load_param_into_net(native, ms.load_checkpoint(str(tmp_path / "training.ckpt")))
    assert missing == []
    for name, value in values(native).items():
        np.testing.assert_array_equal(value, values(optimizer)[name])
    again = mindspore.AdamSparse(twin, fix_sparsity=True)  # masks are read off the zeros
    train(again)
    np.testing.assert_array_equal(twin.conv2.weight.asnumpy() == 0, net.conv2.weight.asnumpy() == 0)


def test_checkpoint_of_a_dense_run_leaves_masks_alone(net, tmp_path):
    native = nn.Momentum(drawn(ConvNet(), seed=3).trainable_params(), 0.1, 0.9)
    train(native, 2)
    ms.save_checkpoint(native, str(tmp_path / "dense.ckpt"))
    optimizer = mindspore.MomentumSparse(net, 0.1, 0.9, target_sparsity=0.5, restore_sparsity=True)
    missing, _ = ms.load_param_into_net(optimizer, ms.load_checkpoint(str(tmp_path / "dense.ckpt")))
    assert {name.split(".")[0] for name in missing} == {"mopruning"}
    train(optimizer)
    assert share(net.conv2.weight) == 0.5
    assert not optimizer.moments[3].asnumpy()[net.conv2.weight.asnumpy() == 0].any()
