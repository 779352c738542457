"""The tensors of an ONNX file: checked before anything is allocated, dense, sparse, or in a file beside it.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (TensorProto, SparseTensorProto) and
https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto

from mopruning.errors import FormatError

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    **dict.fromkeys(
        (
            *(TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT16, TensorProto.UINT8),
            *(TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.BFLOAT16),
        ),
        "int32_data",
    ),
}
"""Type -> where a tensor without raw bytes has its numbers; the types that are read."""

_SPARSE_LIMIT = 1 << 34
"""Bytes that a sparse tensor may have once it is dense: 16 GiB. Its shape costs its author nothing."""


def read_tensor(tensor: TensorProto, folder: Path, where: str) -> onnx_ir.TensorProtocol:
    """Check a tensor and take it over; one in an external file stays there until it is used.

    Args:
        tensor: The tensor as the file has it.
        folder: Folder of the file, which external data must not leave.
        where: What errors call it, such as "net.onnx: tensor 'conv1.weight'".

    Raises:
        FormatError: If its type, shape and content do not agree, or its external file is missing, too short or
            outside the folder.
    """
    dtype, shape = _header(tensor, where)
    expected = math.prod(shape) * dtype.itemsize
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, dtype, shape, expected, folder, where)
    field = _FIELDS[tensor.data_type]
    if tensor.HasField("raw_data"):
        content: NumPyArray = np.frombuffer(tensor.raw_data, np.uint8)
        if content.size != expected:
            raise FormatError(f"{where}: {content.size} bytes do not hold the shape {list(shape)} of {dtype}")
        array = content.view(dtype).reshape(shape)
    else:
        count = len(getattr(tensor, field))
        if count != math.prod(shape):
            raise FormatError(f"{where}: {count} numbers do not fill the shape {list(shape)}")
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:  # a number outside the range of a narrow type
            raise FormatError(f"{where}: cannot be read: {error}") from None
    return onnx_ir.Tensor(array, onnx_ir.DataType(tensor.data_type), name=tensor.name)


def read_sparse(tensor: onnx.SparseTensorProto, folder: Path, where: str) -> onnx_ir.TensorProtocol:
    """Check a sparse tensor and make it dense when it is first used.

    Args:
        tensor: Values and positions as the file has them; positions count through the whole tensor, or are one
            coordinate an axis.
        folder: Folder of the file, which external data must not leave.
        where: What errors call it.

    Raises:
        FormatError: If the positions are not ascending or lie outside the shape, do not match the values in number, or
            the dense tensor would be larger than 16 GiB.
    """
    values, indices = (
        read_tensor(part, folder, f"{where}, {what}")
        for part, what in ((tensor.values, "its values"), (tensor.indices, "its indices"))
    )
    shape = tuple(tensor.dims)
    if not shape or min(shape) < 0:
        raise FormatError(f"{where}: a sparse tensor needs a shape of whole numbers, got {list(shape)}")
    dtype = values.numpy().dtype
    if math.prod(shape) * dtype.itemsize > _SPARSE_LIMIT:
        raise FormatError(f"{where}: the shape {list(shape)} of {dtype} takes more than {_SPARSE_LIMIT} bytes")
    positions = _positions(indices.numpy(), shape, where)
    if values.numpy().shape != positions.shape:
        raise FormatError(f"{where}: {values.numpy().size} values at {positions.size} positions")

    def dense() -> onnx_ir.TensorProtocol:
        array = np.zeros(math.prod(shape), dtype)
        array[positions] = values.numpy()
        return onnx_ir.Tensor(array.reshape(shape), values.dtype, name=tensor.values.name)

    return lazy(dense, values.dtype, shape, tensor.values.name)


def write_dense(tensor: onnx_ir.TensorProtocol, name: str) -> TensorProto:
    """Return a tensor with its content in the file, wherever it has been before."""
    dims = [int(size) for size in tensor.shape.numpy()]
    return TensorProto(name=name, data_type=int(tensor.dtype), dims=dims, raw_data=tensor.tobytes())


def write_sparse(array: NumPyArray, dtype: onnx_ir.DataType, name: str) -> onnx.SparseTensorProto | None:
    """Return a tensor in coordinate form if that is smaller, else None.

    A value counts as zero only if all its bits are 0, so that -0.0 survives. Positions count through the whole tensor
    and are written as variable-length numbers, which take 3 bytes in a tensor of up to 2 million elements.

    >>> sparse = write_sparse(np.eye(64, dtype=np.float32), onnx_ir.DataType.FLOAT, "w")
    >>> list(sparse.indices.int64_data[:3]), sparse.ByteSize() < 64 * 64 * 4
    ([0, 65, 130], True)
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    positions = np.flatnonzero(flat.view(f"u{flat.itemsize}"))
    if positions.size * (flat.itemsize + 1) >= flat.nbytes:
        return None
    result = onnx.SparseTensorProto(dims=array.shape)
    result.values.CopyFrom(
        TensorProto(name=name, data_type=int(dtype), dims=[positions.size], raw_data=flat[positions].tobytes())
    )
    result.indices.data_type = TensorProto.INT64
    result.indices.dims.append(positions.size)
    result.indices.int64_data.extend(positions.tolist())
    return result if result.ByteSize() < flat.nbytes else None


