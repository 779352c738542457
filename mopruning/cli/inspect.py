"""`mopruning inspect`: how sparse the weights in a file are, and which patterns they satisfy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from mopruning.conformity import Conformity
    from mopruning.report import SparsityReport


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors, .npz, .pth or .pt file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a bar chart here: .png, .svg or .pdf.")] = None,
) -> None:
    """Show how sparse the weights in a file are, and which patterns they satisfy.

    For every parameter: its exact zeros over its size, the tightest N:M patterns that hold, the non-zeros in a bank
    of input channels, and how many filters, channels and stripes are zero throughout. Nothing in the file is run.
    """
    from mopruning.conformity import conformity
    from mopruning.files import open_weights, parameters
    from mopruning.report import sparsity

    if plot is not None:
        from mopruning import plots

        plots.image_format_of(plot)  # a wrong suffix should be told before a large file is read
    opened = open_weights(file)
    weights, others = parameters(opened.weights())
    others |= {alias: f"tied to {name}" for alias, name in opened.aliases.items()}
    report = sparsity(weights)
    found = {name: conformity(array) for name, array in weights.items() if len(array.shape) > 1}
    if plot is not None:
        _write_plot(report, plot)
    if json:
        _print_json(file, report, found, others, {name: str(array.dtype) for name, array in weights.items()})
        return
    from mopruning.cli.output import counted, show

    show(_table(report, found))
    if others:
        print("also in the file:", counted(list(others.values())))


def _table(report: SparsityReport, found: dict[str, Conformity]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_footer=True)
    table.add_column("parameter", "total", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("size", f"{report.size:,}", justify="right", no_wrap=True)
    table.add_column("sparsity", f"{report.sparsity:.4f}", justify="right", no_wrap=True)
    for column in ("N:M", "non-zeros in a bank", "zero throughout"):
        table.add_column(column)
    for row in report.rows:
        shape = "x".join(map(str, row.shape)) or "scalar"
        patterns = _texts(found[row.name]) if row.name in found else ("-", "-", "-")
        cells = (row.name, shape, f"{row.size:,}", f"{row.sparsity:.4f}", *patterns)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _texts(one: Conformity) -> tuple[str, str, str]:
    """Return the patterns of one weight as the three cells of its row."""
    held = [f"{n}:{m}" for m, n in one.nm.items() if n is not None and n < m]
    banks = [(bank, counts) for bank, counts in one.banks.items() if counts is not None]
    bank = "-"
    if banks:
        size, (fewest, most) = banks[-1]
        bank = f"{most} of {size}" if fewest == most else f"{fewest} to {most} of {size}"
    units = [
        f"{zero} of {count} {what}"
        for what, (zero, count) in (
            ("filters", one.zero_filters),
            ("channels", one.zero_channels),
            ("stripes", one.zero_stripes),
        )
        if zero
    ]
    return ", ".join(held) or "-", bank, ", ".join(units) or "-"


def _print_json(
    file: Path, report: SparsityReport, found: dict[str, Conformity], others: dict[str, str], dtypes: dict[str, str]
) -> None:
    import json

    content: dict[str, Any] = {"file": str(file), **report.to_dict(), "others": others}
    for name, entry in content["parameters"].items():
        entry["dtype"] = dtypes[name].removeprefix("torch.")
        entry["conformity"] = found[name].to_dict() if name in found else None
    print(json.dumps(content, indent=2))


def _write_plot(report: SparsityReport, path: Path) -> None:
    from mopruning import plots
    from mopruning.ir.atomic import atomic

    figure = plots.sparsity_bars(report)
    with atomic(path) as temporary:
        plots.save(figure, temporary, plots.image_format_of(path))
