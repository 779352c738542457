"""Files that hold weights: which suffix is whose, opened without importing what is not needed."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mopruning.arrays import Array, namespace
from mopruning.errors import FormatError

if TYPE_CHECKING:
    import onnx_ir

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


class WeightFile(ABC):
    """An opened file of weights, whatever its format: what may be asked of it.

    Attributes:
        path: Where it was read from.
    """

    path: Path

    @property
    def model(self) -> onnx_ir.Model | None:
        """The network, where the file holds one; its graph then says what is trained and how it lies."""
        return None

    @property
    def notes(self) -> Mapping[str, str]:
        """What a .mopir file carries beside its tensors, as JSON by key: graph, recipe, provenance."""
        return {}

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of what only this format holds beside the tensors, and weights can do without."""
        return ()

    @property
    def aliases(self) -> dict[str, str]:
        """Return the tied tensors: further name -> first name; none where a format stores every tensor by itself."""
        return {}

    @property
    def ordered(self) -> bool:
        """Whether tensors stand in the order of their network."""
        return True

    @abstractmethod
    def held(self) -> Mapping[str, Any]:
        """Return every tensor by name as the file has it, with a dtype and a shape, possibly lazy."""

    @abstractmethod
    def weights(self) -> dict[str, Any]:
        """Return every tensor by name, canonical, a tied one under its first name; arrays may be read-only."""

    @abstractmethod
    def split(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Tell trained parameters from what else the file holds.

        Returns:
            Trained parameters by name, canonical and possibly lazy, and of every other tensor, or further name of one,
            what it is.
        """

    @abstractmethod
    def replace(self, weights: Mapping[str, Array]) -> None:
        """Take over new values in place, in memory only: the file stays as it is.

        Args:
            weights: Canonical arrays by name, of the shape and dtype of those they replace.
        """

    def arrays(self) -> dict[str, NumPyArray]:
        """Return every tensor for a file of another format, or raise FormatError where that would lose something."""
        return self.weights()

    def bare(self) -> dict[str, NumPyArray]:
        """Return every tensor for a file of another format, which may go without what `beside` names."""
        return self.weights() if self.beside else self.arrays()

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file of the same format, whole or not at all."""


class TensorFile(WeightFile):
    """An opened file that holds tensors by name and no network: names and dtypes tell which of them are trained.

    Attributes:
        tensors: Every tensor by name, in the file's order.
    """

    tensors: dict[str, Any]

    def held(self) -> Mapping[str, Any]:
        """Return every tensor by name as the file has it, possibly lazy."""
        return self.tensors

    def weights(self) -> dict[str, Any]:
        """Return every tensor by name; arrays may be read-only."""
        return dict(self.tensors)

    def split(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Tell trained parameters from what else the file holds, by names and dtypes."""
        trained, others = parameters(self.tensors)
        return trained, others | tied(self.aliases)

    def replace(self, weights: Mapping[str, Array]) -> None:
        """Take over new values in place, in memory only: the file stays as it is."""
        check_replacements(self.tensors, weights)
        self.tensors = self.tensors | {name: self._held(array) for name, array in weights.items()}

    @staticmethod
    def _held(array: Array) -> Any:
        """Return a new value as `tensors` has them."""
        return np.asarray(array)


def tied(aliases: Mapping[str, str]) -> dict[str, str]:
    """Say of every further name of a tensor what it is.

    >>> tied({"head.weight": "embed.weight"})
    {'head.weight': 'tied to embed.weight'}
    """
    return {further: f"tied to {first}" for further, first in aliases.items()}


@dataclass(frozen=True)
class Format:
    """Where a format is read and written.

    Args:
        name: What the format is called.
        module: Module that does both; imported on first use.
        reader: Its function path -> WeightFile.
        writer: Its function (path, arrays by name) -> None.
        notes: Whether it has a place for recipe and provenance.
    """

    name: str
    module: str
    reader: str
    writer: str
    notes: bool = False

    def load(self) -> ModuleType:
        """Import the module; an adapter whose framework is missing says what to install."""
        return importlib.import_module(self.module)


_PYTORCH = Format("pytorch", "mopruning.backends.pytorch.checkpoint", "read_checkpoint", "write_weights")

FORMATS: Mapping[str, Format] = {
    ".safetensors": Format("safetensors", "mopruning.ir.weight_files", "open_weights", "write_weights", notes=True),
    ".npz": Format("npz", "mopruning.ir.weight_files", "open_weights", "write_weights"),
    ".pth": _PYTORCH,
    ".pt": _PYTORCH,
    ".mopir": Format("mopir", "mopruning.ir.mopir", "open_weights", "write_weights", notes=True),
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


def save_weights(file: WeightFile, path: str | os.PathLike[str], *, bare: bool = False) -> None:
    """Write an opened file, whole or not at all; another suffix makes it another format where nothing is lost.

    Args:
        file: The opened file.
        path: Where to.
        bare: Whether a file of another format may go without what `file.beside` names.

    Raises:
        FormatError: If the suffix is unknown, or the other format cannot hold everything.
        OSError: If the file cannot be written.
    """
    row = format_of(path)
    if row == FORMATS.get(file.path.suffix.lower()):
        file.save(path)
    else:
        getattr(row.load(), row.writer)(path, file.bare() if bare else file.arrays())


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
