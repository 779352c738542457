"""Weights without a network, from one format to another, compared bit for bit."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from mopruning.cli.notes import NOTES
from mopruning.errors import FormatError
from mopruning.files import FORMATS, format_of
from mopruning.model_files import GRAPH_FORMATS

if TYPE_CHECKING:
    from mopruning.ir.lazy import LazyArray

_STREAMS: Mapping[str, str] = {
    "pytorch": "mopruning.backends.pytorch.checkpoint_streams",
    "mindspore": "mopruning.ir.mindspore_ckpt",
    "mxnet": "mopruning.ir.mxnet_params",
}
"""Format -> the module with its `read_lazily` and `write_lazily`, where it is not that of the IR."""


def holds_weights(source: Path, target: Path) -> bool:
    """Whether a conversion is one of weights: where one of the two files can hold nothing else."""
    alone = FORMATS.keys() - GRAPH_FORMATS.keys()
    return not alone.isdisjoint({source.suffix.lower(), target.suffix.lower()})


def convert_weights(source: Path, target: Path, *, check: bool) -> tuple[str, tuple[str, ...]]:
    """Write weights in another format, whole or not at all, one tensor at a time.

    Recipe and provenance stay behind where the target's format has no place for them; all else that it cannot hold is
    an error.

    Args:
        source: A file of weights.
        target: Where to.
        check: Read the target again before it takes its place, and compare every tensor.

    Returns:
        What the check says, and the names of what stayed behind.

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
    before, after = _streams(source), _streams(target)
    with staged(target) as path:
        if before is after is not weight_files:
            before.copy(source, path)
            return "not checked: the file was copied with all that it holds" if check else "not checked", ()
        dropped: list[str] = []

        def read(file: str | os.PathLike[str]) -> tuple[Mapping[str, LazyArray], dict[str, str]]:
            tensors, metadata = before.read_lazily(file)
            if not format_of(target).notes and metadata.keys() <= {*NOTES, "format"}:
                dropped.extend(key for key in NOTES if metadata.pop(key, None) is not None)
            return tensors, metadata

        weight_files.convert(source, path, reader=read, writer=after.write_lazily)
        if not check:
            return "not checked", tuple(dropped)
        found = _compare(before.read_lazily(source)[0], after.read_lazily(path)[0], source, path)
        return f"check: {found}", tuple(dropped)


def _streams(path: Path) -> ModuleType:
    """Return the module that reads and writes a format one tensor at a time."""
    row = format_of(path)
    row.load()  # says what to install where its framework is missing
    return importlib.import_module(_STREAMS.get(row.name, "mopruning.ir.weight_files"))


def _compare(before: Mapping[str, LazyArray], after: Mapping[str, LazyArray], source: Path, written: Path) -> str:
    if before.keys() != after.keys():
        raise FormatError(f"{written}: holds other tensors than {source}: {min(before.keys() ^ after.keys())!r}")
    for name in before:
        if _digest(before[name]) != _digest(after[name]):
            raise FormatError(f"{written}: tensor {name!r} is not what it is in {source}")
    return f"{len(before)} tensors, the same bit for bit"


def _digest(one: LazyArray) -> tuple[object, ...]:
    """Return what two tensors have in common only if they are the same: so no two are in memory at once."""
    from mopruning.ir.lazy import plain

    array = plain(one.read())
    bits = hashlib.blake2b(array.reshape(-1).view(np.uint8).data).digest()
    found = (array.shape, array.dtype, bits)
    one.release()
    return found
