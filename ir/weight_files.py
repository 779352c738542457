"""Weight files without a graph: .safetensors, .npz and .mopir, read and written without a framework."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.files import TensorFile
from mopruning.ir import container, npz, safetensors
from mopruning.ir.atomic import atomic
from mopruning.ir.lazy import LazyArray

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

SUFFIXES = (".safetensors", ".npz")
_STREAMED = (*SUFFIXES, ".mopir")


@dataclass
class ArrayFile(TensorFile):
    """The content of a weight file: everything needed to write it back as it was.

    Args:
        path: Where it was read from.
        tensors: Every tensor by name, in the file's order.
        metadata: Text by key, which .safetensors carries besides the tensors.
        compressed: Whether an .npz archive was compressed.
    """

    path: Path
    tensors: dict[str, NumPyArray]
    metadata: dict[str, str] = field(default_factory=dict)
    compressed: bool = False

    @property
    def ordered(self) -> bool:
        """Whether tensors stand in the order of their network; .safetensors sorts them."""
        return _suffix(self.path) == ".npz"

    def arrays(self) -> dict[str, NumPyArray]:
        """Return every tensor, for a file of another format.

        Raises:
            FormatError: If another format would lose the metadata.
        """
        extra = sorted(self.metadata.keys() - {"format"})  # "format" names the library that wrote the file
        if extra:
            raise FormatError(
                f"{self.path}: only .safetensors can hold its metadata ({', '.join(extra)}); write that format"
            )
        return self.weights()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file of the same format, whole or not at all."""
        _write(Path(path), _suffix(self.path), self.tensors, self.metadata, self.compressed)


def open_weights(path: str | os.PathLike[str]) -> ArrayFile:
    """Read a .safetensors or .npz file with all that belongs to it.

    Raises:
        FormatError: If the file is damaged, unsafe or of another format.
        OSError: If it cannot be read.
    """
    file = Path(path)
    if _suffix(file) == ".npz":
        tensors, compressed = npz.read(file)
        return ArrayFile(file, tensors, compressed=compressed)
    tensors, metadata = safetensors.read(file)
    return ArrayFile(file, tensors, metadata)


def read_weights(path: str | os.PathLike[str]) -> dict[str, NumPyArray]:
    """Read the tensors of a .safetensors or .npz file.

    Nothing in the file is executed: pickled arrays are refused. The tensors of a .safetensors file are read-only
    views of the mapped file. bfloat16 needs ml_dtypes.

    Args:
        path: A file; its suffix says the format.

    Returns:
        Arrays by name, in the file's order and with its dtypes.

    Raises:
        FormatError: If the file is damaged, unsafe or of another format; the message names file, tensor and check.
        OSError: If it cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "net.safetensors"
    >>> write_weights(path, {"fc.weight": np.eye(2, dtype=np.float32)})
    >>> read_weights(path)
    {'fc.weight': array([[1., 0.],
           [0., 1.]], dtype=float32)}
    """
    return open_weights(path).tensors


def write_weights(path: str | os.PathLike[str], weights: Mapping[str, NumPyArray]) -> None:
    """Write tensors to a .safetensors or .npz file, whole or not at all.

    Args:
        path: Where to; the suffix says the format. A file that is there is replaced.
        weights: Arrays by name.

    Raises:
        FormatError: If the format cannot hold a tensor's dtype.
        OSError: If the file cannot be written.
    """
    _write(Path(path), _suffix(Path(path)), weights, {}, compressed=False)


def _write(
    path: Path, suffix: str, tensors: Mapping[str, NumPyArray], metadata: Mapping[str, str], compressed: bool
) -> None:
    with atomic(path) as temporary:
        if suffix == ".npz":
            npz.write(temporary, tensors, compressed)
        else:
            safetensors.write(temporary, tensors, metadata)


def _suffix(path: Path, known: tuple[str, ...] = SUFFIXES) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        expected = f"{', '.join(known[:-1])} or {known[-1]}"
        raise FormatError(f"{path}: expected a {expected} file, got suffix {suffix!r}")
    return suffix


# ---- one tensor at a time

Reader: TypeAlias = "Callable[[str | os.PathLike[str]], tuple[Mapping[str, LazyArray], dict[str, str]]]"
Writer: TypeAlias = "Callable[[str | os.PathLike[str], Mapping[str, LazyArray], Mapping[str, str]], None]"


def read_lazily(path: str | os.PathLike[str]) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Read which tensors a .safetensors, .npz or .mopir file holds; each is read when asked for.

    Args:
        path: A file; its suffix says the format.

    Returns:
        The tensors by name, and the metadata; of a .mopir file its graph, recipe and provenance.

    Raises:
        FormatError: If the file is damaged, unsafe or of another format; also from `LazyArray.read`.
        OSError: If it cannot be read.
    """
    file = Path(path)
    suffix = _suffix(file, _STREAMED)
    if suffix == ".mopir":
        stored, texts = container.read(file)
        return dict(stored), texts
    if suffix == ".npz":
        return npz.read_lazily(file), {}
    return safetensors.read_lazily(file)


def write_lazily(
    path: str | os.PathLike[str], tensors: Mapping[str, LazyArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a .safetensors, .npz or .mopir file, whole or not at all, holding one tensor at a time.

    Args:
        path: Where to; the suffix says the format. A file that is there is replaced.
        tensors: What to write, by name; for .mopir each is read twice.
        metadata: For .safetensors any text by key, for .mopir "graph", "recipe" and "provenance", for .npz nothing.

    Raises:
        FormatError: If the format cannot hold a tensor's dtype or the metadata.
        OSError: If the file cannot be written.
    """
    file, kept = Path(path), dict(metadata or {})
    suffix = _suffix(file, _STREAMED)
    if suffix == ".mopir":
        if not kept.keys() <= set(container.TEXTS):
            raise FormatError(
                f"{file}: .mopir has no place for {', '.join(sorted(kept.keys() - set(container.TEXTS)))}"
            )
        container.write(file, tensors, kept)
        return
    if suffix == ".npz" and kept:
        raise FormatError(f"{file}: .npz has no place for {', '.join(sorted(kept))}")
    with atomic(file) as temporary:
        if suffix == ".npz":
            npz.write(temporary, tensors, compressed=False)
        else:
            safetensors.write(temporary, tensors, kept)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    reader: Reader = read_lazily,
    writer: Writer = write_lazily,
) -> None:
    """Convert a file of weights to another format, however large it is: one tensor is in memory at a time.

    Args:
        source: A .safetensors, .npz or .mopir file, or one that `reader` knows.
        target: Where to; its suffix says the format. A file that is there is replaced, whole or not at all.
        reader: Reads the source: a framework's own for a file of its format.
        writer: Writes the target, likewise.

    Raises:
        FormatError: If the source is damaged, or the target cannot hold a dtype, a graph or other metadata.
        OSError: If a file cannot be read or written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_weights(folder / "net.npz", {"fc.weight": np.eye(64)})
    >>> convert(folder / "net.npz", folder / "net.mopir")
    >>> [(folder / name).stat().st_size < 2000 for name in ("net.npz", "net.mopir")]
    [False, True]
    """
    tensors, metadata = reader(source)
    same = Path(source).suffix.lower() == Path(target).suffix.lower()
    if not same and metadata.get("format") is not None:
        del metadata["format"]  # names the library that wrote a .safetensors file
    writer(target, tensors, metadata)
