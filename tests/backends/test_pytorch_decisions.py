"""What PyTorch sparse optimizers decide, on all kinds of parameters and gradients, and what they continue from."""

from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mopruning.backends import pytorch  # noqa: E402
from mopruning.errors import StateError  # noqa: E402
from tests.backends.pytorch_networks import Net, share, train, zeros  # noqa: E402


@pytest.fixture
def net(device):
    torch.manual_seed(0)
    return Net().to(device)


@pytest.mark.parametrize(
    ("native", "options"),
    [
        ("SGD", {"lr": 0.5}),
        ("SGD", {"lr": 0.5, "momentum": 0.9}),
        ("Adagrad", {"lr": 0.5}),
        ("SparseAdam", {"lr": 0.5}),
    ],
    ids=["SGD", "SGD-momentum", "Adagrad", "SparseAdam"],
)
@pytest.mark.parametrize("score", ["magnitude", "movement"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # torch's own, of Adagrad
def test_sparse_gradients_of_embeddings(native, options, score, device):
    torch.manual_seed(0)
    model = nn.Embedding(32, 8, sparse=True).to(device)
    inner = getattr(torch.optim, native)(model.parameters(), **options)
    optimizer = pytorch.SparseOptimizer(inner, model, target_sparsity=0.5, sparse_step=4, frequency=2, score=score)
    for step in range(8):
        optimizer.zero_grad()
        rows = torch.tensor([3, 5, 5, 8 + step, 31], device=device)  # one of them twice: the gradient is not coalesced
        (model(rows) - 1.0).square().sum().backward()
        assert model.weight.grad.is_sparse
        optimizer.step()
        if optimizer.pruner.masks:
            pruned = ~torch.as_tensor(optimizer.pruner.masks["weight"], device=device)
            assert not model.weight[pruned].any()
            for values in inner.state[model.weight].values():
                if isinstance(values, torch.Tensor) and values.shape == model.weight.shape:
                    assert not values.to_dense()[pruned].any()
    assert share(model.weight) == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_dtypes(name, dtype, device):
    torch.manual_seed(0)
    model = nn.Linear(16, 8).to(device, dtype)
    optimizer = getattr(pytorch, name + "Sparse")(model, lr=0.1, target_sparsity=0.75, granularity="1:4")
    for step in range(4):
        optimizer.zero_grad()
        model(torch.ones(2, 16, device=device, dtype=dtype)).square().sum().backward()
        optimizer.step()
        assert ((model.weight.reshape(-1, 4) != 0).sum(1) == 1).all(), step
        assert model.weight.isfinite().all()
    assert model.weight.dtype == dtype


def test_vanishing_epsilon_makes_no_nan(device):
    """At pruned weights Adam divides 0 by 0 + eps."""
    for options in ({"eps": 0.0}, {"eps": 0.0, "foreach": True}, {"eps": 0.0, "foreach": False}):
        weight = nn.Parameter(torch.randn(8, 8, device=device))
        optimizer = pytorch.AdamSparse([("w", weight)], lr=0.1, target_sparsity=0.5, **options)
        for _ in range(3):
            weight.grad = torch.randn_like(weight)
            optimizer.step()
            assert share(weight) == 0.5
            assert weight.isfinite().all()


def test_channels_last_weights_keep_their_layout(net):
    net = net.to(memory_format=torch.channels_last)
    optimizer = pytorch.SGDSparse(net, lr=0.1, momentum=0.9, target_sparsity=0.5, granularity="bank:4")
    train(net, optimizer, 3)
    weight = net.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert ((weight.movedim(1, -1).reshape(-1, 4) == 0).sum(1) == 2).all()


def test_bank_balance_follows_transposed_convolutions(device):
    """Named by `named_parameters()` alone, the module behind it still tells how the weight lies."""
    model = nn.Sequential(nn.ConvTranspose2d(8, 3, 3), nn.Conv2d(3, 4, 1)).to(device)
    forms = [
        lambda: pytorch.SGDSparse(model.named_parameters(), lr=0.1, target_sparsity=0.5, granularity="bank:4"),
        lambda: pytorch.SGDSparse(
            model.parameters(), param_name=model.named_parameters(), target_sparsity=0.5, granularity="bank:4"
        ),
        lambda: pytorch.SparseOptimizer(
            torch.optim.SGD(model.parameters()), model.named_parameters(), target_sparsity=0.5, granularity="bank:4"
        ),
    ]
    for form in forms:
        model[0].reset_parameters()
        optimizer = form()
        assert {row.name: row.shape for row in optimizer.plan.rows}["0.weight"] == (3, 8, 3, 3)
        model[0].weight.grad = torch.zeros_like(model[0].weight)
        optimizer.step()
        banks = model[0].weight.reshape(2, 4, -1)
        assert ((banks == 0).sum(1) == 2).all()


@pytest.mark.parametrize("score", ["movement", "taylor", "fpgm", "bn_scale", "random"])
def test_scores(score, net):
    if score == "bn_scale":
        with torch.no_grad():
            net.bn2.weight.copy_(torch.arange(8, 0, -1))
    expected = {}
    if score in ("movement", "taylor"):
        torch.manual_seed(0)
        net(torch.randn(4, 4, 8, 8, device=net.fc.weight.device)).square().mean().backward()
        product = net.conv2.weight.detach() * net.conv2.weight.grad
        ranked = -product if score == "movement" else product.abs()
        expected["conv2.weight"] = ranked.flatten().argsort(stable=True)[:288]
    skip = {"skip": ["fc.weight"]} if score == "bn_scale" else {}  # no normalisation follows the classifier
    granularity = "filter" if score in ("fpgm", "bn_scale") else "unstructured"
    optimizer = pytorch.SGDSparse(net, lr=0.1, target_sparsity=0.5, score=score, granularity=granularity, **skip)
    train(net, optimizer)
    assert share(net.conv2.weight) == 0.5
    if expected:
        assert not net.conv2.weight.flatten()[expected["conv2.weight"]].any()
    if score == "bn_scale":
        assert not net.conv2.weight[4:].any()
        assert net.conv2.weight[:4].all()
    train(net, optimizer, 2)
    assert share(net.conv2.weight) == 0.5


def test_score_of_gradients_without_gradients_is_explained(net):
    optimizer = pytorch.SGDSparse(net, lr=0.1, target_sparsity=0.5, score="movement")
    with pytest.raises(StateError, match=r"conv1\.weight.*backward"):
        optimizer.step()


@pytest.mark.parametrize("allocation", ["erk", "global", "lamp"])
def test_allocations(allocation, net):
    with torch.no_grad():
        net.conv2.weight.mul_(0.01)
    optimizer = pytorch.SGDSparse(net, lr=0.0, target_sparsity=0.75, allocation=allocation)
    train(net, optimizer)
    pruned = [net.conv1.weight, net.conv2.weight, net.fc.weight]
    total = sum(p.numel() for p in pruned)
    assert sum(zeros(p) for p in pruned) == math.floor(0.75 * total)
    assert {row.target is None for row in optimizer.plan.pruned} == {allocation != "erk"}
    if allocation == "global":
        assert share(net.conv2.weight) == 1.0
    else:
        assert share(net.fc.weight) < share(net.conv2.weight) < 1.0


def test_l1_regularisation_adds_its_gradient(net):
    twin = copy.deepcopy(net)
    penalised = pytorch.SGDSparse(net, lr=0.5, target_sparsity=0.5, pretrain_step=2, L1_regularization=0.125)
    plain = pytorch.SGDSparse(twin, lr=0.5, target_sparsity=0.5, pretrain_step=2)
    before = twin.conv2.weight.detach().clone()
    train(net, penalised)
    train(twin, plain)
    torch.testing.assert_close(net.conv2.weight, twin.conv2.weight - 0.5 * 0.125 * before.sign())
    assert torch.equal(net.fc.bias, twin.fc.bias)
    assert pytorch.SGDSparse(net, target_sparsity=0.5, L1_regularization=True)._sparsifier.recipe.l1 == 1e-5


def sparse_net(net, granularity="unstructured"):
    train(net, pytorch.SGDSparse(net, lr=0.1, target_sparsity=0.5, granularity=granularity))
    assert share(net.conv2.weight) == 0.5
    return net


def test_restore_sparsity_ramps_on_from_the_zeros_there(net):
    was_zero = (sparse_net(net).conv2.weight == 0).clone()
    optimizer = pytorch.SGDSparse(
        net, lr=0.1, target_sparsity=0.9, sparse_step=8, frequency=2, restore_sparsity=True, momentum=0.9
    )
    shares = []
    for seed in range(10):
        train(net, optimizer, seed=seed)
        assert not net.conv2.weight[was_zero].any()
        shares.append(share(net.conv2.weight))
    assert shares[0] == 0.5
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.9, abs=1 / 576)


@pytest.mark.parametrize("how", [{"fix_sparsity": True}, {"restore_sparsity": True}, {"finetune": True}])
def test_fix_sparsity_keeps_the_zeros_there(how, net):
    was_zero = (sparse_net(net).conv2.weight == 0).clone()
    before = net.conv2.weight.detach().clone()
    optimizer = pytorch.AdamSparse(net, lr=0.1, **how)
    train(net, optimizer, 3)
    assert torch.equal(net.conv2.weight == 0, was_zero)
    assert not torch.equal(net.conv2.weight, before)


def test_fixed_sparsity_survives_the_state_of_a_dense_run(net):
    dense = torch.optim.Adam(net.parameters(), lr=0.1)
    train(net, dense, 2)
    sparse_net(net)
    was_zero = (net.conv2.weight == 0).clone()
    optimizer = pytorch.AdamSparse(net.parameters(), lr=0.1, fix_sparsity=True)
    with pytest.warns(UserWarning, match="no sparsity section"):
        optimizer.load_state_dict(dense.state_dict())
    train(net, optimizer, 2)
    assert torch.equal(net.conv2.weight == 0, was_zero)


def test_misspelt_finetune_of_the_published_tool(net):
    sparse_net(net)
    with pytest.warns(DeprecationWarning, match="finetune"):
        optimizer = pytorch.SGDSparse(net, lr=0.1, fineune=True)
    train(net, optimizer, 2)
    assert share(net.conv2.weight) == 0.5
