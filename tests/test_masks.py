"""The contract of `mask`: which arrays it takes, which it refuses, one answer for every library and device."""

import doctest
import importlib
import tracemalloc
import warnings

import array_api_strict
import ml_dtypes
import numpy as np
import pytest

import mopruning
from mopruning import NM, BankBalanced, Block, Channel, Filter, KernelPattern, Stripe, Unstructured, mask
from mopruning.arrays import plain, rankable
from mopruning.errors import GranularityWarning, RecipeError, WeightError
from mopruning.granularity import Balanced

CONV = (8, 16, 3, 3)
GRANULARITIES = [
    Unstructured(),
    BankBalanced(bank=8),
    BankBalanced(bank=5, tail="balance"),
    NM(2, 4),
    NM(3, 16),
    Filter(),
    Channel(),
    Stripe(),
    KernelPattern(),
    KernelPattern(5),
    KernelPattern(patterns=("111000000",)),
    Block((4, 4)),
    Balanced((2, 4, -1, 1)),
]


def tied_scores(shape=CONV):
    """Scores on a coarse grid that every dtype holds: ties in every group."""
    return np.random.default_rng(0).integers(0, 12, shape).astype(np.float64)


# ---- which arrays


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize(
    "dtype",
    ["f2", "f4", ">f4", "g", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "i1", "u1", "i2", "i4", "i8", "u8"],
)
def test_every_real_dtype_gives_the_same_mask(granularity, dtype):
    scores = tied_scores()
    kept = mask(scores.astype(dtype), granularity, 0.6)
    assert type(kept) is np.ndarray
    np.testing.assert_array_equal(kept, mask(scores, granularity, 0.6), strict=True)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_bool_scores_are_zeros_and_ones(granularity):
    scores = tied_scores() > 5
    np.testing.assert_array_equal(mask(scores, granularity, 0.6), mask(scores * 1.0, granularity, 0.6), strict=True)


VIEWS = {
    "transposed": lambda a: np.ascontiguousarray(a.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1),  # HWIO seen as OIHW
    "Fortran order": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 3)[::2, :, :, ::3],
    "backwards": lambda a: np.ascontiguousarray(a[::-1, :, ::-1])[::-1, :, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "read-only": lambda a: a,
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("view", VIEWS)
def test_views_give_the_masks_of_copies(granularity, view):
    scores = VIEWS[view](tied_scores())
    scores.flags.writeable = False
    before = scores.copy()
    kept = mask(scores, granularity, 0.6)
    np.testing.assert_array_equal(kept, mask(before, granularity, 0.6), strict=True)
    assert kept.flags.c_contiguous
    assert kept.flags.writeable
    np.testing.assert_array_equal(scores, before)


def test_subclasses_and_scalars_count_as_arrays(tmp_path):
    scores = tied_scores((8, 16))
    expected = mask(scores, "2:4")
    np.save(tmp_path / "w.npy", scores)
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # np.matrix, which has two axes whatever one does
        matrix = np.asmatrix(scores)
    for kept in (mask(mapped, "2:4"), mask(matrix, "2:4")):
        assert type(kept) is np.ndarray
        np.testing.assert_array_equal(kept, expected)
    assert mask(np.abs(np.array(-3.0)), "unstructured", 1).tolist() is False  # np.abs made a scalar of it
    assert mask(np.float32(3), "unstructured", 0.9).tolist() is True


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1, 1), (1, 1, 1, 1, 1)])
def test_one_weight_goes_at_sparsity_1_only(shape):
    scores = np.ones(shape)
    for sparsity, kept in ((0.0, True), (0.999, True), (1.0, False)):
        np.testing.assert_array_equal(mask(scores, "unstructured", sparsity), np.full(shape, kept), strict=True)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (0, 0), (0, 16, 3, 3), (8, 0, 3, 3), (8, 16, 0, 3)])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_an_empty_weight_has_an_empty_mask(shape, granularity):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GranularityWarning)
        kept = mask(np.empty(shape, np.float16), granularity, 0.6)
    assert (kept.shape, kept.dtype) == (shape, np.bool_)
    if granularity.misfit(shape) is None:
        assert granularity.zeros(shape, 0.6) == 0


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_sparsity_0_keeps_all_and_1_keeps_what_the_granularity_must(granularity):
    scores = tied_scores()
    assert mask(scores, granularity, 0).all()
    kept = mask(scores, granularity, 1)
    assert kept.mean() == pytest.approx(1 - granularity.ceiling())
    assert mask(np.zeros(CONV), granularity, 1).sum() == kept.sum()


