"""Variables of a TensorFlow graph as the core sees them: names, how they lie, and canonical arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning.errors import RecipeError
from mopruning.layouts import KernelLayout

Array: TypeAlias = np.ndarray[Any, Any]


def plain_layout(axes: int) -> KernelLayout:
    """Return the layout of a variable of so many axes that lies as it is canonical."""
    return KernelLayout(tuple(range(axes)))


def kernel_layout(axes: int) -> KernelLayout:
    """Return the layout that TensorFlow gives kernels of so many axes: [*kernel, in, out], and [in, out].

    >>> kernel_layout(4).shape((3, 5, 16, 32))
    (32, 16, 3, 5)
    """
    return KernelLayout((axes - 1, axes - 2, *range(axes - 2))) if axes > 1 else plain_layout(axes)


# What only hands a variable's value on, so that its consumers tell as much.
_PASSING = frozenset({"Identity", "ReadVariableOp", "Cast", "Enter", "RefEnter", "Switch", "RefSwitch", "StopGradient"})
_RESHAPING = frozenset({"ExpandDims", "Reshape", "Squeeze"})  # a 1-D convolution is a 2-D one of height 1

_MATMULS = {  # type -> attributes that say whether the first and the second operand are transposed
    "MatMul": ("transpose_a", "transpose_b"),
    "SparseMatMul": ("transpose_a", "transpose_b"),
    "BatchMatMul": ("adj_x", "adj_y"),
    "BatchMatMulV2": ("adj_x", "adj_y"),
    "BatchMatMulV3": ("adj_x", "adj_y"),
}
_CONVOLUTIONS = frozenset({"Conv2D", "Conv3D"})
_TRANSPOSED = frozenset({"Conv2DBackpropInput", "Conv3DBackpropInput", "Conv3DBackpropInputV2"})
_LOOKUPS = frozenset({"Gather", "GatherV2", "ResourceGather", "SparseSegmentSum", "SparseSegmentMean"})
_LOOKUPS |= {"SparseSegmentSqrtN"}


def layout_told_by(operation: tf.Operation, place: int, axes: int) -> KernelLayout | None:
    """Return the layout of a variable of so many axes that an operation has as its input `place`; None: it tells none.

    In a gradient the same operations stand for other layers; the operation that was built first is the layer.
    """
    kind = operation.type
    if kind in _MATMULS and axes == 2:
        transposed = operation.get_attr(_MATMULS[kind][place])
        return plain_layout(2) if transposed == (place == 1) else kernel_layout(2)
    if kind == "SparseTensorDenseMatMul" and axes == 2 and place == 3:
        return plain_layout(2) if operation.get_attr("adjoint_b") else kernel_layout(2)
    if kind in _CONVOLUTIONS and place == 1 and axes > 2:
        return kernel_layout(axes)
    if kind in _TRANSPOSED and place == 1 and axes > 2:
        return KernelLayout((axes - 2, axes - 1, *range(axes - 2)))
    if kind == "DepthwiseConv2dNative" and place == 1 and axes == 4:
        return KernelLayout((2, 3, 0, 1), int(operation.inputs[1].shape[3]))
    return plain_layout(axes) if kind in _LOOKUPS and place == 0 else None


def layouts_of(graph: tf.Graph, variables: Mapping[str, Any]) -> dict[str, KernelLayout]:
    """Return how variables lie, by name, as the operations of a graph tell that consume them.

    What no operation tells is taken as TensorFlow lays out kernels: outputs last, inputs before them.
    """
    shapes = {name: tuple(variable.shape.as_list()) for name, variable in variables.items()}
    held = {part.op.outputs[0].name: name for name, variable in variables.items() for part in parts_of(variable)}
    found: dict[str, KernelLayout] = {}
    for operation in graph.get_operations():
        for place, tensor in enumerate(operation.inputs):
            name = held.get(tensor.name)
            if name is None:
                continue
            reshaped = operation.type in _RESHAPING
            if operation.type in _PASSING or (reshaped and _same_but_ones(operation.outputs[0].shape, shapes[name])):
                held.update((output.name, name) for output in operation.outputs)
            elif name not in found and (layout := layout_told_by(operation, place, len(shapes[name]))) is not None:
                found[name] = layout
    return {name: found.get(name, kernel_layout(len(shape))) for name, shape in shapes.items()}


def _same_but_ones(shape: tf.TensorShape, known: tuple[int, ...]) -> bool:
    if shape.rank is None:
        return False
    return [extent for extent in shape.as_list() if extent != 1] == [extent for extent in known if extent != 1]


def parts_of(variable: Any) -> tuple[Any, ...]:
    """Return the variables of each replica that a mirrored variable is made of; of any other, itself."""
    return tuple(getattr(variable, "values", (variable,)))


def name_of(variable: Any) -> str:
    """Return the name of a variable: that of its operation, such as "conv1/weights"."""
    return str(variable.name).removesuffix(":0")


class Weights(Mapping[str, Array]):
    """Variables by name; looked up, each is a canonical array of what it holds in the default session.

    Args:
        variables: The variables, of one graph; one that comes twice is taken once.

    Attributes:
        variables: The variables by name.
        layouts: How they lie, by name.
        graph: Their graph.

    Raises:
        RecipeError: If there are none, or the shape of one is not known.
    """

    aliases: Mapping[str, str] = {}
    """Further names of tied variables: there are none, for a variable that is shared is one variable."""

    def __init__(self, variables: Iterable[Any]) -> None:
        self.variables = {name_of(variable): variable for variable in variables}
        if not self.variables:
            raise RecipeError("there are no variables to prune: build the network first")
        for name, variable in self.variables.items():
            if not variable.shape.is_fully_defined():
                raise RecipeError(f"{name} has shape {variable.shape}: a mask needs one that is known in the graph")
        self.graph: tf.Graph = next(iter(self.variables.values())).graph
        self.layouts = layouts_of(self.graph, self.variables)

    def __getitem__(self, name: str) -> Array:
        value = session_or_default(None).run(parts_of(self.variables[name])[0])
        canonical: Array = self.layouts[name].to_canonical(value)
        return canonical

    def __contains__(self, name: object) -> bool:  # a Mapping would look it up, in a session
        return name in self.variables

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shapes by name."""
        return {
            name: self.layouts[name].shape(tuple(variable.shape.as_list())) for name, variable in self.variables.items()
        }

    @property
    def frozen(self) -> Collection[str]:
        """Names of variables that do not train."""
        return [name for name, variable in self.variables.items() if not variable.trainable]


def session_or_default(session: Any) -> tf.Session:
    """Return the session that is given, one that is monitored without its hooks, or the default one for None.

    Raises:
        RuntimeError: If there is none.
    """
    session = tf.get_default_session() if session is None else session
    if session is None:
        raise RuntimeError("the weights live in a session: pass session=, or call this inside `with session:`")
    return session.raw_session() if hasattr(session, "raw_session") else session
