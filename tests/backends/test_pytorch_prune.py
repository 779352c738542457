"""`Prune` beside a native PyTorch optimizer."""

from __future__ import annotations

import re
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mopruning import Recipe  # noqa: E402
from mopruning.backends import pytorch  # noqa: E402
from mopruning.errors import GranularityWarning, RecipeError, StateError, UnknownNameError  # noqa: E402
from tests.backends.pytorch_networks import share  # noqa: E402


class Published(nn.Module):
    """The example network of the published documents: one convolution has 127 input channels, no multiple of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(64, 127, 3)
        self.bn1 = nn.BatchNorm2d(127)
        self.conv2 = nn.Conv2d(127, 128, 3)
        self.fc = nn.Linear(128, 10)

    def forward(self, x):
        return self.fc(self.conv2(self.bn1(self.conv1(x)).relu()).relu().mean((2, 3)))


@pytest.fixture
def net(device):
    torch.manual_seed(0)
    return Published().to(device)


@pytest.fixture
def linear(device):
    torch.manual_seed(0)
    return nn.Linear(128, 16).to(device)


def steps(model, optimizer, prune, count, seed=0):
    """Run whole training steps on noise, with `prune` after each update."""
    parameter = next(model.parameters())
    shape = (2, 64, 6, 6) if isinstance(model, Published) else (2, 128)
    for step in range(count):
        torch.manual_seed(1000 * seed + step)
        optimizer.zero_grad()
        model(torch.randn(shape, device=parameter.device)).square().mean().backward()
        optimizer.step()
        prune.prune()


def sgd(model, momentum=0.9):
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum)


def test_published_call(net):
    """Positional order and the loop over all parameters are those of the published examples."""
    prune_dict = {name: 0.9375 for name, _ in net.named_parameters()}
    given = dict(prune_dict)
    with pytest.warns(GranularityWarning) as caught:
        prune = pytorch.Prune(net, 2, 6, 2, prune_dict)
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
        steps(net, optimizer, prune, 1, seed=step)
        shares.append(prune.sparsity()[1])
    assert shares[0] == shares[1] == 0
    assert shares == sorted(shares)
    assert shares[7:] == [0.9375] * 3
    banks = net.conv1.weight.movedim(1, -1).reshape(-1, 64)
    assert ((banks != 0).sum(1) == 4).all()
    assert ((net.fc.weight.reshape(-1, 64) != 0).sum(1) == 4).all()
    assert share(net.conv2.weight) == 0
    assert share(net.bn1.weight) == 0


@pytest.mark.parametrize(
    ("balance", "size", "kept"),
    [("fix", 64, 32), ("bank:16", 16, 8), ("2:4", 4, 2), ("1:4", 4, 2), ("none", 2048, 1024)],
)
def test_balance(balance, size, kept, linear):
    prune = pytorch.Prune(linear, prune_dict={"weight": 0.5}, balance=balance)
    prune.prune()
    assert ((linear.weight.reshape(-1, size) != 0).sum(1) == kept).all()


def test_none_prunes_what_cannot_be_balanced(net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune = pytorch.Prune(net, prune_dict={"conv2.weight": 0.5}, balance="none")
    prune.prune()
    assert share(net.conv2.weight) == 0.5


def test_two_four_is_capped_and_reported(linear):
    prune = pytorch.Prune(linear, prune_dict={"weight": 0.9}, balance="2:4")
    assert prune.prune_dict == {"weight": 0.5}
    assert "2:4 holds at most 0.5 (asked 0.9)" in str(prune.plan)


def test_sparsity_is_per_parameter_and_of_all_together(net):
    prune = pytorch.Prune(net, prune_dict={"conv1.weight": 0.5, "fc.weight": 0.75, "fc.bias": 0.5})
    assert prune.sparsity() == ({"conv1.weight": 0.0, "fc.weight": 0.0}, 0.0)
    prune.prune()
    conv, fc = net.conv1.weight.numel(), net.fc.weight.numel()
    assert prune.sparsity() == ({"conv1.weight": 0.5, "fc.weight": 0.75}, (0.5 * conv + 0.75 * fc) / (conv + fc))


@pytest.mark.parametrize("arguments", [{}, {"prune_dict": None}, {"prune_dict": {}}])
def test_nothing_listed_prunes_nothing(arguments, linear):
    before = linear.weight.detach().clone()
    prune = pytorch.Prune(linear, **arguments)
    prune.prune()
    assert torch.equal(linear.weight, before)
    assert prune.sparsity() == ({}, 0.0)


def test_momentum_cannot_revive(linear):
    prune = pytorch.Prune(linear, prune_dict={"weight": 0.5})
    optimizer = sgd(linear, momentum=0.99)
    steps(linear, optimizer, prune, 6)
    assert share(linear.weight) == 0.5
    assert optimizer.state[linear.weight]["momentum_buffer"][linear.weight == 0].any()  # nobody erased it


def test_given_the_optimizer_its_state_is_zeroed_with_the_masks(linear):
    optimizer = sgd(linear)
    prune = pytorch.Prune(linear, 2, prune_dict={"weight": 0.5}, optimizer=optimizer)
    steps(linear, optimizer, prune, 2)
    buffer = optimizer.state[linear.weight]["momentum_buffer"]
    assert not buffer[linear.weight == 0].any()
    assert buffer[linear.weight != 0].all()


@pytest.mark.parametrize("prune_device", ["default", "cpu"])
@pytest.mark.parametrize("score", ["magnitude", "movement", "fpgm"])
def test_prune_device_decides_alike(prune_device, score, linear):
    twin = nn.Linear(128, 16).to(linear.weight.device)
    twin.load_state_dict(linear.state_dict())
    recipe = {"sparsity": 0.5, "score": score, "granularity": "2:4"}
    one, other = pytorch.Prune(linear, recipe=recipe), pytorch.Prune(twin, prune_device=prune_device, recipe=recipe)
    steps(linear, sgd(linear), one, 2)
    steps(twin, sgd(twin), other, 2)
    assert torch.equal(linear.weight, twin.weight)
    assert share(linear.weight) == 0.5


def test_restore_ramps_on_from_the_zeros_there(linear):
    optimizer = sgd(linear)
    steps(linear, optimizer, pytorch.Prune(linear, prune_dict={"weight": 0.5}), 1)
    was_zero = (linear.weight == 0).clone()
    prune = pytorch.Prune(linear, 0, 4, 2, {"weight": 0.75}, True)
    shares = []
    for seed in range(6):
        steps(linear, optimizer, prune, 1, seed=seed)
        assert not linear.weight[was_zero].any()
        shares.append(share(linear.weight))
    assert shares[0] == 0.5
    assert shares == sorted(shares)
    assert shares[-1] == 0.75


@pytest.mark.parametrize("prune_dict", [{}, {"weight": 0.9}])
def test_fix_keeps_the_zeros_there(prune_dict, linear):
    optimizer = sgd(linear)
    steps(linear, optimizer, pytorch.Prune(linear, prune_dict={"weight": 0.5}), 1)
    was_zero = (linear.weight == 0).clone()
    prune = pytorch.Prune(linear, 0, 0, 100, prune_dict, False, True)
    steps(linear, optimizer, prune, 4)
    assert torch.equal(linear.weight == 0, was_zero)
    assert prune.sparsity() == ({"weight": 0.5}, 0.5)


def test_state_survives_a_file(linear, tmp_path):
    prune = pytorch.Prune(linear, 1, 8, 2, {"weight": 0.9375})
    optimizer = sgd(linear)
    steps(linear, optimizer, prune, 4)
    state = {"prune": prune.state_dict(), "model": linear.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pt")
    steps(linear, optimizer, prune, 8, seed=1)

    twin = nn.Linear(128, 16).to(linear.weight.device)
    second, second_prune = sgd(twin), pytorch.Prune(twin, 1, 8, 2, {"weight": 0.9375})
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    twin.load_state_dict(state["model"])
    second.load_state_dict(state["optimizer"])
    second_prune.load_state_dict(state["prune"])
    steps(twin, second, second_prune, 8, seed=1)
    assert torch.equal(twin.weight, linear.weight)
    assert share(twin.weight) == 0.9375


def test_loaded_masks_zero_weights_and_state_at_once(linear):
    donor = nn.Linear(128, 16).to(linear.weight.device)
    prune = pytorch.Prune(donor, prune_dict={"weight": 0.5})
    prune.prune()
    optimizer = sgd(linear)
    receiver = pytorch.Prune(linear, prune_dict={"weight": 0.5}, optimizer=optimizer)
    linear(torch.ones(1, 128, device=linear.weight.device)).sum().backward()
    optimizer.step()
    receiver.load_state_dict(prune.state_dict())
    assert torch.equal(linear.weight == 0, donor.weight == 0)
    assert not optimizer.state[linear.weight]["momentum_buffer"][linear.weight == 0].any()


def test_state_of_another_plan_or_of_none_is_refused(linear):
    prune = pytorch.Prune(linear, prune_dict={"weight": 0.5})
    before = linear.weight.detach().clone()
    other = pytorch.Prune(nn.Linear(64, 16), prune_dict={"weight": 0.5})
    other.prune()
    with pytest.raises(StateError, match=r"weight: shape 16x128 here, 16x64 there"):
        prune.load_state_dict(other.state_dict())
    state = pytorch.Prune(nn.Linear(128, 16), prune_dict={"weight": 0.5})
    state.prune()
    for damage, message in (
        ({"masks": {"weight": torch.zeros(3, dtype=torch.uint8)}}, "3 bytes, expected 256"),
        ({"masks": {"bias": torch.zeros(2, dtype=torch.uint8)}}, "holds bias"),
        ({"version": 99}, "version 99"),
    ):
        with pytest.raises(StateError, match=message):
            prune.load_state_dict({**state.state_dict(), **damage})
    with pytest.raises(StateError, match="lacks"):
        prune.load_state_dict({})
    assert torch.equal(linear.weight, before)


def test_mistakes_are_explained(linear):
    with pytest.raises(UnknownNameError, match=r"prune_dict: 'wieght' .* 'weight'"):
        pytorch.Prune(linear, prune_dict={"wieght": 0.5})
    with pytest.raises(RecipeError, match="balance"):
        pytorch.Prune(linear, prune_dict={"weight": 0.5}, balance="fixed")
    with pytest.raises(RecipeError, match="prune_device"):
        pytorch.Prune(linear, prune_dict={"weight": 0.5}, prune_device="gpu")
    with pytest.raises(RecipeError, match="L1"):
        pytorch.Prune(linear, recipe={"sparsity": 0.5, "l1": 0.1})


def test_recipe_in_place_of_the_arguments(linear, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("sparsity: 0.75\ngranularity: 1:4\n")
    for recipe in (Recipe(sparsity=0.75, granularity="1:4"), path):
        prune = pytorch.Prune(linear, recipe=recipe)
        prune.prune()
        assert prune.sparsity() == ({"weight": 0.75}, 0.75)


def test_names_of_wrapped_models(linear):
    """A prune_dict written for the bare network serves the wrapped one, and the other way round."""
    wrapped = nn.Module()
    wrapped.module = linear
    prune = pytorch.Prune(wrapped, prune_dict={"weight": 0.5})
    assert prune.prune_dict == {"module.weight": 0.5}
    prune.prune()
    assert share(linear.weight) == 0.5
    assert pytorch.Prune(linear, prune_dict={"module.weight": 0.5}).prune_dict == {"weight": 0.5}


def test_agrees_with_the_sparse_optimizer(linear):
    """Two ways to the same masks, where no momentum tells them apart."""
    twin = nn.Linear(128, 16).to(linear.weight.device)
    twin.load_state_dict(linear.state_dict())
    optimizer = pytorch.SGDSparse(
        twin, lr=0.01, special_sparsity_dict={"weight": 0.9}, sparse_step=6, frequency=2, granularity="bank:64"
    )
    native, prune = sgd(linear, momentum=0), pytorch.Prune(linear, 0, 6, 2, {"weight": 0.9})
    for step in range(10):
        steps(linear, native, prune, 1, seed=step)
        torch.manual_seed(1000 * step)
        optimizer.zero_grad()
        twin(torch.randn(2, 128, device=twin.weight.device)).square().mean().backward()
        optimizer.step()
        assert torch.equal(linear.weight, twin.weight)
    assert re.search(r"weight\s+16x128\s+bank:64\s+0\.9", str(prune.plan))
