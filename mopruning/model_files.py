"""Files that hold a network: which ending is whose, opened without importing what is not needed."""

from __future__ import annotations

import errno
import fnmatch
import glob
import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mopruning.errors import FormatError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class GraphFormat:
    """Where a format of networks is read and written.

    Args:
        ending: How its file names end; "/" for a folder.
        name: What the format is called.
        module: Module that does both; imported on first use.
        reader: Its function path -> model; None where the format is only written.
        writer: Its function (model, path) -> None; None where the format is only read.
        beside: Patterns of the other files of a network: with each, the ending of the path is replaced.
        marker: Name of a file by which a folder of this format is known.
        options: Keyword arguments of the writer that a user may ask for.
        read_options: Those of the reader.
        runner: Its function (path, inputs) -> outputs, which runs a file in the framework that it is written for; None
            where the graph that is read from the file is what can be run.
    """

    ending: str
    name: str
    module: str
    reader: str | None
    writer: str | None
    beside: tuple[str, ...] = ()
    marker: str = ""
    options: tuple[str, ...] = ()
    runner: str | None = None
    read_options: tuple[str, ...] = ()

    def read(self, path: PathLike, **options: Any) -> onnx_ir.Model:
        """Read a network.

        Args:
            path: The file or folder.
            options: Some of `self.read_options`.

        Raises:
            FormatError: If the file is damaged, unsafe or of another format, or the format is only written, or knows no
                such option.
            ImportError: If the format's framework is not installed; the message says how to install it.
            OSError: If the file cannot be read.
        """
        if self.reader is None:
            readable = ", ".join(f"{row.name} ({row.ending})" for row in FORMAT_ROWS if row.reader)
            raise FormatError(f"{os.fspath(path)}: {self.name} is only written; what can be read: {readable}")
        for option in options.keys() - set(self.read_options):
            able = ", ".join(row.name for row in FORMAT_ROWS if option in row.read_options)
            raise FormatError(
                f"{os.fspath(path)}: {self.name} says itself what its {option} are; --{option} is for {able}"
            )
        return self._function(self.reader)(Path(path), **options)  # type: ignore[no-any-return]

    def write(self, model: onnx_ir.Model, path: PathLike, **options: Any) -> None:
        """Write a network, whole or not at all.

        Args:
            model: The network; it is not changed.
            path: Where to.
            options: Some of `self.options`.

        Raises:
            FormatError: If the format cannot express the network, or knows no such option.
            ImportError: If the format's framework is not installed; the message says how to install it.
            OSError: If the file cannot be written.
        """
        if self.writer is None:
            writable = ", ".join(f"{row.name} ({row.ending})" for row in FORMAT_ROWS if row.writer)
            raise FormatError(f"{os.fspath(path)}: {self.name} is only read; what can be written: {writable}")
        for option in options.keys() - set(self.options):
            able = ", ".join(row.name for row in FORMAT_ROWS if option in row.options) or "none"
            raise FormatError(f"{os.fspath(path)}: {self.name} is not written {option}; formats that are: {able}")
        self._function(self.writer)(model, Path(path), **options)

    def run(self, path: PathLike, inputs: Sequence[NumPyArray]) -> list[NumPyArray] | None:
        """Run a file in the framework that it is written for; only for formats that have a `runner`.

        Args:
            path: The file or folder.
            inputs: One array for each input, in order and as the IR has them: images are [N, channels, height, width].

        Returns:
            The outputs; None where a file from elsewhere does not say how it is run.

        Raises:
            ImportError: If the format's framework is not installed; the message says how to install it.
        """
        assert self.runner is not None
        return self._function(self.runner)(Path(path), inputs)  # type: ignore[no-any-return]

    def files(self, path: PathLike) -> tuple[Path, ...]:
        """Return the path of a network and those of its other files that are there.

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("net.json", "net.npz", "nets.npz"):
        ...     (folder / name).touch()
        >>> [file.name for file in graph_format_of("net.json").files(folder / "net.json")]
        ['net.json', 'net.npz']
        """
        file = Path(path)
        start = file.name[: -len(self.ending)] if file.name.lower().endswith(self.ending) else file.stem
        others = [fnmatch.translate(glob.escape(start) + pattern) for pattern in self.beside]
        if not others or not file.parent.is_dir():
            return (file,)
        there = sorted(file.parent.iterdir())
        return (file, *(one for one in there if one != file and any(re.match(other, one.name) for other in others)))

    def _function(self, name: str) -> Callable[..., Any]:
        return getattr(importlib.import_module(self.module), name)  # type: ignore[no-any-return]


