"""Reading: the translation of one symbol, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Value

from mopruning.backends.mxnet.exporting import elements, layers, pooling, recurrent, reductions, shapes
from mopruning.backends.mxnet.exporting.network import CODES, Call, Network, Translation
from mopruning.backends.mxnet.exporting.symbol_file import SymbolFile, SymbolNode
from mopruning.backends.mxnet.exporting.variables import LABELLED, NORMALISED, guessed_shape, notes_of, variables_of
from mopruning.errors import FormatError
from mopruning.ir.lazy import LazyArray
from mopruning.ir.lowering import Refusal
from mopruning.ir.stored_tensor import stored_tensor
from mopruning.ir.validation import Problem, UnsupportedOperators

Shapes: TypeAlias = "Mapping[str, Sequence[int | str | None]]"

TRANSLATIONS: Mapping[str, Translation] = {
    **layers.TRANSLATIONS,
    **pooling.TRANSLATIONS,
    **elements.TRANSLATIONS,
    **reductions.TRANSLATIONS,
    **shapes.TRANSLATIONS,
    **recurrent.TRANSLATIONS,
}
"""MXNet's operator -> the function that adds what it is in the profile: all that can be read."""

_CLASSIC = {
    "_npx_fully_connected": "FullyConnected",
    "_npx_convolution": "Convolution",
    "_npx_deconvolution": "Deconvolution",
    "_npx_pooling": "Pooling",
    "_npx_batch_norm": "BatchNorm",
    "_npx_layer_norm": "LayerNorm",
    "_npx_dropout": "Dropout",
    "_npx_embedding": "Embedding",
    "_npx_leaky_relu": "LeakyReLU",
    "_npx_activation": "Activation",
    "_npx_batch_flatten": "Flatten",
    "_npx_batch_dot": "batch_dot",
    "_npx_rnn": "RNN",
    "_npx_cast": "Cast",
}
"""Operators of the NumPy interface that are those of another name."""

_SENSELESS = (ArithmeticError, LookupError, TypeError, ValueError)
_AUXILIARY = ("moving_mean", "moving_var")


class Reading:
    """The translation of one symbol.

    Args:
        name: Name of the network.
        graph: The symbol.
        contents: Variable -> its numbers.
        shapes: Input -> its shape.
        types: Input -> its type.
        roles: Variable -> its role, where its use does not tell.
        inputs: Names of the inputs, in order; those in the symbol, in its order, where there are none.
    """

    def __init__(
        self,
        name: str,
        graph: SymbolFile,
        contents: Mapping[str, LazyArray],
        shapes: Shapes,
        types: Mapping[str, str],
        roles: Mapping[str, str],
        inputs: Sequence[str],
    ) -> None:
        self.name, self.graph, self.contents = name, graph, contents
        self.shapes, self.types, self.roles = dict(shapes), types, roles
        self.order = list(inputs)
        self.network = Network(name)
        self.values: dict[tuple[int, int], Value] = {}
        self.problems: list[Problem] = []
        self.spoilt: set[int] = set()

    def model(self) -> onnx_ir.Model:
        """Translate every node that leads to an output.

        Raises:
            FormatError: If it does not fit together; the message names the node.
            UnsupportedOperators: If some nodes cannot be expressed; all of them are listed.
        """
        needed = self.graph.needed()
        self._variables()
        for number, node in enumerate(self.graph.nodes):
            if node.operator and number in needed:
                self._translate(number, node)
        if self.problems:
            raise UnsupportedOperators(self.name, tuple(self.problems), "cannot be expressed in the operator profile")
        outputs: dict[str, Value] = {}
        for number, index in self.graph.heads:
            name = self.graph.nodes[number].name
            own = name if (number, 1) not in self.values else f"{name}.{index}"
            while own in outputs:
                own += "_1"
            outputs[own] = self._value(number, index)
        return self.network.model(outputs, source="mxnet")

    def _variables(self) -> None:
        """Add inputs and parameters."""
        found = variables_of(self.graph, self.contents, self.order)
        if unknown := sorted(set(self.shapes) - set(found.inputs)):
            raise FormatError(
                f"shapes: {unknown[0]!r} is no input of the network; its inputs are {', '.join(found.inputs)}"
            )
        for name, number in found.inputs.items():
            node = self.graph.nodes[number]
            shape = self.shapes.get(name) or guessed_shape(self.graph, number, self.contents)
            dtype = self.types.get(name) or CODES.get(node.integer("__dtype__", 0), "float32")
            self.values[number, 0] = self.network.input(name, shape, np.dtype(dtype))
        for number in found.parameters:
            node = self.graph.nodes[number]
            self.values[number, 0] = self._parameter(node, node.name in found.fixed)

    def _parameter(self, node: SymbolNode, fixed: bool) -> Value:
        stored = self.contents[node.name]
        notes = notes_of(node)
        role = notes.get("role") or self.roles.get(node.name)
        if fixed:  # MXNet takes 1 whatever the file says, and does not train it
            ones = np.ones(stored.shape, stored.dtype)
            return self.network.parameter(node.name, ones, "constant")
        if notes.get("scalar") and stored.shape == (1,):
            return self.network.parameter(node.name, stored.read().reshape(()), role)
        value = self.network.parameter(node.name, stored_tensor(node.name, stored), role)
        if role == "constant":
            self.network.constants[id(value)] = stored.read()
        return value

    def _translate(self, number: int, node: SymbolNode) -> None:
        if any(source in self.spoilt for source, _ in node.inputs):
            self.spoilt.add(number)
            return
        try:
            operator = _CLASSIC.get(node.operator, node.operator).removeprefix("_sparse_")
            if operator not in TRANSLATIONS:
                raise Refusal("it has no translation")
            usable = 1 if operator in LABELLED else None
            inputs = [self._value(*source) for source in node.inputs[:usable]]
            if operator in NORMALISED and len(inputs) == 3:  # files before 0.9 leave the statistics out
                inputs += [self._statistic(f"{node.name}_{what}") for what in _AUXILIARY]
            found = TRANSLATIONS[operator](Call(self.network, node, inputs))
        except Refusal as refusal:
            self.problems.append(Problem(node.name, node.operator, str(refusal)))
            self.spoilt.add(number)
            return
        except FormatError as error:
            raise error if str(error).startswith("node ") else FormatError(f"{node}: {error}") from error
        except (*_SENSELESS, onnx_ir.serde.SerdeError) as error:  # numbers that nobody would write
            raise FormatError(f"{node}: its attributes make no sense: {str(error).partition(chr(10))[0]}") from error
        for index, value in enumerate([found] if isinstance(found, Value) else found):
            self.values[number, index] = value

    def _statistic(self, name: str) -> Value:
        if name not in self.contents:
            raise FormatError(f"the parameters have no {name!r}")
        return self.network.parameter(name, stored_tensor(name, self.contents[name]))

    def _value(self, number: int, index: int) -> Value:
        if (number, index) not in self.values:
            raise FormatError(f"{self.graph.nodes[number]}: has no output {index}")
        return self.values[number, index]
