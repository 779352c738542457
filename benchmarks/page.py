"""What a benchmark leaves behind: a page and a chart in docs/, the raw figures beside the build."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "benchmarks"
FIGURES = ROOT / "build" / "benchmarks"


@dataclass(frozen=True)
class Table:
    """A table that prints on a terminal and in Markdown alike; the columns after the first are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def print(self) -> None:
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(title=self.title)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console = Console()
        (console if console.is_terminal else Console(width=160)).print(table)

    def markdown(self) -> str:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def facts_table(facts: Mapping[str, object]) -> str:
    """Return what the figures depend on (`timing.machine`) as a table in Markdown."""
    return Table("", ("what", "value"), [[key, f"{value}"] for key, value in facts.items()]).markdown()


def verdict(missed: Sequence[str], met: str = "All targets are met.") -> str:
    """Return the sentence of a page about its targets: `met`, or what was missed."""
    return "Missed: " + "; ".join(missed) + "." if missed else met


def write(name: str, text: str, figures: dict[str, Any], pages: Path = PAGES) -> None:
    """Write a page, to docs/benchmarks unless told otherwise, and its figures, as JSON, to build/benchmarks."""
    pages.mkdir(parents=True, exist_ok=True)
    (pages / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def chart(
    name: str, title: str, labels: Sequence[str], values: Sequence[float], targets: Sequence[float | None], *, log: bool
) -> None:
    """Draw bars of ratios, each with its target as a line, to docs/benchmarks/NAME.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    PAGES.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(labels) + 1.6), layout="constrained")
    places = range(len(labels))
    axes.barh(places, values, color="#3b6ea5", height=0.6)
    for place, value, target in zip(places, values, targets, strict=True):
        axes.annotate(f" {value:.2f}" if value < 10 else f" {value:.0f}", (value, place), va="center", fontsize=9)
        if target is not None:
            axes.plot([target, target], [place - 0.4, place + 0.4], color="#c0392b", linewidth=2)
    if any(target is not None for target in targets):
        axes.plot([], [], color="#c0392b", linewidth=2, label="target")
        axes.legend(loc="lower right", frameon=False)
    axes.axvline(1.0, color="#888888", linewidth=1, linestyle=":")
    if log:
        axes.set_xscale("log")
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(PAGES / f"{name}.png", dpi=110)
    plt.close(figure)
