"""Arguments and options that several commands take, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mopruning.model_files import FORMAT_ROWS

_READ = ", ".join(row.name for row in FORMAT_ROWS if row.reader)
_WRITTEN = ", ".join(row.name for row in FORMAT_ROWS if row.writer)
_NETWORK = "A network: .mopir, .onnx, -symbol.json, .meta, .pb, a SavedModel, .mindir, Moffett .json"

Network = Annotated[Path, typer.Argument(metavar="IN", help=f"{_NETWORK}.")]
NetworkOrWeights = Annotated[Path, typer.Argument(metavar="IN", help=f"{_NETWORK}; or weights.")]
NetworkFile = Annotated[Path, typer.Argument(metavar="FILE", help=f"{_NETWORK}.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help=f"{_NETWORK}; or weights.")]
Target = Annotated[
    Path, typer.Argument(metavar="OUT", help="Where to; the suffix says the format, a folder means PyTorch source.")
]

From = Annotated[str | None, typer.Option("--from", help=f"Format, where the suffix does not say it: {_READ}.")]
To = Annotated[str | None, typer.Option("--to", help=f"Format of OUT, where its suffix does not say it: {_WRITTEN}.")]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        help="Sizes of an input, such as 1,3,224,224; NAME:1,128 where there are several (give it once for each)."
    ),
]
NoCheck = Annotated[bool, typer.Option("--no-check", help="Do not run both ends on the same input.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT where it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
