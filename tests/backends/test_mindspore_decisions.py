"""What MindSpore sparse optimizers decide, on all kinds of parameters, and what they continue from."""

from __future__ import annotations

import math

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Parameter, Tensor, nn, ops  # noqa: E402

from mopruning.backends import mindspore  # noqa: E402
from mopruning.errors import RecipeError  # noqa: E402
from tests.backends.mindspore_networks import ConvNet, drawn, gradients, mlp, share  # noqa: E402
from tests.backends.test_mindspore_weights import Tied  # noqa: E402


@pytest.fixture
def net():
    return drawn(ConvNet())


def train(optimizer, steps=1, seed=0):
    for step in range(steps):
        optimizer(gradients(optimizer, 1000 * seed + step))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("name", ["SGD", "Momentum"])
def test_dtypes(name, dtype):
    weight = Parameter(Tensor(np.random.default_rng(0).standard_normal((8, 16)).astype(dtype)), name="w")
    native = {"SGD": {}, "Momentum": {"momentum": 0.5}}[name]
    if dtype is np.float64 and name == "SGD":
        optimizer = mindspore.SparseOptimizer(Descent([weight]), target_sparsity=0.75, granularity="1:4")
    else:
        cls = getattr(mindspore, name + "Sparse")
        optimizer = cls([weight], learning_rate=0.1, target_sparsity=0.75, granularity="1:4", **native)
    for step in range(3):
        optimizer((Tensor(np.random.default_rng(step).standard_normal((8, 16)).astype(dtype)),))
        assert ((weight.asnumpy().reshape(-1, 4) != 0).sum(1) == 1).all(), step
    assert weight.asnumpy().dtype == dtype


class Descent(nn.Optimizer):
    """Plain gradient descent, for dtypes that MindSpore's own has no kernel for."""

    def __init__(self, params):
        super().__init__(0.1, params)

    def construct(self, gradients):
        for p, gradient in zip(self.parameters, gradients):  # noqa: B905  graphs know no strict zip
            ops.assign(p, p - 0.1 * gradient)
        return True


@pytest.mark.parametrize("score", ["movement", "taylor", "fpgm", "bn_scale", "random"])
def test_scores(score, net):
    if score == "bn_scale":
        net.bn1.gamma.set_data(Tensor(np.arange(8, 0, -1, dtype=np.float32)))
    skip = {"skip": ["conv2.weight", "fc.weight"]} if score == "bn_scale" else {}  # no normalisation follows these
    granularity = "filter" if score in ("fpgm", "bn_scale") else "unstructured"
    before = net.conv1.weight.asnumpy().copy()
    optimizer = mindspore.SGDSparse(net, 0.0, target_sparsity=0.5, score=score, granularity=granularity, **skip)
    slopes = gradients(optimizer)
    optimizer(slopes)
    weight = net.conv1.weight.asnumpy()
    assert share(net.conv1.weight) == 0.5
    if score in ("movement", "taylor"):
        product = before * slopes[0].asnumpy()
        expected = (-product if score == "movement" else np.abs(product)).ravel().argsort(kind="stable")[:144]
        assert not weight.ravel()[expected].any()
    if score == "bn_scale":
        assert not weight[4:].any()
        assert weight[:4].all()
    train(optimizer, 2)
    assert share(net.conv1.weight) == 0.5


@pytest.mark.parametrize("allocation", ["erk", "global", "lamp"])
def test_allocations(allocation, net):
    net.conv2.weight.set_data(Tensor(net.conv2.weight.asnumpy() * np.float32(0.01)))
    optimizer = mindspore.SGDSparse(net, 0.0, target_sparsity=0.75, allocation=allocation)
    train(optimizer)
    pruned = [net.conv1.weight, net.conv2.weight, net.fc.weight]
    total = sum(p.size for p in pruned)
    assert sum(int((p.asnumpy() == 0).sum()) for p in pruned) == math.floor(0.75 * total)
    if allocation == "global":
        assert share(net.conv2.weight) == 1.0
    else:
        assert share(net.fc.weight) < share(net.conv2.weight) < 1.0


