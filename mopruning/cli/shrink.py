"""`mopruning shrink`: take filters of zeros out of a network, and check that it computes the same."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mopruning.cli.options import Force, From, InputShape, Network, NoCheck, Target, To

if TYPE_CHECKING:
    import onnx_ir

    from mopruning.ir.passes import CostReport, Shrunk
    from mopruning.model_files import GraphFormat

TOLERANCE = 1e-5
"""Largest difference that passes the check, as a share of the output's range."""


def shrink(
    source: Network,
    target: Target,
    from_: From = None,
    to: To = None,
    lower_stripes: Annotated[
        bool,
        typer.Option(
            "--lower-stripes", help="Compute stripe-pruned convolutions by their kept stripes, where that is faster."
        ),
    ] = False,
    no_check: NoCheck = False,
    input_shape: InputShape = None,
    force: Force = False,
) -> None:
    """Take filters and channels of zeros out of a network: a smaller dense one is left that computes the same.

    IN and what was written run on the same random input; where their outputs differ by more than 1e-5 of the output's
    range, nothing is left behind and the exit code is 1. Zero filters that cannot go are listed, with the reason.

    With --lower-stripes, BatchNormalization is folded and convolutions that keep few stripes become 1x1 convolutions of
    those; that network is to be run, not trained.
    """
    from mopruning.cli.input_shapes import parse, sample_shapes, with_sizes
    from mopruning.cli.staging import bytes_of, staged
    from mopruning.cli.targets import check_free, shown
    from mopruning.ir.passes import shrink_report
    from mopruning.model_files import check_readable, graph_format_of

    target = Path(os.path.abspath(target))
    if not source.is_dir():
        check_readable(source)
    reader, writer = graph_format_of(source, from_), graph_format_of(target, to)
    read = reader.files(source)
    check_free(read, writer.files(target), force)
    model = reader.read(source)
    shapes = parse(input_shape or [], model)
    fixed = with_sizes(model, shapes)
    samples = [] if no_check else sample_shapes(fixed, shapes)  # before anything is written
    found = shrink_report(fixed)
    smaller, lowered = _by_stripes(found.model) if lower_stripes else (found.model, ())
    with staged(target) as path:
        writer.write(smaller, path)
        note = "not checked" if no_check else _check((reader, source), (writer, path), model, samples, target.name)
    _tell(found, *(_cost(net, shapes) for net in (model, smaller)))
    if lower_stripes:
        print(f"computed by stripes: {', '.join(lowered) or 'no convolution keeps so few that it pays'}")
    print(note)
    print(f"{source}: {bytes_of(read):,} bytes -> {shown(target)}: {bytes_of(writer.files(target)):,} bytes")


def _by_stripes(model: onnx_ir.Model) -> tuple[onnx_ir.Model, tuple[str, ...]]:
    """Return the network with convolutions computed by their kept stripes, and the names of those."""
    from mopruning.ir.passes import fold_batchnorm, infer_shapes, lower_stripes

    before = infer_shapes(fold_batchnorm(model))
    after = lower_stripes(before)
    left = {node.name for node in after.graph}
    names = tuple(str(node.name) for node in before.graph if node.op_type == "Conv" and node.name not in left)
    return after, names


def _cost(model: onnx_ir.Model, shapes: dict[str, tuple[int, ...]]) -> CostReport | None:
    """Count what a network costs; None where its inputs leave sizes open."""
    from mopruning.ir.passes import ShapeError, cost

    try:
        return cost(model, shapes=shapes)
    except ShapeError:
        return None


def _tell(found: Shrunk, before: CostReport | None, after: CostReport | None) -> None:
    """Print what has become of each weight, and the totals."""
    from mopruning.cli.output import show

    show(found.table())
    if found.left == found.filters:
        print(
            "nothing could be removed: no filter is zero throughout, or each is needed; prune with filter:group first"
        )
    counts = [("filters", found.filters, found.left)]
    if before is not None and after is not None:
        counts += [("parameters", before.parameters, after.parameters), ("MACs", before.macs, after.macs)]
    for what, old, new in counts:
        print(f"{what}: {old:,} -> {new:,} ({new / max(1, old):.4f})")


def _check(
    before: tuple[GraphFormat, Path],
    after: tuple[GraphFormat, Path],
    model: onnx_ir.Model,
    samples: list[tuple[int, ...]],
    name: str,
) -> str:
    """Run both ends, and return how far they are apart; end the process with exit code 1 if that is too far."""
    from mopruning.cli.running import CheckError, difference, random_inputs, run, runtime

    (reader, source), (writer, written) = before, after
    inputs = random_inputs(model, samples)
    try:
        found = difference(run(reader, source, model, inputs), run(writer, written, None, inputs))
    except CheckError as error:
        raise CheckError(f"{error}; --input-shape gives other sizes, --no-check goes without the check") from error
    where = dict.fromkeys(runtime() if row.runner is None else row.name for row in (reader, writer))
    shapes = ", ".join("x".join(map(str, shape)) or "one number" for shape in samples)
    apart = f"{found.largest:.3g}, {found.share:.3g} of the output's range" if found.share else "0"
    note = f"check: largest difference {apart} (random input {shapes}, in {' and '.join(where)})"
    if not found.share <= TOLERANCE:  # also where it is NaN
        print(f"mopruning: {note}: the check fails, and {name} was not written", file=sys.stderr)
        raise typer.Exit(1)
    return note
