"""Which runtimes use a layer's zeros: every need of every row, and the rows against the runtimes that are here."""

import doctest
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mopruning import BankBalanced, mask, runtimes
from mopruning.conformity import conformity
from mopruning.runtimes import RUNTIMES, Layer, not_mobile, reasons

ROWS = {runtime.key: runtime for runtime in RUNTIMES}


def pruned(shape, granularity, sparsity):
    scores = np.random.default_rng(0).random(shape)
    return scores * mask(scores, granularity, sparsity)


def layer(kind="dense", shape=(64, 64), dtype="float32", granularity="unstructured", sparsity=None, groups=1):
    weight = pruned(shape, granularity, 0.0 if sparsity is None and ":" not in granularity else sparsity)
    share = 1 - np.count_nonzero(weight) / weight.size
    return Layer(kind, shape, dtype, share, conformity(weight), groups)


def test_doctests():
    assert doctest.testmod(runtimes).failed == 0


def test_every_row_says_all_there_is_to_say():
    assert len(ROWS) == len(RUNTIMES)
    for row in RUNTIMES:
        assert re.fullmatch(r"[a-z0-9_]+", row.key)
        assert row.name, row.key
        assert row.hardware, row.key
        assert row.gain, row.key
        assert row.sources, row.key
        assert all(re.fullmatch(r"https://[\w./#-]+", source) for source in row.sources), row.key
        assert bool(row.checks) != bool(row.never), row.key
        assert (row.needs == "-") == bool(row.never), row.key
    assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", runtimes.CHECKED)


def test_the_page_has_every_row():
    page = (Path(__file__).parent.parent / "docs" / "report.md").read_text(encoding="utf-8")
    for row in RUNTIMES:
        links = ", ".join(f"[{number}]({source})" for number, source in enumerate(row.sources, 1))
        assert f"| `{row.key}` | {row.name} | {row.never or row.needs} | {row.gain} | {links} |" in page


CONV = {"kind": "convolution", "shape": (64, 64, 3, 3), "granularity": "2:4"}
FC = {"kind": "dense", "shape": (64, 64), "granularity": "2:4"}
HALF = "float16, bfloat16 or int8"


@pytest.mark.parametrize(
    ("runtime", "made", "expected"),
    [
        ("cusparselt", FC | {"dtype": "float16"}, ()),
        ("cusparselt", FC | {"dtype": "bfloat16", "shape": (16, 16)}, ()),
        ("cusparselt", FC | {"dtype": "int8", "shape": (16, 32)}, ("outputs 16, no multiple of 32",)),
        ("cusparselt", FC, (f"float32, not {HALF}",)),
        ("cusparselt", CONV | {"dtype": "float16"}, ("convolution, not dense",)),
        ("cusparselt", FC | {"dtype": "float16", "granularity": "3:4"}, ("3 of 4 non-zero, not 2",)),
        ("tensorrt", CONV | {"dtype": "float16"}, ()),
        ("tensorrt", CONV | {"dtype": "int8", "shape": (8, 16, 1, 1)}, ("inputs 16, no multiple of 32",)),
        ("tensorrt", CONV | {"dtype": "float16", "shape": (9, 64, 3, 3)}, ("outputs 9, no multiple of 8",)),
        (
            "tensorrt",
            {"kind": "convolution", "shape": (64, 127, 3, 3), "sparsity": 0.9},
            ("inputs 127, no multiple of 16", "inputs 127, no multiple of 4", f"float32, not {HALF}"),
        ),
        ("tensorrt", FC | {"kind": "embedding", "dtype": "float16"}, ("embedding, not convolution or dense",)),
        ("torch_csr", {"sparsity": 0.8}, ()),
        ("torch_csr", {"shape": (1, 10_000), "sparsity": 0.7989}, ("79.8% zeros, below 80%",)),
        ("torch_csr", {"sparsity": 0.9, "dtype": "float16"}, ("float16, not float32 or float64",)),
        ("bank64", {"granularity": "bank:64", "sparsity": 0.9375}, ()),
        ("bank64", {"shape": (10, 64), "granularity": "bank:64", "sparsity": 0.9375}, ()),
        ("bank64", CONV | {"granularity": "bank:64", "sparsity": 0.9375}, ()),
        (
            "bank64",
            {"kind": "convolution", "shape": (10, 64, 3, 3), "granularity": "bank:64", "sparsity": 0.9375},
            ("outputs 10, no multiple of 4",),
        ),
        ("bank64", {"shape": (64, 96), "sparsity": 0.9}, ("inputs 96, no multiple of 64",)),
        ("bank64", {}, ("a bank of 64 without a zero",)),
        ("xnnpack", {"kind": "convolution", "shape": (64, 64, 1, 1), "sparsity": 0.7}, ()),
        (
            "xnnpack",
            {"kind": "convolution", "shape": (64, 64, 1, 1), "sparsity": 0.6665},
            ("66.6% zeros, below 66.7%",),
        ),
        ("xnnpack", CONV | {"sparsity": 0.5}, ("3x3 convolution, not 1x1", "50.0% zeros, below 66.7%")),
        (
            "xnnpack",
            {"kind": "convolution", "shape": (64, 1, 1, 1), "groups": 64, "sparsity": 0.9},
            ("64 groups, not one",),
        ),
        ("xnnpack", {"sparsity": 0.9}, ("dense, not a 1x1 convolution",)),
        ("openvino", {"sparsity": 0.85, "dtype": "int8"}, ()),
        ("openvino", {"sparsity": 0.85}, ("float32, not int8",)),
        ("shrink", {"granularity": "filter", "sparsity": 0.5}, ()),
        ("shrink", {"granularity": "channel", "sparsity": 0.5}, ()),
        ("shrink", {"sparsity": 0.5}, ("no zero filter or channel",)),
        ("onnxruntime", {"sparsity": 0.99}, ("makes every weight dense as it loads",)),
    ],
)
def test_needs(runtime, made, expected):
    assert reasons(layer(**made))[runtime] == expected


