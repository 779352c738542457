"""Assembly: puts an IR graph together node by node, for readers of networks that know their own operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Value

import mopruning
from mopruning.errors import FormatError
from mopruning.ir.operators import IR_VERSION, OPSET
from mopruning.ir.passes.shapes import ShapeError, infer_shapes
from mopruning.ir.roles import roles_metadata
from mopruning.ir.validation import validate

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Size: TypeAlias = "int | str | None"

END = (1 << 63) - 1
"""The end of a Slice that takes all that is left."""

_LAYOUT = "NCHW"
_POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}


class Assembly:
    """Puts one IR graph together.

    Nodes are called as their reader says, numbered (``_1``, ``_2``) where a name is taken; so are constants. A
    parameter's name is never changed: two of one name are an error.

    Args:
        name: Name of the graph.

    >>> net = Assembly("tiny")
    >>> x = net.input("x", ["N", 3])
    >>> weight = net.parameter("fc.weight", np.ones((2, 3), np.float32))
    >>> y = net.node("Relu", "relu", [net.dense("fc", x, weight, axes=2)])
    >>> model = net.model({"y": y}, source="text")
    >>> [node.op_type for node in model.graph], model.graph.outputs[0].shape
    (['Gemm', 'Relu'], Shape([SymbolicDim('N'), 2]))
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._inputs: list[Value] = []
        self._nodes: list[onnx_ir.Node] = []
        self._initializers: dict[str, Value] = {}
        self._roles: dict[str, str] = {}
        self._nodes_taken: dict[str, int] = {}
        self._values_taken: dict[str, int] = {}

    def input(self, name: str, shape: Sequence[Size] | None, dtype: Any = np.float32) -> Value:
        """Add an input of the graph; open axes are named, or None."""
        value = Value(
            name=self._own(name, self._values_taken),
            shape=None if shape is None else onnx_ir.Shape(shape),
            type=onnx_ir.TensorType(data_type(dtype)),
        )
        self._inputs.append(value)
        return value

    def parameter(self, name: str, content: NumPyArray | onnx_ir.TensorProtocol, role: str | None = None) -> Value:
        """Add a weight, bias or buffer under its full name; the same name again gives the same value.

        Args:
            name: Its name in the source.
            content: Canonical numbers; not copied.
            role: "parameter", "buffer" or "constant" where its use does not tell.

        Raises:
            FormatError: If the name stands for something else.
        """
        if name in self._initializers:
            if self._initializers[name].const_value is content or _content(self._initializers[name]) is content:
                return self._initializers[name]
            raise FormatError(f"{self.name}: two tensors are called {name!r}")
        if name in self._values_taken:
            raise FormatError(f"{self.name}: a value is called {name!r}, as a parameter is")
        tensor = onnx_ir.Tensor(content, name=name) if isinstance(content, np.ndarray) else content
        self._values_taken[name] = 0
        if role is not None:
            self._roles[name] = role
        return self._initializer(name, tensor)

    def constant(self, name: str, numbers: Any, dtype: Any = np.int64) -> Value:
        """Add a constant that an operator needs, such as a shape."""
        own = self._own(name, self._values_taken)
        self._roles[own] = "constant"
        return self._initializer(own, onnx_ir.Tensor(np.asarray(numbers, dtype), name=own))

    def node(
        self, op_type: str, name: str, inputs: Iterable[Value | None], attributes: Mapping[str, Any] | None = None
    ) -> Value:
        """Add an operator with one output, which has the node's name."""
        return self.nodes(op_type, name, inputs, 1, attributes)[0]

    def nodes(
        self,
        op_type: str,
        name: str,
        inputs: Iterable[Value | None],
        outputs: int,
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[Value, ...]:
        """Add an operator with several outputs, numbered ``<name>.0``, ``<name>.1``, ..."""
        own = self._own(name, self._nodes_taken)
        names = [own] if outputs == 1 else [f"{own}.{index}" for index in range(outputs)]
        values = [Value(name=self._own(one, self._values_taken)) for one in names]
        given = {key: value for key, value in (attributes or {}).items() if value is not None}
        self._nodes.append(onnx_ir.node(op_type, list(inputs), given, name=own, outputs=values))
        return tuple(values)

    def cast(self, name: str, x: Value, dtype: Any) -> Value:
        """Add a Cast to a NumPy dtype."""
        return self.node("Cast", name, [x], {"to": int(data_type(dtype))})

    def index(self, name: str, x: Value, dtype: Any) -> Value:
        """Return places or sizes, which ONNX has in int64, in a NumPy dtype: with a Cast where it is another."""
        return x if np.dtype(dtype) == np.int64 else self.cast(name, x, dtype)

    def reshape(self, name: str, x: Value, shape: Sequence[int], *, allowzero: bool = False) -> Value:
        """Add a Reshape; -1 is what is left, and 0 keeps an axis unless `allowzero` says that it is a size."""
        target = self.constant(f"{name}.shape", list(shape))
        return self.node("Reshape", name, [x, target], {"allowzero": 1} if allowzero else None)

    def transpose(self, name: str, x: Value, order: Sequence[int]) -> Value:
        """Add a Transpose, where it changes anything."""
        return x if list(order) == sorted(order) else self.node("Transpose", name, [x], {"perm": list(order)})

    def slice(self, name: str, x: Value, cuts: Mapping[int, tuple[int, int, int]]) -> Value:
        """Add a Slice of some axes: axis -> start, end (`END` for all that is left) and step."""
        starts, ends, steps = (list(column) for column in zip(*cuts.values(), strict=True))
        parts = (("starts", starts), ("ends", ends), ("axes", list(cuts)), ("steps", steps))
        return self.node("Slice", name, [x, *(self.constant(f"{name}.{what}", part) for what, part in parts)])

    def reduction(
        self,
        op_type: str,
        name: str,
        x: Value,
        axes: Sequence[int],
        *,
        keepdims: bool,
        rank: int | None = None,
        numbers: str | None = None,
    ) -> Value:
        """Add a reduction; the mean or maximum over height and width of an image, kept, is a global pool.

        Args:
            op_type: ONNX's operator, such as "ReduceMean".
            name: Name of the node.
            x: What it reduces.
            axes: The axes that go, from the front and in order; none for all of them.
            keepdims: Whether they stay, with a size of 1.
            rank: How many axes an image has; None where it is no image, or one of whole numbers.
            numbers: Name of the constant with the axes, by default ``<name>.axes``.
        """
        pool = _POOLS.get(op_type)
        if pool is not None and keepdims and rank is not None and rank > 2 and list(axes) == list(range(2, rank)):
            return self.node(pool, name, [x])
        given = [self.constant(numbers or f"{name}.axes", list(axes))] if axes else []
        return self.node(op_type, name, [x, *given], {"keepdims": int(keepdims)})

    def dense(self, name: str, x: Value, weight: Value, bias: Value | None = None, *, axes: int | None) -> Value:
        """Add a dense layer whose weight is [out, in], as the profile spells it.

        Args:
            name: Name of the layer.
            x: Its input [..., in].
            weight: [out, in].
            bias: [out].
            axes: How many axes `x` has; None where that is not known.
        """
        if axes == 2:
            return self.node("Gemm", name, [x, weight, *([] if bias is None else [bias])], {"transB": 1})
        turned = self.node("Transpose", f"{name}.transpose", [weight], {"perm": [1, 0]})
        product = self.node("MatMul", name, [x, turned])
        return product if bias is None else self.node("Add", f"{name}.add", [product, bias])

    def model(
        self, outputs: Mapping[str, Value], *, source: str, metadata: Mapping[str, str] | None = None
    ) -> onnx_ir.Model:
        """Finish the graph: infer its shapes, note the roles of its initializers, and check it.

        Args:
            outputs: Outputs by name, in order. One that is an input or a parameter, or stands here twice, is given by
                an Identity of its own.
            source: Where the network comes from, for the metadata.
            metadata: Further entries of `metadata_props`.

        Raises:
            FormatError: If its shapes do not fit together.
            UnsupportedOperators: If it is outside the profile.
        """
        given: list[Value] = []
        for name, value in outputs.items():
            if value.producer() is None or value in given:
                value = self.node("Identity", name, [value])
            elif value.name != name:
                value.name = self._own(name, self._values_taken)
            given.append(value)
        graph = onnx_ir.Graph(
            self._inputs,
            given,
            nodes=self._nodes,
            initializers=[value for value in self._initializers.values() if value.uses()],
            opset_imports={"": OPSET},
            name=self.name,
        )
        model = onnx_ir.Model(
            graph,
            ir_version=IR_VERSION,
            producer_name="mopruning",
            producer_version=mopruning.__version__,
            metadata_props={"mopruning.source": source, "mopruning.layout": _LAYOUT, **(metadata or {})},
        )
        try:
            model = infer_shapes(model)
        except ShapeError as error:
            raise FormatError(f"{self.name}: {error}") from error
        roles = {name: role for name, role in self._roles.items() if name in model.graph.initializers}
        model.metadata_props.update(roles_metadata(model, roles))
        validate(model)
        return model

    def _initializer(self, name: str, tensor: onnx_ir.TensorProtocol) -> Value:
        shape, kind = onnx_ir.Shape(tensor.shape.numpy()), onnx_ir.TensorType(tensor.dtype)
        value = Value(name=name, shape=shape, type=kind, const_value=tensor)
        self._initializers[name] = value
        return value

    def _own(self, name: str, taken: dict[str, int]) -> str:
        """Return the name, numbered if it is in use."""
        own = name
        while own in taken:
            taken[name] += 1
            own = f"{name}_{taken[name]}"
        taken[own] = 0
        return own


def data_type(dtype: Any) -> onnx_ir.DataType:
    """Return ONNX's name of a NumPy dtype.

    >>> data_type(np.float16).name
    'FLOAT16'
    """
    return onnx_ir.DataType.from_numpy(np.dtype(dtype))


def _content(value: Value) -> Any:
    return None if value.const_value is None else getattr(value.const_value, "raw", None)
