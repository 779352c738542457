"""PyTorch sparse optimizers in training: what surrounds them, and which path an update takes."""

from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mopruning.backends import pytorch  # noqa: E402
from tests.backends.pytorch_networks import Net, share, train  # noqa: E402


@pytest.fixture
def net(device):
    torch.manual_seed(0)
    return Net().to(device)


def by_hand(model, native, masks, steps):
    """Train with a native optimizer, masking gradients, weights and state by hand: what a sparse one must equal."""
    for step in range(steps):
        torch.manual_seed(step)
        native.zero_grad()
        model(torch.randn(4, 4, 8, 8, device=next(model.parameters()).device)).square().mean().backward()
        parameters = dict(model.named_parameters())
        for name, keep in masks.items():
            parameters[name].grad *= keep
        native.step()
        for name, keep in masks.items():
            parameters[name].data *= keep


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        ("Adam", {"lr": 0.01, "amsgrad": True}),
        ("AdamW", {"lr": 0.01}),
        ("Adagrad", {"lr": 0.1}),
    ],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_fast_path_is_masking_by_hand(name, options, layout, net):
    """With the implementation left open, CPU updates go through fused kernels; they must see the same numbers."""
    if layout == "channels_last":
        net = net.to(memory_format=torch.channels_last)
    net.eval()  # batch statistics would leave biases with gradients of pure rounding, which Adam blows up
    optimizer = getattr(pytorch, name + "Sparse")(net, target_sparsity=0.5, granularity="2:4", **options)
    train(net, optimizer)
    twin = copy.deepcopy(net)
    native = getattr(torch.optim, name)(twin.parameters(), foreach=False, **options)
    native.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # it would share the tensors
    masks = dict(optimizer.pruner.masks)
    train(net, optimizer, 4)
    by_hand(twin, native, masks, 4)
    for (key, one), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    assert optimizer.param_groups[0]["fused"] is None


def test_gradient_laid_out_otherwise_than_its_weight(device):
    """Torch's fused kernels take the memory of both in the same order; these must not get such a pair."""
    weight = nn.Parameter(torch.randn(8, 4, 3, 3, device=device).to(memory_format=torch.channels_last))
    twin = nn.Parameter(weight.detach().contiguous())
    optimizers = [pytorch.SGDSparse([("w", p)], lr=0.1, momentum=0.9, target_sparsity=0.5) for p in (weight, twin)]
    for step in range(3):
        torch.manual_seed(step)
        gradient = torch.randn(8, 4, 3, 3, device=device)
        weight.grad, twin.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(weight, twin)


def test_weight_with_gaps_spares_its_neighbours(device):
    memory = torch.randn(8, 16, device=device)
    before = memory.clone()
    weight = nn.Parameter(memory[:, ::2])
    optimizer = pytorch.SGDSparse([("w", weight)], lr=0.1, momentum=0.9, target_sparsity=0.5)
    for _ in range(3):
        weight.grad = torch.ones(8, 8, device=device)
        optimizer.step()
    assert torch.equal(memory[:, 1::2], before[:, 1::2])
    assert share(weight) == 0.5


# --- what surrounds an optimizer -------------------------------------------------------------------------------------


def test_groups_with_their_own_rates(net):
    groups = [
        {"params": [("conv2.weight", net.conv2.weight)], "lr": 0.0},
        {"params": [("fc.weight", net.fc.weight)], "lr": 0.5},
    ]
    before = net.conv2.weight.detach().clone()
    optimizer = pytorch.SGDSparse(groups, lr=0.1, target_sparsity=0.5, pretrain_step=2)
    train(net, optimizer)
    assert torch.equal(net.conv2.weight, before)
    train(net, optimizer, 3)
    assert share(net.conv2.weight) == share(net.fc.weight) == 0.5
    assert torch.equal(net.conv2.weight[net.conv2.weight != 0], before[net.conv2.weight != 0])


@pytest.mark.parametrize("wrapper", [False, True])
def test_added_group_is_pruned_from_the_next_update_on(wrapper, net):
    if wrapper:
        native = torch.optim.SGD(net.fc.parameters(), lr=0.1)
        optimizer = pytorch.SparseOptimizer(native, net, target_sparsity=0.5)
    else:
        optimizer = pytorch.SGDSparse(
            net.fc.parameters(), lr=0.1, param_name=net.named_parameters(), target_sparsity=0.5
        )
    train(net, optimizer)
    optimizer.add_param_group({"params": net.conv2.parameters(), "lr": 0.2})
    assert [row.name for row in optimizer.plan.pruned] == ["fc.weight", "conv2.weight"]
    before = net.fc.weight.detach() == 0
    train(net, optimizer, 2)  # the one update of this schedule is long past: it is done again for the newcomer
    assert share(net.conv2.weight) == 0.5
    assert torch.equal(net.fc.weight == 0, before)
    fresh = Net().to(net.fc.weight.device)
    resumed = pytorch.SGDSparse(fresh.fc.parameters(), lr=0.1, param_name=fresh.named_parameters(), target_sparsity=0.5)
    resumed.add_param_group({"params": fresh.conv2.parameters(), "lr": 0.2})
    resumed.load_state_dict(optimizer.state_dict())
    assert torch.equal(fresh.conv2.weight == 0, net.conv2.weight == 0)


