"""What a network's zeros are worth, layer by layer: patterns, bytes in each encoding, products saved, runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning import runtimes
from mopruning.arrays import Array, host_view, plain
from mopruning.conformity import Conformity, conformity
from mopruning.ir.encodings import INDEX, OVERHEAD, encode
from mopruning.ir.lazy import LazyArray, NumPyArray, lazy
from mopruning.ir.parameters import Parameter, parameters, source
from mopruning.ir.passes.cost import CostReport, cost
from mopruning.ir.passes.shapes import Image, ShapeError
from mopruning.ir.passes.shrink import shrink
from mopruning.ir.stored_tensor import lazy_array
from mopruning.report import SparsityReport, SparsityRow, sparsity

ENCODINGS = tuple(INDEX)
"""Names of the encodings, dense first."""

_KINDS = {
    "Conv": "convolution",
    "ConvTranspose": "transposed convolution",
    "Gemm": "dense",
    "MatMul": "dense",
    "LSTM": "recurrent",
    "GRU": "recurrent",
    "Gather": "embedding",
}


@dataclass(frozen=True)
class LayerRow:
    """One weight: what its zeros amount to.

    Args:
        counted: Its name, canonical shape, zeros and size.
        kind: What it does, as `mopruning.runtimes.Layer` has it; of a weight without a network, what its axes suggest.
        dtype: NumPy's name of its type.
        conformity: The patterns that its zeros satisfy.
        bytes: What it takes in each encoding of `ENCODINGS`; None in one that cannot hold it.
        reasons: By key of each runtime what keeps it from using the zeros, () where it uses them.
        node: Name of the first node that computes with it, "" without a network.
        operator: That node's operator.
        macs: Multiply-accumulates of one run by every node that computes with it; None where they are not known.
        effective_macs: Those that do not multiply by a zero weight.
    """

    counted: SparsityRow
    kind: str
    dtype: str
    conformity: Conformity
    bytes: Mapping[str, int | None]
    reasons: Mapping[str, tuple[str, ...]]
    node: str = ""
    operator: str = ""
    macs: int | None = None
    effective_macs: int | None = None

    @property
    def smallest(self) -> tuple[str, int]:
        """Return the encoding that a .mopir file holds it in, and its bytes there."""
        dense = self.bytes["dense"] or 0
        sparse = [(size, name) for name, size in self.bytes.items() if size is not None and name != "dense"]
        size, name = min(sparse, default=(dense, "dense"))
        return (name, size) if size < dense - OVERHEAD else ("dense", dense)


@dataclass(frozen=True)
class NetworkReport:
    """What the zeros of a network, or of weights alone, are worth: one row for each weight, and totals.

    Args:
        rows: The weights, in the order they are used in.
        parameters: Numbers in all trained parameters, with biases and the like.
        nonzeros: How many of them are not zero.
        cost: The multiply-accumulates of a network, with those that take no weight; None where they are not known.
        without_cost: Why they are not; "" where they are.
        shrunk: The multiply-accumulates of what `shrink` leaves of a network with zero filters or channels; None where
            it has none, or they are not known.
    """

    rows: tuple[LayerRow, ...]
    parameters: int
    nonzeros: int
    cost: CostReport | None = field(default=None, repr=False)
    without_cost: str = ""
    shrunk: CostReport | None = field(default=None, repr=False)

    @property
    def counted(self) -> SparsityReport:
        """Return zeros, size and sparsity of all weights together."""
        return SparsityReport(tuple(row.counted for row in self.rows))

    @property
    def macs(self) -> int | None:
        """Return the multiply-accumulates of one run, where they are known."""
        return None if self.cost is None else self.cost.macs

    @property
    def effective_macs(self) -> int | None:
        """Return those of them that do not multiply by a zero weight."""
        return None if self.cost is None else self.cost.effective_macs

    @property
    def of_what(self) -> str:
        """Return the shapes of the inputs that the multiply-accumulates hold for, as text."""
        shapes = {} if self.cost is None else self.cost.inputs
        return "for " + ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())

    def bytes(self, encoding: str) -> int:
        """Return what all weights take in one encoding, or in "smallest"; those that it cannot hold count as dense."""
        if encoding == "smallest":
            return sum(row.smallest[1] for row in self.rows)
        held = (row.bytes[encoding] for row in self.rows)
        return sum(row.bytes["dense"] or 0 if size is None else size for row, size in zip(self.rows, held, strict=True))

    def gains(self, runtime: str) -> tuple[LayerRow, ...]:
        """Return the rows whose zeros a runtime uses, by its key."""
        return tuple(row for row in self.rows if not row.reasons[runtime])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, text, lists and dictionaries; nothing in it is NaN or infinite."""
        counted, sizes = self.counted, (*ENCODINGS, "smallest")
        total: dict[str, Any] = {"layers": len(self.rows)}
        total |= {"size": counted.size, "zeros": counted.zeros, "sparsity": counted.sparsity}
        total |= {"parameters": self.parameters, "nonzeros": self.nonzeros}
        total |= {"macs": self.macs, "effective_macs": self.effective_macs}
        inputs = None if self.cost is None else {name: list(shape) for name, shape in self.cost.inputs.items()}
        left = self.shrunk
        total["shrunk"] = None if left is None else {"parameters": left.parameters, "macs": left.macs}
        return {
            "schema": 1,
            "inputs": inputs,
            "without_macs": self.without_cost or None,
            "total": total | {"bytes": {name: self.bytes(name) for name in sizes}},
            "layers": [_plain_row(row) for row in self.rows],
            "runtimes": [_plain_runtime(one, self) for one in runtimes.RUNTIMES],
            "runtimes_checked": runtimes.CHECKED,
        }


