"""How the core sees the parameters of a PyTorch network, and how they are erased."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mopruning.backends import pytorch  # noqa: E402
from mopruning.backends.pytorch.weights import Eraser, Weights, layout_of, module_of  # noqa: E402
from mopruning.errors import RecipeError  # noqa: E402
from mopruning.layouts import Layout  # noqa: E402

MODULES = ("weights", "sparsifier", "hooks", "optimizers", "prune")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(f"mopruning.backends.pytorch.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    if name in ("weights", "optimizers", "prune"):
        assert result.attempted > 0


# --- canonical views -------------------------------------------------------------------------------------------------

CANONICAL = {
    "linear": (lambda: nn.Linear(8, 6), {"weight": (6, 8), "bias": (6,)}),
    "conv1d": (lambda: nn.Conv1d(8, 6, 5), {"weight": (6, 8, 5), "bias": (6,)}),
    "conv2d": (lambda: nn.Conv2d(8, 6, (3, 5), bias=False), {"weight": (6, 8, 3, 5)}),
    "conv3d": (lambda: nn.Conv3d(8, 6, 2, bias=False), {"weight": (6, 8, 2, 2, 2)}),
    "conv2d groups": (lambda: nn.Conv2d(8, 6, 3, groups=2, bias=False), {"weight": (6, 4, 3, 3)}),
    "transposed1d": (lambda: nn.ConvTranspose1d(8, 6, 5), {"weight": (6, 8, 5), "bias": (6,)}),
    "transposed2d": (lambda: nn.ConvTranspose2d(8, 6, (3, 5), bias=False), {"weight": (6, 8, 3, 5)}),
    "transposed3d": (lambda: nn.ConvTranspose3d(8, 6, 2, bias=False), {"weight": (6, 8, 2, 2, 2)}),
    "transposed2d groups": (lambda: nn.ConvTranspose2d(8, 6, 3, groups=2, bias=False), {"weight": (6, 4, 3, 3)}),
    "embedding": (lambda: nn.Embedding(10, 8), {"weight": (10, 8)}),
    "lstm": (
        lambda: nn.LSTM(8, 6, bias=False, proj_size=4),
        {"weight_ih_l0": (24, 8), "weight_hh_l0": (24, 4), "weight_hr_l0": (4, 6)},
    ),
    "gru": (lambda: nn.GRU(8, 6, bias=False), {"weight_ih_l0": (18, 8), "weight_hh_l0": (18, 6)}),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2, bias=False),
        {"in_proj_weight": (24, 8), "out_proj.weight": (8, 8)},
    ),
    "attention with own keys": (
        lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6, bias=False),
        {"q_proj_weight": (8, 8), "k_proj_weight": (8, 4), "v_proj_weight": (8, 6), "out_proj.weight": (8, 8)},
    ),
}


@pytest.mark.parametrize("kind", CANONICAL)
def test_canonical_shapes(kind):
    make, shapes = CANONICAL[kind]
    module = make()
    assert Weights(module).shapes == shapes
    assert Weights(module.named_parameters()).shapes == shapes


# Each layer as a function that mixes no positions but those of its channels: input [n, in], kernel of size 1.
MIXERS = {
    "linear": lambda: nn.Linear(8, 6, bias=False),
    "conv": lambda: nn.Conv2d(8, 6, 1, bias=False),
    "conv groups": lambda: nn.Conv2d(8, 6, 1, bias=False, groups=2),
    "transposed1d": lambda: nn.ConvTranspose1d(8, 6, 1, bias=False),
    "transposed2d": lambda: nn.ConvTranspose2d(8, 6, 1, bias=False),
    "transposed3d": lambda: nn.ConvTranspose3d(8, 6, 1, bias=False),
    "transposed groups": lambda: nn.ConvTranspose2d(8, 6, 1, bias=False, groups=2),
}


@pytest.mark.parametrize("kind", MIXERS)
def test_canonical_weight_is_the_matrix_from_inputs_to_outputs(kind):
    """Asked layer by layer what each input does to each output, which is what [out, in] means."""
    module = MIXERS[kind]()
    axes = next(module.parameters()).dim() - 2
    canonical = Weights(module)["weight"].reshape(6, -1)
    groups = getattr(module, "groups", 1)
    with torch.no_grad():
        responses = module(torch.eye(8).reshape(8, 8, *[1] * axes)).reshape(8, 6).T  # [out, in]
    expected = torch.zeros(6, 8)
    for g in range(groups):
        rows, columns = slice(g * 6 // groups, (g + 1) * 6 // groups), slice(g * 8 // groups, (g + 1) * 8 // groups)
        expected[rows, columns] = canonical[rows]
    torch.testing.assert_close(responses, expected)


@pytest.mark.parametrize("kind", MIXERS)
def test_banks_run_along_what_one_output_adds_up(kind):
    """With two of every four inputs kept, each output sees half of the inputs of its group."""
    torch.manual_seed(0)
    module = MIXERS[kind]()
    pytorch.Prune(module, recipe={"granularity": "2:4"}).prune()
    axes = module.weight.dim() - 2
    with torch.no_grad():
        responses = module(torch.eye(8).reshape(8, 8, *[1] * axes)).reshape(8, 6).T  # [out, in]
    groups = getattr(module, "groups", 1)
    assert ((responses != 0).sum(1) == 4 // groups).all()
    assert ((responses.reshape(6, 2, 4) != 0).sum(2) <= 2).all()


@pytest.mark.parametrize("kind", ["lstm", "gru", "attention", "embedding"])
@pytest.mark.filterwarnings("ignore::mopruning.errors.GranularityWarning")
def test_banks_run_along_the_features(kind):
    """Gates, projections and rows each are outputs; what they add up (or hold) is grouped."""
    torch.manual_seed(0)
    module = CANONICAL[kind][0]()
    prune = pytorch.Prune(module, recipe={"granularity": "2:4", "layers": {"*": 0.5}})
    prune.prune()
    checked = 0
    for name, parameter in module.named_parameters():
        if parameter.shape[-1] % 4 == 0:
            assert ((parameter.reshape(-1, 4) != 0).sum(1) == 2).all(), name
            checked += 1
    assert checked == len(prune.plan.pruned) >= 1


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(), (3,), (2, 3)])
def test_layout_undoes_itself(groups, kernel):
    native = torch.arange(12 * 5 * int(np.prod(kernel))).reshape(12, 5, *kernel)
    layout = Layout(groups)
    canonical = layout.to_canonical(native)
    assert canonical.shape == (5 * groups, 12 // groups, *kernel)
    assert torch.equal(layout.to_native(canonical), native)
    if groups == 1:
        assert canonical.data_ptr() == native.data_ptr()


def test_views_share_memory_and_track_nothing():
    module = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose2d(4, 2, 3))
    weights = Weights(module)
    for name in weights:
        assert not weights[name].requires_grad
        assert weights[name].data_ptr() == dict(module.named_parameters())[name].data_ptr()
    with torch.no_grad():
        module[1].weight[3, 1, 0, 0] = 7.0
    assert weights["1.weight"][1, 3, 0, 0] == 7.0


def test_gradients_are_canonical_and_dense():
    module = nn.Sequential(nn.Embedding(4, 4, sparse=True), nn.Linear(4, 3), nn.Linear(3, 3))
    up = nn.ConvTranspose2d(4, 2, 1)
    module[1](module[0](torch.tensor([1, 1]))).sum().backward()
    gradients = Weights(module).gradients()
    assert set(gradients) == {"0.weight", "1.weight", "1.bias"}
    assert gradients["0.weight"].layout == torch.strided
    assert gradients["0.weight"][1].any()
    assert not gradients["0.weight"][0].any()
    up(torch.randn(1, 4, 2, 2)).square().sum().backward()
    assert torch.equal(Weights(up).gradients()["weight"], up.weight.grad.transpose(0, 1))


def test_modules_behind_generators():
    module = nn.Linear(2, 2)
    assert module_of(module) is module
    assert module_of(module.named_parameters()) is module
    assert module_of(module.parameters()) is module
    assert module_of(list(module.named_parameters())) is None
    assert module_of(pair for pair in module.named_parameters()) is None
    names = module.named_parameters()
    module_of(names)
    assert len(list(names)) == 2  # asked, not used up


def test_only_weights_of_transposed_convolutions_are_swapped():
    module = nn.ConvTranspose2d(4, 6, 3, groups=2)
    assert layout_of(module, "weight") == Layout(2)
    assert layout_of(module, "bias") == layout_of(nn.Conv2d(4, 6, 3), "weight") == layout_of(None, "weight") == Layout()


def test_tied_parameters_stand_under_their_first_name():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    weights = Weights(module)
    assert list(weights) == ["0.weight", "0.bias", "1.bias"]
    assert weights.aliases == {"1.weight": "0.weight"}


def test_parameters_put_aside_keep_their_names():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ConvTranspose2d(4, 2, 3, bias=False))
    weights = Weights(module, only={id(module[0].weight)})
    assert list(weights) == ["0.weight"]
    weights.extend([("group1.param0", module[1].weight)])
    assert weights.shapes == {"0.weight": (4, 4), "1.weight": (2, 4, 3, 3)}


def test_one_name_for_two_parameters_is_an_error():
    with pytest.raises(RecipeError, match="two parameters are called 'weight'"):
        Weights([("weight", nn.Parameter(torch.ones(1))), ("weight", nn.Parameter(torch.ones(1)))])


def test_frozen_parameters_are_told():
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert list(Weights(module).frozen) == ["bias"]


# --- erasing ---------------------------------------------------------------------------------------------------------

HARD = [float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 0.0, 1e-45, 3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["dense", "channels_last"]
)
def test_erasing_leaves_plus_zero_and_the_rest_untouched(dtype, memory_format, device):
    values = torch.tensor(HARD, device=device).repeat(6).reshape(2, 3, 2, 4).to(dtype)
    parameter = nn.Parameter(values.clone(memory_format=memory_format))
    keep = torch.arange(48, device=device).reshape(2, 3, 2, 4) % 3 == 0
    eraser = Eraser(parameter, keep)
    contiguous = values.clone()
    for tensor in (parameter, contiguous):
        eraser.erase(tensor)
        tensor = tensor.detach()
        integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        assert not tensor.view(integers)[~keep].any()  # not even a sign bit
        assert torch.equal(tensor.view(integers)[keep], values.view(integers)[keep])
    assert parameter.is_contiguous(memory_format=memory_format)


def test_erasing_state_of_another_dtype(device):
    parameter = nn.Parameter(torch.ones(2, 3, device=device, dtype=torch.bfloat16))
    keep = torch.tensor([[True, False, True], [False, True, False]], device=device)
    for dtype in (torch.float32, torch.int8, torch.bool):
        state = torch.ones(2, 3, device=device, dtype=dtype)
        Eraser(parameter, keep).erase(state)
        assert torch.equal(state != 0, keep)


def test_erasing_sparse_tensors_reaches_every_addend(device):
    parameter = nn.Parameter(torch.ones(4, 3, device=device))
    keep = torch.rand(4, 3, device=device) > 0.5
    indices = torch.tensor([[0, 2, 2, 3]], device=device)
    gradient = torch.sparse_coo_tensor(indices, torch.ones(4, 3, device=device), (4, 3), check_invariants=True)
    expected = gradient.to_dense() * keep
    Eraser(parameter, keep).erase(gradient)
    assert gradient.is_sparse
    assert torch.equal(gradient.to_dense(), expected)


def test_erasing_needs_no_gradient_mode_and_is_seen_by_autograd(device):
    parameter = nn.Parameter(torch.ones(4, device=device))
    loss = (parameter**2).sum()
    Eraser(parameter, torch.tensor([True, False, True, False], device=device)).erase(parameter)
    assert parameter.requires_grad
    assert parameter.is_leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_fits_tells_state_that_is_laid_out_like_the_parameter():
    parameter = nn.Parameter(torch.ones(2, 3))
    eraser = Eraser(parameter, torch.ones(2, 3, dtype=torch.bool))
    assert eraser.fits(torch.zeros(2, 3))
    assert not any(eraser.fits(value) for value in (torch.zeros(3, 2), torch.zeros(()), 3.0, None, [1.0]))
