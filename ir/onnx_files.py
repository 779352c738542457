"""ONNX files: read from opset 7 on into the profile, written dense, sparse, or with the weights beside them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
from onnx import ModelProto, TensorProto

from mopruning.errors import FormatError
from mopruning.ir.atomic import atomic
from mopruning.ir.dense_layers import canonical_dense
from mopruning.ir.onnx_nodes import inference_form, join_identities, name_constants, name_nodes, short_numbers
from mopruning.ir.onnx_opsets import to_profile_opset
from mopruning.ir.onnx_tensors import write_dense, write_sparse
from mopruning.ir.operators import IR_VERSION
from mopruning.ir.passes.shapes import ShapeError, infer_shapes
from mopruning.ir.validation import validate
from mopruning.ir.windows import explicit_padding

_LARGEST_FILE = (1 << 31) - 1  # bytes; protobuf's own limit
_SPARSE_FROM = 1 << 10  # bytes; smaller tensors are not worth another form
_EXTERNAL_FROM = 1 << 10  # bytes; shapes and axes must stay where every reader looks for them
_ENTRY = 128  # bytes; more than a tensor takes besides its content and name
_ALIGNMENT = 4096  # bytes; a page, so that readers can map the weights


def read_onnx(path: str | os.PathLike[str]) -> onnx_ir.Model:
    """Read an ONNX file and bring it to the profile, without changing what it computes.

    Files of opset 7 or later are converted to opset 20. Constant nodes, sparse initializers and external data become
    initializers under their names; dense layers get the canonical layout; auto_pad becomes pads; nodes without a name
    get one. A batch axis that is open stays open. Weights in external files, and sparse ones, are read when first used.

    Args:
        path: A file; external data must lie in its folder or below.

    Returns:
        A model that `mopruning.ir.validation.validate` accepts.

    Raises:
        UnsupportedOperators: If operators are outside the profile; all of them are listed.
        FormatError: If the file is damaged or unsafe, or of an opset that cannot be read.
        OSError: If it cannot be read.

    >>> import tempfile
    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("tiny")
    >>> model = net.model({"output": net.gemm(net.input("input", (4,)), "fc", 2)})
    >>> path = Path(tempfile.mkdtemp()) / "net.onnx"
    >>> write_onnx(model, path)
    >>> list(read_onnx(path).graph.initializers)
    ['fc.weight', 'fc.bias']
    """
    file = Path(path)
    proto = _parse(file)
    try:
        converted, weights = to_profile_opset(proto, file.parent, str(file))
        del proto  # it holds the weights once more
        model = onnx_ir.from_proto(converted)
        _restore(model.graph, weights)
        model.graph.name = model.graph.name or file.stem
        model.graph.sort()
        _open_axes(model.graph)
        name_nodes(model.graph)
        name_constants(model.graph, weights)
        join_identities(model.graph)
        inference_form(model.graph)
        short_numbers(model.graph)
        explicit_padding(model.graph)
        canonical_dense(model.graph)
        name_nodes(model.graph)
    except (FormatError, OSError):
        raise
    except Exception as error:  # a damaged graph that is valid protobuf makes what reads it raise almost anything
        raise FormatError(f"{file}: is no valid ONNX model: {' '.join(str(error).split())}") from error
    model.ir_version = IR_VERSION
    _forget_other_opsets(model)
    model.metadata_props.setdefault("mopruning.source", "onnx")
    model.metadata_props.setdefault("mopruning.layout", "NCHW")
    validate(model)
    return model


def write_onnx(
    model: onnx_ir.Model, path: str | os.PathLike[str], *, sparse: bool = False, external: bool = False
) -> None:
    """Write a model to an ONNX file, whole or not at all.

    Args:
        model: The model; it is not changed.
        path: Where to. A file that is there is replaced.
        sparse: Write weights as sparse_initializer, in coordinates, where that is smaller. onnxruntime reads such
            files; ``onnx.checker`` accepts them without ``full_check``, as ONNX's type inference knows no operator
            on sparse input.
        external: Write larger weights to ``NAME.onnx.DIGEST.data`` beside it, as networks of more than 2 GB need. An
            interrupted write leaves the old pair as it was; otherwise the old weights go with the model they are of.

    Raises:
        FormatError: If an initializer has no content, or the file would be larger than 2 GB.
        OSError: If the file cannot be written.
    """
    file = Path(path)
    proto, weights = _structure(model)
    outside = []
    size = proto.ByteSize()
    for name, tensor in weights.items():
        coordinates = _sparse(name, tensor) if sparse else None
        if coordinates is not None:
            proto.graph.sparse_initializer.append(coordinates)
            size += coordinates.ByteSize()
        elif external and tensor.nbytes >= _EXTERNAL_FROM:
            outside.append((name, tensor))
        else:
            size += tensor.nbytes + len(name) + _ENTRY
            if size > _LARGEST_FILE:
                raise FormatError(f"{file}: an ONNX file holds 2 GB at most; write it with external=True")
            proto.graph.initializer.append(write_dense(tensor, name))
    older = external_weights(file)
    data = _write_outside(proto, file, outside) if outside else None
    with atomic(file) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    remove(older, kept=() if data is None else (data,))


def external_weights(path: str | os.PathLike[str]) -> list[Path]:
    """List the files beside an ONNX file in which `write_onnx` put its weights.

    Args:
        path: An ONNX file; of anything else the list is empty.

    Returns:
        Files that it refers to and that are named after it: others may belong to other models as well.
    """
    file = Path(path)
    pattern = re.compile(re.escape(file.name) + r"\.[0-9a-f]{16}\.data")
    beside = [other for other in file.parent.iterdir() if pattern.fullmatch(other.name)] if file.is_file() else []
    if not beside:
        return []
    try:
        tensors = _parse(file).graph.initializer
    except (FormatError, OSError):
        return []
    named = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [other for other in beside if other.name in named]


def remove(older: Iterable[Path], kept: Collection[str]) -> None:
    """Remove weights that `external_weights` listed before their model was replaced, but not those of these names."""
    for file in older:
        if file.name not in kept:
            file.unlink(missing_ok=True)


def _parse(file: Path) -> ModelProto:
    content = file.read_bytes()
    try:
        proto: ModelProto = ModelProto.FromString(content)
    except Exception as error:  # protobuf's error, which is in another place in each of its implementations
        raise FormatError(f"{file}: truncated, or no ONNX file: {error}") from None
    if not proto.HasField("graph") or not proto.graph.output:
        raise FormatError(f"{file}: no ONNX file: it holds no graph with an output")
    return proto


def _restore(graph: onnx_ir.Graph, weights: dict[str, onnx_ir.TensorProtocol]) -> None:
    """Make the weights of a graph initializers again, in place, in the order of the file."""
    values = {value.name: value for value in graph.inputs} | dict(graph.initializers)
    inputs = [value for value in graph.inputs if value.name not in weights]
    added = [value for name, value in graph.initializers.items() if name not in weights]
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    graph.initializers.clear()
    for name, tensor in weights.items():
        value = values[name]
        value.const_value = tensor
        value.shape = onnx_ir.Shape(tensor.shape.numpy())
        value.type = onnx_ir.TensorType(tensor.dtype)
        graph.register_initializer(value)
    for value in added:
        if value.const_value is not None:
            graph.register_initializer(value)


def _open_axes(graph: onnx_ir.Graph) -> None:
    """Mark axes of the inputs whose size is not known, in place: a batch axis as "N", others as open."""
    for value in graph.inputs:
        if value.shape is None:
            continue
        sizes: list[Any] = []
        for axis, size in enumerate(value.shape):
            symbol = None if isinstance(size, int) else size.value
            unknown = size < 0 if isinstance(size, int) else symbol is None or not str(symbol).strip("?")
            sizes.append(size if not unknown else "N" if axis == 0 else None)
        value.shape = onnx_ir.Shape(sizes)


def _forget_other_opsets(model: onnx_ir.Model) -> None:
    """Drop, in place, operator sets that no node is of."""
    used = {node.domain for node in model.graph} | {""}
    for domain in [name for name in model.opset_imports if name not in used]:
        del model.opset_imports[domain]


def _structure(model: onnx_ir.Model) -> tuple[ModelProto, dict[str, onnx_ir.TensorProtocol]]:
    """Return the file without its weights, and the weights."""
    copy = model.clone()  # shares the tensors
    if any(value.type is None or value.shape is None for value in copy.graph.outputs):
        with suppress(ShapeError):  # a file should declare them; where they cannot be known, it does without
            copy = infer_shapes(copy)
    weights = {}
    for name, value in list(copy.graph.initializers.items()):
        if value.const_value is None:
            raise FormatError(f"initializer {name!r} has no content to write")
        weights[name] = value.const_value
        value.const_value = None
        del copy.graph.initializers[name]
    return onnx_ir.to_proto(copy), weights


def _sparse(name: str, tensor: onnx_ir.TensorProtocol) -> onnx.SparseTensorProto | None:
    if tensor.nbytes < _SPARSE_FROM or len(tensor.shape) < 1 or tensor.dtype == onnx_ir.DataType.BOOL:
        return None
    return write_sparse(tensor.numpy(), tensor.dtype, name)


def _write_outside(proto: ModelProto, file: Path, tensors: list[tuple[str, onnx_ir.TensorProtocol]]) -> str:
    """Write weights to a file of their own and refer to them, in place; return the file's name.

    The name comes from the content: whenever the process is killed, a model never meets the weights of another.
    """
    digest = hashlib.blake2b(digest_size=8)
    end = 0
    for name, tensor in tensors:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT if tensor.nbytes >= _ALIGNMENT else end
        entry = TensorProto(name=name, data_type=int(tensor.dtype), dims=list(tensor.shape.numpy()))
        entry.data_location = TensorProto.EXTERNAL
        for key, number in (("offset", start), ("length", tensor.nbytes)):
            entry.external_data.add(key=key, value=str(number))
        proto.graph.initializer.append(entry)
        digest.update(f"{name} {start} {tensor.nbytes}".encode())
        digest.update(tensor.tobytes())
        end = start + tensor.nbytes
    data = f"{file.name}.{digest.hexdigest()}.data"
    for entry in proto.graph.initializer:
        if entry.data_location == TensorProto.EXTERNAL:
            entry.external_data.add(key="location", value=data)
    with atomic(file.parent / data) as temporary, temporary.open("wb") as stream:
        for _, tensor in tensors:
            if tensor.nbytes >= _ALIGNMENT:
                stream.write(bytes(-stream.tell() % _ALIGNMENT))
            stream.write(tensor.tobytes())
    return data
