"""Reader: a Gluon network becomes an IR model, as it computes in inference, under its own names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.backends.mxnet.exporting.reading import Reading
from mopruning.backends.mxnet.exporting.symbol_file import read_text
from mopruning.backends.mxnet.framework import NDArray, gluon, mx
from mopruning.errors import FormatError
from mopruning.ir.lazy import lazy

Example: TypeAlias = "NDArray | Sequence[NDArray]"


def to_ir(network: Any, example: Example | None = None, *, dynamic_batch: bool = True) -> onnx_ir.Model:
    """Translate a Gluon network to the IR.

    A HybridBlock, hybridized or not, is traced with symbols; a SymbolBlock has one already. Nothing is run, and the
    network does not change; training it later does not change the model. BatchNorm and Dropout stay, so that the
    network can be trained where it arrives. Parameters have the names that `collect_params` and `export` know them by.

    Args:
        network: The network, its parameters initialised and their shapes known.
        example: What it is called with: an array or several; shapes and types matter, values do not. May be left out
            for a SymbolBlock that `from_ir` built.
        dynamic_batch: Leave the first axis of each input open, as "N"; those whose first axis is as long as that of
            the first one count.

    Returns:
        The model; images are NCHW. Its outputs have the names of the operators that give them.

    Raises:
        FormatError: If a parameter is not initialised, or the network cannot be traced.
        UnsupportedOperators: If it computes with operators that cannot be expressed; all of them are listed.
        TypeError: If `network` is no block.

    >>> block = gluon.nn.Dense(2, in_units=4)
    >>> block.initialize()
    >>> model = to_ir(block, mx.nd.zeros((1, 4)))
    >>> [node.op_type for node in model.graph], model.graph.inputs[0].shape
    (['Gemm'], Shape([SymbolicDim('N'), 4]))
    """
    if not isinstance(network, gluon.Block):
        raise TypeError(f"expected a gluon HybridBlock or SymbolBlock, got {type(network).__name__}")
    arrays = [example] if isinstance(example, mx.nd.NDArray) else list(example or ())
    name = type(network).__name__ if not isinstance(network, gluon.SymbolBlock) else "network"
    inputs, symbol = _traced(network, len(arrays), name)
    contents, roles = _contents(network, name)
    first = arrays[0].shape[0] if arrays and arrays[0].shape else None
    given: dict[str, Sequence[int | str | None]] = {}
    for own, array in zip(inputs, arrays, strict=False):
        opened = dynamic_batch and array.shape and array.shape[0] == first
        given[own] = ["N", *array.shape[1:]] if opened else list(array.shape)
    types = {own: np.dtype(array.dtype).name for own, array in zip(inputs, arrays, strict=False)}
    graph = read_text(symbol.tojson())
    held = {own: lazy(content) for own, content in contents.items()}
    return Reading(name, graph, held, given, types, roles, inputs).model()


def _traced(network: Any, count: int, name: str) -> tuple[list[str], Any]:
    """Return the names of a network's inputs, and its symbol."""
    if isinstance(network, gluon.SymbolBlock):
        variables, symbol = network._cached_graph
        return [one.name for one in variables], symbol
    if not count:
        raise FormatError(f"{name}: give an example of its input: to_ir(network, mx.nd.zeros((1, 3, 224, 224)))")
    names = ["data"] if count == 1 else [f"data{index}" for index in range(count)]
    variables = [mx.sym.var(own) for own in names]
    if mx.util.is_np_array():
        variables = [one.as_np_ndarray() for one in variables]
    try:
        found = network(*variables)
    except Exception as error:  # user code, which may do anything with a symbol that is no array
        raise FormatError(f"{name}: cannot be traced with symbols: {error}") from error
    flat = _flat(found)
    return names, flat[0] if len(flat) == 1 else mx.sym.Group([one.as_nd_ndarray() for one in flat])


def _flat(found: Any) -> list[Any]:
    return [one for part in found for one in _flat(part)] if isinstance(found, (list, tuple)) else [found]


def _contents(network: Any, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the numbers of a network's parameters, copied, and their roles where their use does not tell."""
    contents, roles = {}, {}
    for own, parameter in network.collect_params().items():
        if parameter._data is None:
            raise FormatError(f"{name}: {own} is not initialised yet; run a batch through the network, then ask again")
        contents[own] = parameter.list_data()[0].asnumpy()
        if isinstance(parameter, gluon.Constant):
            roles[own] = "constant"
    return contents, roles
