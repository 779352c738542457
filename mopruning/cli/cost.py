"""`mopruning cost`: multiply-accumulates and parameters of a network, dense and without its zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mopruning.cli.input_shapes import HELP


def cost(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A network: .mopir, .onnx or a Moffett .json.")],
    input_shape: Annotated[list[str] | None, typer.Option(help=HELP)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    from_: Annotated[str | None, typer.Option("--from", help="Format, where the suffix does not say it.")] = None,
) -> None:
    """Count the multiply-accumulates and parameters of each layer of a network.

    Effective are the multiply-accumulates whose weight is not zero. A batch that is left open counts as 1.
    """
    from mopruning.cli.input_shapes import parse
    from mopruning.ir import passes
    from mopruning.model_files import read_model

    model = read_model(file, from_)
    report = passes.cost(model, shapes=parse(input_shape or [], model))
    if json:
        from json import dumps

        print(dumps({"file": str(file), **report.to_dict()}, indent=2))
        return
    from mopruning.cli.output import show

    show(report.table())
    macs, parameters = report.macs, report.parameters
    print(f"MACs: {macs:,}, effective {report.effective_macs:,} ({report.effective_macs / max(1, macs):.4f})")
    print(f"parameters: {parameters:,}, non-zero {report.nonzeros:,} ({report.nonzeros / max(1, parameters):.4f})")
