"""The sparsity report: counts against NumPy's, totals, and every form it is printed in."""

import doctest
import io
import json

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopruning import report
from mopruning.report import SparsityReport, SparsityRow, sparsity

WEIGHTS = {
    "conv[0].weight": np.array([[0.0, 1.0], [0.0, 0.0]], np.float32),
    "conv[0].bias": np.array([2.0, 0.0]),
    "empty": np.zeros((0, 3)),
    "scale": np.array(0.0),
}


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=5), elements=st.sampled_from([0.0, -0.0, 1.0, np.nan]))
)
def test_zeros_are_exactly_those_equal_to_zero(array):
    (row,) = sparsity({"w": array}).rows
    assert row == SparsityRow("w", array.shape, int((array == 0).sum()), array.size)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.bool_, ml_dtypes.bfloat16, ">f4"])
def test_every_dtype_is_counted(dtype):
    assert sparsity({"w": np.array([0, 1, 0, 1, 0]).astype(dtype)}).zeros == 3


def test_total_weighs_parameters_by_their_size():
    result = sparsity({"small": np.zeros(1), "large": np.ones(9)})
    assert result.sparsity == 0.1  # and not the mean of 1 and 0
    assert (result.zeros, result.size) == (1, 10)


def test_nothing_has_sparsity_zero():
    assert sparsity({}).sparsity == 0.0
    assert sparsity({"empty": np.zeros((0, 3))}).per_parameter == {"empty": 0.0}


def test_views_and_other_libraries_count_alike():
    array = np.arange(24.0).reshape(2, 3, 4) % 3
    expected = sparsity({"w": array}).zeros
    assert sparsity({"w": array.transpose(2, 0, 1)[::-1]}).zeros == expected
    assert sparsity({"w": array_api_strict.asarray(array)}).zeros == expected


def test_torch_module_is_read_without_its_graph():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight[:, :3] = 0.0
    result = sparsity(layer)
    assert result.rows == (SparsityRow("weight", (2, 4), 6, 8), SparsityRow("bias", (2,), 0, 2))
    assert sparsity({"w": torch.tensor([0.0, -0.0, 1.0], dtype=torch.bfloat16)}).zeros == 2


def test_tied_torch_parameters_count_once():
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    network[1].weight = network[0].weight
    assert sparsity(network).size == 9


@pytest.mark.parametrize("wrong", [[1.0], np.ones(3), None])
def test_what_is_no_network_is_refused(wrong):
    with pytest.raises(TypeError, match=r"mapping from name to array, or an object with named_parameters\(\)"):
        sparsity(wrong)


def test_list_in_place_of_an_array_is_refused():
    with pytest.raises(TypeError, match="expected an array"):
        sparsity({"w": [0.0, 1.0]})


def test_dict_and_json_agree():
    result = sparsity(WEIGHTS)
    assert json.loads(result.to_json()) == result.to_dict()
    assert result.to_dict()["total"] == {"zeros": 5, "size": 7, "sparsity": 5 / 7}
    assert result.to_dict()["parameters"]["conv[0].weight"] == {
        "shape": [2, 2],
        "zeros": 3,
        "size": 4,
        "sparsity": 0.75,
    }


def test_text_is_aligned_and_ends_with_the_total():
    lines = str(sparsity(WEIGHTS)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["conv[0].weight", "2x2", "3", "4", "0.7500"]
    assert lines[-1].split() == ["total", "5", "7", "0.7143"]


def test_rich_table_shows_names_as_they_are():
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(sparsity(WEIGHTS).table())
    text = console.export_text()
    assert "conv[0].weight" in text  # brackets are markup to rich
    assert "0.7143" in text


def test_plot_writes_an_image(tmp_path):
    pytest.importorskip("matplotlib")
    sparsity(WEIGHTS).plot(tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_report_is_a_value():
    assert sparsity(WEIGHTS) == sparsity(dict(WEIGHTS))
    assert isinstance(sparsity(WEIGHTS), SparsityReport)


def test_doctests():
    failed, attempted = doctest.testmod(report)
    assert attempted
    assert not failed