def test_banks_that_are_nearly_balanced_are_used():
    weight = pruned((64, 128), BankBalanced(bank=64), 0.9375)
    weight[0, np.flatnonzero(weight[0])[:1]] = 0.0  # a weight that training left at zero
    made = Layer("dense", weight.shape, "float32", (weight == 0).mean(), conformity(weight))
    assert made.conformity.banks[64] == (3, 4)
    assert ROWS["bank64"].reasons(made) == ()
    (reason,) = ROWS["bank64"].reasons(layer(shape=(64, 128), sparsity=0.9375))
    assert re.fullmatch(r"\d to \d+ of 64 non-zero, not balanced", reason)


def test_xnnpack_asks_for_a_network_of_one_form():
    pointwise = layer("convolution", (64, 64, 1, 1), sparsity=0.9)
    stem, depthwise = ("convolution", (8, 3, 3, 3), 1), ("convolution", (8, 1, 5, 5), 8)
    assert not_mobile([stem, depthwise, ("convolution", (64, 8, 1, 1), 1), ("dense", (10, 64), 1)]) == ""
    for other, told in (
        (("convolution", (8, 8, 3, 3), 1), "3x3 convolution of 8 inputs"),
        (("convolution", (8, 4, 3, 3), 2), "3x3 convolution of 4 inputs"),
        (("transposed convolution", (8, 8, 1, 1), 1), "1x1 transposed convolution of 8 inputs"),
    ):
        why = not_mobile([stem, other, depthwise])
        assert why == f"the network has a {told}"
        assert reasons(replace(pointwise, mobile=why))["xnnpack"] == (why,)


def test_a_vector_and_an_empty_weight_are_told_something():
    for shape in ((64,), (0, 64), (4, 0, 3, 3)):
        told = reasons(Layer("other", shape, "float32", 0.0, conformity(np.zeros(shape))))
        assert told.keys() == ROWS.keys()
        assert told["cusparselt"][0] == "other, not dense"


def test_sizes_are_those_that_pytorch_asks_for(torch):
    asked = torch.sparse.SparseSemiStructuredTensorCUSPARSELT._DTYPE_SHAPE_CONSTRAINTS
    for dtype in (torch.float16, torch.bfloat16, torch.int8):
        rows, columns = asked[dtype].sparse_min_rows, asked[dtype].sparse_min_cols
        name = str(dtype).removeprefix("torch.")
        assert reasons(layer(**FC | {"dtype": name, "shape": (rows, columns)}))["cusparselt"] == ()
        told = reasons(layer(**FC | {"dtype": name, "shape": (rows // 2, columns // 2)}))["cusparselt"]
        assert told == (
            f"inputs {columns // 2}, no multiple of {columns}",
            f"outputs {rows // 2}, no multiple of {rows}",
        )
    assert torch.float32 not in asked


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
def test_types_are_those_that_pytorch_multiplies_sparsely(torch):
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8):
        weight = torch.eye(16).to(dtype).to_sparse_csr()
        told = reasons(layer(sparsity=0.9, dtype=str(dtype).removeprefix("torch.")))["torch_csr"]
        try:
            given = torch.nn.functional.linear(torch.ones(4, 16, dtype=dtype), weight)
        except NotImplementedError:
            assert told != (), dtype
        else:
            assert told == (), dtype
            assert given.sum() == 64