def report(
    model: onnx_ir.Model,
    *,
    image: Image | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int = 1,
) -> NetworkReport:
    """Report what the zeros of a network are worth.

    Args:
        model: The model; it is not changed. Weights are read one after the other.
        image: As in `mopruning.ir.passes.cost`, and so are the next two.
        shapes: Whole shapes of inputs by name.
        batch: First axis of inputs that leave it open.

    Returns:
        The report; sizes of inputs that are left open leave it without multiply-accumulates, and it says so.

    Raises:
        ShapeError: If `shapes` names no input, or contradicts the model.

    >>> x, w = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 64]), onnx_ir.Value(name="fc.weight")
    >>> weight = np.zeros((16, 64), np.float32)
    >>> weight[:, ::16] = 1.0
    >>> w.const_value = onnx_ir.tensor(weight)
    >>> node = onnx_ir.node("Gemm", [x, w], {"transB": 1}, name="fc")
    >>> graph = onnx_ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20})
    >>> found = report(onnx_ir.Model(graph, ir_version=10))
    >>> found.macs, found.effective_macs, dict(found.rows[0].bytes)
    (1024, 64, {'dense': 4096, 'bitmask': 384, 'gaps': 320, 'bank': 288})
    >>> found.rows[0].reasons["cusparselt"], found.rows[0].reasons["torch_csr"]
    (('float32, not float16, bfloat16 or int8',), ())
    """
    costs, why = None, ""
    try:
        costs = cost(model, image=image, shapes=shapes, batch=batch)
    except ShapeError as error:
        if shapes or image:
            raise
        why = str(error).removeprefix("cost: ")
    known = parameters(model)
    spent = _macs(model, known, costs)
    mobile = runtimes.not_mobile(_form(one) for one in known.values() if one.role == "weight")
    rows, size, nonzeros = [], 0, 0
    for name, parameter in known.items():
        tensor = parameter.value.const_value
        assert tensor is not None  # parameters() lists only those with content
        array = tensor.numpy()
        size, nonzeros = size + array.size, nonzeros + int(np.count_nonzero(array))
        if parameter.role == "weight":
            rows.append(_network_row(name, parameter, array, mobile, spent.get(name)))
        del array
        lazy_array(tensor).release()
    shrunk = None
    if costs is not None and any(row.conformity.zero_filters[0] or row.conformity.zero_channels[0] for row in rows):
        shrunk = cost(shrink(model), image=image, shapes=shapes, batch=batch)
    return NetworkReport(tuple(rows), size, nonzeros, costs, why, shrunk)


def report_weights(weights: Mapping[str, Array | LazyArray]) -> NetworkReport:
    """Report what the zeros of weights without a network are worth.

    What a layer does is guessed from its axes: two are a dense layer's, more a convolution's. Vectors count as
    parameters only.

    Args:
        weights: Arrays in host memory by name, canonical [out, in, *kernel]; lazy ones are read one at a time.

    >>> found = report_weights({"fc.weight": np.eye(8), "fc.bias": np.ones(8)})
    >>> found.rows[0].kind, found.counted.sparsity, found.parameters, found.without_cost
    ('dense', 0.875, 72, 'weights alone say nothing of multiply-accumulates')
    """
    rows, size, nonzeros = [], 0, 0
    shapes = [tuple(one.shape) for one in weights.values() if len(one.shape) > 1]
    mobile = runtimes.not_mobile((_guess(shape), shape, _depthwise(shape)) for shape in shapes)
    for name, given in weights.items():
        one = given if isinstance(given, LazyArray) else lazy(given)
        array = plain(one.read())
        (counted,) = sparsity({name: array}).rows
        size, nonzeros = size + counted.size, nonzeros + counted.size - counted.zeros
        if len(counted.shape) > 1:
            form = (_guess(counted.shape), counted.shape, _depthwise(counted.shape))
            rows.append(_row(counted, one.dtype, array, array, form, mobile))
        del array
        one.release()
    return NetworkReport(tuple(rows), size, nonzeros, None, "weights alone say nothing of multiply-accumulates")