def lazy(
    make: Callable[[], onnx_ir.TensorProtocol], dtype: onnx_ir.DataType, shape: tuple[int, ...], name: str
) -> onnx_ir.TensorProtocol:
    """Return a tensor that is made when first used, and kept."""
    return onnx_ir.LazyTensor(make, dtype, onnx_ir.Shape(shape), cache=True, name=name)


def _header(tensor: TensorProto, where: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if tensor.data_type not in _FIELDS:
        names = TensorProto.DataType
        given = names.Name(tensor.data_type) if tensor.data_type in names.values() else tensor.data_type
        known = ", ".join(names.Name(code).lower() for code in _FIELDS)
        raise FormatError(f"{where}: has the type {str(given).lower()}; read are {known}")
    shape = tuple(tensor.dims)
    if shape and min(shape) < 0:
        raise FormatError(f"{where}: its shape has negative sizes: {list(shape)}")
    if tensor.HasField("segment"):
        raise FormatError(f"{where}: is one segment of a tensor, which is not supported; write it as one tensor")
    return onnx_ir.DataType(tensor.data_type).numpy(), shape


def _external(
    tensor: TensorProto, dtype: np.dtype[Any], shape: tuple[int, ...], expected: int, folder: Path, where: str
) -> onnx_ir.ExternalTensor:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = _inside(folder, location, where)
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or expected)
    except ValueError:
        raise FormatError(f"{where}: offset and length of its external data must be whole numbers: {entries}") from None
    if length != expected:
        raise FormatError(f"{where}: {length} bytes do not hold the shape {list(shape)} of {dtype}")
    if not path.is_file():
        raise FormatError(f"{where}: its external file {location!r} is not there; it belongs beside the .onnx file")
    available = path.stat().st_size
    if offset < 0 or offset + length > available:
        raise FormatError(
            f"{where}: truncated: it should end at byte {offset + length} of {location!r}, which has {available}"
        )
    return onnx_ir.ExternalTensor(
        *(location, offset, length, onnx_ir.DataType(tensor.data_type)),
        shape=onnx_ir.Shape(shape),
        name=tensor.name,
        base_dir=folder,
    )


def _inside(folder: Path, location: str, where: str) -> Path:
    """Return the path of an external file if it lies in the folder of the model, also behind symbolic links."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    named = bool(location) and "\0" not in location and not posix.is_absolute() and not windows.anchor
    if not named or ".." in windows.parts or not (folder / location).resolve().is_relative_to(folder.resolve()):
        raise FormatError(f"{where}: refused: its external file {location!r} is not in the model's folder")
    return folder / location


def _positions(indices: NumPyArray, shape: tuple[int, ...], where: str) -> NumPyArray:
    """Return positions that count through the whole tensor, ascending."""
    fits = indices.ndim == 1 or (indices.ndim == 2 and indices.shape[1] == len(shape))
    if indices.dtype != np.int64 or not fits:
        raise FormatError(f"{where}: expected int64 indices [values] or [values, {len(shape)}], got {indices.shape}")
    limits = np.array(shape if indices.ndim == 2 else [math.prod(shape)])
    if ((indices < 0) | (indices >= (limits if indices.ndim == 2 else limits[0]))).any():
        raise FormatError(f"{where}: its indices leave the shape {list(shape)}")
    positions: NumPyArray = indices.reshape(len(indices), -1)[:, 0] if indices.size else np.zeros(0, np.int64)
    if indices.ndim == 2 and indices.size:
        positions = np.ravel_multi_index(tuple(indices.T), shape)
    if (positions[1:] <= positions[:-1]).any():
        raise FormatError(f"{where}: its indices are not in ascending order")
    return positions
