"""Reader: a PyTorch module becomes an IR model, as it computes in inference, under its own names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir
import onnx_ir.passes.common as common
import onnxscript.optimizer
import torch
from onnx_ir import Model, Node
from torch import nn
from torch.utils import _pytree as pytree

import mopruning
from mopruning.backends.pytorch.exporting import layers, naming, simplify
from mopruning.backends.pytorch.exporting.spelling import PATH, SOURCE
from mopruning.backends.pytorch.exporting.tracing import (
    BATCH,
    Example,
    inference_copy,
    silence,
    to_onnx,
    trace,
    unwrapped,
)
from mopruning.backends.pytorch.exporting.translations import DOMAIN, UNSUPPORTED
from mopruning.backends.pytorch.notes import Notes, batch_counts
from mopruning.errors import FormatError
from mopruning.ir.operators import OPERATORS
from mopruning.ir.roles import roles_metadata
from mopruning.ir.ties import ties_metadata
from mopruning.ir.validation import Problem, UnsupportedOperators, validate

_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_PERSISTENT = "pkg.torch.export.graph_signature.InputSpec.persistent"


def to_ir(module: nn.Module, example: Example, *, dynamic_batch: bool = True) -> Model:
    """Translate a module to the IR.

    The module is traced for inference, on a copy: neither it nor its mode changes, and training it later does not
    change the model. BatchNorm and Dropout stay, so that the network can be trained where it arrives. Parameters and
    buffers keep their names and their layout; one under several names has the first, and the metadata the others.

    Args:
        module: Any module; wrappers (DistributedDataParallel, torch.compile) are looked through.
        example: What the module is called with: a tensor, a sequence of positional arguments, or a mapping of keyword
            arguments. Shapes and types matter, values do not.
        dynamic_batch: Leave the first axis of each input open, as "N"; those whose first axis is as long as that of
            the first tensor count. Otherwise every shape is fixed as in the example.

    Returns:
        The model; images are NCHW. Its outputs are called "output", or "output_0", ... where there are several, or by
        the keys of a dict.

    Raises:
        FormatError: If the module cannot be traced with the example.
        UnsupportedOperators: If it computes with operators outside the profile; all of them are listed.
        TypeError: If `module` is no module or `example` holds no tensor.

    >>> model = to_ir(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2))
    >>> [(node.name, node.op_type) for node in model.graph], list(model.graph.initializers)
    ([('0', 'Flatten'), ('1', 'Gemm')], ['1.weight', '1.bias'])
    """
    source = inference_copy(unwrapped(module))
    program = trace(source, example, dynamic_batch)
    names = _output_names(program, type(source).__name__)
    model = to_onnx(program, type(source).__name__)
    _mark_sources(model, source)
    naming.locate(model)
    with silence():
        if model.functions:
            common.InlinePass()(model)
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_should_fold)
        simplify.remove_unused(model)
    _refuse(model, type(source).__name__)
    with silence():
        layers.spell_out(model)
        _separate_outputs(model)
        _infer(model)
        simplify.simplify(model)
        simplify.simplify(model)  # what was in the way of a rule is gone now
        simplify.drop_defaults(model)
        naming.rename(model, names)
        simplify.remove_unused(model)
        _name_axes(model)
        _infer(model)
    dropouts = {
        str(node.name): node.meta["kind"] for node in model.graph if node.meta.get("kind", "elements") != "elements"
    }
    roles = {name: value.meta.get(SOURCE, "constant") for name, value in model.graph.initializers.items()}
    noted = roles_metadata(model, roles)
    state = source.state_dict()
    result = _finished(model, type(source).__name__, state)
    held = result.graph.initializers
    ties = {name: first for name, first in _first_names(source).items() if first in held and name in state}
    ties = {name: first for name, first in ties.items() if name not in held}
    result.metadata_props.update(_notes(source, dropouts).to_metadata() | noted | ties_metadata(ties))
    validate(result)
    return result


def _mark_sources(model: Model, module: nn.Module) -> None:
    """Note which initializers are the module's, and give those of one tensor one name."""
    original = _first_names(module)
    graph = model.graph
    kept: dict[str, onnx_ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        kind, persistent = value.metadata_props.get(_KIND), value.metadata_props.get(_PERSISTENT)
        if kind not in ("PARAMETER", "BUFFER") or persistent == "False":
            continue
        value.meta[SOURCE] = kind.lower()
        known = original.get(name, name)
        if known in kept:
            value.replace_all_uses_with(kept[known], replace_graph_outputs=True)
            del graph.initializers[name]
            continue
        kept[known] = value
    for known, value in kept.items():
        if value.name != known and known not in graph.initializers:
            value.name = known


def _first_names(module: nn.Module) -> dict[str, str]:
    """Return each name of a parameter or buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _should_fold(node: Node) -> bool | None:
    """Keep what is computed from the module's own tensors: their names and layouts must arrive."""
    return False if any(value is not None and SOURCE in value.meta for value in node.inputs) else None


def _refuse(model: Model, name: str) -> None:
    """Raise an error that lists all operators outside the profile, if there are any."""
    problems = []
    for node in model.graph:
        place = node.meta.get(PATH) or str(node.name).removeprefix("node_")
        if node.domain == DOMAIN and node.op_type == UNSUPPORTED:
            problems.append(Problem(place, node.attributes["operator"].value, node.attributes["why"].value))
        elif any(attribute.type == onnx_ir.AttributeType.GRAPH for attribute in node.attributes.values()):
            problems.append(Problem(place, node.op_type, "control flow is not in the profile"))
        elif not node.domain and node.op_type not in (*OPERATORS, "Constant"):
            problems.append(Problem(place, node.op_type, "this operator is not in the profile"))
    if problems:
        raise UnsupportedOperators(name, tuple(problems))


def _separate_outputs(model: Model) -> None:
    """Give each output a node of its own in place, where it is an input, an initializer or another output as well."""
    graph = model.graph
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or value in list(graph.outputs)[:index]:
            node = onnx_ir.node("Identity", [value])
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            graph.append(node)
            graph.outputs[index] = node.outputs[0]


def _infer(model: Model) -> None:
    """Fill in shapes and types in place."""
    common.ShapeInferencePass()(model)


def _name_axes(model: Model) -> None:
    """Call the open axis "N" in place, also in sizes that follow from it."""
    symbols = {
        str(size.value)
        for value in model.graph.inputs
        for size in value.shape or ()
        if not isinstance(size, int) and str(size.value).isidentifier()
    }
    if len(symbols) != 1:
        return
    (symbol,) = symbols
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is None:
            continue
        sizes = [size if isinstance(size, int) else size.value for size in value.shape]
        value.shape = onnx_ir.Shape(
            [size if isinstance(size, int) else re.sub(rf"\b{symbol}\b", BATCH, str(size)) for size in sizes]
        )


def _notes(module: nn.Module, dropouts: Mapping[str, str]) -> Notes:
    batches, cumulative, paddings = {}, [], {}
    for path, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.num_batches_tracked is not None:
            batches[path] = int(part.num_batches_tracked)
            if part.momentum is None:
                cumulative.append(path)
        elif isinstance(part, nn.Embedding) and part.padding_idx is not None:
            paddings[path] = int(part.padding_idx)
    return Notes(batch_counts(batches), tuple(cumulative), dropouts, paddings)


def _output_names(program: torch.export.ExportedProgram, name: str) -> list[str]:
    """Name the outputs after the keys of a dict, else number them."""
    spec = program.call_spec.out_spec
    assert spec is not None
    if spec.num_leaves == 1 and spec.is_leaf():
        return ["output"]
    (given,) = program.graph.find_nodes(op="output")[0].args
    returned = list(given)[-spec.num_leaves :]  # before them stand buffers that the module changes
    structure = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    names = {index: _joined(keys) for keys, index in pytree.tree_flatten_with_path(structure)[0]}
    for index, value in enumerate(returned):
        if value is not None and not isinstance(value, torch.fx.Node):
            raise FormatError(f"{name}: its output {names[index]!r} is {value!r}, expected tensors only")
    return [names[index] for index, value in enumerate(returned) if value is not None]


def _joined(keys: Sequence[Any]) -> str:
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in keys]
    return "_".join(["output", *parts] if parts[0].isdigit() else parts)


def _finished(model: Model, name: str, names: Iterable[str]) -> Model:
    """Return the model without what the exporter noted down on the way, initializers in the order of `names`."""
    graph = model.graph
    order = {name: position for position, name in enumerate(names)}
    ordered = sorted(graph.initializers.values(), key=lambda value: order.get(str(value.name), len(order)))
    graph.initializers.clear()
    for value in ordered:
        graph.initializers.add(value)
    for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
        value.metadata_props.clear()
        value.meta.clear()
        value.doc_string = None
    for node in graph:
        node.metadata_props.clear()
        node.meta.clear()
        node.doc_string = None
        node.version = None
    graph.name = name
    graph.metadata_props.clear()
    return Model(
        graph,
        ir_version=10,
        producer_name="mopruning",
        producer_version=mopruning.__version__,
        metadata_props={"mopruning.source": "pytorch", "mopruning.layout": "NCHW"},
    )