@pytest.mark.parametrize("wrapper", [False, True])
@pytest.mark.parametrize("kind", ["LambdaLR", "OneCycleLR"])
def test_schedulers(kind, wrapper, net):
    if wrapper:
        native = torch.optim.SGD(net.named_parameters(), lr=0.1, momentum=0.9)
        optimizer = pytorch.SparseOptimizer(native, target_sparsity=0.5)
    else:
        optimizer = pytorch.SGDSparse(net.named_parameters(), lr=0.1, momentum=0.9, target_sparsity=0.5)
    reference = torch.optim.SGD(Net().parameters(), lr=0.1, momentum=0.9)
    make = {
        "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
        "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=8),
    }[kind]
    scheduler, expected = make(optimizer), make(reference)
    for _ in range(6):
        train(net, optimizer)
        scheduler.step()
        reference.step()
        expected.step()
        assert scheduler.get_last_lr() == expected.get_last_lr()
        assert optimizer.param_groups[0]["momentum"] == reference.param_groups[0]["momentum"]
    assert share(net.conv2.weight) == 0.5


@pytest.mark.parametrize("wrapper", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_gradient_scaler(fused, wrapper, net):
    """Scaled by a power of two, training goes as without; an overflow counts no update."""
    options = {"lr": 0.1, "momentum": 0.9, "fused": fused}
    sparsity = {
        "target_sparsity": 0.5,
        "sparse_step": 4,
        "frequency": 2,
        "score": "movement",
        "L1_regularization": 0.01,
    }

    def build(model):
        if wrapper:
            return pytorch.SparseOptimizer(torch.optim.SGD(model.named_parameters(), **options), **sparsity)
        return pytorch.SGDSparse(model, **options, **sparsity)

    twin = copy.deepcopy(net)
    optimizer, plain = build(net), build(twin)
    device = net.fc.weight.device
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, growth_interval=2)
    counted = []
    for step in range(8):
        torch.manual_seed(step)
        batch = torch.randn(4, 4, 8, 8, device=device)
        net.eval(), twin.eval()  # statistics of normalisation must not see the overflow twice
        optimizer.zero_grad()
        scaler.scale(net(batch).square().mean()).backward()
        if step == 3:
            net.fc.weight.grad[0, 0] = math.inf
        else:
            plain.zero_grad()
            twin(batch).square().mean().backward()
            plain.step()
        scaler.step(optimizer)
        scaler.update()
        counted.append(optimizer.pruner.steps)
    assert counted == [1, 2, 3, 3, 4, 5, 6, 7]
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
    assert share(net.conv2.weight) == 0.5


@pytest.mark.parametrize("wrapper", [False, True])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none, wrapper, net):
    options = {"lr": 0.1, "momentum": 0.9}
    if wrapper:
        optimizer = pytorch.SparseOptimizer(torch.optim.SGD(net.named_parameters(), **options), target_sparsity=0.5)
    else:
        optimizer = pytorch.SGDSparse(net, target_sparsity=0.5, **options)
    train(net, optimizer, 2)
    optimizer.zero_grad(set_to_none=set_to_none)
    gradients = [p.grad for p in net.parameters()]
    assert all(g is None if set_to_none else not g.any() for g in gradients)
    optimizer.step()
    assert share(net.conv2.weight) == 0.5