FORMAT_ROWS: tuple[GraphFormat, ...] = (
    GraphFormat(".mopir", "mopir", "mopruning.ir.mopir", "load", "save"),
    GraphFormat(".onnx", "onnx", "mopruning.ir.onnx_files", "read_onnx", "write_onnx", options=("sparse", "external")),
    GraphFormat(
        *("-symbol.json", "mxnet", "mopruning.backends.mxnet.symbol_files", "read_symbol", "write_symbol"),
        beside=("-????.params", ".params"),
        runner="run_symbol",
    ),
    GraphFormat(".json", "moffett", "mopruning.ir.moffett", "read_moffett", "write_moffett", beside=(".npz",)),
    GraphFormat(
        *(".meta", "tensorflow1", "mopruning.backends.tensorflow1", "read_meta", "write_meta"),
        beside=(".index", ".data-*"),
        runner="run_meta",
        read_options=("inputs", "outputs"),
    ),
    GraphFormat(
        *(".pb", "frozen_graph", "mopruning.backends.tensorflow1", "read_frozen", "write_frozen"),
        runner="run_frozen",
        read_options=("inputs", "outputs"),
    ),
    GraphFormat(
        *("/", "saved_model", "mopruning.backends.tensorflow1", "read_saved_model", "write_saved_model"),
        marker="saved_model.pb",
        runner="run_saved_model",
    ),
    GraphFormat(".mindir", "mindir", "mopruning.backends.mindspore", "read_mindir", None, runner="run_mindir"),
    GraphFormat(
        *("/", "mindspore", "mopruning.backends.mindspore", None, "to_folder"),
        marker="weights.ckpt",
        runner="run_folder",
    ),
    GraphFormat("/", "pytorch", "mopruning.backends.pytorch.source", None, "to_folder", runner="run_folder"),
)
"""Every format; a new one is one row here. The first whose ending fits counts; a folder with a marker is known by it
when it is read, and has to be asked for by name when it is written."""

GRAPH_FORMATS: Mapping[str, GraphFormat] = {row.ending: row for row in FORMAT_ROWS if not row.marker}
"""Ending of a file name -> format, "/" for a folder."""


def graph_format_of(path: PathLike, name: str | None = None) -> GraphFormat:
    """Return the format of a file of a network.

    Args:
        path: A file or folder; one that is there as a folder, and a name without a suffix, stand for a folder.
        name: The format's name, where the ending does not say it.

    Raises:
        FormatError: If the ending or the name is unknown.

    >>> graph_format_of("net.onnx").name, graph_format_of("net").name, graph_format_of("net.bin", "onnx").name
    ('onnx', 'pytorch', 'onnx')
    """
    text = os.fspath(path)
    if name is not None:
        for row in FORMAT_ROWS:
            if row.name == name:
                return row
        raise FormatError(f"unknown format {name!r}; known: {', '.join(row.name for row in FORMAT_ROWS)}")
    if os.path.isdir(text):
        for row in FORMAT_ROWS:
            if row.marker and os.path.isfile(os.path.join(text, row.marker)):
                return row
    if os.path.isdir(text) or not Path(text).suffix:
        text = f"{text}/"
    for row in FORMAT_ROWS:
        if text.lower().endswith(row.ending) and not row.marker:
            return row
    known = ", ".join(dict.fromkeys("a folder" if row.ending == "/" else row.ending for row in FORMAT_ROWS))
    raise FormatError(f"{os.fspath(path)}: unknown suffix {Path(path).suffix!r}; known for networks: {known}")


def check_readable(path: PathLike) -> None:
    """Raise FileNotFoundError, or IsADirectoryError, where there is no such file: before anything is imported."""
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file", str(file))
    if not file.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(file))


def read_model(path: PathLike, name: str | None = None) -> onnx_ir.Model:
    """Read a network; the ending of the file says the format, unless its name is given.

    Raises:
        FormatError: If the format is unknown or only written, or the file is damaged, unsafe or of another format.
        ImportError: If the format's framework is not installed; the message says how to install it.
        OSError: If the file cannot be read.
    """
    row = graph_format_of(path, name)
    if row.reader is not None and row.ending != "/":
        check_readable(path)
    return row.read(path)


def write_model(model: onnx_ir.Model, path: PathLike, name: str | None = None, **options: Any) -> None:
    """Write a network; the ending of the file says the format, unless its name is given.

    Raises:
        FormatError: If the format is unknown or cannot express the network.
        ImportError: If the format's framework is not installed; the message says how to install it.
        OSError: If the file cannot be written.
    """
    graph_format_of(path, name).write(model, path, **options)
