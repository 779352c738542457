"""Translation: walks an imported graph and puts together the IR, with images as NCHW."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Value

from mopruning.backends.tensorflow1.exporting.fixed import static
from mopruning.backends.tensorflow1.exporting.importing import Imported, Leaf
from mopruning.backends.tensorflow1.naming import from_name
from mopruning.backends.tensorflow1.orders import (
    Held,
    aligned,
    channels_first,
    moves,
    ordered,
    plain,
    same_memory,
    turned,
)
from mopruning.errors import FormatError
from mopruning.ir.assembly import Assembly, data_type
from mopruning.ir.lowering import Refusal
from mopruning.ir.onnx_tensors import lazy
from mopruning.ir.validation import Problem

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Order: TypeAlias = tuple[int, ...]
Tensor: TypeAlias = Any
Operation: TypeAlias = Any


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight or constant, perhaps reshaped or turned since it was read.

    Args:
        leaf: Where it comes from.
        steps: What was done to it, as text that tells forms apart.
        change: Does that.
    """

    leaf: Leaf
    steps: tuple[Any, ...] = ()
    change: Callable[[NumPyArray], NumPyArray] = field(default=lambda array: array)

    def array(self) -> NumPyArray:
        """Return its content."""
        return self.change(self.leaf.read())

    def then(self, step: Any, change: Callable[[NumPyArray], NumPyArray]) -> Weight:
        """Return it with something more done to it."""
        before = self.change
        return replace(self, steps=(*self.steps, step), change=lambda array: change(before(array)))


Given: TypeAlias = "Held[Value] | Weight"