def test_lbfgs_forgets_directions_from_before_the_masks(device):
    """After a mask update it goes on as a fresh one would that sees masked weights and slopes."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(6, 4).to(device), torch.randn(8, 6, device=device)
    options = {"lr": 0.5, "max_iter": 3, "history_size": 2}
    optimizer = pytorch.LBFGSSparse(model, target_sparsity=0.5, pretrain_step=2, **options)

    def closure_of(module, keep=None):
        def closure():
            module.zero_grad()
            loss = (module(inputs) - 1.0).pow(4).mean()
            loss.backward()
            if keep is not None:
                module.weight.grad *= keep
            return loss

        return closure

    for _ in range(2):
        optimizer.step(closure_of(model))
    keep = model.weight.detach() != 0
    assert int(keep.sum()) == 12
    twin = copy.deepcopy(model)
    fresh = torch.optim.LBFGS(twin.parameters(), **options)
    for _ in range(3):
        optimizer.step(closure_of(model))
        fresh.step(closure_of(twin, keep))
        assert torch.equal(model.weight, twin.weight)
        assert torch.equal(model.weight == 0, ~keep)


@pytest.mark.parametrize("positional", [True, False])
@pytest.mark.parametrize("wrapper", [True, False])
def test_closures(positional, wrapper, net):
    optimizer = pytorch.SGDSparse(net, lr=0.1, momentum=0.9, target_sparsity=0.5, score="taylor")
    if wrapper:
        optimizer = pytorch.SparseOptimizer(
            torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net, target_sparsity=0.5, score="taylor"
        )
    batch = torch.randn(4, 4, 8, 8, device=net.fc.weight.device)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = net(batch).square().mean()
        loss.backward()
        return loss

    for _ in range(5):
        loss = optimizer.step(closure) if positional else optimizer.step(closure=closure)
        losses.append(loss.item())
        assert share(net.conv2.weight) == 0.5
    assert losses[-1] < losses[1]


def test_an_update_that_raises_leaves_no_trace(net):
    optimizer = pytorch.SGDSparse(net, lr=0.1, momentum=0.9, target_sparsity=0.5)
    train(net, optimizer, 2)

    def closure():
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        optimizer.step(closure)
    assert optimizer.pruner.steps == 2
    net.conv2.weight.grad = net.conv2.weight.grad.clone(memory_format=torch.channels_last)  # unfit for fused kernels
    with pytest.raises(ArithmeticError):
        optimizer.step(closure)
    assert optimizer.param_groups[0]["fused"] is None
    train(net, optimizer)
    assert optimizer.pruner.steps == 3
    assert share(net.conv2.weight) == 0.5


def test_tied_weights_are_one_parameter(device):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(16, 8)
            self.head = nn.Linear(8, 16, bias=False)
            self.head.weight = self.embed.weight

    model = Tied().to(device)
    optimizer = pytorch.SGDSparse(model, lr=0.1, special_sparsity_dict={"head.weight": 0.5})  # the second name of it
    assert [(row.name, row.target) for row in optimizer.plan.rows] == [("embed.weight", 0.5)]
    model.head(model.embed(torch.arange(16, device=device))).square().mean().backward()
    optimizer.step()
    assert model.head.weight is model.embed.weight
    assert share(model.head.weight) == 0.5
    with pytest.raises(ValueError, match="tied"):
        pytorch.SGDSparse(model, lr=0.1, special_sparsity_dict={"head.weight": 0.5, "embed.weight": 0.25})


def test_frozen_layers_stay_dense_unless_named(net):
    net.conv1.requires_grad_(False)
    net.conv2.requires_grad_(False)
    before = net.conv1.weight.clone()
    optimizer = pytorch.SGDSparse(net, lr=0.1, target_sparsity=0.5, special_sparsity_dict={"conv2.weight": 0.75})
    assert {row.name: row.reason for row in optimizer.plan.rows}["conv1.weight"] == "frozen"
    train(net, optimizer, 2)
    assert torch.equal(net.conv1.weight, before)
    assert share(net.conv2.weight) == 0.75


def test_missing_gradients_are_passed_over(net):
    optimizer = pytorch.AdamSparse(net, lr=0.1, target_sparsity=0.5)
    before = net.conv2.weight.detach().clone()
    for _ in range(3):
        net.fc.weight.grad = torch.ones_like(net.fc.weight)
        optimizer.step()
    kept = net.conv2.weight != 0
    assert share(net.conv2.weight) == share(net.fc.weight) == 0.5
    assert torch.equal(net.conv2.weight[kept], before[kept])


@pytest.mark.slow
def test_compiled_model(net, device):
    compiled = torch.compile(net, backend="eager")
    optimizer = pytorch.SGDSparse(compiled.named_parameters(), lr=0.1, special_sparsity_dict={"conv2.weight": 0.5})
    assert [row.name for row in optimizer.plan.pruned] == ["_orig_mod.conv2.weight"]
    train(compiled, optimizer, 2)
    assert share(net.conv2.weight) == 0.5
    plain = pytorch.SGDSparse(net, lr=0.1, special_sparsity_dict={"_orig_mod.conv2.weight": 0.5})
    assert [row.name for row in plain.plan.pruned] == ["conv2.weight"]
