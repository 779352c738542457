"""How the core sees the parameters of a MindSpore network, and how they are erased."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, mint, nn, ops  # noqa: E402
from mindspore.nn.utils import no_init_parameters  # noqa: E402

from mopruning.backends import mindspore  # noqa: E402
from mopruning.backends.mindspore.weights import (  # noqa: E402
    Weights,
    cell_of,
    erase,
    erased,
    layout_of,
    parameters_of,
    slots_of,
)
from mopruning.errors import RecipeError  # noqa: E402
from mopruning.layouts import Layout  # noqa: E402
from tests.backends.mindspore_networks import ConvNet, mlp  # noqa: E402

MODULES = ("callback", "device", "hooks", "optimizers", "prune", "sparsifier", "state", "weights")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(f"mopruning.backends.mindspore.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    if name in ("callback", "device", "optimizers", "prune", "weights"):
        assert result.attempted > 0


# --- canonical views -------------------------------------------------------------------------------------------------

CANONICAL = {
    "dense": (lambda: nn.Dense(8, 6), {"weight": (6, 8), "bias": (6,)}),
    "conv1d": (lambda: nn.Conv1d(8, 6, 5), {"weight": (6, 8, 5)}),
    "conv2d": (lambda: nn.Conv2d(8, 6, (3, 5)), {"weight": (6, 8, 3, 5)}),
    "conv2d groups": (lambda: nn.Conv2d(8, 6, 3, group=2), {"weight": (6, 4, 3, 3)}),
    "conv3d": (lambda: nn.Conv3d(8, 6, 2), {"weight": (6, 8, 2, 2, 2)}),
    "transposed1d": (lambda: nn.Conv1dTranspose(8, 6, 5), {"weight": (6, 8, 5)}),
    "transposed2d": (lambda: nn.Conv2dTranspose(8, 6, (3, 5)), {"weight": (6, 8, 3, 5)}),
    "transposed2d groups": (lambda: nn.Conv2dTranspose(8, 6, 3, group=2), {"weight": (6, 4, 3, 3)}),
    "transposed3d": (lambda: nn.Conv3dTranspose(8, 6, 2), {"weight": (6, 8, 2, 2, 2)}),
    "mint conv": (lambda: mint.nn.Conv2d(8, 6, 3, groups=2, bias=False), {"weight": (6, 4, 3, 3)}),
    "mint conv1d": (lambda: mint.nn.Conv1d(8, 6, 3, bias=False), {"weight": (6, 8, 3)}),
    "mint transposed": (lambda: mint.nn.ConvTranspose2d(8, 6, 3, groups=2, bias=False), {"weight": (6, 4, 3, 3)}),
    "embedding": (lambda: nn.Embedding(10, 8), {"embedding_table": (10, 8)}),
    "lstm": (lambda: nn.LSTM(8, 6, has_bias=False), {"weight_ih_l0": (24, 8), "weight_hh_l0": (24, 6)}),
}


@pytest.mark.parametrize("kind", CANONICAL)
def test_canonical_shapes(kind):
    make, shapes = CANONICAL[kind]
    cell = make()
    for weights in (Weights(None, cell), Weights(cell.get_parameters(), cell), Weights(None, cell.get_parameters())):
        assert weights.shapes == shapes
        assert {name: weights[name].shape for name in weights} == shapes


# Each layer as a function that mixes no positions but those of its channels: input [n, in], kernel of size 1.
MIXERS = {
    "dense": lambda: nn.Dense(8, 6, has_bias=False),
    "conv": lambda: nn.Conv2d(8, 6, 1),
    "conv groups": lambda: nn.Conv2d(8, 6, 1, group=2),
    "transposed1d": lambda: nn.Conv1dTranspose(8, 6, 1),
    "transposed2d": lambda: nn.Conv2dTranspose(8, 6, 1),
    "transposed groups": lambda: nn.Conv2dTranspose(8, 6, 1, group=2),
}


@pytest.mark.parametrize("kind", MIXERS)
def test_canonical_weight_is_the_matrix_from_inputs_to_outputs(kind):
    """Asked layer by layer what each input does to each output, which is what [out, in] means."""
    cell = MIXERS[kind]()
    axes = len(cell.weight.shape) - 2 - ("1d" in kind)
    canonical = Weights(None, cell)["weight"].reshape(6, -1)
    groups = getattr(cell, "group", 1)
    inputs = Tensor(np.eye(8, dtype=np.float32).reshape(8, 8, *[1] * axes))
    responses = cell(inputs).asnumpy().reshape(8, 6).T  # [out, in]
    expected = np.zeros((6, 8), np.float32)
    for g in range(groups):
        rows, columns = slice(g * 6 // groups, (g + 1) * 6 // groups), slice(g * 8 // groups, (g + 1) * 8 // groups)
        expected[rows, columns] = canonical[rows]
    np.testing.assert_allclose(responses, expected, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(), (3,), (2, 3)])
def test_layout_undoes_itself(groups, kernel):
    native = np.arange(12 * 5 * int(np.prod(kernel))).reshape(12, 5, *kernel)
    layout = Layout(groups)
    canonical = layout.to_canonical(native)
    assert canonical.shape == (5 * groups, 12 // groups, *kernel)
    np.testing.assert_array_equal(layout.to_native(canonical), native)


@pytest.mark.parametrize(
    ("layout", "shape", "canonical"),
    [
        (Layout(channels_last=True), (6, 3, 5, 8), (6, 8, 3, 5)),
        (Layout(flat=True), (6, 8, 1, 5), (6, 8, 5)),
        (Layout(2, flat=True), (8, 3, 1, 5), (6, 4, 5)),
    ],
)
def test_other_layouts_undo_themselves(layout, shape, canonical):
    native = np.arange(np.prod(shape)).reshape(shape)
    assert layout.to_canonical(native).shape == canonical
    np.testing.assert_array_equal(layout.to_native(layout.to_canonical(native)), native)
    if layout.channels_last:
        np.testing.assert_array_equal(layout.to_canonical(native)[2, 4], native[2, ..., 4])


def test_cells_tell_the_layout_of_their_weights():
    assert layout_of(nn.Conv2dTranspose(4, 6, 3, group=2), "weight") == Layout(2)
    assert layout_of(nn.Conv1dTranspose(4, 6, 3), "weight") == Layout(1, flat=True)
    assert layout_of(nn.Conv2dTranspose(4, 6, 3, has_bias=True), "bias") == Layout()
    assert layout_of(nn.Conv2d(4, 6, 3), "weight") == layout_of(None, "weight") == Layout()


def test_cells_behind_generators():
    net = mlp()
    assert cell_of(net) is cell_of(net.parameters_and_names()) is cell_of(net.get_parameters()) is net
    assert cell_of(net.trainable_params()) is None
    assert cell_of(pair for pair in net.parameters_and_names()) is None


def test_parameters_for_the_native_optimizer():
    net = ConvNet()
    names = [p.name for p in net.trainable_params()]
    assert "bn1.moving_mean" not in names
    for source in (net, net.parameters_and_names(), net.get_parameters(), net.trainable_params()):
        assert [p.name for p in parameters_of(source)] == names
    groups = [{"params": net.fc.trainable_params()}]
    assert parameters_of(groups) == groups


def test_running_statistics_are_no_weights():
    assert list(Weights(None, ConvNet())) == [p.name for p in ConvNet().trainable_params()]


class Tied(nn.Cell):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.head = nn.Dense(8, 16, has_bias=False)
        self.head.weight = self.embed.embedding_table

    def construct(self, x):
        return self.head(self.embed(x))


def test_tied_parameters_stand_under_their_own_name():
    weights = Weights(None, Tied())
    assert list(weights) == ["embed.embedding_table"]
    assert weights.aliases == {"head.weight": "embed.embedding_table"}


def test_names_within_a_part_of_a_network_serve_too():
    net = ConvNet()
    weights = Weights(net.conv2.get_parameters(), net.conv2)
    assert list(weights) == ["conv2.weight", "conv2.bias"]
    assert weights.aliases == {"weight": "conv2.weight", "bias": "conv2.bias"}


def test_one_name_for_two_parameters_is_an_error():
    two = [nn.Dense(2, 2).weight, nn.Dense(2, 2).weight]
    with pytest.raises(RecipeError, match="two parameters are called 'weight'"):
        Weights(two)


def test_frozen_parameters_are_told():
    net = mlp()
    net[0].weight.requires_grad = False
    assert list(Weights(None, net).frozen) == ["0.weight"]


def test_weights_that_are_not_initialised_yet_are_initialised_once():
    with no_init_parameters():
        net = nn.Dense(8, 4)
    assert net.weight.has_init
    first = Weights(None, net)["weight"].copy()
    assert not net.weight.has_init
    net.init_parameters_data()
    np.testing.assert_array_equal(net.weight.asnumpy(), first)


def test_bfloat16_is_seen_as_float32():
    parameter = ms.Parameter(Tensor(np.array([[1.5, -2.0]]), ms.bfloat16), name="w")
    assert Weights([parameter])["w"].dtype == np.float32
    np.testing.assert_array_equal(Weights([parameter])["w"], [[1.5, -2.0]])


# --- optimizer state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda p: nn.SGD(p, 0.1, 0.9), {"accum.0.weight", "stat.0.weight"}),
        (lambda p: nn.Adam(p), {"moment1.0.weight", "moment2.0.weight"}),
        (lambda p: nn.ASGD(p), {"ax_.0.weight"}),
        (lambda p: nn.AdaFactor(p, 0.1, relative_step=False, beta1=0.9), {"exp_avg.0.weight"}),
        (lambda p: nn.LARS(nn.Momentum(p, 0.1, 0.9)), {"moments.0.weight"}),
        (lambda p: mindspore.MomentumSparse(p, 0.1, 0.9), {"moments.0.weight"}),
    ],
    ids=["SGD", "Adam", "ASGD", "AdaFactor", "LARS", "sparse"],
)
def test_slots_are_what_is_remembered_element_by_element(make, names):
    net = mlp()
    optimizer = make(net.trainable_params())
    assert {slot.name for slot in slots_of(optimizer, net[0].weight)} == names


def test_slots_belong_to_the_longest_name_that_fits():
    one, two = (ms.Parameter(Tensor(np.ones((2, 2), np.float32)), name=name) for name in ("weight", "a.weight"))
    optimizer = nn.Momentum([one, two], 0.1, 0.9)
    assert [slot.name for slot in slots_of(optimizer, one)] == ["moments.weight"]
    assert [slot.name for slot in slots_of(optimizer, two)] == ["moments.a.weight"]


# --- erasing ---------------------------------------------------------------------------------------------------------

HARD = [float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 0.0, 1e-45, 3.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("in_memory", [True, False], ids=["numpy", "operators"])
def test_erasing_leaves_plus_zero_and_the_rest_untouched(dtype, in_memory, monkeypatch):
    monkeypatch.setattr("mopruning.backends.mindspore.weights._on_host", lambda: in_memory)
    values = np.resize(np.array(HARD).astype(dtype), (6, 8))
    keep = np.arange(48).reshape(6, 8) % 3 == 0
    parameter = ms.Parameter(Tensor(values), name="w")
    words = {2: np.int16, 4: np.int32, 8: np.int64}[values.itemsize]
    results = [erased(Tensor(values), Tensor(keep)).asnumpy()]
    erase(parameter, Tensor(keep))
    results.append(parameter.asnumpy())
    for result in results:
        assert result.dtype == dtype
        assert not result.view(words)[~keep].any()  # not even a sign bit
        np.testing.assert_array_equal(result.view(words)[keep], values.view(words)[keep])


def test_erased_parameters_go_on_being_updated():
    """Given other memory, a parameter would be left behind by an update that is compiled already."""
    parameter = ms.Parameter(Tensor(np.ones((2, 2), np.float32)), name="w")
    optimizer = nn.Momentum([parameter], 0.5, 0.0)
    for _ in range(2):
        optimizer((ops.ones((2, 2)),))
        erase(parameter, Tensor([[True, False], [True, True]]))
    np.testing.assert_array_equal(parameter.asnumpy(), [[0.0, 0.0], [0.0, 0.0]])
    optimizer((ops.ones((2, 2)),))
    np.testing.assert_array_equal(parameter.asnumpy(), [[-0.5, -0.5], [-0.5, -0.5]])
