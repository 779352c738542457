"""Pictures of sparse networks: bars of sparsity, the mask of a weight, and a training's curves.

Each function draws on a matplotlib figure of its own and touches no global state, so it works on a server without
a display and inside a notebook alike. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mopruning.arrays import Array, host_view, plain
from mopruning.errors import FormatError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mopruning.report import SparsityReport, SparsityRow

IMAGES = (".png", ".svg", ".pdf")

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PALE, INK, GREY = "#E6EBF0", "#1A1A1A", "#6B6B6B"
_LONGEST_LABEL = 44


@dataclass(frozen=True)
class TrainingCurve:
    """What a training leaves to draw: accuracy and sparsity over steps.

    Args:
        steps: Optimizer steps at which something was measured, increasing.
        sparsity: Total sparsity at each of `steps`, 0 to 1.
        accuracy: Accuracy at each of `steps`, 0 to 1.
        marks: Moments worth a line, such as ``{"ramp starts": 400}``.
    """

    steps: Sequence[float]
    sparsity: Sequence[float]
    accuracy: Sequence[float]
    marks: dict[str, float] = field(default_factory=dict)


def sparsity_bars(report: SparsityReport) -> Figure:
    """Draw one bar for each parameter of two or more axes: how much of it is zero, and how large it is.

    Args:
        report: What `mopruning.sparsity` returned.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    rows = [row for row in report.rows if len(row.shape) > 1] or list(report.rows)
    height = 1.3 + max(len(rows), 3) * (0.24 if len(rows) <= 40 else 0.17)
    figure = new_figure(9.0, height)
    shares, sizes = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    _draw_shares(shares, rows, fontsize=8 if len(rows) <= 40 else 6.5)
    _draw_sizes(sizes, rows)
    left_out = len(report.rows) - len(rows)
    note = f", {left_out} with fewer than two axes not drawn" if left_out else ""
    figure.suptitle(
        f"{report.sparsity:.2%} of {report.size:,} weights are zero  ({len(report.rows)} parameters{note})",
        fontsize=10,
        color=INK,
    )
    return figure


def mask_picture(weight: Array, *, title: str = "", bank: int = 64, rows: int = 64, columns: int = 256) -> Figure:
    """Draw which weights are zero: dark where a weight is kept, light where it is zero.

    Args:
        weight: Array in host memory, canonical layout [out, in, *kernel].
        title: What stands above, such as the parameter's name.
        bank: Lines are drawn between banks of so many input channels.
        rows: At most so many output channels are drawn.
        columns: At most so many weights of each output channel are drawn.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(9.0, 3.2)
    draw_mask(figure.subplots(), weight, title=title, bank=bank, rows=rows, columns=columns)
    return figure


def training_curve(curve: TrainingCurve, *, title: str = "") -> Figure:
    """Draw accuracy and, below it, sparsity over the steps of a training.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(9.0, 4.2)
    draw_training(figure.subplots(2, 1, sharex=True), curve, title=title)
    return figure


