"""Pictures of a ManiDP result: accuracy against cost by epoch, what images cost, what easy and hard ones keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from mopruning.backends.pytorch.manidp import DynamicResNet
from mopruning.datasets import Images
from mopruning.manidp import Evaluation
from mopruning.manidp.history import Row
from mopruning.plots import BLUE, GREEN, GREY, INK, ORANGE, PALE, calm, new_figure
from mopruning.training.data import NORMALIZATIONS

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

SHOWN = 6  # easy images, and hard ones
_DEPTH = 8.0  # points of accuracy below the best that are drawn
_PARTS = 10  # of the images, by cross-entropy
COLOURS = (BLUE, ORANGE, INK)
MARKERS = ("D", "^")


def by_epoch(courses: Mapping[str, Sequence[Row]], others: Mapping[str, tuple[float, float]], title: str) -> Any:
    """Draw accuracy against multiply-accumulates, a point for each epoch.

    Args:
        courses: Name -> epochs of a training.
        others: Name -> multiply-accumulates and accuracy of a network that is beside the point.
        title: What stands above.
    """
    figure = new_figure(9.0, 4.6)
    axes = figure.subplots()
    best = max(row.accuracy for rows in courses.values() for row in rows)
    last = min(rows[-1].accuracy for rows in courses.values())
    lowest = min(100 * best - _DEPTH, 100 * last)
    below = 0
    for (name, rows), colour in zip(courses.items(), COLOURS[: len(courses)], strict=True):
        cost = np.array([row.mean_macs for row in rows]) / 1e6
        accuracy = 100 * np.array([row.accuracy for row in rows])
        drawn = np.where(accuracy < lowest, np.nan, accuracy)
        below += int(np.isnan(drawn).sum())
        axes.plot(cost, drawn, color=colour, linewidth=0.8, alpha=0.35)
        age = np.linspace(0.25, 1.0, len(rows)) if len(rows) > 1 else [1.0]
        axes.scatter(cost, drawn, s=14, color=colour, alpha=age, linewidths=0)
        axes.scatter(
            *(cost[-1:], accuracy[-1:]),
            s=64,
            color=colour,
            edgecolor="white",
            zorder=3,
            label=f"{name}: {accuracy[-1]:.2f}% at {cost[-1]:.2f} M",
        )
    for (name, (cost, accuracy)), marker in zip(others.items(), MARKERS * len(others), strict=False):
        colour = GREY if "published" in name else GREEN
        label = f"{name}: {100 * accuracy:.2f}% at {cost / 1e6:.2f} M"
        axes.scatter(
            [cost / 1e6], [100 * accuracy], s=44, color=colour, marker=marker, edgecolor="white", zorder=4, label=label
        )
    highest = 100 * max([best, *(accuracy for _, accuracy in others.values())])
    axes.set_ylim(lowest - 0.03 * (highest - lowest), highest + 0.06 * (highest - lowest))
    axes.set_xlabel("mean multiply-accumulates of a test image (millions)", fontsize=9, color=GREY)
    axes.set_ylabel("accuracy on the test images (%)", fontsize=9, color=INK)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=2)
    note = f" (lower ones not drawn: {below})" if below else ""
    axes.set_title(f"{title}: a point an epoch, later ones darker{note}", fontsize=10, color=INK, loc="left")
    calm(axes)
    return figure


def by_image(answers: Evaluation) -> Any:
    """Draw how many images cost how much, right and wrong ones, and the cost by cross-entropy."""
    figure = new_figure(9.0, 3.4)
    left, right = figure.subplots(1, 2)
    cost = answers.macs / 1e6
    good = answers.predictions == answers.labels
    edges = np.linspace(cost.min(), cost.max() + 1e-9, 41)
    for chosen, name, colour in ((good, "right", BLUE), (~good, "wrong", ORANGE)):
        if not chosen.any():
            continue
        heights = 100 * np.histogram(cost[chosen], edges)[0] / chosen.sum()
        label = f"{chosen.sum():,} {name}, mean {cost[chosen].mean():.2f} M"
        left.stairs(heights, edges, fill=True, color=colour, alpha=0.35)
        left.stairs(heights, edges, color=colour, linewidth=1.2, label=label)
        left.axvline(cost[chosen].mean(), ymax=0.76, color=colour, linewidth=1.0, linestyle=(0, (4, 3)))
    left.set_ylim(0, 1.3 * left.get_ylim()[1])  # the legend stands above the bars
    left.set_xlabel("multiply-accumulates of an image (millions)", fontsize=9, color=GREY)
    left.set_ylabel("share of the right or wrong images (%)", fontsize=9, color=INK)
    left.legend(fontsize=8, frameon=False, loc="upper left")
    left.set_title("What images cost", fontsize=10, color=INK, loc="left")

    parts = np.array_split(np.argsort(answers.cross_entropy, kind="stable"), min(_PARTS, len(cost)))
    places = np.arange(1, len(parts) + 1)
    low, middle, high = (np.array([np.percentile(cost[part], q) for part in parts]) for q in (10, 50, 90))
    right.fill_between(places, low, high, color=BLUE, alpha=0.15, linewidth=0, label="8 of 10 images")
    right.plot(places, middle, color=BLUE, linewidth=1.8, marker="o", markersize=4, label="median")
    losses = [answers.cross_entropy[part].mean() for part in parts]
    right.set_xticks(places, [_short(loss) for loss in losses], fontsize=7.5)
    right.set_xlabel("cross-entropy, mean of each tenth of the images", fontsize=9, color=GREY)
    right.set_ylabel("multiply-accumulates (millions)", fontsize=9, color=INK)
    right.grid(axis="y", color=PALE, linewidth=0.8)
    bottom, top = right.get_ylim()
    right.set_ylim(bottom, top + 0.3 * (top - bottom))
    right.legend(fontsize=8, frameon=False, loc="upper left")
    right.set_title("Hard images and easy ones", fontsize=10, color=INK, loc="left")
    for axes in (left, right):
        calm(axes)
    return figure


def _short(loss: float) -> str:
    return f"{loss:.0e}".replace("e-0", "e-") if loss < 0.01 else f"{loss:.2f}"


def extremes(answers: Evaluation, count: int = SHOWN) -> tuple[NumPyArray, NumPyArray]:
    """Return the numbers of the cheapest and of the dearest images among those that are answered right."""
    right = np.flatnonzero(answers.predictions == answers.labels)
    order = right[np.argsort(answers.macs[right], kind="stable")]
    count = min(count, len(order) // 2)
    return order[:count], order[len(order) - count :][::-1]


@torch.no_grad()
def kept_channels(net: DynamicResNet, images: Images, normalize: str) -> NumPyArray:
    """Return which channels images keep, bool [images, gates, places]: layers of fewer channels are stretched."""
    mean, std = (np.asarray(part, np.float32).reshape(-1, 1, 1) for part in NORMALIZATIONS[normalize])
    factors = net.details(torch.from_numpy((images.scaled() - mean) / std)).factors
    width = max(factor.shape[1] for factor in factors)
    stretched = [factor[:, torch.arange(width) * factor.shape[1] // width].ne(0) for factor in factors]
    return torch.stack(stretched, 1).numpy()


def easy_and_hard(net: DynamicResNet, test: Images, answers: Evaluation, normalize: str) -> Any:
    """Draw the cheapest and the dearest images that are answered right, each above the channels that it keeps."""
    from matplotlib.colors import ListedColormap

    groups = dict(zip(("cheapest", "dearest"), extremes(answers), strict=True))
    columns = max(1, len(groups["cheapest"]))
    figure = new_figure(9.0, 6.6)
    grid: Any = figure.subplots(4, columns, height_ratios=[1.0, 1.5] * 2, squeeze=False)
    stages = np.cumsum([0, *(2 * count for count in answers.structure.blocks)])
    colours = ListedColormap([PALE, BLUE])
    for group, (name, numbers) in enumerate(groups.items()):
        cells = kept_channels(net, test[numbers], normalize)
        for column, number in enumerate(numbers):
            picture, raster = grid[2 * group, column], grid[2 * group + 1, column]
            picture.imshow(test.images[number].squeeze(), cmap="gray", interpolation="nearest")
            label = int(test.labels[number])
            told = test.classes[label] if test.classes else f"class {label}"
            picture.set_title(f"{told}\n{answers.macs[number] / 1e6:.2f} M", fontsize=8.5, color=INK)
            raster.imshow(cells[column], cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            for edge in stages[1:-1]:
                raster.axhline(edge - 0.5, color="white", linewidth=2.0)
            raster.set_xlabel(f"{answers.kept[number].sum()} channels", fontsize=8, color=GREY)
            for axes in (picture, raster):
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
        grid[2 * group, 0].set_ylabel(name, fontsize=10, color=INK)
        first = grid[2 * group + 1, 0]
        middles = (stages[:-1] + stages[1:] - 1) / 2
        first.set_yticks(middles, [f"stage {number + 1}" for number in range(len(middles))], fontsize=8, color=GREY)
        first.tick_params(length=0)
    every = sum(answers.structure.gate_channels)
    figure.suptitle(
        f"Test images answered right, and which of {every} channels they keep (dark): a line a gate, first gate on top",
        fontsize=10,
        color=INK,
    )
    return figure
