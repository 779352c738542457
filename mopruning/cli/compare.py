"""`mopruning compare`: what differs between two files of networks or weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
import typer

if TYPE_CHECKING:
    import onnx_ir
    from rich.table import Table

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class WeightDifference:
    """What differs between two tensors of one name.

    Args:
        name: Their name.
        verdict: In words; "identical" if every bit is the same.
        zeros: How many zeros each has; None where it is absent.
        largest: Largest difference of two numbers, None where there is none to take.
        counts: Whether this makes the files differ.
    """

    name: str
    verdict: str
    zeros: tuple[int | None, int | None]
    largest: float | None = None
    counts: bool = True


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A network or weights, in any format that can be read.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Show what differs between two files of networks or weights.

    Compared are the graphs, node by node, where both files have one, and all tensors by name, bit by bit. A file of
    weights may hold counters, and a graph constants, that the other has no place for: they are listed and do not count,
    and neither do other names of nodes. The exit code is 1 where the files differ.
    """
    from mopruning.cli.output import show

    (first, left), (second, right) = _read(a), _read(b)
    one_graph = (first is None) != (second is None)
    rows = compare_weights(left, right, ignore_constants=one_graph)
    graphs = None if first is None or second is None else compare_graphs(first, second)
    show(_table(rows))
    if first is None or second is None:
        lacking = [str(file) for file, model in ((a, first), (b, second)) if model is None]
        print(f"graphs: not compared, {' and '.join(lacking)} {'hold' if len(lacking) > 1 else 'holds'} weights alone")
    else:
        print("graphs:", f"differ: {graphs}" if graphs else "identical")
    differing = [row for row in rows if row.counts and row.verdict != "identical"]
    same_zeros = all(row.verdict.startswith(("identical", "zeros identical")) for row in rows if row.counts)
    largest = [row.largest for row in differing if row.largest is not None]
    if not differing:
        print("weights: identical")
    else:
        print(
            f"weights: {len(differing)} of {len(rows)} differ, zeros {'identical' if same_zeros else 'differ'}"
            + (f", largest difference {max(largest, key=_nan_first):.6g}" if largest else "")
        )
    if differing or graphs:
        raise typer.Exit(1)


def _nan_first(number: float) -> float:
    return np.inf if np.isnan(number) else number


def _read(file: Path) -> tuple[onnx_ir.Model | None, dict[str, NumPyArray]]:
    """Return a file's network, if it holds one, and its tensors."""
    from mopruning.files import FORMATS, open_weights
    from mopruning.model_files import GRAPH_FORMATS, check_readable, read_model

    check_readable(file)
    suffix = file.suffix.lower()
    if suffix == ".mopir":
        from mopruning.ir import container

        alone = "graph" not in container.read(file)[1]
    else:
        alone = suffix in FORMATS.keys() - GRAPH_FORMATS.keys()
    if alone:
        opened = open_weights(file)
        weights = {name: _as_array(tensor) for name, tensor in opened.weights().items()}
        return None, weights | {alias: weights[name] for alias, name in opened.aliases.items() if name in weights}
    model = read_model(file)
    initializers = model.graph.initializers.items()
    return model, {name: one.const_value.numpy() for name, one in initializers if one.const_value is not None}


def _as_array(tensor: Any) -> NumPyArray:
    if isinstance(tensor, np.ndarray):
        return tensor
    if "bfloat16" in str(tensor.dtype):  # NumPy takes it from torch in no other way
        return np.asarray(tensor.detach().float().cpu().numpy()).astype(_bfloat16())
    return np.asarray(tensor.detach().cpu().numpy())


def _bfloat16() -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16


def compare_weights(
    left: Mapping[str, NumPyArray], right: Mapping[str, NumPyArray], *, ignore_constants: bool = False
) -> list[WeightDifference]:
    """Compare tensors by name.

    Args:
        left: Tensors of the one file.
        right: Of the other.
        ignore_constants: Whether whole numbers and single numbers that only one file has do not count.

    Returns:
        One row for each name, in the order of `left`, then of `right`.

    >>> rows = compare_weights({"w": np.array([0.0, 1.0])}, {"w": np.array([0.0, 1.5])})
    >>> rows[0].verdict, rows[0].largest
    ('zeros identical', 0.5)
    """
    rows = []
    for name in dict.fromkeys([*left, *right]):
        if name in left and name in right:
            rows.append(_difference(name, left[name], right[name]))
            continue
        only = left[name] if name in left else right[name]
        constant = only.size <= 1 or only.dtype.kind in "biu"
        zeros = only.size - int(np.count_nonzero(only))
        sides = (zeros, None) if name in left else (None, zeros)
        where = "only in A" if name in left else "only in B"
        rows.append(WeightDifference(name, where, sides, counts=not (constant and ignore_constants)))
    return rows