def training_summary(
    curve: TrainingCurve, weight: Array, *, title: str = "", name: str = "weight", bank: int = 64
) -> Figure:
    """Draw a training's curves above the mask of one of its weights.

    Args:
        curve: Accuracy and sparsity over steps.
        weight: A weight at the end of the training, canonical layout.
        title: What stands above everything.
        name: The weight's name.
        bank: Its bank size.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(9.0, 7.2)
    halves: Any = figure.subfigures(2, 1, height_ratios=[4.2, 3.0])
    above, below = halves
    draw_training(above.subplots(2, 1, sharex=True), curve, title=title)
    draw_mask(below.subplots(), weight, title=name, bank=bank)
    return figure


def draw_mask(
    axes: Axes, weight: Array, *, title: str = "", bank: int = 64, rows: int = 64, columns: int = 256
) -> None:
    """Draw a weight's mask on given axes, which it edits; arguments as for `mask_picture`."""
    cells, inputs = _mask_cells(weight)
    shown = cells[:rows, :columns]
    if shown.size:
        colours = _two_colours(PALE, BLUE)
        axes.imshow(shown, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest", origin="upper")
    height, width = shown.shape
    ruled = 1 < bank <= min(inputs, width)
    if ruled:
        for position in range(width):  # a bank never reaches from one kernel position into the next
            if position and (position % inputs) % bank == 0:
                axes.axvline(position - 0.5, color=ORANGE, linewidth=1.2)
    shape = "x".join(map(str, np.shape(weight)))
    crop = "" if shown.size == cells.size else f", first {height}x{width} drawn"
    zeros = cells.size - int(np.count_nonzero(cells))
    share = zeros / cells.size if cells.size else 0.0
    axes.set_title(f"{title}  ({shape}, {share:.2%} zero{crop})".strip(), fontsize=10, color=INK, loc="left")
    lines = f"   lines: banks of {bank}" if ruled else ""
    positions = "input channel, one kernel position after the other" if inputs < cells.shape[1] else "input channel"
    axes.set_xlabel(f"{positions}   (dark: kept, light: zero){lines}", fontsize=8, color=GREY)
    axes.set_ylabel("output channel", fontsize=8, color=GREY)
    axes.locator_params(integer=True)  # channels are whole
    calm(axes)


def draw_training(pair: Sequence[Axes], curve: TrainingCurve, *, title: str = "") -> None:
    """Draw accuracy on the first and sparsity on the second of two given axes, which it edits."""
    steps = np.asarray(curve.steps, np.float64)
    for axes, values, colour, label in (
        (pair[0], curve.accuracy, GREEN, "accuracy"),
        (pair[1], curve.sparsity, BLUE, "sparsity"),
    ):
        shares = 100.0 * np.asarray(values, np.float64)
        axes.plot(steps, shares, color=colour, linewidth=1.8)
        axes.set_ylabel(f"{label} (%)", fontsize=9, color=INK)
        if len(steps):
            axes.annotate(
                f"{shares[-1]:.2f}",
                (steps[-1], shares[-1]),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=9,
                color=colour,
                va="center",
                annotation_clip=False,
            )
        axes.grid(axis="y", color=PALE, linewidth=0.8)
        for moment in curve.marks.values():
            axes.axvline(moment, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        calm(axes)
    pair[0].figure.align_ylabels(list(pair))
    pair[1].set_ylim(-3, 103)
    pair[1].set_xlabel("optimizer step", fontsize=9, color=GREY)
    for name, moment in curve.marks.items():
        pair[0].annotate(
            f" {name}", (moment, 0.03), xycoords=("data", "axes fraction"), fontsize=8, color=GREY, va="bottom"
        )
    if title:
        pair[0].set_title(title, fontsize=10, color=INK, loc="left")


def save(figure: Figure, path: str | os.PathLike[str], image_format: str | None = None) -> None:
    """Write a figure to an image file, drawing it whole before the file is opened.

    Args:
        figure: What one of this module's functions returned.
        path: Where to.
        image_format: "png", "svg" or "pdf"; without it the suffix of `path` decides.

    Raises:
        FormatError: If the suffix is none of .png, .svg and .pdf.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format=image_format or image_format_of(path), dpi=150)
    Path(path).write_bytes(picture.getvalue())


def image_format_of(path: str | os.PathLike[str]) -> str:
    """Return the image format that a file name asks for.

    >>> image_format_of("bars.PNG")
    'png'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGES:
        raise FormatError(f"{os.fspath(path)}: images are written as {', '.join(IMAGES)}, got suffix {suffix!r}")
    return suffix[1:]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of the house's style; sizes are in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'mopruning[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _two_colours(low: str, high: str) -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([low, high])


def _mask_cells(weight: Array) -> tuple[np.ndarray[Any, Any], int]:
    """Return the non-zeros as [out, kernel positions * in], so that banks lie side by side, and the inputs."""
    host = host_view(plain(weight))
    if host is None:
        raise TypeError("mask_picture: expected an array in host memory; copy it there first, such as with .cpu()")
    nonzero = np.atleast_2d(host != 0)
    outputs, inputs = nonzero.shape[:2]
    kernel = math.prod(nonzero.shape[2:])
    return nonzero.reshape(outputs, inputs, kernel).transpose(0, 2, 1).reshape(outputs, kernel * inputs), inputs


def _draw_shares(axes: Axes, rows: Sequence[SparsityRow], fontsize: float) -> None:
    places = np.arange(len(rows))
    shares = [100.0 * row.sparsity for row in rows]
    axes.barh(places, [100.0] * len(rows), color=PALE, height=0.78)
    axes.barh(places, shares, color=BLUE, height=0.78)
    for place, share in zip(places, shares, strict=True):
        inside = share > 12
        axes.annotate(
            f"{share:.4g}",
            (share, place),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center_baseline",
            fontsize=fontsize - 0.5,
            color="white" if inside else INK,
        )
    axes.set_yticks(places, [_label(row.name) for row in rows], fontsize=fontsize)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first parameter on top
    axes.set_xlim(0, 100)
    axes.set_xlabel("zeros (%)", fontsize=9, color=GREY)
    calm(axes)


def _draw_sizes(axes: Axes, rows: Sequence[SparsityRow]) -> None:
    places = np.arange(len(rows))
    axes.barh(places, [row.size for row in rows], color=PALE, height=0.78)
    axes.barh(places, [row.size - row.zeros for row in rows], color=ORANGE, height=0.78)
    axes.set_xlabel("weights (orange: not zero)", fontsize=9, color=GREY)
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.xaxis.set_major_formatter(lambda size, _: _short(size))
    axes.locator_params(axis="x", nbins=3)
    calm(axes)


def _short(size: float) -> str:
    """Write a count with its unit: 2.5M, 300k, 17."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= factor:
            return f"{size / factor:g}{unit}"
    return f"{size:g}"


def _label(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else "..." + name[3 - _LONGEST_LABEL :]


def calm(axes: Axes) -> None:
    """Take away from axes, in place, what draws the eye from the data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
        axes.spines[side].set_linewidth(0.7)
    axes.tick_params(colors=GREY, labelsize=8, width=0.7)