class Translation:
    """Puts together the IR of an imported graph; one function an operation says what to add.

    Args:
        name: Name of the model.
        imported: The graph.
        roles: Initializer -> "parameter", "buffer" or "constant", as far as that is noted.

    Attributes:
        net: The IR so far.
        graph: The TensorFlow graph.
        momentum: Running mean -> momentum of its batch normalisation, as far as it is known.
        problems: What has no place in the IR.
        spoilt: Names of the tensors that refused operations would give.
        done: Names of the operations that are translated.
        outputs: Names of the tensors that are outputs.
    """

    def __init__(self, name: str, imported: Imported, roles: Mapping[str, str], momentum: Mapping[str, float]) -> None:
        self.net = Assembly(name)
        self.imported = imported
        self.graph = imported.graph
        self.momentum = momentum
        self.problems: list[Problem] = []
        self.roles = roles
        self.spoilt: set[str] = set()
        self.done: set[str] = set()
        self.outputs = frozenset(name if ":" in name else f"{name}:0" for name in imported.outputs)
        self._has_variables = any(leaf.variable for leaf in imported.leaves.values())
        self._given: dict[str, Given] = {}
        self._turned: dict[tuple[int, Order], Value] = {}
        self._forms: dict[str, tuple[tuple[Any, ...], Value]] = {}

    # Tensors

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the graph by its name."""
        try:
            return self.graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError):
            raise FormatError(f"{self.net.name}: there is no tensor {name!r}") from None

    def given(self, tensor: Tensor) -> Given:
        """Return what stands for a tensor."""
        if tensor.name in self.spoilt:
            raise Spoilt("it reads what has no place in the IR")
        if tensor.name not in self._given:
            weight = self.weight_behind(tensor)  # weights may come only later in the graph
            if weight is not None:
                return weight
            raise FormatError(f"{self.net.name}: tensor {tensor.name!r} is given by nothing")
        return self._given[tensor.name]

    def weight(self, tensor: Tensor) -> Weight | None:
        """Return the weight or constant that a tensor is, None if it is computed."""
        found = self.given(tensor)
        return found if isinstance(found, Weight) else None

    def weight_behind(self, tensor: Tensor) -> Weight | None:
        """Return the weight that a tensor is once its shape is changed, None if it is computed."""
        operation = tensor.op
        if operation.name in self.imported.leaves:
            return Weight(self.imported.leaves[operation.name])
        if operation.type == "Identity" and operation.name not in self.imported.dropouts:
            return self.weight_behind(operation.inputs[0])
        if operation.type == "ExpandDims":
            before, axis = self.weight_behind(operation.inputs[0]), static(operation.inputs[1])
            if before is not None and axis is not None:
                place = int(axis)
                return before.then(("expand", place), lambda array: np.expand_dims(array, place))
        if operation.type == "Reshape" and tensor.shape.is_fully_defined():
            before, sizes = self.weight_behind(operation.inputs[0]), tuple(tensor.shape.as_list())
            if before is not None:
                return before.then(("reshape", sizes), lambda array: array.reshape(sizes))
        return None

    def held(self, tensor: Tensor) -> Held[Value]:
        """Return the value of a tensor in whatever order it lies; a weight lies plainly."""
        found = self.given(tensor)
        if isinstance(found, Held):
            return found
        return Held(self.operand(found), plain(len(tensor.shape)))

    def value(self, tensor: Tensor, order: Order | None = None) -> Value:
        """Return the value of a tensor in an order of axes, plainly by default."""
        found = self.given(tensor)
        rank = rank_of(tensor)
        wanted = plain(rank) if order is None else order
        if isinstance(found, Weight):
            return self.operand(found, wanted)
        return self.turn(found, wanted, sizes_of(tensor))

    def image(self, tensor: Tensor) -> Value:
        """Return the value of a tensor NHWC, as NCHW."""
        return self.value(tensor, channels_first(rank_of(tensor)))

    def is_image(self, tensor: Tensor) -> bool:
        """Whether the value of a tensor has channels first that the tensor has last."""
        found = self.given(tensor)
        return isinstance(found, Held) and len(found.order) > 2 and found.order == channels_first(len(found.order))

    def turn(self, held: Held[Value], wanted: Order, sizes: Sequence[int | None]) -> Value:
        """Return a value in another order of axes; the same one again for the same order."""
        if held.scatter is not None:
            return self.gathered(held)
        if held.order == wanted:
            return held.tensor
        key = id(held.tensor), wanted
        if key not in self._turned:
            permutation, own = moves(held.order, wanted), ordered(sizes, held.order)
            target = ordered(sizes, wanted)
            name = f"{held.tensor.name}.transpose"
            if same_memory(permutation, own) and target.count(None) < 2:
                self._turned[key] = self.reshape(f"{held.tensor.name}.reshape", held.tensor, target)
            else:
                self._turned[key] = self.net.node("Transpose", name, [held.tensor], {"perm": list(permutation)})
        return self._turned[key]

    def gathered(self, held: Held[Value]) -> Value:
        """Return flattened features in the order that TensorFlow has them in."""
        assert held.scatter is not None
        key = id(held.tensor), (-1,)
        if key not in self._turned:
            sizes, order = held.scatter.sizes, held.scatter.order
            name = str(held.tensor.name)
            apart = self.reshape(f"{name}.apart", held.tensor, [None, *ordered(sizes, order)])
            back = [0, *(1 + axis for axis in moves(order, plain(len(order))))]
            turned_back = self.net.node("Transpose", f"{name}.transpose", [apart], {"perm": back})
            self._turned[key] = self.net.node("Flatten", f"{name}.flatten", [turned_back], {"axis": 1})
        return self._turned[key]

    def reshape(self, name: str, x: Value, sizes: Sequence[int | None]) -> Value:
        """Add a Reshape to sizes of which at most one is open."""
        target = [-1 if size is None else size for size in sizes]
        return self.net.reshape(name, x, target, allowzero=0 in sizes and None not in sizes)

    def put(self, tensor: Tensor, given: Given | Value, order: Order | None = None) -> None:
        """Say what stands for a tensor; a value lies plainly by default."""
        if isinstance(given, Value):
            given = Held(given, plain(rank_of(tensor)) if order is None else order)
        self._given[tensor.name] = given

    def put_image(self, tensor: Tensor, value: Value) -> None:
        """Say what stands for a tensor NHWC: a value NCHW."""
        self.put(tensor, value, channels_first(rank_of(tensor)))

    def together(self, tensors: Sequence[Tensor], result: Tensor) -> tuple[list[Value], Order]:
        """Return operands that are broadcast against each other, all in one order of axes, and that order."""
        rank = rank_of(result)
        helds = [held for held in map(self.given, tensors) if isinstance(held, Held)]
        orders = [held.order for held in helds if len(held.order) == rank and held.scatter is None]
        images = [order for order in orders if order == channels_first(rank) and rank > 2]
        order = (images or orders or [plain(rank)])[0]
        return [self.spread(tensor, order, rank) for tensor in tensors], order

    def spread(self, tensor: Tensor, order: Order, rank: int) -> Value:
        """Return an operand so that it broadcasts against a value of an order and rank."""
        axes = rank_of(tensor)
        own = aligned(order, rank, axes)
        found = self.given(tensor)
        if own is not None:
            return self.value(tensor, own)
        ones = (1,) * (rank - axes)
        if isinstance(found, Weight):
            if found.leaf.shape == () or int(np.prod(found.leaf.shape)) == 1:
                return self.operand(found)
            leading = next(place for place, axis in enumerate(order) if axis >= rank - axes)
            kept = order[leading:]  # axes of size 1 before the first of its own say nothing
            whole = found.then(("ones", rank), lambda array: array.reshape(ones + array.shape))
            return self._initializer(whole.then(("order", kept), lambda array: _dropped(turned(array, order), leading)))
        sizes = [*ones, *sizes_of(tensor)]
        value = self.value(tensor)
        added = self.net.constant(f"{value.name}.axes", list(range(len(ones))))
        wide = self.net.node("Unsqueeze", f"{value.name}.unsqueeze", [value, added])
        return self.turn(Held(wide, plain(rank)), order, sizes)

    # Weights

    def is_constant(self, weight: Weight) -> bool:
        """Whether a weight is a number of a formula, or whole numbers."""
        leaf = weight.leaf
        return not leaf.variable and (int(np.prod(leaf.shape)) == 1 or not leaf.dtype.is_floating)

    def operand(self, weight: Weight, order: Order | None = None, *, trained: bool = False) -> Value:
        """Return the initializer of a weight or constant, in an order of its axes."""
        if order is not None and order != plain(len(order)):
            weight = weight.then(("order", order), lambda array: turned(array, order))
        return self._initializer(weight, trained)

    def form(self, weight: Weight, step: Any, change: Callable[[NumPyArray], NumPyArray]) -> Value:
        """Return the initializer of a trained weight, brought into a form first."""
        return self._initializer(weight.then(step, change), True)

    def vector(self, tensor: Tensor) -> Value:
        """Return a weight [channels], whatever axes of size 1 it has besides."""
        weight = self.weight(tensor)
        if weight is None:
            return self.value(tensor)
        flat = weight if len(tensor.shape) == 1 else weight.then(("flat", 1), lambda array: array.reshape(-1))
        return self._initializer(flat, True)

    def _initializer(self, weight: Weight, trained: bool = False) -> Value:
        leaf = weight.leaf
        name = from_name(leaf.name)
        if self.is_constant(weight) and not trained:
            array = weight.array()
            return self.net.constant(name, array, array.dtype)
        found = self._forms.get(name)
        if found is not None:
            if found[0] == weight.steps:
                return found[1]
            return self._other_form(name, weight)
        # no content is needed to find out the shape: one zero that is broadcast takes no memory
        shape = weight.change(np.broadcast_to(np.zeros((), np.int8), leaf.shape)).shape
        dtype = data_type(leaf.dtype.as_numpy_dtype)
        content = lazy(
            lambda: onnx_ir.Tensor(np.asarray(weight.array(), order="C"), dtype, name=name), dtype, shape, name
        )
        # beside variables, a Const that no layer takes is a table of a formula; a frozen graph doesn't tell them apart
        fixed = self._has_variables and not leaf.variable and not trained
        value = self.net.parameter(name, content, self.roles.get(name, "constant" if fixed else None))
        self._forms[name] = weight.steps, value
        return value

    def _other_form(self, name: str, weight: Weight) -> Value:
        """Return a weight that is tied to one of another form: turned at run time, or held a second time."""
        steps, value = self._forms[name]
        orders = [step[-1][1] for step in (steps, weight.steps) if step and step[-1][0] == "order" and len(step) == 1]
        if len(orders) == sum(bool(step) for step in (steps, weight.steps)):
            rank = len(weight.leaf.shape)
            own = steps[0][1] if steps else plain(rank)
            wanted = weight.steps[0][1] if weight.steps else plain(rank)
            permutation = list(moves(own, wanted))
            return self.net.node("Transpose", f"{name}.transpose", [value], {"perm": permutation})
        array = np.asarray(weight.array(), order="C")
        return self.net.constant(f"{name}.again", array, array.dtype)


class Spoilt(Refusal):
    """An operation that reads what a refused one would give; the refusal itself is told already."""


def _dropped(array: NumPyArray, count: int) -> NumPyArray:
    return array.reshape(array.shape[count:])


def rank_of(tensor: Tensor) -> int:
    """Return how many axes a tensor has.

    Raises:
        Refusal: If that is not known.
    """
    if tensor.shape.rank is None:
        raise Refusal(f"the number of axes of {tensor.name!r} is not known; give the inputs' shapes")
    return int(tensor.shape.rank)


def sizes_of(tensor: Tensor) -> list[int | None]:
    """Return the shape of a tensor, None for each open axis."""
    rank_of(tensor)
    return list(tensor.shape.as_list())


def numbers(tensor: Tensor, what: str) -> list[int]:
    """Return whole numbers that have to be known.

    Raises:
        Refusal: If they are computed.
    """
    array = static(tensor)
    if array is None:
        raise Refusal(f"its {what} are computed; they must be constants")
    return [int(number) for number in array.reshape(-1)]


def name_of(operation: Operation) -> str:
    """Return the name that a node gets for an operation."""
    return from_name(str(operation.name))
