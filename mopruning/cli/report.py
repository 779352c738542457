"""`mopruning report`: what the zeros in a file are worth, in bytes, in products, and to which runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mopruning.cli.options import File, InputShape, Json

if TYPE_CHECKING:
    from mopruning.cli.contents import Contents
    from mopruning.ir.passes.report import NetworkReport


def report(
    file: File,
    input_shape: InputShape = None,
    json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here: .html.")] = None,
) -> None:
    """Show what the zeros of each layer are worth: patterns, bytes, multiply-accumulates, and who gains from them.

    For every weight its sparsity and patterns, its bytes in each encoding, the multiply-accumulates of a run with and
    without its zeros, and which runtimes use them today, or what is in the way. Weights alone have no
    multiply-accumulates. Nothing in the file is run.
    """
    from mopruning.cli.contents import contents
    from mopruning.errors import FormatError

    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise FormatError(f"{html}: unknown suffix {html.suffix!r}; a page is written to .html or .htm")
    held = contents(file)
    found = _measure(held, input_shape or [])
    size = _file_bytes(held)
    if html is not None:
        from mopruning.ir.atomic import atomic
        from mopruning.ir.passes.report_page import page

        with atomic(html) as temporary:
            temporary.write_text(page(found, file.name, size), encoding="utf-8")
    if json:
        from json import dumps

        print(dumps({"file": str(file), "bytes": size, **found.to_dict()}, indent=2, allow_nan=False))
        return
    _print(found, str(file), size)
    if html is not None:
        print(f"{html}: {html.stat().st_size:,} bytes")


def _measure(held: Contents, input_shape: list[str]) -> NetworkReport:
    from dataclasses import replace

    from mopruning.ir.passes.report import report as of_network
    from mopruning.ir.passes.report import report_weights

    if held.model is None:
        if input_shape:
            from mopruning.cli.input_shapes import InputShapeError

            raise InputShapeError(f"--input-shape: {held.files[0]} holds weights alone, which have no inputs")
        return report_weights(held.parameters)
    from mopruning.cli.input_shapes import as_option, parse
    from mopruning.ir.passes import ShapeError

    shapes = parse(input_shape, held.model)
    try:
        found = of_network(held.model, shapes=shapes)
    except ShapeError as error:
        raise ShapeError(as_option(str(error))) from None
    return replace(found, without_cost=as_option(found.without_cost))


def _print(found: NetworkReport, name: str, size: int) -> None:
    from rich.console import Console

    from mopruning.cli.output import show
    from mopruning.ir.passes import report_tables

    terminal = Console().is_terminal
    for cells in (report_tables.layers(found), report_tables.gains(found), report_tables.offers(found)):
        print(f"{cells.title}:")
        if terminal:
            show(cells.table())
        else:
            print(f"{cells}\n")
    print("\n".join(report_tables.summary(found, name, size)))


def _file_bytes(held: Contents) -> int:
    from mopruning.cli.staging import bytes_of

    return bytes_of(held.files)
