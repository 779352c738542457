"""What a model costs: multiply-accumulates and parameters of each node, dense and without its zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir

from mopruning.ir.parameters import Parameter, parameters
from mopruning.ir.passes.constants import NumPyArray, constant
from mopruning.ir.passes.shapes import Image, ShapeError, infer_shapes, static_shape
from mopruning.ir.table import aligned

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("node", "operator", "output", "MACs", "effective", "parameters", "non-zeros")
SIZES = "image= or shapes="
"""The arguments that give sizes, as errors name them."""

_GATES = {"LSTM": 4, "GRU": 3}


@dataclass(frozen=True)
class CostRow:
    """What one node costs.

    Args:
        node: Its name.
        operator: Its operator.
        output: Shape of its first output.
        macs: Multiply-accumulates of one run.
        effective_macs: Those of them that do not multiply by a zero weight.
        parameters: Numbers in its trained parameters; those shared with a node before it count there.
        nonzeros: How many of them are not zero.
    """

    node: str
    operator: str
    output: tuple[int, ...]
    macs: int
    effective_macs: int
    parameters: int
    nonzeros: int

    def texts(self) -> tuple[str, ...]:
        """Return the row as text, one for each column of the table."""
        numbers = (self.macs, self.effective_macs, self.parameters, self.nonzeros)
        shape = "x".join(map(str, self.output)) or "scalar"
        return (self.node, self.operator, shape, *(f"{number:,}" for number in numbers))


@dataclass(frozen=True)
class CostReport:
    """What a model costs: one row for each node that multiplies or has parameters, and totals.

    Args:
        rows: The nodes, in the order they run in.
        inputs: Shapes of the model's inputs that the numbers hold for.
    """

    rows: tuple[CostRow, ...]
    inputs: Mapping[str, tuple[int, ...]]

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of one run."""
        return sum(row.macs for row in self.rows)

    @property
    def effective_macs(self) -> int:
        """Return the multiply-accumulates of one run that do not multiply by a zero weight."""
        return sum(row.effective_macs for row in self.rows)

    @property
    def parameters(self) -> int:
        """Return how many numbers the trained parameters hold."""
        return sum(row.parameters for row in self.rows)

    @property
    def nonzeros(self) -> int:
        """Return how many of them are not zero."""
        return sum(row.nonzeros for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, lists and dictionaries."""
        numbers = ("macs", "effective_macs", "parameters", "nonzeros")
        return {
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "total": {name: getattr(self, name) for name in numbers},
            "nodes": [
                {"node": row.node, "operator": row.operator, "output": list(row.output)}
                | {name: getattr(row, name) for name in numbers}
                for row in self.rows
            ],
        }

    def table(self) -> Table:
        """Return the report as a rich table, for a terminal or a notebook."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_footer=True, caption=self._caption())
        for index, (column, footer) in enumerate(zip(_COLUMNS, self._total(), strict=True)):
            table.add_column(column, footer, justify="left" if index < 3 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(text) for text in row.texts()))
        return table

    def __str__(self) -> str:
        rows = [_COLUMNS, *(row.texts() for row in self.rows), self._total()]
        return f"{aligned(rows, right=range(3, len(_COLUMNS)))}\n{self._caption()}"

    def _total(self) -> tuple[str, ...]:
        numbers = (self.macs, self.effective_macs, self.parameters, self.nonzeros)
        return ("total", "", "", *(f"{number:,}" for number in numbers))

    def _caption(self) -> str:
        return "for " + ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.inputs.items())


