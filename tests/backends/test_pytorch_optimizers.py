"""How a PyTorch sparse optimizer is made: call forms, names, plans, errors, copies."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mopruning import BankBalanced, Recipe  # noqa: E402
from mopruning.backends import pytorch  # noqa: E402
from mopruning.errors import RecipeError, StateError, UnknownNameError, WeightError  # noqa: E402
from tests.backends import pytorch_harness  # noqa: E402
from tests.backends.pytorch_networks import Net, share, train, zeros  # noqa: E402

CLASSES = [name for name in pytorch.__all__ if name.endswith("Sparse")]


@pytest.fixture
def net(device):
    torch.manual_seed(0)
    return Net().to(device)


# --- classes ---------------------------------------------------------------------------------------------------------


def test_every_optimizer_of_torch_has_a_sparse_class():
    native = {n for n, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)}
    # SparseAdam takes sparse gradients only, and keeps moments for the rows it has met: SparseOptimizer wraps it.
    assert {name + "Sparse" for name in native - {"Optimizer", "SparseAdam"}} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_contract_covers_every_class_and_native_argument(name):
    native = getattr(torch.optim, name.removesuffix("Sparse"))
    arguments = set(inspect.signature(native).parameters) - {"params"}
    on_gpus_or_in_graphs_only = {"capturable", "differentiable"}
    covered = {key for case in pytorch_harness.CASES if case.cls == name for key in case.options}
    assert covered == arguments - on_gpus_or_in_graphs_only


@pytest.mark.parametrize("name", CLASSES)
def test_signature_is_the_native_one_and_the_sparse_arguments(name):
    native = inspect.signature(getattr(torch.optim, name.removesuffix("Sparse"))).parameters
    shown = inspect.signature(getattr(pytorch, name)).parameters
    assert list(shown)[: len(native)] == list(native)
    assert {key: shown[key].default for key in native} == {key: value.default for key, value in native.items()}
    assert {"param_name", "recipe", "target_sparsity", "granularity", "fix_sparsity"} <= set(shown) - set(native)


def test_sparse_arguments_clash_with_no_native_one():
    from mopruning.sparse_arguments import SPARSE_ARGUMENTS

    for name in CLASSES:
        native = inspect.signature(getattr(torch.optim, name.removesuffix("Sparse"))).parameters
        assert not SPARSE_ARGUMENTS & set(native)


# --- call forms ------------------------------------------------------------------------------------------------------

FORMS = {
    "named": lambda m, **a: pytorch.SGDSparse(m.named_parameters(), **a),
    "named list": lambda m, **a: pytorch.SGDSparse(list(m.named_parameters()), **a),
    "module": lambda m, **a: pytorch.SGDSparse(m, **a),
    "published": lambda m, **a: pytorch.SGDSparse(m.parameters(), param_name=m.named_parameters(), **a),
    "parameters": lambda m, **a: pytorch.SGDSparse(m.parameters(), **a),
    "names of a module": lambda m, **a: pytorch.SGDSparse(list(m.parameters()), param_name=m, **a),
    "groups": lambda m, **a: pytorch.SGDSparse(
        [{"params": m.conv1.parameters()}, {"params": [*m.bn1.parameters(), *list(m.parameters())[4:]]}],
        param_name=m.named_parameters(),
        **a,
    ),
    "named groups": lambda m, **a: pytorch.SGDSparse([{"params": m.named_parameters(), "lr": 0.2}], **a),
    "wrapper": lambda m, lr, **a: pytorch.SparseOptimizer(torch.optim.SGD(m.named_parameters(), lr=lr), **a),
    "wrapper with names": lambda m, lr, **a: pytorch.SparseOptimizer(
        torch.optim.SGD(m.parameters(), lr=lr), m.named_parameters(), **a
    ),
    "wrapper with module": lambda m, lr, **a: pytorch.SparseOptimizer(torch.optim.SGD(m.parameters(), lr=lr), m, **a),
}


@pytest.mark.parametrize("form", FORMS)
def test_call_forms_agree(form, net):
    optimizer = FORMS[form](net, lr=0.1, target_sparsity=0.5, special_sparsity_dict={"fc.weight": 0.75})
    train(net, optimizer)
    assert {row.name for row in optimizer.plan.pruned} == {"conv1.weight", "conv2.weight", "fc.weight"}
    assert (share(net.conv1.weight), share(net.conv2.weight), share(net.fc.weight)) == (0.5, 0.5, 0.75)
    assert share(net.fc.bias) == 0


def test_parameters_without_names_are_called_by_their_place(net):
    optimizer = pytorch.SGDSparse(list(net.parameters()), lr=0.1, target_sparsity=0.5)
    assert [row.name for row in optimizer.plan.pruned] == ["group0.param0", "group0.param4", "group0.param8"]
    train(net, optimizer)
    assert share(net.conv2.weight) == 0.5


def test_parameters_outside_the_optimizer_are_left_alone(net):
    before = net.conv2.weight.detach().clone()
    optimizer = pytorch.SGDSparse(net.fc.parameters(), lr=0.1, target_sparsity=0.5, param_name=net.named_parameters())
    train(net, optimizer)
    assert [row.name for row in optimizer.plan.rows] == ["fc.weight", "fc.bias"]
    assert torch.equal(net.conv2.weight, before)


def test_one_dimensional_parameters_stay_dense_unless_asked_for(net):
    listed = {name: 0.5 for name, _ in net.named_parameters()}  # the published loop over all parameters
    optimizer = pytorch.SGDSparse(net, lr=0.1, special_sparsity_dict=listed)
    reasons = {row.name: row.reason for row in optimizer.plan.rows if row.granularity is None}
    assert set(reasons) == {name for name, p in net.named_parameters() if p.dim() == 1}
    assert all("1-D" in reason for reason in reasons.values())
    train(net, optimizer)
    assert zeros(net.fc.bias) == 0

    optimizer = pytorch.SGDSparse(net, lr=0.1, target_sparsity=0.5, include_1d=True)
    train(net, optimizer)
    assert zeros(net.fc.bias) == 3
    assert zeros(net.bn1.weight) == 4


def test_keywords_no_sparse(net):
    optimizer = pytorch.SGDSparse(net, lr=0.1, target_sparsity=0.5, keywords_no_sparse=["conv1", "never there"])
    train(net, optimizer)
    assert share(net.conv1.weight) == 0
    assert share(net.conv2.weight) == 0.5


def test_sparse_block_groups_input_channels(device):
    model = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Conv2d(6, 4, 3), nn.Linear(8, 4)).to(device)
    optimizer = pytorch.SGDSparse(
        model, lr=0.1, target_sparsity=0.5, sparse_block={"1d": [1], "2d": [1, 1], "4d": [-1, 4, -1, 1]}
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    tiles = model[0].weight.detach().unflatten(1, (2, 4))  # [out, group, 4, height, width]
    assert ((tiles == 0).sum((0, 2, 3)) == 4 * 4 * 3 // 2).all()
    assert zeros(model[1].weight) == 0  # 6 input channels: the published hardware rule leaves it dense
    assert "multiples of 4" in {row.name: row.reason for row in optimizer.plan.rows}["1.weight"]
    assert share(model[2].weight) == 0.5


def test_float_frequency_as_the_published_scripts_pass(net):
    steps = 12
    optimizer = pytorch.SGDSparse(
        net, lr=0.01, target_sparsity=0.8, pretrain_step=2, sparse_step=steps, frequency=steps / 5
    )
    seen = []
    for step in range(16):
        train(net, optimizer, seed=step)
        seen.append(zeros(net.conv2.weight))
    changes = [step + 1 for step in range(1, 16) if seen[step] != seen[step - 1]]
    assert changes == [4, 6, 8, 10, 12, 14]  # the first update, at 2, is still at sparsity 0
    assert share(net.conv2.weight) == pytest.approx(0.8, abs=1 / 576)


@pytest.mark.parametrize("form", ["object", "mapping", "text", "path", "published path"])
def test_recipe_argument(form, net, tmp_path):
    text = {"published path": "prune_ratio:\n  module.conv2.weight: m4n2\n"}.get(
        form, "sparsity: 0.5\ngranularity: 2:4\n"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    sources = {
        "object": Recipe(sparsity=0.5, granularity="2:4"),
        "mapping": {"sparsity": 0.5, "granularity": "2:4"},
        "text": text,
        "path": str(path),
        "published path": Path(path),
    }
    optimizer = pytorch.AdamSparse(net, recipe=sources[form])
    train(net, optimizer)
    assert {str(row.granularity) for row in optimizer.plan.pruned} == {"2:4"}
    groups = net.conv2.weight.detach().movedim(1, -1).reshape(-1, 4)
    assert ((groups == 0).sum(1) == 2).all()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_misspelt_name_offers_the_nearest(net):
    with pytest.raises(UnknownNameError, match=r"special_sparsity_dict: 'conv1_weight' .* 'conv1.weight'"):
        pytorch.SGDSparse(net, lr=0.1, special_sparsity_dict={"conv1_weight": 0.5})


def test_nan_weight_names_the_parameter_and_stays_due(net):
    optimizer = pytorch.SGDSparse(net, lr=0.1, target_sparsity=0.5)
    good = net.conv2.weight.detach().clone()
    with torch.no_grad():
        net.conv2.weight[0, 0, 0, 0] = float("nan")
    for _ in range(2):
        with pytest.raises(WeightError, match=r"conv2\.weight: 1 NaN and 0 infinite of 576"):
            optimizer.step()
    with torch.no_grad():
        net.conv2.weight.copy_(good)
    optimizer.step()
    assert share(net.conv2.weight) == 0.5


def test_state_of_another_plan_is_refused_and_changes_nothing(net):
    other = pytorch.SGDSparse(Net(), lr=0.5, momentum=0.9, target_sparsity=0.9).state_dict()
    optimizer = pytorch.SGDSparse(net, lr=0.1, momentum=0.9, target_sparsity=0.5)
    train(net, optimizer)
    before = pytorch_harness.plain(optimizer.state_dict())
    with pytest.raises(StateError, match=r"another plan: conv1\.weight: target 0\.5 here, 0\.9 there"):
        optimizer.load_state_dict(other)
    after = pytorch_harness.plain(optimizer.state_dict())
    assert str(after) == str(before)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_state_without_masks_warns(net):
    native = torch.optim.SGD(net.named_parameters(), lr=0.1, momentum=0.9)
    train(net, native)
    optimizer = pytorch.SGDSparse(net, lr=0.1, momentum=0.9, target_sparsity=0.5)
    train(net, optimizer)
    with pytest.warns(UserWarning, match="no sparsity section"):
        optimizer.load_state_dict(native.state_dict())
    buffer = optimizer.state[net.conv2.weight]["momentum_buffer"]
    assert not buffer[net.conv2.weight == 0].any()  # the dense run's momentum must not revive what is pruned here
    train(net, optimizer)
    assert share(net.conv2.weight) == 0.5


def test_masks_ignored_for_want_of_sparsity_warn(net):
    sparse = pytorch.SGDSparse(net, lr=0.1, momentum=0.9, target_sparsity=0.5)
    train(net, sparse)
    torch.optim.SGD(net.named_parameters(), lr=0.1, momentum=0.9).load_state_dict(sparse.state_dict())
    dense = pytorch.SGDSparse(net, lr=0.1, momentum=0.9)
    with pytest.warns(UserWarning, match="fix_sparsity"):
        dense.load_state_dict(sparse.state_dict())


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda m: pytorch.SGDSparse(m, lr=0.1, target_sparsity=90), RecipeError, "0.9"),
        (lambda m: pytorch.SGDSparse(m, lr=0.1, target_sparsity=0.5, recipe={}), TypeError, "not both"),
        (lambda m: pytorch.SGDSparse(m, lr=0.1, target_sparcity=0.5), TypeError, "target_sparcity"),
        (lambda m: pytorch.SGDSparse(m, lr=0.1, target_sparsity=0.5, prune_device="gpu"), RecipeError, "prune_device"),
        (lambda m: pytorch.SGDSparse(m, lr=0.1, target_sparsity=0.5, score="magnitud"), RecipeError, "'magnitude'"),
        (lambda m: pytorch.SparseOptimizer(m, target_sparsity=0.5), TypeError, "got Net"),
        (
            lambda m: pytorch.SparseOptimizer(torch.optim.SGD(m.parameters()), m, lr=0.5),
            TypeError,
            "unknown arguments lr",
        ),
        (
            lambda m: pytorch.SGDSparse(m.parameters(), lr=0.1, target_sparsity=0.5, param_name=Net()),
            RecipeError,
            "another model",
        ),
        (
            lambda m: pytorch.SGDSparse(
                [{"params": m.conv1.named_parameters()}, {"params": m.conv2.named_parameters()}], target_sparsity=0.5
            ),
            RecipeError,
            "two parameters are called 'weight'",
        ),
        (
            lambda m: pytorch.SparseOptimizer(pytorch.SGDSparse(m, target_sparsity=0.5), target_sparsity=0.5),
            TypeError,
            "sparse already",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_explained(build, error, message, net):
    with pytest.raises(error, match=message):
        build(net)


def test_penalty_without_anything_to_prune_warns(net):
    with pytest.warns(UserWarning, match="L1"):
        pytorch.SGDSparse(net, lr=0.1, L1_regularization=True)


def test_plan_is_printable_and_says_why(net):
    optimizer = pytorch.SGDSparse(net, lr=0.1, target_sparsity=0.9375, granularity=BankBalanced(8))
    text = str(optimizer.plan)
    assert "conv1.weight  8x4x3x3  dense" in text
    assert "input channels (4)" in text
    assert "1-D (bias or normalisation)" in text
    assert np.isclose(optimizer.plan.pruned[0].target, 0.9375)
