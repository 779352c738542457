"""Files that hold weights: which suffix is whose, opened without importing what is not needed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from mopruning.arrays import Array, namespace
from mopruning.errors import FormatError


class WeightFile(Protocol):
    """An opened file of weights, whatever its format."""

    path: Path

    @property
    def aliases(self) -> dict[str, str]:
        """Return the tied tensors: further name -> first name."""

    @property
    def ordered(self) -> bool:
        """Whether tensors stand in the order of their network."""

    def weights(self) -> dict[str, Array]:
        """Return every tensor by name, canonical, a tied one under its first name."""

    def replace(self, weights: Mapping[str, Array]) -> None:
        """Take over new values in place, in memory only: the file stays as it is."""

    def arrays(self) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        """Return every tensor for a file of another format, or raise FormatError where that would lose something."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file of the same format, whole or not at all."""


@dataclass(frozen=True)
class Format:
    """Where a format is read and written.

    Args:
        name: What the format is called.
        module: Module that does both; imported on first use.
        reader: Its function path -> WeightFile.
        writer: Its function (path, arrays by name) -> None.
    """

    name: str
    module: str
    reader: str
    writer: str

    def load(self) -> ModuleType:
        """Import the module; an adapter whose framework is missing says what to install."""
        return importlib.import_module(self.module)


_PYTORCH = Format("pytorch", "mopruning.backends.pytorch.checkpoint", "read_checkpoint", "write_weights")

FORMATS: Mapping[str, Format] = {
    ".safetensors": Format("safetensors", "mopruning.ir.weight_files", "open_weights", "write_weights"),
    ".npz": Format("npz", "mopruning.ir.weight_files", "open_weights", "write_weights"),
    ".pth": _PYTORCH,
    ".pt": _PYTORCH,
    ".mopir": Format("mopir", "mopruning.ir.mopir", "open_weights", "write_weights"),
    ".ckpt": Format("mindspore", "mopruning.ir.mindspore_ckpt", "read_checkpoint", "write_weights"),
    ".params": Format("mxnet", "mopruning.ir.mxnet_params", "open_weights", "write_weights"),
}
"""Suffix -> format; a new format is one line here."""


def check_replacements(tensors: Mapping[str, Array], weights: Mapping[str, Array]) -> None:
    """Raise ValueError where a new value has not the shape and dtype of the tensor it takes the place of."""
    for name, array in weights.items():
        old = tensors[name]
        if (tuple(array.shape), array.dtype) != (tuple(old.shape), old.dtype):
            raise ValueError(f"{name}: expected {old.dtype} {tuple(old.shape)}, got {array.dtype} {tuple(array.shape)}")


_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_var", "moving_variance", "num_batches_tracked")


def format_of(path: str | os.PathLike[str]) -> Format:
    """Return the format that a file name's suffix stands for.

    Raises:
        FormatError: If the suffix is unknown.

    >>> format_of("net.pt").name
    'pytorch'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise FormatError(f"{os.fspath(path)}: unknown suffix {suffix!r}; known: {', '.join(FORMATS)}")
    return FORMATS[suffix]


def open_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Read a file of weights; its suffix says the format.

    Raises:
        FormatError: If the suffix is unknown, or the file is damaged, unsafe or of another format.
        ImportError: If the format's framework is not installed; the message says how to install it.
        OSError: If the file cannot be read.
    """
    row = format_of(path)
    return getattr(row.load(), row.reader)(path)  # type: ignore[no-any-return]


def save_weights(file: WeightFile, path: str | os.PathLike[str]) -> None:
    """Write an opened file, whole or not at all; another suffix makes it another format where nothing is lost.

    Raises:
        FormatError: If the suffix is unknown, or the other format cannot hold everything.
        OSError: If the file cannot be written.
    """
    row = format_of(path)
    if row == format_of(file.path):
        file.save(path)
    else:
        getattr(row.load(), row.writer)(path, file.arrays())


def parameters(weights: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, str]]:
    """Tell trained parameters from what else a file holds.

    Args:
        weights: Every tensor by name; anything with a dtype will do.

    Returns:
        The parameters by name, and for every other tensor why it is none.

    >>> parameters({"bn.weight": np.ones(2), "bn.running_mean": np.ones(2), "steps": np.array(3)})
    ({'bn.weight': array([1., 1.])}, {'bn.running_mean': 'running statistic', 'steps': 'int64 numbers'})
    """
    trained: dict[str, Array] = {}
    others: dict[str, str] = {}
    for name, array in weights.items():
        if name.lower().endswith(_STATISTICS):
            others[name] = "running statistic"
        elif _is_floating(array):
            trained[name] = array
        else:
            others[name] = f"{str(array.dtype).removeprefix('torch.')} numbers"
    return trained, others


def _is_floating(array: Array) -> bool:
    if isinstance(array.dtype, np.dtype):  # ml_dtypes' types are of kind V, as NumPy does not know them
        return array.dtype.kind == "f" or str(array.dtype).startswith(("bfloat", "float"))
    return bool(namespace(array).isdtype(array.dtype, "real floating"))
