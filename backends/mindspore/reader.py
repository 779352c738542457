"""Reader: a MindSpore Cell, or a MINDIR file, becomes an IR model, as it computes in inference, under its own names."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
import onnx_ir
from mindspore import Parameter, Tensor, nn
from mindspore.train import mind_ir_pb2
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mopruning.backends.mindspore.exporting.batches import SIZES, Batch, merged
from mopruning.backends.mindspore.exporting.context import MARK, Reading
from mopruning.backends.mindspore.exporting.graph import MindGraph, array_of, graph_of
from mopruning.backends.mindspore.exporting.operators import PRIMITIVES
from mopruning.errors import FormatError
from mopruning.ir.validation import UnsupportedOperators

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Example: TypeAlias = "Tensor | Sequence[Tensor]"

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_BATCH = "N"
_DAMAGE = (FormatError, IndexError, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError)
"""What a graph raises that is not as MindSpore writes it: its operators find other operands than they have."""


def to_ir(cell: nn.Cell, example: Example, *, dynamic_batch: bool = True) -> onnx_ir.Model:
    """Translate a network to the IR.

    The network is exported for inference, as `mindspore.export` does it; its mode stays, and training it later does not
    change the model. BatchNorm stays, with its momentum, and so does each Dropout that is a Cell, so that the network
    can be trained where it arrives; `ops.dropout` called in `construct` leaves nothing in inference. Parameters keep
    their names and their layout.

    Args:
        cell: Any Cell.
        example: What it is called with: a tensor, or a sequence of positional arguments. Shapes and types matter,
            values do not.
        dynamic_batch: Leave the first axis of each input open, as "N"; those whose first axis is as long as that of
            the first tensor count. The network is exported for batches of two sizes then, which shows what goes with
            the batch. Otherwise every shape is fixed as in the example.

    Returns:
        The model; images are NCHW. Its outputs are called "output", or "output_0", ... where there are several.

    Raises:
        FormatError: If the network cannot be exported with the example.
        UnsupportedOperators: If it computes with operators outside the profile; all of them are listed.
        TypeError: If `cell` is no Cell or `example` holds no tensor.

    >>> net = nn.SequentialCell(nn.Flatten(), nn.Dense(4, 2))
    >>> model = to_ir(net, ms.ops.zeros((1, 1, 2, 2)))
    >>> [node.op_type for node in model.graph], list(model.graph.initializers)
    (['Flatten', 'Gemm'], ['1.weight', '1.bias'])
    """
    if not isinstance(cell, nn.Cell):
        raise TypeError(f"expected a mindspore.nn.Cell, got {type(cell).__name__}")
    given = [example] if isinstance(example, Tensor) else list(example)
    if not given or not all(isinstance(one, Tensor) for one in given):
        raise TypeError("expected a tensor, or a sequence of tensors, as the example")
    name = type(cell).__name__
    examples = [_sized(given, size) for size in SIZES] if dynamic_batch and given[0].ndim else [given]
    momenta = {
        part.moving_mean.name: float(part.momentum if isinstance(part, nn.BatchNorm3d) else 1 - part.momentum)
        for _, part in cell.cells_and_names()
        if isinstance(getattr(part, "moving_mean", None), Parameter) and isinstance(part.momentum, float)
    }
    momenta = {mean: float(f"{share:.6g}") for mean, share in momenta.items()}
    with _dropouts_marked(cell):
        messages = [_exported(cell, one, name) for one in examples]
        own = {parameter.name: parameter for parameter in cell.get_parameters()}

        def content_of(parameter: str, _: Any) -> Callable[[], NumPyArray] | None:
            if parameter not in own:
                return None
            array = _to_array(own[parameter])
            return lambda: array

        try:
            graphs = [graph_of(message, content_of) for message in messages]
            graph = graphs[0] if len(graphs) == 1 else merged(*graphs)
        except FormatError as error:
            raise FormatError(f"{name}: {error}") from None
    return _model(graph, name, momenta)


def read_mindir(path: str | os.PathLike[str]) -> onnx_ir.Model:
    """Read a MINDIR file.

    Nothing in the file is run. Shapes are open where they were when it was exported (`Tensor(shape=[None, ...])`);
    the first axis of inputs is called "N" then. Behind some layers, such as a padded `nn.MaxPool2d`, MindSpore loses
    open shapes altogether (2.10): export for one batch size then, or give the Cell itself to `to_ir`. Momenta of
    BatchNorm are not in such a file: MindSpore's usual 0.9 is taken.

    Args:
        path: The file; the folder of variables beside it is read where large weights are kept there.

    Raises:
        FormatError: If the file is damaged, encrypted or of another format.
        UnsupportedOperators: If it computes with operators outside the profile; all of them are listed.
        OSError: If it cannot be read.
    """
    file = Path(path)
    message = mind_ir_pb2.ModelProto()
    try:
        message.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError, or a ValueError for a text that is none
        raise FormatError(f"{file}: damaged or encrypted, or no MINDIR file: {error}") from None
    try:
        graph = graph_of(message, lambda name, tensor: lambda: _stored(file, name, tensor))
        return _model(graph, file.stem.removesuffix("_graph"), {})
    except UnsupportedOperators:
        raise
    except _DAMAGE as error:
        raise FormatError(f"{file}: {error}") from error


def run_mindir(path: Path, inputs: Sequence[NumPyArray]) -> list[NumPyArray]:
    """Run a MINDIR file on some inputs, in inference."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        outputs = nn.GraphCell(ms.load(str(path)))(*(Tensor(np.ascontiguousarray(array)) for array in inputs))
    finally:
        ms.set_context(mode=mode)
    return [one.asnumpy() for one in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _model(graph: MindGraph, name: str, momenta: Mapping[str, float]) -> onnx_ir.Model:
    reading = Reading(graph, PRIMITIVES, momenta)
    reading.net.name = name
    inputs = {}
    for full, output in graph.inputs.items():
        shape = [_BATCH if isinstance(size, Batch) or (size < 0 and axis == 0) else _size(size)
                 for axis, size in enumerate(output.dims)]  # fmt: skip
        if not output.dtype:
            raise FormatError(f"input {full!r} is no tensor")
        inputs[full] = reading.net.input(full.rpartition(":")[2], shape, output.dtype)
    results = reading.run(graph, inputs)
    names = ["output"] if len(results) == 1 else [f"output_{index}" for index in range(len(results))]
    model: onnx_ir.Model = reading.net.model(dict(zip(names, results, strict=True)), source="mindspore")
    RemoveUnusedNodesPass()(model)  # what stood around a pool, and is not needed
    return model


def _size(size: int) -> int | None:
    return int(size) if size >= 0 else None


def _sized(example: Sequence[Tensor], size: int) -> list[Tensor]:
    """Return tensors whose first axis is of another size, where it is as long as that of the first."""
    length = example[0].shape[0]
    return [
        ms.ops.zeros((size, *one.shape[1:]), one.dtype) if one.ndim and one.shape[0] == length else one
        for one in example
    ]


def _exported(cell: nn.Cell, example: Sequence[Tensor], name: str) -> Any:
    """Return the MINDIR message of a network without its weights."""
    kept = mind_ir_pb2.ModelProto()
    training = {id(part): part.training for _, part in cell.cells_and_names()}
    try:
        cell.set_train(False)  # MindSpore 2.10 exports BatchNorm in the mode that it is in
        with tempfile.TemporaryDirectory(prefix="mopruning-mindspore-") as folder:
            file = str(Path(folder) / "network")
            ms.export(cell, *example, file_name=file, file_format="MINDIR", custom_func=kept.CopyFrom)
    except Exception as error:  # the compiler raises almost anything
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FormatError(f"{name}: cannot be exported with this example: {first}") from error
    finally:
        for _, part in cell.cells_and_names():
            part.training = training[id(part)]
    return kept


@contextmanager
def _dropouts_marked(cell: nn.Cell) -> Iterator[None]:
    """Let each Dropout multiply by a parameter that bears its path and ratio while the network is exported.

    An export is for inference, in which a Dropout leaves nothing.
    """
    found = [(path, part) for path, part in cell.cells_and_names() if isinstance(part, _DROPOUTS)]
    kinds = {id(part): type(part) for _, part in found}
    for path, part in found:
        share = part.p if getattr(part, "p", None) is not None else 1 - part.keep_prob
        part.mopruning_mark = Parameter(Tensor(np.float32(share)), name=f"{MARK}{path}", requires_grad=False)
        part.__class__ = _Marked
    try:
        yield
    finally:
        for _, part in found:
            part.__class__ = kinds[id(part)]
            del part._params["mopruning_mark"]


class _Marked(nn.Dropout):  # type: ignore[misc]  # MindSpore brings no types
    """A Dropout while its network is exported."""

    def construct(self, x: Any) -> Any:
        return x * self.mopruning_mark


def _to_array(parameter: Parameter) -> NumPyArray:
    if parameter.dtype == ms.bfloat16:
        import ml_dtypes

        return np.asarray(parameter.astype(ms.float32).asnumpy(), ml_dtypes.bfloat16)
    return np.array(parameter.asnumpy())


def _stored(file: Path, name: str, tensor: Any) -> NumPyArray:
    """Return the numbers of a parameter, from the message or the file of variables that it names."""
    if not tensor.HasField("external_data") or not tensor.external_data.location:
        return array_of(tensor, name)
    where = tensor.external_data
    other = (file.parent / where.location).resolve()
    if not other.is_relative_to(file.parent.resolve()):
        raise FormatError(f"parameter {name!r} lies outside of the file's folder, in {where.location!r}")
    if not other.is_file():
        raise FormatError(f"parameter {name!r} lies in {where.location!r}, which is not there")
    with other.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if where.offset < 0 or where.length < 0 or where.offset + where.length > len(content):
            raise FormatError(f"parameter {name!r} is damaged: it does not fit into {where.location!r}")
        return array_of(tensor, name, content[where.offset : where.offset + where.length])
