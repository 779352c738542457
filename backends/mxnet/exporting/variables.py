"""Variables of a symbol: what is noted about them, and which shape an input must have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mopruning.backends.mxnet.exporting.symbol_file import SymbolFile, SymbolNode
from mopruning.errors import FormatError
from mopruning.ir.json_text import parse
from mopruning.ir.lazy import LazyArray
from mopruning.ir.roles import KINDS

NOTES = "__mopruning__"
"""Attribute of a variable under which a symbol notes, as JSON, what MXNet has no place for."""

LABELLED = ("SoftmaxOutput", "Softmax", "LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput")
"""Operators whose second input is a label, which only training needs."""

NORMALISED = ("BatchNorm", "BatchNorm_v1", "_contrib_SyncBatchNorm", "_npx_batch_norm")
"""Batch normalisations, whose scale MXNet takes as 1, and does not train, unless told otherwise."""

_PARAMETRIC = (
    *("Convolution", "Convolution_v1", "Deconvolution", "FullyConnected", "LayerNorm", "InstanceNorm", "Embedding"),
    *("_npx_convolution", "_npx_deconvolution", "_npx_fully_connected", "_npx_layer_norm", "_npx_embedding"),
    *NORMALISED,
)
"""Operators of which all inputs but the first are parameters, if they are variables at all."""

_SAME_AXES = ("BatchNorm", "Activation", "LeakyReLU", "Cast", "amp_cast", "identity", "_copy", "Dropout", "Pad", "pad")
_SAME_AXES_TOO = (
    "_mul_scalar",
    "_plus_scalar",
    "_minus_scalar",
    "_div_scalar",
    "clip",
    "broadcast_sub",
    "broadcast_div",
)


@dataclass(frozen=True)
class Variables:
    """What the variables of a symbol are there for, by their numbers.

    Args:
        inputs: Inputs of the network by name, in order.
        labels: Labels by name.
        parameters: Number of each variable that has numbers.
        fixed: Names of the scales that MXNet takes as 1.
    """

    inputs: Mapping[str, int]
    labels: Mapping[str, int]
    parameters: tuple[int, ...]
    fixed: frozenset[str]


def variables_of(graph: SymbolFile, held: Collection[str], order: Sequence[str] = ()) -> Variables:
    """Tell inputs, labels and parameters apart.

    Args:
        graph: The symbol.
        held: Names of the parameters that there are numbers for.
        order: The order of the inputs; by default what the symbol notes, else its own.

    Raises:
        FormatError: If a layer has no weights.
    """
    needed = graph.needed()
    labels: set[int] = set()
    others: set[int] = {number for number, _ in graph.heads}
    weights: dict[int, SymbolNode] = {}
    fixed = set()
    for node in (graph.nodes[number] for number in sorted(needed)):
        for place, (source, _) in enumerate(node.inputs):
            (labels if node.operator in LABELLED and place > 0 else others).add(source)
            if place > 0 and node.operator in _PARAMETRIC:
                weights[source] = node
        if node.operator in NORMALISED and node.flag("fix_gamma", True) and len(node.inputs) > 1:
            fixed.add(graph.nodes[node.inputs[1][0]].name)
    free = [number for number in sorted(needed) if not graph.nodes[number].operator]
    free = [number for number in free if graph.nodes[number].name not in held]
    for number in free:
        if number in weights:
            raise FormatError(
                f"{weights[number]}: the parameters have no {graph.nodes[number].name!r}; they have "
                f"{', '.join(list(held)[:5])}, ...; what gluon's save_parameters writes belongs to a network, not to a "
                "symbol: use export"
            )
    inputs = {graph.nodes[number].name: number for number in free if number not in labels - others}
    if len(inputs) + len(labels - others) != len({graph.nodes[number].name for number in free}):
        raise FormatError("an input and a label have one name")
    places = {name: place for place, name in enumerate(order)}
    noted = {name: notes_of(graph.nodes[number]).get("index", number) for name, number in inputs.items()}
    inputs = dict(sorted(inputs.items(), key=lambda item: places.get(item[0], len(places) + noted[item[0]])))
    given = tuple(n for n in sorted(needed) if not graph.nodes[n].operator and graph.nodes[n].name in held)
    return Variables(inputs, {graph.nodes[n].name: n for n in free if n in labels - others}, given, frozenset(fixed))


def notes_of(node: SymbolNode) -> dict[str, Any]:
    """Return what is noted about a variable; what is not as expected counts as absent: any program may write there."""
    try:
        noted = parse(node.text(NOTES, "{}"))
    except FormatError:
        return {}
    if not isinstance(noted, dict):
        return {}
    return {
        key: value
        for key, value in noted.items()
        if (key == "role" and value in KINDS)
        or (key == "scalar" and value is True)
        or (key == "index" and type(value) is int and value >= 0)
        or (key == "shape" and _is_shape(value))
    }


def guessed_shape(
    graph: SymbolFile, number: int, contents: Mapping[str, LazyArray]
) -> Sequence[int | str | None] | None:
    """Return the shape of an input: as noted, as declared, or as its first layer needs it; None where nothing tells."""
    node = graph.nodes[number]
    noted = notes_of(node).get("shape")
    if noted:
        return [size or None for size in noted]
    declared = node.integers("__shape__")
    if declared and all(size > 0 for size in declared):
        return ["N", *declared[1:]]
    reached = {number}
    for place, user in enumerate(graph.nodes):
        if not user.inputs or user.inputs[0][0] not in reached:
            continue
        if user.operator in ("Convolution", "FullyConnected"):
            weight = contents.get(graph.nodes[user.inputs[1][0]].name) if len(user.inputs) > 1 else None
            if weight is None or len(weight.shape) < 2:
                return None
            if user.operator == "FullyConnected":
                return ["N", weight.shape[1]] if user.flag("flatten", True) else None
            channels = weight.shape[1] * user.integer("num_group", 1)
            return ["N", channels, *("DHW"[-len(weight.shape) + 2 :])]
        if user.operator in _SAME_AXES or user.operator in _SAME_AXES_TOO:
            reached.add(place)
    return None


def _is_shape(noted: Any) -> bool:
    return (
        isinstance(noted, list)
        and len(noted) <= 32
        and all((type(size) is int and 0 <= size < 1 << 31) or isinstance(size, str) for size in noted)
    )
