"""History: a log that is read back exactly, and its picture."""

import dataclasses
import doctest
import sys

import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.manidp import Evaluation, structure
from mopruning.manidp.history import History, Row, write_evaluation

FIRST = Row(1, 0.1, 0.5, 2.0, 1.5, 1 / 3, 0.1, 0.4, 0.5, 4e7, 0.02, 61.25)


def history(epochs: int) -> History:
    return History(dataclasses.replace(FIRST, epoch=epoch + 1, loss=1 / (epoch + 3)) for epoch in range(epochs))


def test_doctests():
    result = doctest.testmod(sys.modules[History.__module__])
    assert result.attempted > 0
    assert result.failed == 0


def test_a_row_in_one_line():
    wanted = "loss 2.0000  cross-entropy 1.5000  train 40.00%  test 50.00%  MACs 40.00 M (-2.0%)  61 s"
    assert str(FIRST) == wanted


def test_log_there_and_back(tmp_path):
    history(3).write(tmp_path / "log.csv")
    assert History.read(tmp_path / "log.csv", 3).rows == history(3).rows
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]  # no temporary file is left


def test_a_log_that_went_on_longer_is_cut(tmp_path):
    history(3).write(tmp_path / "log.csv")
    assert History.read(tmp_path / "log.csv", 2).rows == history(2).rows


def test_a_log_that_is_too_short(tmp_path):
    history(3).write(tmp_path / "log.csv")
    with pytest.raises(FormatError, match=r"log\.csv: expected epochs 1 to 4"):
        History.read(tmp_path / "log.csv", 4)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", history(1).text().replace("0.02", "x"), history(1).text()[:-30]])
def test_something_else_than_a_log(text):
    with pytest.raises(FormatError, match=r"log\.csv: expected a log with columns epoch, lr"):
        History.of_text(text, "log.csv")


@pytest.mark.parametrize("epochs", [1, 4])
def test_plot(tmp_path, epochs):
    pytest.importorskip("matplotlib")
    log = history(epochs)
    figure = log.figure("title")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy (%)", "MACs left (%)"]
    loss, cross_entropy = figure.axes[0].lines
    np.testing.assert_array_equal(loss.get_ydata(), [row.loss for row in log.rows])
    np.testing.assert_array_equal(cross_entropy.get_xdata(), range(1, epochs + 1))
    assert figure.axes[2].lines[0].get_ydata()[-1] == pytest.approx(98)
    log.plot(tmp_path / "log.png")
    assert (tmp_path / "log.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_as_a_file(tmp_path):
    net = structure("dyresnet20")
    kept = np.tile(net.gate_channels, (3, 1))
    found = Evaluation(net, np.array([1, 2, 3]), np.array([1, 2, 0]), np.array([0.1, 0.2, 3.0]), kept)
    write_evaluation(found, tmp_path / "evaluation.npz")
    with np.load(tmp_path / "evaluation.npz") as held:
        np.testing.assert_array_equal(held["predictions"], [1, 2, 3])
        np.testing.assert_array_equal(held["kept"], kept)
        np.testing.assert_array_equal(held["macs"], [40875136] * 3)
