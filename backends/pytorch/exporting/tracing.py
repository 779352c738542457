"""Tracing: from a module to `torch.export`'s program and to ONNX, on a copy, for inference, and silently."""

from __future__ import annotations

import copy
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TypeAlias

import onnx_ir
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from mopruning.backends.pytorch.exporting.translations import keep_dropouts, stand_in, translations
from mopruning.errors import FormatError
from mopruning.ir.operators import OPSET

Example: TypeAlias = "Tensor | Sequence[Any] | Mapping[str, Any]"

BATCH = "N"
"""Name of the open first axis."""

_LOGGERS = ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")
_TARGET = re.compile(r"target=torch\.ops\.(\w+)\.(\w+)\.(\w+)\]")
_MOST_UNSUPPORTED = 50  # operators; each costs one more attempt to list


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network within torch.compile, DataParallel and DistributedDataParallel.

    Raises:
        TypeError: If it is no module, or TorchScript.
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            break
        module = inner
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"expected a torch.nn.Module in Python, got {type(module).__name__}")
    return module


def inference_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, set for inference; the module itself stays as it is."""
    # Tensors that are computed, as those of torch.nn.utils.prune, cannot be copied deeply; their values can.
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    copied = copy.deepcopy(module, memo).cpu().eval()
    for part in copied.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.training = True  # else it leaves its Dropout out; nothing else in it depends on this
    return copied


def trace(module: nn.Module, example: Example, dynamic_batch: bool) -> ExportedProgram:
    """Trace an inference copy of a module.

    Args:
        module: What `inference_copy` returned.
        example: Input as for `to_ir`.
        dynamic_batch: Leave the first axis of the inputs open.

    Raises:
        FormatError: If the module does not run on the example, or cannot be traced as one graph.
        TypeError: If `example` holds no tensor.
    """
    args, kwargs = _arguments(example)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not leaves:
        raise TypeError(f"expected an example of tensors, got {type(example).__name__}")
    batch = leaves[0].shape[0] if leaves[0].ndim else None
    shapes = None
    if dynamic_batch and batch is not None:
        args, kwargs = pytree.tree_map(lambda leaf: _two(leaf, batch), (args, kwargs))
        axis = Dim(BATCH)
        batched = max(batch, 2)
        shapes = pytree.tree_map(lambda leaf: _open_axis(leaf, batched, axis), _by_name(module, args, kwargs))
    name = type(module).__name__
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it has no form in ONNX
    try:
        with silence():
            program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:
        raise FormatError(_untraceable(name, error, shapes is not None)) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
    buffers = program.graph_signature.inputs_to_buffers
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        changed = buffers.get(node.args[0].name)
        if changed is not None:
            raise FormatError(f"{name}: it changes its buffer {changed!r} in inference, which no graph expresses")
    return program


def to_onnx(program: ExportedProgram, name: str) -> onnx_ir.Model:
    """Translate a traced program, with layers as nodes of the domain of `translations`.

    Raises:
        FormatError: If the translation fails. Operators that have no form in ONNX are stand-ins in what is returned.
    """
    keep_dropouts(program)
    table = dict(translations())
    missing: set[Any] = set()
    while True:
        try:
            with silence():
                exported = torch.onnx.export(
                    *(program, ()),
                    dynamo=True,
                    optimize=False,
                    opset_version=OPSET,
                    verbose=False,
                    custom_translation_table=table,
                )
            break
        except torch.onnx.errors.OnnxExporterError as error:
            target = _unsupported(error)
            found = _checked(program) - missing if target is None else {target} - missing
            if not found or len(missing) >= _MOST_UNSUPPORTED:
                raise FormatError(f"{name}: cannot be translated to ONNX: {_reason(error)}") from error
            missing |= found
            table.update({target: _stand_in(target) for target in found})
    assert exported is not None
    return exported.model


@contextmanager
def silence() -> Iterator[None]:
    """Keep what the libraries print, log and warn about to themselves; errors still come through as exceptions."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    nowhere = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = (example,) if isinstance(example, Tensor) else tuple(example)
    both: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(
        lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, (args, kwargs)
    )
    return both


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs in the structure that `dynamic_shapes` takes: by the parameters of `forward`."""
    try:
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise FormatError(f"{type(module).__name__}: cannot be called with this example: {error}") from None


def _two(leaf: Any, batch: int) -> Any:
    """Make a batch of at least two of it: a batch of one would be taken for a fixed size."""
    if not isinstance(leaf, Tensor) or not leaf.ndim or leaf.shape[0] != batch or batch > 1:
        return leaf
    return torch.cat([leaf, leaf]) if batch else leaf.new_zeros((2, *leaf.shape[1:]))


def _open_axis(leaf: Any, batch: int, axis: Any) -> Any:
    return {0: axis} if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch else None


def _untraceable(name: str, error: Exception, dynamic: bool) -> str:
    text = str(error)
    if dynamic and ("specialized" in text or "Constraints violated" in text):
        return (
            f"{name}: its computation depends on the batch size of the example, so the first axis cannot stay open; "
            f"pass dynamic_batch=False, or use x.shape[0] as it is: {_reason(error)}"
        )
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return f"{name}: what it computes depends on the values of its input, which no one graph says: {_reason(error)}"
    return f"{name}: cannot be traced with this example: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """Return the first line that tells something, from the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _unsupported(error: BaseException) -> Any | None:
    """Return the operator that an error of the exporter says has no translation."""
    found = None
    current: BaseException | None = error
    while current is not None:
        text = str(current)
        if (match := _TARGET.search(text)) and "Error when translating node" in text:
            found = match
        missing = "no onnx function" in text.lower() or isinstance(current, NotImplementedError)
        if missing and found is not None:
            namespace, name, overload = found.groups()
            return getattr(getattr(getattr(torch.ops, namespace), name), overload)
        current = current.__cause__
    return None


def _checked(program: ExportedProgram) -> set[Any]:
    """Return the operators that become a computation and a check of its success, for which ONNX has no form.

    torch 2.13 wraps `aten._linalg_check_errors`, a part of `torch.linalg.inv` and others, in a higher-order operator
    with_effects, at which its exporter ends in a KeyError that names neither.
    """
    with silence():
        decomposed = program.run_decompositions()
    origins = {
        source.name
        for node in decomposed.graph.nodes
        if isinstance(node.target, torch._ops.HigherOrderOperator)
        for source in node.meta.get("from_node", ())
    }
    return {
        node.target
        for node in program.graph.nodes
        if node.name in origins and isinstance(node.target, torch._ops.OpOverload)
    }


def _stand_in(target: Any) -> Callable[..., Any]:
    """Return a translation that lets the export go on, so that the next unsupported operator shows."""

    def translation(*args: Any, **kwargs: Any) -> Any:
        first = next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, onnx_ir.Value))
        return stand_in(first, str(target), "PyTorch has no ONNX form of it", len(target._schema.returns))

    return translation
