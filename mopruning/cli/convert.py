"""`mopruning convert`: write a network, or weights, in another format, and check that nothing has changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mopruning.cli.options import Force, From, InputShape, NetworkOrWeights, NoCheck, Target, To
from mopruning.errors import FormatError

if TYPE_CHECKING:
    import onnx_ir

    from mopruning.cli.running import Difference
    from mopruning.model_files import GraphFormat

TOLERANCE = 1e-4
"""Largest difference that passes the check, as a share of the output's range."""

_TENSORS = "of a TensorFlow graph that does not say so itself (give it once for each)."


def convert(
    source: NetworkOrWeights,
    target: Target,
    from_: From = None,
    to: To = None,
    no_check: NoCheck = False,
    sparse: Annotated[bool, typer.Option("--sparse", help="Write .onnx with sparse initializers.")] = False,
    external: Annotated[
        bool, typer.Option("--external", help="Write .onnx with its weights in a file beside it, as 2 GB need.")
    ] = False,
    input_shape: InputShape = None,
    inputs: Annotated[list[str] | None, typer.Option(help=f"A tensor that is an input {_TENSORS}")] = None,
    outputs: Annotated[list[str] | None, typer.Option(help=f"A tensor that is an output {_TENSORS}")] = None,
    force: Force = False,
) -> None:
    """Write a network in another format, and check that it computes the same.

    IN and what was written run on the same random input; where their outputs differ by more than 1e-4 of the output's
    range, nothing is left behind and the exit code is 1. Files of weights without a network (.safetensors, .npz, .pth,
    .pt, .mopir) are converted one into another, and compared bit for bit; recipe and provenance stay behind where OUT
    has no place for them.
    """
    from mopruning.cli.convert_weights import convert_weights, holds_weights
    from mopruning.cli.notes import no_place
    from mopruning.cli.staging import bytes_of
    from mopruning.cli.targets import check_free, shown
    from mopruning.model_files import check_readable, graph_format_of

    target = Path(os.path.abspath(target))
    if not source.is_dir():
        check_readable(source)
    options = {name: True for name, wanted in (("sparse", sparse), ("external", external)) if wanted}
    ends = {name: named for name, named in (("inputs", inputs), ("outputs", outputs)) if named}
    read: tuple[Path, ...] = (source,)
    written: tuple[Path, ...] = (target,)
    dropped: tuple[str, ...] = ()
    if from_ is None and to is None and holds_weights(source, target):
        if options or ends or input_shape:
            option = next(iter(options | ends), "input-shape")
            raise FormatError(f"--{option} is for networks; {source} -> {target.name} converts weights alone")
        check_free(read, written, force)
        note, dropped = convert_weights(source, target, check=not no_check)
    else:
        reader, writer = graph_format_of(source, from_), graph_format_of(target, to)
        check_free(read, writer.files(target), force)
        model = reader.read(source, **ends)
        note = _convert_network(model, (reader, source), (writer, target), options, input_shape or [], no_check)
        read, written = reader.files(source), writer.files(target)
    print(note)
    if dropped:
        print(no_place(shown(target), dropped))
    print(f"{source}: {bytes_of(read):,} bytes -> {shown(target)}: {bytes_of(written):,} bytes")


def _convert_network(
    model: onnx_ir.Model,
    before: tuple[GraphFormat, Path],
    after: tuple[GraphFormat, Path],
    options: Mapping[str, bool],
    texts: list[str],
    no_check: bool,
) -> str:
    """Write the target, and return what the check says; end the process with exit code 1 where it fails."""
    from mopruning.cli.input_shapes import parse, sample_shapes, with_sizes
    from mopruning.cli.staging import staged

    (reader, source), (writer, target) = before, after
    shapes = parse(texts, model)
    fixed = with_sizes(model, shapes)
    samples = [] if no_check else sample_shapes(fixed, shapes)  # before anything is written
    with staged(target) as path:
        writer.write(fixed, path, **options)
        if no_check:
            return "not checked"
        found = _compare(reader, source, writer, path, model, samples)
        note = _note(found, fixed, samples, (reader, writer))
        if not found.share <= TOLERANCE:  # also where it is NaN
            print(f"mopruning: {note}: the check fails, and {target.name} was not written", file=sys.stderr)
            raise typer.Exit(1)
    return note


def _compare(
    reader: GraphFormat,
    source: Path,
    writer: GraphFormat,
    written: Path,
    model: onnx_ir.Model,
    samples: list[tuple[int, ...]],
) -> Difference:
    from mopruning.cli.running import CheckError, difference, random_inputs, run

    inputs = random_inputs(model, samples)
    try:
        before = run(reader, source, model, inputs)
        return difference(before, run(writer, written, None, inputs))
    except CheckError as error:
        raise CheckError(f"{error}; --input-shape gives other sizes, --no-check goes without the check") from error


def _note(
    found: Difference,
    model: onnx_ir.Model,
    samples: list[tuple[int, ...]],
    ends: tuple[GraphFormat, GraphFormat],
) -> str:
    from mopruning.cli.running import runtime

    where = dict.fromkeys(runtime() if row.runner is None else row.name for row in ends)
    outputs = [value.name for value in model.graph.outputs]
    which = f" of {outputs[found.output]}" if len(outputs) > 1 else ""
    shapes = ", ".join("x".join(map(str, shape)) or "one number" for shape in samples)
    apart = f"{found.largest:.3g}, {found.share:.3g} of the output's range" if found.share else "0"
    return f"check: largest difference{which} {apart} (random input {shapes}, in {' and '.join(where)})"