CONTENTS = {
    "all zero": np.zeros,
    "all equal": lambda shape: np.full(shape, 0.25, np.float32),
    "int8 grid": lambda shape: np.abs(np.random.default_rng(1).integers(-127, 128, shape)).astype(np.float32) / 127,
    "95% zero": lambda shape: tied_scores(shape) * (np.random.default_rng(2).random(shape) > 0.95),
    "denormal": lambda shape: tied_scores(shape).astype(np.float32) * np.float32(1e-45),
    "zeros of both signs": lambda shape: np.where(np.random.default_rng(3).random(shape) < 0.5, 0.0, -0.0),
    "negative": lambda shape: -1 - tied_scores(shape),
    "huge": lambda shape: tied_scores(shape) * 1e307,
}


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("content", CONTENTS)
def test_counts_are_exact_whatever_the_content(granularity, content):
    for sparsity in (0.25, 0.5, 0.9, 0.9375):
        kept = mask(CONTENTS[content](CONV), granularity, sparsity)
        assert kept.size - np.count_nonzero(kept) == granularity.zeros(CONV, sparsity)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_zeros_of_either_sign_are_equal(granularity):
    signed = CONTENTS["zeros of both signs"](CONV)
    np.testing.assert_array_equal(mask(signed, granularity, 0.6), mask(np.zeros(CONV), granularity, 0.6))


def test_one_text_or_object_names_the_granularity():
    scores = tied_scores()
    np.testing.assert_array_equal(mask(scores, "bank:8", 0.5), mask(scores, BankBalanced(8), 0.5))
    np.testing.assert_array_equal(mask(scores, "2:4"), mask(scores, NM(2, 4), 0.5))


# ---- what is refused


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("nans", "infinite"), [(1, 0), (0, 1), (3, 2), (0, 40), (128, 0)])
def test_nan_and_infinity_name_the_parameter_and_how_many(dtype, nans, infinite):
    scores = np.ones(128, dtype)
    scores[:nans] = np.nan
    scores[nans : nans + infinite] = [np.inf, -np.inf][infinite % 2]
    expected = rf"^layer1\.conv\.weight: {nans} NaN and {infinite} infinite of 128 values"
    with pytest.raises(WeightError, match=expected):
        mask(scores.reshape(8, 16)[::-1], "unstructured", 0.5, name="layer1.conv.weight")
    with pytest.raises(WeightError, match=expected):
        mask(array_api_strict.asarray(scores.astype(np.float64)), "filter", 0.5, name="layer1.conv.weight")


def test_a_nameless_nan_is_refused_too():
    with pytest.raises(WeightError, match=r"^scores: 1 NaN"):
        mask(np.array([np.nan, 1.0]), "unstructured", 0.0)


@pytest.mark.parametrize("scores", [np.array([1j, 2.0]), np.array(["2020"], "M8[D]"), np.array([1, None])])
def test_what_is_no_real_number_is_refused(scores):
    with pytest.raises(WeightError, match="values cannot be ranked; expected real numbers"):
        mask(scores, "unstructured", 0.5)


@pytest.mark.parametrize("scores", [[1.0, 2.0], 3.0, None, "weight"])
def test_what_is_no_array_is_refused(scores):
    with pytest.raises(TypeError, match=r"expected an array .*, got \w+; wrap lists with numpy\.asarray"):
        mask(scores, "unstructured", 0.5)


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [
        (90, "sparsity must lie from 0 to 1, got 90; for 90 percent write 0.9"),
        (100, "for 100 percent write 1"),
        (-1, "sparsity must lie from 0 to 1, got -1"),
        (1e9, "sparsity must lie from 0 to 1, got 1000000000.0"),
        (float("nan"), "sparsity must lie from 0 to 1, got nan"),
        (float("inf"), "sparsity must lie from 0 to 1, got inf"),
        (10**400, "sparsity must be a number from 0 to 1"),
        ("x", "sparsity must be a number from 0 to 1, got 'x'"),
        ([], "sparsity must be a number from 0 to 1"),
        (None, "unstructured needs a sparsity, such as 0.9"),
    ],
    ids=str,
)
def test_a_bad_sparsity_says_what_to_write(sparsity, message):
    with pytest.raises(RecipeError) as error:
        mask(np.ones(4), "unstructured", sparsity)
    assert message in str(error.value)


def test_a_misfit_is_left_dense_with_a_warning():
    for shape, granularity, reason in (
        ((64, 127, 3, 3), "bank:64", "input channels .*127.* no multiple of the bank of 64"),
        ((10,), "2:4", "no multiple of the group of 4"),
        ((8, 8, 5, 5), "pattern", "need 3x3 kernels"),
        ((), "bank:1:balance", "a single number has no input channels"),
    ):
        scores = np.random.default_rng(0).random(shape)
        with pytest.warns(
            GranularityWarning, match=rf"features\.3\.weight .* left dense by {granularity}: .*{reason}"
        ) as caught:
            kept = mask(scores, granularity, 0.5, name="features.3.weight")
        assert caught[0].filename == __file__  # points at the caller
        np.testing.assert_array_equal(kept, np.ones(shape, bool), strict=True)


# ---- other libraries and devices

LAYOUTS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
    "channels last": lambda t: t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "strided": lambda t: t.repeat_interleave(2, 0)[::2],
    "expanded": lambda t: t[:1].expand(t.shape),
    "requires_grad": lambda t: t.requires_grad_() if t.is_floating_point() else t,
    "in a graph": lambda t: t.requires_grad_() * 1 if t.is_floating_point() else t,
}


