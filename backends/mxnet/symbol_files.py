"""MXNet's pair of files, NAME-symbol.json and NAME-0000.params: read without MXNet taking part, written, and run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.backends.mxnet.exporting.reading import Reading, Shapes
from mopruning.backends.mxnet.exporting.symbol_file import read_text
from mopruning.backends.mxnet.exporting.variables import variables_of
from mopruning.backends.mxnet.framework import gluon, mx
from mopruning.backends.mxnet.writer import lowered
from mopruning.errors import FormatError
from mopruning.ir import mxnet_params
from mopruning.ir.atomic import atomic
from mopruning.ir.validation import UnsupportedOperators

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def read_symbol(
    path: str | os.PathLike[str], params: str | os.PathLike[str] | None = None, *, shapes: Shapes | None = None
) -> onnx_ir.Model:
    """Read a symbol file and its parameters, as `export`, `save_checkpoint` and `write_symbol` write them.

    Files of MXNet 0.8 to 1.9 are read, without MXNet taking part: nothing in them is run, and every size is checked.
    Weights stay in the file until they are used.

    Args:
        path: The symbol: ``NAME-symbol.json``.
        params: Its parameters; by default the one file beside it called ``NAME-0000.params`` (any number) or
            ``NAME.params``. Names with and without "arg:" and "aux:" are known.
        shapes: Shapes of inputs by name, "N" or None for an open axis, where the file does not tell; by default what
            the first layer says about them.

    Returns:
        A model that `mopruning.ir.validation.validate` accepts. Labels and losses are left out.

    Raises:
        UnsupportedOperators: If it computes with operators that cannot be expressed; all of them are listed.
        FormatError: If the files are damaged or do not belong together; the message names file and node.
        OSError: If they cannot be read.
    """
    file = Path(path)
    beside = params_of(file) if params is None else Path(params)
    name = file.stem.removesuffix("-symbol")
    try:
        graph = read_text(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(f"{file}: no symbol: {error}") from None
    except FormatError as error:
        raise FormatError(f"{file}: {error}") from None
    contents = mxnet_params.read_lazily(beside)[0]
    try:
        return Reading(name, graph, contents, dict(shapes or {}), {}, {}, []).model()
    except UnsupportedOperators:
        raise
    except FormatError as error:
        raise FormatError(f"{file} with {beside.name}: {error}") from error


def write_symbol(
    model: onnx_ir.Model, path: str | os.PathLike[str], params: str | os.PathLike[str] | None = None
) -> None:
    """Write a model as MXNet's pair of files, ``NAME-symbol.json`` and ``NAME-0000.params``, each whole or not at all.

    MXNet reads them by `gluon.SymbolBlock.imports` and by `mx.model.load_checkpoint`.

    Args:
        model: A model within the operator profile; it is not changed.
        path: Where the symbol goes.
        params: Where the parameters go; by default beside it, as `params_beside` says.

    Raises:
        UnsupportedOperators: As `from_ir` does.
        FormatError: If it has a name that no variable can have.
        OSError: If a file cannot be written.
    """
    low, outputs = lowered(model)
    symbol = mx.sym.Group(outputs) if len(outputs) > 1 else outputs[0]
    statistics = set(symbol.list_auxiliary_states())
    used = {*symbol.list_arguments(), *statistics}
    arrays = {
        f"{'aux' if name in statistics else 'arg'}:{name}": content
        for name, content in low.contents.items()
        if name in used
    }
    with atomic(params_beside(path) if params is None else params) as temporary:
        mxnet_params.write(temporary, arrays)
    with atomic(path) as temporary:
        temporary.write_text(symbol.tojson(), encoding="utf-8")


def run_symbol(
    path: str | os.PathLike[str], inputs: Sequence[NumPyArray], params: str | os.PathLike[str] | None = None
) -> list[NumPyArray]:
    """Load a symbol and its parameters in MXNet, run it for inference, and return its outputs.

    Args:
        path: The symbol: ``NAME-symbol.json``.
        inputs: Its inputs, in the order in which `read_symbol` finds them; images NCHW. Labels are not among them.
        params: Its parameters; by default those that `read_symbol` takes.

    Raises:
        FormatError: If the files are damaged or do not belong together.
        OSError: If they cannot be read.
    """
    file = Path(path)
    beside = params_of(file) if params is None else Path(params)
    held = {mxnet_params.split_prefix(name)[1] for name in mxnet_params.arrays_of(beside)}  # checks every size as well
    found = variables_of(read_text(file.read_text(encoding="utf-8")), held)
    names = [*found.inputs, *found.labels]
    with warnings.catch_warnings():  # MXNet remarks that it takes the types of the inputs from what comes
        warnings.simplefilter("ignore")
        network = gluon.SymbolBlock.imports(str(file), names, str(beside), ctx=mx.cpu())
    given = [_array(content) for content in inputs]
    if found.labels:
        known = {name: array.shape for name, array in zip(found.inputs, given, strict=True)}
        symbol = mx.sym.load(str(file))
        shapes = dict(zip(symbol.list_arguments(), symbol.infer_shape(**known)[0], strict=True))
        given += [mx.nd.zeros(shapes[name]) for name in found.labels]
    outputs = network(*given)
    return [array.asnumpy() for array in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]


def params_of(path: str | os.PathLike[str]) -> Path:
    """Return the parameters that belong to a symbol file.

    Raises:
        FormatError: If several could.
        FileNotFoundError: If there are none.
    """
    file = Path(path)
    name = re.escape(file.stem.removesuffix("-symbol"))
    found = sorted(one for one in file.parent.glob("*.params") if re.fullmatch(rf"{name}(-\d+)?\.params", one.name))
    if not found:
        raise FileNotFoundError(
            f"{file}: no parameters beside it, such as {file.stem.removesuffix('-symbol')}-0000.params"
        )
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise FormatError(f"{file}: several files could have its parameters ({names}); say which, or move the others")
    return found[0]


def params_beside(path: str | os.PathLike[str]) -> Path:
    """Return where the parameters of a symbol are written: beside it, for epoch 0.

    >>> params_beside("runs/net-symbol.json").as_posix()
    'runs/net-0000.params'
    """
    file = Path(path)
    return file.with_name(f"{file.stem.removesuffix('-symbol')}-0000.params")


def _array(content: NumPyArray) -> Any:
    content = np.asarray(content)
    array = mx.nd.empty(content.shape or (1,), dtype=content.dtype)
    array[:] = content
    return array
