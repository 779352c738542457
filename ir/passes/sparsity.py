"""How sparse a model's weights are, and which patterns they satisfy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir

from mopruning import report
from mopruning.conformity import Conformity, conformity
from mopruning.ir.parameters import parameters
from mopruning.ir.table import aligned
from mopruning.report import SparsityRow

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("weight", "node", "shape", "zeros", "size", "sparsity", "patterns")


@dataclass(frozen=True)
class WeightRow:
    """One weight of a model.

    Args:
        counted: Its name, canonical shape, zeros and size.
        node: Name of the node that computes with it.
        operator: That node's operator.
        conformity: The patterns that its zeros satisfy.
    """

    counted: SparsityRow
    node: str
    operator: str
    conformity: Conformity

    def texts(self) -> tuple[str, ...]:
        """Return the row as text, one for each column of the table."""
        row, shape = self.counted, "x".join(map(str, self.counted.shape))
        patterns = ", ".join(self.conformity.patterns()) or "-"
        return row.name, self.node, shape, f"{row.zeros:,}", f"{row.size:,}", f"{row.sparsity:.4f}", patterns


@dataclass(frozen=True)
class ModelSparsity:
    """How sparse a model is: one row for each weight that can be pruned.

    Args:
        rows: The weights, in the order they are used in.
    """

    rows: tuple[WeightRow, ...]

    @property
    def total(self) -> report.SparsityReport:
        """Return zeros, size and sparsity of all weights together."""
        return report.SparsityReport(tuple(row.counted for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, lists and dictionaries."""
        result = self.total.to_dict()
        for row in self.rows:
            more = {"node": row.node, "operator": row.operator, "conformity": row.conformity.to_dict()}
            result["parameters"][row.counted.name] |= more
        return result

    def table(self) -> Table:
        """Return the report as a rich table, for a terminal or a notebook."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_footer=True)
        for index, (column, footer) in enumerate(zip(_COLUMNS, self._footer(), strict=True)):
            table.add_column(column, footer, justify="right" if index in (3, 4, 5) else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(text) for text in row.texts()))
        return table

    def __str__(self) -> str:
        return aligned([_COLUMNS, *(row.texts() for row in self.rows), self._footer()], right=(3, 4, 5))

    def _footer(self) -> tuple[str, ...]:
        total = self.total
        return "total", "", "", f"{total.zeros:,}", f"{total.size:,}", f"{total.sparsity:.4f}", ""


def sparsity(model: onnx_ir.Model) -> ModelSparsity:
    """Count the exact zeros of every weight of a model, and read off the patterns that they satisfy.

    Weights are what can be pruned: those of convolutions, dense and recurrent layers, embeddings and matrix products,
    seen as [out, in, *kernel] however the model stores them. `mopruning.sparsity` counts any named arrays.

    Args:
        model: The model; it is not changed. Weights are read one after the other.

    >>> import numpy as np
    >>> x, w = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 4]), onnx_ir.Value(name="fc.weight")
    >>> w.const_value = onnx_ir.tensor(np.array([[1, 0, 0, 2], [0, 3, 0, 0]], np.float32))
    >>> node = onnx_ir.node("Gemm", [x, w], {"transB": 1}, name="fc")
    >>> graph = onnx_ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20})
    >>> print(sparsity(onnx_ir.Model(graph, ir_version=10)))
    weight     node  shape  zeros  size  sparsity  patterns
    fc.weight  fc    2x4        5     8    0.6250  2:4
    total                       5     8    0.6250
    """
    rows = []
    for name, parameter in parameters(model).items():
        tensor = parameter.value.const_value
        if parameter.role != "weight" or tensor is None:
            continue
        array = parameter.canonical(tensor.numpy())
        (counted,) = report.sparsity({name: array}).rows
        node = parameter.node
        rows.append(WeightRow(counted, str(node.name), node.op_type, conformity(array)))
    return ModelSparsity(tuple(rows))
