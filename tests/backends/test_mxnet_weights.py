"""How the core sees the parameters of an MXNet network, how they are erased, and what MXNet's import needs."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
import types

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)

from mopruning.backends import mxnet
from mopruning.backends.mxnet.framework import gluon, mx, removed_aliases
from mopruning.backends.mxnet.layouts import describe, symbol_layouts
from mopruning.backends.mxnet.states import arrays_in, moved
from mopruning.backends.mxnet.weights import Eraser, Weights
from mopruning.errors import RecipeError, StateError
from mopruning.layouts import Layout

nn = gluon.nn
MODULES = (
    "framework",
    "layouts",
    "entries",
    "weights",
    "states",
    "sparsifier",
    "members",
    "hooks",
    "optimizers",
    "prune",
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(f"mopruning.backends.mxnet.{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    if name in ("framework", "layouts", "states", "optimizers", "prune"):
        assert result.attempted > 0


def test_numpy_is_left_as_it_was():
    assert "bool" not in vars(np)
    there = types.SimpleNamespace(bool=np.bool_)
    with removed_aliases(there):
        assert there.bool is np.bool_  # a newer NumPy has a `bool` of its own again
        assert there.int is int
    assert vars(there) == {"bool": np.bool_}


def test_package_imports_under_strict_warnings():
    code = "import conftest, mopruning.backends.mxnet, mxnet, numpy; assert 'int' not in vars(numpy)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


# --- canonical views -------------------------------------------------------------------------------------------------

CANONICAL = {
    "dense": (lambda: nn.Dense(6, in_units=8), {"weight": (6, 8), "bias": (6,)}),
    "conv1d": (lambda: nn.Conv1D(6, 5, in_channels=8), {"weight": (6, 8, 5), "bias": (6,)}),
    "conv2d": (lambda: nn.Conv2D(6, (3, 5), in_channels=8, use_bias=False), {"weight": (6, 8, 3, 5)}),
    "conv3d": (lambda: nn.Conv3D(6, 2, in_channels=8, use_bias=False), {"weight": (6, 8, 2, 2, 2)}),
    "conv2d groups": (lambda: nn.Conv2D(6, 3, in_channels=8, groups=2, use_bias=False), {"weight": (6, 4, 3, 3)}),
    "conv2d last": (
        lambda: nn.Conv2D(6, (3, 5), in_channels=8, layout="NHWC", use_bias=False),
        {"weight": (6, 8, 3, 5)},
    ),
    "conv2d last groups": (
        lambda: nn.Conv2D(6, 3, in_channels=8, layout="NHWC", groups=2, use_bias=False),
        {"weight": (6, 4, 3, 3)},
    ),
    "transposed2d last": (
        lambda: nn.Conv2DTranspose(6, (3, 5), in_channels=8, layout="NHWC", use_bias=False),
        {"weight": (6, 8, 3, 5)},
    ),
    "transposed1d": (lambda: nn.Conv1DTranspose(6, 5, in_channels=8), {"weight": (6, 8, 5), "bias": (6,)}),
    "transposed2d": (lambda: nn.Conv2DTranspose(6, (3, 5), in_channels=8, use_bias=False), {"weight": (6, 8, 3, 5)}),
    "transposed3d": (lambda: nn.Conv3DTranspose(6, 2, in_channels=8, use_bias=False), {"weight": (6, 8, 2, 2, 2)}),
    "transposed2d groups": (
        lambda: nn.Conv2DTranspose(6, 3, in_channels=8, groups=2, use_bias=False),
        {"weight": (6, 4, 3, 3)},
    ),
    "embedding": (lambda: nn.Embedding(10, 8), {"weight": (10, 8)}),
    "lstm": (
        lambda: gluon.rnn.LSTM(6, input_size=8),
        {"l0_i2h_weight": (24, 8), "l0_h2h_weight": (24, 6), "l0_i2h_bias": (24,), "l0_h2h_bias": (24,)},
    ),
    "normalisation": (lambda: nn.BatchNorm(in_channels=8), {"gamma": (8,), "beta": (8,)}),
}


def built(make):
    block = make()
    block.initialize()
    return block


@pytest.mark.parametrize("kind", CANONICAL)
def test_canonical_shapes(kind):
    make, shapes = CANONICAL[kind]
    block = built(make)
    assert {name.removeprefix(block.prefix): shape for name, shape in Weights(block).shapes.items()} == shapes
    for name, values in Weights(block).items():
        assert values.shape == shapes[name.removeprefix(block.prefix)]


# Layers that mix no positions but those of their channels: input [n, in], kernel of size 1.
MIXERS = {
    "dense": lambda: nn.Dense(6, in_units=8, use_bias=False),
    "conv": lambda: nn.Conv2D(6, 1, in_channels=8, use_bias=False),
    "conv groups": lambda: nn.Conv2D(6, 1, in_channels=8, groups=2, use_bias=False),
    "transposed": lambda: nn.Conv2DTranspose(6, 1, in_channels=8, use_bias=False),
    "transposed1d": lambda: nn.Conv1DTranspose(6, 1, in_channels=8, use_bias=False),
    "transposed groups": lambda: nn.Conv2DTranspose(6, 1, in_channels=8, groups=2, use_bias=False),
}


def responses(block, axes):
    """Ask a layer what each input does to each output: [out, in]."""
    unit = mx.nd.empty((8, 8, *[1] * axes))
    unit[:] = np.eye(8).reshape(unit.shape)
    return block(unit).asnumpy().reshape(8, 6).T


@pytest.mark.parametrize("kind", MIXERS)
def test_canonical_weight_is_the_matrix_from_inputs_to_outputs(kind):
    block = built(MIXERS[kind])
    axes, groups = len(block.weight.shape) - 2, 2 if "groups" in kind else 1
    canonical = Weights(block)[block.weight.name].reshape(6, -1)
    expected = np.zeros((6, 8), np.float32)
    for g in range(groups):
        rows, columns = slice(g * 6 // groups, (g + 1) * 6 // groups), slice(g * 8 // groups, (g + 1) * 8 // groups)
        expected[rows, columns] = canonical[rows]
    np.testing.assert_allclose(responses(block, axes), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", MIXERS)
def test_banks_run_along_what_one_output_adds_up(kind):
    block = built(MIXERS[kind])
    mxnet.Prune(block, recipe={"granularity": "2:4"}).prune()
    found = responses(block, len(block.weight.shape) - 2)
    assert ((found != 0).sum(1) == (2 if "groups" in kind else 4)).all()
    assert ((found.reshape(6, 2, 4) != 0).sum(2) <= 2).all()


@pytest.mark.parametrize("groups", [0, 1, 2, 4])
@pytest.mark.parametrize("channels_last", [False, True])
def test_layouts_are_undone(groups, channels_last):
    native = np.random.default_rng(0).standard_normal((8, 3, 2, 5))
    layout = Layout(groups, channels_last)
    canonical = layout.to_canonical(native)
    np.testing.assert_array_equal(layout.to_native(canonical), native)
    if groups < 2:
        assert np.shares_memory(canonical, native)


def test_symbols_tell_the_layouts_of_their_weights():
    x = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=8, name="a")
    x = mx.sym.Deconvolution(x, kernel=(3, 3), num_filter=4, num_group=2, name="b")
    x = mx.sym.Convolution(x, kernel=(3, 3), num_filter=8, layout="NHWC", name="c")
    expected = {"b_weight": Layout(2), "c_weight": Layout(channels_last=True)}
    assert symbol_layouts(x) == expected
    assert describe(gluon.SymbolBlock(x, mx.sym.var("data", dtype="float32"))).layouts == expected
    assert describe([]).layouts == {}


def test_names_of_parameter_files_are_aliases():
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Dense(4, in_units=4, prefix="a_"), nn.Dense(4, in_units=4, prefix="b_"))
        net.add(nn.Dense(4, params=net[0].params, prefix="c_"))
    net.initialize()
    weights = Weights(net)
    assert list(weights) == ["net_a_weight", "net_a_bias", "net_b_weight", "net_b_bias"]
    assert weights.aliases["1.weight"] == "net_b_weight"
    assert weights.aliases["2.weight"] == weights.aliases["0.weight"] == "net_a_weight"  # tied
    assert list(weights.frozen) == []
    net[1].bias.grad_req = "null"
    assert list(weights.frozen) == ["net_b_bias"]


def test_running_statistics_are_no_weights():
    block = built(lambda: nn.BatchNorm(in_channels=4, prefix="bn_"))
    assert list(Weights(block)) == ["bn_gamma", "bn_beta"]


def test_shapes_not_known_yet_are_named():
    net = nn.Dense(4, prefix="fc_")
    with pytest.raises(StateError, match=r"fc_weight, fc_bias: .*in_units"):
        Weights(net)
    net.initialize()
    with pytest.raises(StateError, match=r"fc_weight: .*in_units"):
        Weights(net)
    net(mx.nd.ones((1, 3)))
    assert Weights(net).shapes == {"fc_weight": (4, 3), "fc_bias": (4,)}


def test_looking_a_name_up_fetches_no_values(monkeypatch):
    weights = Weights(built(lambda: nn.Dense(4, in_units=4, prefix="fc_")))
    monkeypatch.setattr(Weights, "__getitem__", None)
    assert "fc_weight" in weights
    assert "other" not in weights


def test_gradients_are_canonical_and_of_all_contexts_together():
    contexts = [mx.cpu(0), mx.cpu(1)]
    block = nn.Conv2DTranspose(2, 1, in_channels=4, use_bias=False, prefix="up_")
    block.initialize(ctx=contexts)
    for factor, context in enumerate(contexts, start=1):
        with mx.autograd.record():
            loss = factor * block(mx.nd.ones((1, 4, 2, 2), ctx=context)).sum()
        loss.backward()
    np.testing.assert_array_equal(Weights(block).gradients()["up_weight"], np.full((2, 4, 1, 1), 12.0))


def test_numpy_arrays_of_mxnet():
    parameter = gluon.Parameter("w", shape=(4, 4))
    parameter.initialize(mx.init.One())
    array = parameter.data().as_np_ndarray()
    weights = Weights({"w": array.as_nd_ndarray()})
    weights.eraser("w", np.eye(4, dtype=bool)).erase(weights.arrays("w")[0])
    np.testing.assert_array_equal(array.asnumpy(), np.eye(4))


def test_one_name_for_two_parameters_is_an_error():
    with pytest.raises(RecipeError, match="two parameters are called 'w'"):
        Weights([("w", mx.nd.ones((2,))), ("w", mx.nd.ones((2,)))])


# --- erasing ---------------------------------------------------------------------------------------------------------

HARD = [float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 0.0, 1e-45, 3.0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("context", [mx.cpu(0), mx.cpu(1), mx.cpu_pinned()], ids=str)
def test_erasing_leaves_plus_zero_and_the_rest_untouched(dtype, context):
    with np.errstate(over="ignore", under="ignore"):
        values = np.resize(HARD, (6, 8)).astype(dtype)
    keep = np.arange(48).reshape(6, 8) % 3 == 0
    array = mx.nd.empty(values.shape, dtype=dtype, ctx=context)
    array[:] = values
    Eraser(keep).erase(array)
    bits = f"u{values.itemsize}"
    assert not array.asnumpy().view(bits)[~keep].any()  # not even a sign bit
    np.testing.assert_array_equal(array.asnumpy().view(bits)[keep], values.view(bits)[keep])


def test_fits_tells_state_that_is_laid_out_like_the_parameter():
    eraser = Eraser(np.ones((2, 3), bool))
    assert eraser.fits(mx.nd.zeros((2, 3)))
    rows = mx.nd.sparse.zeros("row_sparse", (2, 3))
    assert not any(eraser.fits(value) for value in (mx.nd.zeros((3, 2)), rows, 3.0, None, [1.0]))


def test_states_nest():
    state = (None, (mx.nd.zeros((2,)), mx.nd.ones((3,))), [1.5])
    assert [array.shape for array in arrays_in(state)] == [(2,), (3,)]
    there = moved(state, mx.cpu(1))
    assert [array.context for array in arrays_in(there)] == [mx.cpu(1)] * 2
    assert (there[0], there[2]) == (None, [1.5])