_Form: TypeAlias = "tuple[str, tuple[int, ...], int]"  # kind, canonical shape, groups


def _form(parameter: Parameter) -> _Form:
    """Return what a parameter's layer is, without reading it."""
    node, tensor = parameter.node, parameter.value.const_value
    assert tensor is not None  # parameters() lists only those with content
    group = node.attributes.get("group")
    shape = parameter.canonical(np.broadcast_to(np.zeros((), np.bool_), tensor.shape.numpy())).shape
    return _KINDS.get(node.op_type, node.op_type), shape, 1 if group is None else group.as_int()


def _guess(shape: tuple[int, ...]) -> str:
    return "dense" if len(shape) == 2 else "convolution"


def _depthwise(shape: tuple[int, ...]) -> int:
    """Guess the groups of a weight without a network."""
    return shape[0] if len(shape) > 2 and shape[1] == 1 else 1


def _network_row(name: str, parameter: Parameter, array: NumPyArray, mobile: str, macs: int | None) -> LayerRow:
    canonical, node = parameter.canonical(array), parameter.node
    (counted,) = sparsity({name: canonical}).rows
    effective = None if macs is None else macs * (counted.size - counted.zeros) // max(1, counted.size)
    known = {"node": str(node.name), "operator": node.op_type, "macs": macs, "effective_macs": effective}
    return _row(counted, array.dtype, canonical, array, _form(parameter), mobile, **known)


def _row(
    counted: SparsityRow, dtype: Any, canonical: Array, stored: Array, form: _Form, mobile: str, **known: Any
) -> LayerRow:
    found, (kind, shape, groups) = conformity(canonical), form
    name = str(dtype).removeprefix("torch.")
    layer = runtimes.Layer(kind, shape, name, counted.sparsity, found, groups, mobile)
    return LayerRow(counted, kind, name, found, _sizes(stored, dtype.itemsize), runtimes.reasons(layer), **known)


def _sizes(array: Array, itemsize: int) -> dict[str, int | None]:
    """Return the bytes of an array in every encoding."""
    held = host_view(array)
    assert held is not None  # as `conformity` has checked
    if held.itemsize != itemsize:  # widened, because NumPy does not know the type: only what is zero counts here
        held = (held.view(f"u{held.itemsize}") != 0).astype(f"u{itemsize}")
    sizes: dict[str, int | None] = {"dense": held.nbytes}
    for name in ENCODINGS[1:]:
        made = encode(held, only=name)
        sizes[name] = made.nbytes if made.encoding == name else None
    return sizes


def _macs(model: onnx_ir.Model, known: Mapping[str, Parameter], costs: CostReport | None) -> dict[str, int]:
    """Return the multiply-accumulates of every weight by name: those of its nodes, shared by size within a node."""
    if costs is None:
        return {}
    spent = {row.node: row.macs for row in costs.rows}
    found = {name: 0 for name, parameter in known.items() if parameter.role == "weight"}
    for node in model.graph:
        values = [source(value)[0] for value in node.inputs]
        names = {str(value.name) for value in values if value is not None} & found.keys()
        sizes = {name: known[name].value.const_value.size for name in names}  # type: ignore[union-attr]
        for name in names if spent.get(str(node.name)) else ():
            found[name] += spent[str(node.name)] * sizes[name] // sum(sizes.values())
    return found


# ---- as plain data


def _plain_row(row: LayerRow) -> dict[str, Any]:
    counted, (encoding, _) = row.counted, row.smallest
    content: dict[str, Any] = {"name": counted.name, "node": row.node or None, "operator": row.operator or None}
    content |= {"kind": row.kind, "shape": list(counted.shape), "dtype": row.dtype}
    content |= {"size": counted.size, "zeros": counted.zeros, "sparsity": counted.sparsity}
    content |= {"patterns": list(row.conformity.patterns()), "conformity": row.conformity.to_dict()}
    content |= {"bytes": dict(row.bytes), "smallest": encoding, "macs": row.macs, "effective_macs": row.effective_macs}
    return content | {"runtimes": {key: {"gains": not why, "reasons": list(why)} for key, why in row.reasons.items()}}


def _plain_runtime(runtime: runtimes.Runtime, found: NetworkReport) -> dict[str, Any]:
    words = ("key", "name", "hardware", "needs", "gain")
    content: dict[str, Any] = {word: getattr(runtime, word) for word in words} | {"sources": list(runtime.sources)}
    return content | {"never": runtime.never or None, "layers": len(found.gains(runtime.key))}