@pytest.fixture(params=["", "on-device path"])
def path(request, monkeypatch):
    """Run as it is, and as on a device whose memory NumPy cannot see."""
    if request.param:
        monkeypatch.setattr("mopruning.masks.native", lambda array: rankable(plain(array)))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_gives_the_masks_of_numpy(torch, device, granularity, layout):
    for name in ("float32", "float16", "bfloat16", "float64", "int8", "bool"):
        plain = torch.from_numpy(tied_scores()).to(device=device, dtype=getattr(torch, name))
        scores = LAYOUTS[layout](plain)
        kept = mask(scores, granularity, 0.6)
        assert type(kept) is torch.Tensor
        assert (kept.dtype, kept.device, kept.shape) == (torch.bool, scores.device, scores.shape)
        assert not kept.requires_grad
        expected = mask(scores.detach().double().cpu().numpy(), granularity, 0.6)
        np.testing.assert_array_equal(kept.cpu().numpy(), expected, err_msg=name)
        kept ^= True  # a mask of one's own, not a view of fewer values
        np.testing.assert_array_equal(kept.cpu().numpy(), ~expected)


@pytest.mark.usefixtures("path")
def test_torch_parameters_scalars_and_empty_tensors(torch, device):
    parameter = torch.nn.Parameter(torch.ones(4, 4, device=device))
    assert type(mask(parameter, "2:4")) is torch.Tensor
    assert mask(torch.tensor(3.0, device=device), "unstructured", 1).tolist() is False
    for shape in ((0,), (0, 4), (8, 0, 3, 3)):
        assert mask(torch.empty(shape, device=device), "unstructured", 0.5).shape == shape
    with pytest.warns(GranularityWarning):
        kept = mask(torch.ones(3, 127, device=device, requires_grad=True), "bank:64", 0.5)
    assert (kept.dtype, kept.device, kept.requires_grad, bool(kept.all())) == (
        torch.bool,
        parameter.device,
        False,
        True,
    )
    with pytest.raises(WeightError, match="w: 1 NaN and 2 infinite of 4 values"):
        mask(torch.tensor([float("nan"), float("inf"), -float("inf"), 1], device=device), "unstructured", 0.5, name="w")


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shape", [(64, 128, 3, 3), (1000, 1088)])
def test_large_tensors_give_the_masks_of_numpy(torch, device, shape):
    scores = np.abs(np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    coarse = np.round(scores * 4)  # mostly ties
    for granularity in ("unstructured", "bank:64", "2:4", "filter", "channel"):
        for array in (scores, coarse):
            kept = mask(torch.from_numpy(array).to(device), granularity, 0.5)
            np.testing.assert_array_equal(kept.cpu().numpy(), mask(array, granularity, 0.5))


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int64", "bool"])
def test_the_array_api_standard_is_enough(granularity, dtype):
    scores = tied_scores() % 7 if dtype != "bool" else tied_scores() > 5
    strict = array_api_strict.asarray(scores, dtype=getattr(array_api_strict, dtype))
    kept = mask(strict, granularity, 0.6)
    assert isinstance(kept, array_api_strict._array_object.Array)
    assert (kept.dtype, kept.device, kept.shape) == (array_api_strict.bool, strict.device, strict.shape)
    np.testing.assert_array_equal(np.asarray(kept), mask(scores, granularity, 0.6))


# ---- memory


@pytest.mark.parametrize("granularity", ["unstructured", "bank:64", "2:4", "filter", "channel", "stripe", "block:4x4"])
@pytest.mark.parametrize("content", ["random", "constant", "few values", "95% zero"])
def test_peak_memory_is_at_most_twice_the_scores(granularity, content):
    scores = np.abs(np.random.default_rng(0).standard_normal((512, 512, 3, 3))).astype(np.float32)
    if content == "constant":
        scores[...] = 0.5
    elif content == "few values":
        scores = np.round(scores)
    elif content == "95% zero":
        scores *= np.random.default_rng(1).random(scores.shape) > 0.95
    tracemalloc.start()
    try:
        kept = mask(scores, granularity, 0.5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - kept.nbytes <= 2 * scores.nbytes


# ---- names and examples


@pytest.mark.parametrize(
    "name", ["mask", "Unstructured", "BankBalanced", "NM", "Filter", "Channel", "Stripe", "KernelPattern", "Block"]
)
def test_the_fixed_names_are_public(name):
    assert callable(getattr(mopruning, name))
    assert name in mopruning.__all__


@pytest.mark.parametrize(
    ("module", "examples"),
    [("masks", 2), ("counting", 2), ("packing", 1), ("granularity.text", 1), ("granularity.pattern", 2)],
)
def test_the_examples_of_the_core_run(module, examples):
    failed, attempted = doctest.testmod(importlib.import_module(f"mopruning.{module}"))
    assert failed == 0
    assert attempted >= examples  # so that they are still found
