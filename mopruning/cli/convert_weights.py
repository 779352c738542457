"""Weights without a network, from one format to another, compared bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mopruning.errors import FormatError
from mopruning.files import FORMATS, format_of, open_weights, save_weights
from mopruning.model_files import GRAPH_FORMATS

if TYPE_CHECKING:
    from mopruning.ir.lazy import LazyArray

_STREAMED = (".safetensors", ".npz", ".mopir")  # read one tensor at a time, however large the file


def holds_weights(source: Path, target: Path) -> bool:
    """Whether a conversion is one of weights: where one of the two files can hold nothing else."""
    alone = FORMATS.keys() - GRAPH_FORMATS.keys()
    return not alone.isdisjoint({source.suffix.lower(), target.suffix.lower()})


def convert_weights(source: Path, target: Path, *, check: bool) -> str:
    """Write weights in another format, whole or not at all, and return what the check says.

    Args:
        source: A file of weights.
        target: Where to.
        check: Read the target again before it takes its place, and compare every tensor.

    Raises:
        FormatError: If a format cannot hold the tensors, or what was written is not what was read.
        OSError: If a file cannot be read or written.
    """
    from mopruning.cli.staging import staged
    from mopruning.ir import weight_files

    if source.suffix.lower() not in FORMATS:
        raise FormatError(f"{target.name} cannot hold a network, which {source} is; write .mopir or .onnx")
    if target.suffix.lower() not in FORMATS:
        raise FormatError(f"{source} holds weights without a network, which {target.name} needs; write .mopir")
    with staged(target) as path:
        if source.suffix.lower() in _STREAMED and path.suffix.lower() in _STREAMED:
            weight_files.convert(source, path)
        else:
            save_weights(open_weights(source), path)
        if not check:
            return "not checked"
        if format_of(source).name == format_of(path).name == "pytorch":
            return "not checked: a checkpoint was copied with all that it holds"
        return f"check: {_compare(source, path)} tensors, the same bit for bit"


def _compare(source: Path, written: Path) -> int:
    before, after = _tensors(source), _tensors(written)
    if before.keys() != after.keys():
        raise FormatError(f"{written}: holds other tensors than {source}: {min(before.keys() ^ after.keys())!r}")
    for name in before:
        old, new = _plain(before[name].read()), _plain(after[name].read())
        if (old.shape, old.dtype) != (new.shape, new.dtype) or not np.array_equal(_bytes(old), _bytes(new)):
            raise FormatError(f"{written}: tensor {name!r} is not what it is in {source}")
        for one in (before[name], after[name]):
            one.release()
    return len(before)


def _tensors(path: Path) -> Mapping[str, LazyArray]:
    from mopruning.ir.lazy import lazy
    from mopruning.ir.weight_files import read_lazily

    if path.suffix.lower() in _STREAMED:
        return read_lazily(path)[0]
    return {name: lazy(array) for name, array in open_weights(path).arrays().items()}


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    from mopruning.ir.lazy import plain

    return plain(array)


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8)
