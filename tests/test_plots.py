"""Plots: what they show, that they leave matplotlib's global state alone, and what is said without matplotlib."""

import doctest
import itertools
import sys

import numpy as np
import pytest

from mopruning import mask, plots
from mopruning.errors import FormatError
from mopruning.report import SparsityReport, SparsityRow, sparsity

matplotlib = pytest.importorskip("matplotlib")

CURVE = plots.TrainingCurve([0, 10, 20], [0.0, 0.5, 0.9375], [0.1, 0.8, 0.97], {"ramp starts": 10})


def report(layers):
    return SparsityReport(tuple(SparsityRow(f"layer{i}.weight", (10, 100), 900, 1000) for i in range(layers)))


def bank_balanced():
    array = np.random.default_rng(0).standard_normal((80, 64, 3, 3))
    return array * mask(abs(array), "bank:64", 0.9375)


def pixels(figure):
    (image,) = figure.axes[-1].get_images()
    return np.asarray(image.get_array())


def test_bars_show_one_parameter_each_and_pass_over_vectors():
    weights = {"conv.weight": np.array([[0.0, 1.0]]), "conv.bias": np.zeros(2), "fc.weight": np.ones((1, 2))}
    figure = plots.sparsity_bars(sparsity(weights))
    shares = figure.axes[0]
    assert [label.get_text() for label in shares.get_yticklabels()] == ["conv.weight", "fc.weight"]
    assert [patch.get_width() for patch in shares.patches[2:]] == [50.0, 0.0]
    assert "50.00% of 6" in figure.get_suptitle()
    assert "1 with fewer than two axes not drawn" in figure.get_suptitle()


def test_bars_of_vectors_alone_are_drawn():
    figure = plots.sparsity_bars(sparsity({"scale": np.zeros(3)}))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["scale"]


def test_bars_grow_with_the_network_and_stay_readable():
    few, many = (plots.sparsity_bars(report(layers)) for layers in (10, 60))
    assert few.get_figheight() < many.get_figheight() < 20
    plots.sparsity_bars(SparsityReport(()))


def test_bars_do_not_touch_each_other(tmp_path):
    figure = plots.sparsity_bars(report(60))
    plots.save(figure, tmp_path / "bars.png")  # lays the figure out
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    heights = [(a.y0 + a.y1) / 2 - (b.y0 + b.y1) / 2 for a, b in itertools.pairwise(boxes)]
    assert min(heights) > boxes[0].height * 0.9


def test_mask_picture_shows_the_zeros_with_banks_side_by_side():
    array = bank_balanced()
    shown = pixels(plots.mask_picture(array))
    assert shown.shape == (64, 256)
    for position in range(4):
        part = shown[:, position * 64 : (position + 1) * 64]
        assert (part.sum(axis=1) == 4).all()
        np.testing.assert_array_equal(part, array[:64, :, position // 3, position % 3] != 0)


def test_mask_picture_rules_lines_between_banks_only():
    assert [line.get_xdata()[0] for line in plots.mask_picture(bank_balanced()).axes[0].lines] == [63.5, 127.5, 191.5]
    assert not plots.mask_picture(np.ones((8, 3, 7, 7))).axes[0].lines


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0, 4), (2, 3, 5), (2, 3, 1, 2, 2)])
def test_mask_picture_takes_every_shape(shape, tmp_path):
    plots.save(plots.mask_picture(np.ones(shape)), tmp_path / "mask.png")
    assert (tmp_path / "mask.png").stat().st_size > 1000


def test_training_curve_ends_where_the_training_did():
    accuracy, share = plots.training_curve(CURVE, title="digits").axes
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [10.0, 80.0, 97.0])
    np.testing.assert_allclose(share.lines[0].get_ydata(), [0.0, 50.0, 93.75])
    assert {text.get_text().strip() for text in accuracy.texts} == {"97.00", "ramp starts"}


def test_empty_training_is_drawn(tmp_path):
    plots.save(plots.training_curve(plots.TrainingCurve([], [], [])), tmp_path / "none.png")


def test_summary_holds_curves_and_mask(tmp_path):
    figure = plots.training_summary(CURVE, bank_balanced(), name="conv2.weight")
    assert len(figure.axes) == 3
    assert "conv2.weight" in figure.axes[2].get_title(loc="left")
    plots.save(figure, tmp_path / "summary.png")


def test_torch_weight_is_drawn():
    torch = pytest.importorskip("torch")
    assert pixels(plots.mask_picture(torch.nn.Linear(4, 2).weight)).shape == (2, 4)
    with pytest.raises(TypeError, match="host memory"):
        plots.mask_picture(torch.zeros(2, 2, device="meta"))


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml")])
def test_suffix_decides_the_format(suffix, magic, tmp_path):
    path = tmp_path / f"plot{suffix}"
    plots.save(plots.training_curve(CURVE), path)
    assert path.read_bytes().startswith(magic)


def test_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(FormatError, match=r"plot\.jpeg: images are written as \.png, \.svg, \.pdf"):
        plots.save(plots.training_curve(CURVE), tmp_path / "plot.jpeg")
    assert list(tmp_path.iterdir()) == []


def test_global_state_stays_untouched():
    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    plots.training_curve(CURVE)
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^plots need matplotlib: pip install 'mopruning\[plot\]'$"):
        plots.training_curve(CURVE)


def test_doctests():
    failed, attempted = doctest.testmod(plots)
    assert attempted
    assert not failed
