"""`mopruning inspect`: how sparse the weights in a file are, which patterns they satisfy, and what else is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mopruning.cli.options import File, Json

if TYPE_CHECKING:
    from rich.table import Table

    from mopruning.cli.contents import Contents
    from mopruning.conformity import Conformity
    from mopruning.report import SparsityReport, SparsityRow


def inspect(
    file: File,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="Write a bar chart here: .png, .svg or .pdf.")] = None,
) -> None:
    """Show how sparse the weights in a file are, and which patterns they satisfy.

    Of a network first what it takes, gives and computes with. Then for every parameter: its exact zeros over its size,
    the tightest N:M patterns that hold, the non-zeros in a bank of input channels, and how many filters, channels and
    stripes are zero throughout; of a .mopir file also how it is stored. Nothing in the file is run.
    """
    from mopruning.cli.contents import contents

    if plot is not None:
        from mopruning import plots

        plots.image_format_of(plot)  # a wrong suffix should be told before a large file is read
    held = contents(file)
    report, found = _measure(held)
    if plot is not None:
        _write_plot(report, plot)
    if json:
        _print_json(file, held, report, found)
        return
    from mopruning.cli.output import counted, show
    from mopruning.ir.table import aligned

    if lines := _head(held, report.size):
        print(aligned(lines))
    show(_table(held, report, found))
    if held.others:
        print("also in the file:", counted(list(held.others.values())))
    if held.stored:
        size, dense = _file_bytes(held), held.dense
        print(f"{size:,} bytes; as dense numbers its tensors take {dense:,}, {dense / size:.1f} times as much")


def _measure(held: Contents) -> tuple[SparsityReport, dict[str, Conformity]]:
    """Read one parameter after the other, and let go of each."""
    from mopruning.conformity import conformity
    from mopruning.report import SparsityReport, sparsity

    rows: list[SparsityRow] = []
    found = {}
    for name, one in held.parameters.items():
        array = one.read()
        rows += sparsity({name: array}).rows
        if len(array.shape) > 1:
            found[name] = conformity(array)
        del array
        one.release()
    return SparsityReport(tuple(rows)), found


def _head(held: Contents, parameters: int) -> list[tuple[str, str]]:
    """Return what there is to say of the file as a whole, as pairs of a word and a text."""
    from json import dumps

    from mopruning.cli.notes import settings

    lines = []
    if held.model is not None:
        from mopruning.cli.graph_summary import summary

        lines += summary(held.model).lines(parameters)
    notes = dict(held.notes)
    if isinstance(notes.get("recipe"), dict):
        notes["recipe"] = settings(notes["recipe"])
    return lines + [(key, dumps(note, ensure_ascii=False)) for key, note in notes.items()]


def _file_bytes(held: Contents) -> int:
    from mopruning.cli.staging import bytes_of

    return bytes_of(held.files)


def _table(held: Contents, report: SparsityReport, found: dict[str, Conformity]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_footer=True)
    table.add_column("parameter", "total", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("size", f"{report.size:,}", justify="right", no_wrap=True)
    table.add_column("sparsity", f"{report.sparsity:.4f}", justify="right", no_wrap=True)
    if held.stored:
        total = sum(held.stored[row.name].stored for row in report.rows)
        table.add_column("encoding", no_wrap=True)
        table.add_column("bytes", f"{total:,}", justify="right", no_wrap=True)
    for column in ("N:M", "non-zeros in a bank", "zero throughout"):
        table.add_column(column)
    for row in report.rows:
        shape = "x".join(map(str, row.shape)) or "scalar"
        stored = (held.stored[row.name].encoding, f"{held.stored[row.name].stored:,}") if held.stored else ()
        patterns = _texts(found[row.name]) if row.name in found else ("-", "-", "-")
        cells = (row.name, shape, f"{row.size:,}", f"{row.sparsity:.4f}", *stored, *patterns)
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


def _print_json(file: Path, held: Contents, report: SparsityReport, found: dict[str, Conformity]) -> None:
    from json import dumps

    content: dict[str, Any] = {"file": str(file), **report.to_dict()}
    content["bytes"] = {"file": _file_bytes(held), "dense": held.dense}
    if held.stored:
        content["bytes"]["stored"] = sum(one.stored for one in held.stored.values())
    if held.model is not None:
        from mopruning.cli.graph_summary import summary

        content["graph"] = summary(held.model).to_dict()
    content |= held.notes
    for name, entry in content["parameters"].items():
        entry["dtype"] = str(held.parameters[name].dtype).removeprefix("torch.")
        if name in held.nodes:
            entry["node"], entry["operator"] = held.nodes[name]
        if name in held.stored:
            entry["encoding"], entry["bytes"] = held.stored[name].encoding, held.stored[name].stored
        entry["conformity"] = found[name].to_dict() if name in found else None
    print(dumps(content | {"others": dict(held.others)}, indent=2))


def _write_plot(report: SparsityReport, path: Path) -> None:
    from mopruning import plots
    from mopruning.ir.atomic import atomic

    figure = plots.sparsity_bars(report)
    with atomic(path) as temporary:
        plots.save(figure, temporary, plots.image_format_of(path))