def cost(
    model: onnx_ir.Model,
    *,
    image: Image | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int = 1,
) -> CostReport:
    """Count the multiply-accumulates and parameters of each node.

    One multiply-accumulate is one product of a convolution, matrix product or recurrent gate; products with padded
    zeros count, while biases, normalisations, pooling and element-wise operators do not. Effective are those whose
    weight is not zero. Parameters are the trained ones (`mopruning.ir.parameters`), without running statistics.

    Args:
        model: The model; it is not changed. Weights are read one after the other, to count their zeros.
        image: Height and width, or one number for both, of every input of four axes, where the model leaves them open
            or another size is meant.
        shapes: Whole shapes of inputs by name, such as ``{"tokens": (1, 128)}``.
        batch: First axis of inputs that leave it open.

    Raises:
        ShapeError: If shapes contradict each other, or are needed and left open.

    >>> x, w = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 4]), onnx_ir.Value(name="fc.weight")
    >>> w.const_value = onnx_ir.tensor(np.array([[1, 0, 0, 2], [0, 3, 0, 0]], np.float32))
    >>> node = onnx_ir.node("Gemm", [x, w], {"transB": 1}, name="fc")
    >>> graph = onnx_ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20})
    >>> print(cost(onnx_ir.Model(graph, ir_version=10)))
    node   operator  output  MACs  effective  parameters  non-zeros
    fc     Gemm      1x2        8          3           8          3
    total                       8          3           8          3
    for x 1x4
    """
    shaped = infer_shapes(model, image=image, shapes=shapes, batch=batch)
    owned: dict[onnx_ir.Node, list[Parameter]] = {}
    for parameter in parameters(shaped).values():
        owned.setdefault(parameter.node, []).append(parameter)
    inputs = {}
    for value in shaped.graph.inputs:
        if not value.is_initializer():
            inputs[str(value.name)] = _needed(value, "it is an input: give")
    varying: set[onnx_ir.Node] = set()
    rows = (_row(node, owned.get(node, []), varying) for node in shaped.graph)
    return CostReport(tuple(row for row in rows if row.macs or row.parameters), inputs)


def _row(node: onnx_ir.Node, owned: list[Parameter], varying: set[onnx_ir.Node]) -> CostRow:
    sizes = nonzeros = 0
    for parameter in owned:
        tensor = parameter.value.const_value
        assert tensor is not None  # parameters() lists only those with content
        sizes += tensor.size
        nonzeros += int(np.count_nonzero(tensor.numpy()))
    products = [] if node.domain else _products(node, varying)
    dense = sum(count for count, _ in products)
    effective = sum(_share(count, weight) for count, weight in products)
    output = static_shape(node.outputs[0]) if node.outputs else ()
    return CostRow(str(node.name), node.op_type, output or (), dense, effective, sizes, nonzeros)


def _products(node: onnx_ir.Node, varying: set[onnx_ir.Node]) -> list[tuple[int, NumPyArray | None]]:
    """Return the matrix products of a node: how many multiply-accumulates, and by which weight if it is constant."""
    operator = node.op_type
    if operator in ("Conv", "ConvTranspose"):
        weight = _needed(node.inputs[1])
        pixels = _needed(node.outputs[0] if operator == "Conv" else node.inputs[0])
        return [(pixels[0] * math.prod(pixels[2:]) * math.prod(weight), constant(node.inputs[1], varying))]
    if operator == "Gemm":
        rows = _needed(node.outputs[0])[0]
        return [(rows * math.prod(_needed(node.inputs[1])), constant(node.inputs[1], varying))]
    if operator == "MatMul":
        inner = _needed(node.inputs[0])[-1]
        left, right = (constant(value, varying) for value in node.inputs)
        return [(math.prod(_needed(node.outputs[0])) * inner, right if left is None else left)]
    if operator in _GATES:
        steps, samples = _needed(node.inputs[0])[:2]
        return [
            (steps * samples * math.prod(_needed(node.inputs[i])), constant(node.inputs[i], varying)) for i in (1, 2)
        ]
    return []


def _share(count: int, weight: NumPyArray | None) -> int:
    """Return the products that do not multiply by a zero: every number of a weight is used equally often."""
    if weight is None or not weight.size:
        return count
    return count * int(np.count_nonzero(weight)) // weight.size


def _needed(value: onnx_ir.Value | None, why: str = "give") -> tuple[int, ...]:
    shape = static_shape(value)
    if shape is None:
        name = "" if value is None else value.name
        known = None if value is None or value.shape is None else [str(size) for size in value.shape]
        raise ShapeError(
            f"cost: the shape of {name!r} is open ({'unknown' if known is None else ', '.join(known)}); {why} the "
            f"inputs' sizes with {SIZES}"
        )
    return shape