def test_rates_and_decay_of_groups(net):
    """Each group keeps its own; a rate of 0 moves nothing but what is pruned."""
    groups = [
        {"params": [net.conv2.weight], "lr": 0.0},
        {"params": [net.fc.weight], "lr": 0.5, "weight_decay": 0.1},
    ]
    before = net.conv2.weight.asnumpy().copy()
    optimizer = mindspore.SGDSparse(groups, 0.1, param_name=net, target_sparsity=0.5, pretrain_step=2)
    train(optimizer)
    np.testing.assert_array_equal(net.conv2.weight.asnumpy(), before)
    train(optimizer, 3)
    kept = net.conv2.weight.asnumpy() != 0
    assert kept.mean() == 1 - share(net.fc.weight) == 0.5
    np.testing.assert_array_equal(net.conv2.weight.asnumpy()[kept], before[kept])


@pytest.mark.parametrize("kind", ["list", "schedule"])
def test_dynamic_learning_rates(kind):
    rates = [0.4, 0.2, 0.1, 0.05]
    learning_rate = {"list": rates, "schedule": nn.ExponentialDecayLR(0.4, 0.5, 1)}[kind]
    net, twin = mlp(), mlp()
    optimizer = mindspore.SGDSparse(net, learning_rate, target_sparsity=0.5, pretrain_step=3)
    native = nn.SGD(twin.trainable_params(), learning_rate)
    for seed in range(4):
        optimizer(gradients(native, seed))
        native(gradients(native, seed))
        if seed < 2:
            np.testing.assert_array_equal(net[0].weight.asnumpy(), twin[0].weight.asnumpy())
    assert share(net[0].weight) == 0.5
    kept = net[0].weight.asnumpy() != 0
    np.testing.assert_array_equal(net[0].weight.asnumpy()[kept], twin[0].weight.asnumpy()[kept])


def test_bank_balance_follows_transposed_convolutions():
    net = drawn(nn.SequentialCell(nn.Conv2dTranspose(8, 3, 3), nn.Conv1d(8, 4, 3)))
    optimizer = mindspore.SGDSparse(net, 0.1, target_sparsity=0.5, granularity="bank:4")
    assert {row.name: row.shape for row in optimizer.plan.rows} == {"0.weight": (3, 8, 3, 3), "1.weight": (4, 8, 3)}
    train(optimizer)
    assert ((net[0].weight.asnumpy().reshape(2, 4, -1) == 0).sum(1) == 2).all()
    assert ((net[1].weight.asnumpy().reshape(4, 2, 4, 3) == 0).sum(2) == 2).all()


def test_tied_weights_are_one_parameter():
    net = drawn(Tied())
    optimizer = mindspore.SGDSparse(net, 0.1, special_sparsity_dict={"head.weight": 0.5})  # the second name of it
    assert [(row.name, row.target) for row in optimizer.plan.rows] == [("embed.embedding_table", 0.5)]
    train(optimizer)
    assert share(net.head.weight) == share(net.embed.embedding_table) == 0.5
    with pytest.raises(RecipeError, match="tied"):
        mindspore.SGDSparse(net, special_sparsity_dict={"head.weight": 0.5, "embed.embedding_table": 0.25})


def test_frozen_layers_are_not_the_optimizers():
    net = mlp()
    net[0].weight.requires_grad = False
    optimizer = mindspore.SGDSparse(net, 0.1, target_sparsity=0.5)
    assert [row.name for row in optimizer.plan.rows] == ["0.bias", "2.weight", "2.bias"]
    plan = mindspore.Prune(net, recipe={"sparsity": 0.5}).plan
    assert {row.name: row.reason for row in plan.rows}["0.weight"] == "frozen"


class Lookup(nn.Cell):
    def __init__(self):
        super().__init__()
        self.embed = nn.EmbeddingLookup(32, 8, sparse=True, target="CPU")

    def construct(self, rows):
        return ops.reduce_sum((self.embed(rows) - 1.0) ** 2)