def _difference(name: str, left: NumPyArray, right: NumPyArray) -> WeightDifference:
    nonzero = left != 0, right != 0
    zeros = (left.size - int(nonzero[0].sum()), right.size - int(nonzero[1].sum()))
    if left.shape != right.shape:
        shapes = " and ".join("x".join(map(str, one.shape)) or "scalar" for one in (left, right))
        return WeightDifference(name, f"shapes {shapes}", zeros)
    old, new = left.dtype.newbyteorder("="), right.dtype.newbyteorder("=")
    if old == new and left.astype(old).tobytes() == right.astype(old).tobytes():
        return WeightDifference(name, "identical", zeros, 0.0)
    same = (left == right) | ((left != left) & (right != right))
    with np.errstate(invalid="ignore"):  # of two infinities, which are the same
        apart = np.abs(left.astype(np.float64) - right.astype(np.float64))[~same]
    largest = float(apart.max()) if apart.size else 0.0
    moved = int((nonzero[0] != nonzero[1]).sum())
    verdict = f"zeros differ in {moved:,} places" if moved else "zeros identical"
    if old != new:
        verdict += f", {old.name} and {new.name}"
    elif not apart.size:
        verdict += ", other signs of zero or NaN"
    return WeightDifference(name, verdict, zeros, largest)


def compare_graphs(left: onnx_ir.Model, right: onnx_ir.Model) -> str:
    """Compare two graphs without the content of their weights, which are known by name.

    Returns:
        What is different first, in words; "" where operators, attributes and connections agree, whatever the names of
        nodes and of what they compute.
    """
    first, second = _described(left), _described(right)
    for (name, mine), (other, its) in zip(first, second, strict=False):
        if mine != its:
            key = next(key for key in mine if mine[key] != its[key])
            return f"node {name!r} in A, {other!r} in B: {key} {mine[key]!r} and {its[key]!r}"
    if len(first) != len(second):
        return f"{len(first)} nodes in A, {len(second)} in B"
    inputs = [[_value(one) for one in model.graph.inputs if not one.is_initializer()] for model in (left, right)]
    if inputs[0] != inputs[1]:
        return f"inputs {', '.join(inputs[0])} in A, {', '.join(inputs[1])} in B"
    outputs = [[_places(model).get(one, one.name) for one in model.graph.outputs] for model in (left, right)]
    return "" if outputs[0] == outputs[1] else f"outputs {outputs[0]} in A, {outputs[1]} in B"


def _described(model: onnx_ir.Model) -> list[tuple[str, dict[str, Any]]]:
    """Return what each node does, apart from its name."""
    import onnx_ir

    places = _places(model)
    found = []
    for node in model.graph:
        attributes = {
            name: " ".join(str(onnx_ir.serde.serialize_attribute(node.attributes[name])).split())
            for name in sorted(node.attributes)
        }
        reads = [None if value is None else places.get(value, value.name) for value in node.inputs]
        what = {"operator": node.op_type, "inputs": reads, "outputs": len(node.outputs), "attributes": attributes}
        found.append((str(node.name), what))
    return found


def _places(model: onnx_ir.Model) -> dict[onnx_ir.Value, str]:
    """Return names for the values of a graph that follow from where they are computed."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    places = {value: f"input {index}" for index, value in enumerate(inputs)}
    for index, node in enumerate(model.graph):
        places |= {value: f"output {number} of node {index}" for number, value in enumerate(node.outputs)}
    return places


def _value(value: onnx_ir.Value) -> str:
    sizes = "x".join(str(size) if isinstance(size, int) else "?" for size in value.shape or ())
    return f"{value.dtype} {sizes}"


def _table(rows: list[WeightDifference]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("weight", "zeros in A", "zeros in B", "difference", "largest"):
        table.add_column(column, justify="left" if column in ("weight", "difference") else "right", overflow="fold")
    for row in rows:
        zeros = ["-" if zero is None else f"{zero:,}" for zero in row.zeros]
        largest = "-" if row.largest is None else f"{row.largest:.6g}"
        verdict = row.verdict if row.counts else f"{row.verdict}, does not count"
        table.add_row(*(Text(cell) for cell in (row.name, *zeros, verdict, largest)))
    return table
