"""An opened network as a file of weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.cli.notes import NOTES, write_notes
from mopruning.errors import FormatError
from mopruning.files import WeightFile, check_replacements, parameters, tied
from mopruning.ir.lazy import LazyArray, read_all
from mopruning.ir.mopir import PREFIX
from mopruning.ir.operators import OPERATORS
from mopruning.ir.parameters import Parameter, source
from mopruning.ir.parameters import parameters as trained_parameters
from mopruning.ir.stored_tensor import lazy_array
from mopruning.ir.ties import ties_of
from mopruning.model_files import write_model

if TYPE_CHECKING:
    from mopruning.recipe import Recipe

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_STATISTICS = (3, 4)  # inputs of BatchNormalization: running mean and variance
_UNCHANGED_CHANNELS = ("activation", "pooling", "training")  # kinds of operators that keep each channel to itself


class NetworkFile(WeightFile):
    """An opened network that is a file of weights as well, so that weights have one path for both.

    Its graph, and not names and dtypes, says what is trained and how it lies; new values go into a new model, which
    shares everything else with the one that was read, and that one is never changed.

    Args:
        path: Where it was read from.
        model: The network.
    """

    def __init__(self, path: str | os.PathLike[str], model: onnx_ir.Model) -> None:
        self.path = Path(path)
        self._model = model
        self._trained = trained_parameters(model)

    @property
    def model(self) -> onnx_ir.Model:
        """The network."""
        return self._model

    @property
    def notes(self) -> dict[str, str]:
        """Recipe and provenance, as far as the network carries them, as JSON by key."""
        carried = self.model.metadata_props
        return {key: carried[PREFIX + key] for key in NOTES if PREFIX + key in carried}

    @property
    def aliases(self) -> dict[str, str]:
        """Return the tied tensors: further name -> first name, under which the graph has it."""
        return ties_of(self.model)

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The trained parameters by name."""
        return self._trained

    @property
    def unpruned(self) -> tuple[str, ...]:
        """Names of parameters of several axes that are no weight, such as the bias of an LSTM or a slope of PRelu."""
        found = self._trained.items()
        return tuple(name for name, one in found if one.role != "weight" and len(_tensor(one.value).shape) > 1)

    def held(self) -> dict[str, LazyArray]:
        """Return every tensor by name as it lies in the network, read when asked for."""
        return initializers(self.path, self.model)

    def tensors(self) -> dict[str, LazyArray]:
        """Return every tensor by name, trained ones as nodes first use them, read when asked for and canonical then."""
        held = self.held()
        rest = {name: one for name, one in held.items() if name not in self._trained}
        return {name: _canonical(parameter, held[name]) for name, parameter in self._trained.items()} | rest

    def split(self) -> tuple[dict[str, LazyArray], dict[str, str]]:
        """Return the trained parameters by name, and of every other tensor, or further name of one, what it is."""
        tensors = self.tensors()
        others = {name: one for name, one in tensors.items() if name not in self._trained}
        statistics = self._statistics()
        kinds = dict.fromkeys(others, "constant") | parameters(others)[1]
        kinds |= {name: "running statistic" for name in others if name in statistics}
        return {name: tensors[name] for name in self._trained}, kinds | tied(self.aliases)

    def weights(self) -> dict[str, NumPyArray]:
        """Return every tensor by name, trained ones first and canonical; arrays may be read-only."""
        return read_all(self.tensors())

    def replace(self, weights: Mapping[str, NumPyArray]) -> None:
        """Take over new values of trained parameters in place, in a new model: the one that was read stays as it is.

        Args:
            weights: Canonical arrays by name, of the shape and dtype of those they replace.
        """
        check_replacements(self.tensors(), weights)
        model = self.model.clone()  # shares the tensors
        for name, array in weights.items():
            old = _tensor(model.graph.initializers[name])
            lying = as_stored(self._trained[name], array, tuple(old.shape.numpy()))
            model.graph.initializers[name].const_value = onnx_ir.Tensor(lying, old.dtype, name=name)
        self._model = model

    def annotate(self, recipe: Recipe, came_from: str) -> None:
        """Note in place, in a new model, how it was pruned, and the name of the file that it was read from."""
        model = self.model.clone()
        texts = write_notes(self.notes, recipe, came_from)
        model.metadata_props.update({PREFIX + key: text for key, text in texts.items()})
        self._model = model

    def scales(self) -> dict[str, str]:
        """Return the scale of the BatchNormalization that follows a weight's node, for each weight that has one.

        Operators in between that keep each channel to itself, such as an activation, are passed over.
        """
        found = {}
        for name, parameter in self._trained.items():
            norm = _norm_after(parameter.node) if parameter.role == "weight" else None
            scale = source(norm.inputs[1])[0] if norm is not None else None
            if scale is not None and scale.name in self._trained:
                found[name] = str(scale.name)
        return found

    def arrays(self) -> dict[str, NumPyArray]:
        """Return parameters and running statistics as they lie in the network, for a file of weights alone.

        A tied one stands under each of its names, as programs that load such a file expect.
        """
        kept = self._trained.keys() | self._statistics()
        arrays = read_all({name: one for name, one in self.held().items() if name in kept})
        return arrays | {further: arrays[first] for further, first in self.aliases.items() if first in arrays}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network, in the format that the ending of the name says."""
        write_model(self.model, path)

    def _statistics(self) -> set[str]:
        norms = [node for node in self.model.graph if node.op_type == "BatchNormalization" and not node.domain]
        values = (source(node.inputs[index])[0] for node in norms for index in _STATISTICS)
        return {str(value.name) for value in values if value is not None}


def initializers(path: Path, model: onnx_ir.Model) -> dict[str, LazyArray]:
    """Return every initializer of a network by name as it lies there, read when asked for.

    Args:
        path: Where it was read from; reading a damaged one raises FormatError, which names this file.
        model: The network.
    """

    def guarded(name: str, one: LazyArray) -> LazyArray:
        def read() -> NumPyArray:
            try:
                return one.read()
            except (FormatError, OSError):
                raise
            except Exception as error:  # a damaged tensor makes what decodes it raise almost anything
                raise FormatError(f"{path}: tensor {name!r}: {' '.join(str(error).split())}") from error

        return replace(one, read=read)

    return {name: guarded(name, lazy_array(_tensor(value))) for name, value in model.graph.initializers.items()}


def _canonical(parameter: Parameter, one: LazyArray) -> LazyArray:
    shape = parameter.canonical(np.broadcast_to(np.zeros((), np.bool_), one.shape)).shape
    return LazyArray(one.dtype, shape, lambda: parameter.canonical(one.read()), one.release)


def as_stored(parameter: Parameter, canonical: NumPyArray, shape: tuple[int, ...]) -> NumPyArray:
    """Return the array of which `canonical` is what `parameter.canonical` shows: itself where both lie alike.

    Args:
        parameter: The parameter.
        canonical: Array [out, in, *kernel].
        shape: Shape in which the model stores it.

    >>> parameter = Parameter(onnx_ir.val("w"), onnx_ir.node("Relu", []), layout="transposed")
    >>> as_stored(parameter, np.array([[1, 2, 3], [4, 5, 6]]), (3, 2))
    array([[1, 4],
           [2, 5],
           [3, 6]])
    """
    if parameter.layout == "canonical" and not parameter.order:
        return canonical
    result = np.empty(shape, canonical.dtype)
    view = parameter.canonical(result)
    if np.may_share_memory(view, result) or not result.size:
        view[...] = canonical
    else:  # no strides show it so, as with a grouped deconvolution: numbers say where each element came from
        result.reshape(-1)[parameter.canonical(np.arange(result.size).reshape(shape))] = canonical
    return result


def _norm_after(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """Return the BatchNormalization that takes what a node gives, channel by channel."""
    while node.outputs and not node.outputs[0].is_graph_output():
        uses = list(node.outputs[0].uses())
        for use in uses:
            if use.node.op_type == "BatchNormalization" and use.idx == 0:
                return use.node
        follower = uses[0].node if len(uses) == 1 else None
        row = OPERATORS.get(follower.op_type) if follower is not None else None
        if follower is None or row is None or uses[0].idx != 0 or row.kind not in _UNCHANGED_CHANNELS:
            return None
        node = follower
    return None


def _tensor(value: onnx_ir.Value) -> onnx_ir.TensorProtocol:
    assert value.const_value is not None  # as every reader checks
    return value.const_value