@pytest.mark.parametrize("penalty", [0.0, 0.125])
def test_gradients_of_some_rows_of_an_embedding(penalty, tmp_path, monkeypatch):
    """MindSpore makes such gradients in graphs alone; LazyAdam updates the rows that they name."""
    monkeypatch.chdir(tmp_path)
    ms.set_context(mode=ms.GRAPH_MODE)
    net = drawn(Lookup())
    table = net.embed.embedding_table
    before = table.asnumpy().copy()
    native = nn.LazyAdam(net.trainable_params(), 0.01)
    native.target = "CPU"
    optimizer = mindspore.SparseOptimizer(
        native, net, target_sparsity=0.5, pretrain_step=1, sparse_step=2, frequency=1, L1_regularization=penalty
    )
    cell = nn.TrainOneStepCell(net, optimizer)
    for step in range(5):
        cell(Tensor([3, 5, 5, 8 + step, 31], ms.int32))  # one of them twice
        pruned = ~optimizer.pruner.masks["embed.embedding_table"]
        for one in (table, native.moment1[0], native.moment2[0]):
            assert not one.asnumpy()[pruned].any()
        if step == 0:
            moved = (table.asnumpy() != before).any(1)
            assert moved.all() if penalty else set(np.flatnonzero(moved)) == {3, 5, 8, 31}
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert share(table) == 0.5


def sparse_net(net):
    train(mindspore.SGDSparse(net, 0.1, target_sparsity=0.5))
    assert share(net.conv2.weight) == 0.5
    return net


def test_restore_sparsity_ramps_on_from_the_zeros_there(net):
    was_zero = sparse_net(net).conv2.weight.asnumpy() == 0
    optimizer = mindspore.SGDSparse(
        net, 0.1, 0.9, target_sparsity=0.9, sparse_step=8, frequency=2, restore_sparsity=True
    )
    shares = []
    for seed in range(10):
        train(optimizer, seed=seed)
        assert not net.conv2.weight.asnumpy()[was_zero].any()
        shares.append(share(net.conv2.weight))
    assert shares[0] == 0.5
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.9, abs=1 / 576)


def test_restored_ramp_survives_a_checkpoint(net, tmp_path):
    """The sparsity that a ramp began with is part of the checkpoint, for the network there may be another by now."""
    arguments = {"target_sparsity": 0.9, "sparse_step": 8, "frequency": 2, "restore_sparsity": True}
    optimizer = mindspore.MomentumSparse(sparse_net(net), 0.1, 0.9, **arguments)
    train(optimizer, 3)
    ms.save_checkpoint(optimizer, str(tmp_path / "run.ckpt"))
    train(optimizer, 5, seed=1)
    other = drawn(ConvNet(), seed=5)
    resumed = mindspore.MomentumSparse(other, 0.1, 0.9, **arguments)
    ms.load_param_into_net(resumed, ms.load_checkpoint(str(tmp_path / "run.ckpt")))
    train(resumed, 5, seed=1)
    for one, two in zip(resumed.get_parameters(), optimizer.get_parameters(), strict=True):
        np.testing.assert_array_equal(one.asnumpy(), two.asnumpy(), one.name)


@pytest.mark.parametrize("how", [{"fix_sparsity": True}, {"restore_sparsity": True}, {"finetune": True}])
def test_fix_sparsity_keeps_the_zeros_there(how, net):
    was_zero = sparse_net(net).conv2.weight.asnumpy() == 0
    before = net.conv2.weight.asnumpy().copy()
    optimizer = mindspore.AdamSparse(net, 0.1, **how)
    train(optimizer, 3)
    np.testing.assert_array_equal(net.conv2.weight.asnumpy() == 0, was_zero)
    assert not np.array_equal(net.conv2.weight.asnumpy(), before)


def test_misspelt_finetune_of_the_published_tool(net):
    sparse_net(net)
    with pytest.warns(DeprecationWarning, match="finetune"):
        optimizer = mindspore.SGDSparse(net, 0.1, fineune=True)
    train(optimizer, 2)
    assert share(net.conv2.weight) == 0.5
