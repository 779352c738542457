"""Files of weights and of networks, opened and written alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from mopruning.errors import FormatError
from mopruning.files import FORMATS, WeightFile, open_weights
from mopruning.model_files import GRAPH_FORMATS, graph_format_of, read_model

if TYPE_CHECKING:
    from mopruning.cli.network_file import NetworkFile

READABLE = (*FORMATS, *(ending for ending, row in GRAPH_FORMATS.items() if row.reader and ending not in FORMATS))
"""Suffixes of the files that hold weights, alone or in a network."""


def check_readable_suffix(path: Path) -> None:
    """Raise FormatError where no format that holds weights and can be read has this suffix."""
    if path.suffix.lower() not in READABLE:
        raise FormatError(f"{path}: unknown suffix {path.suffix!r}; known: {', '.join(READABLE)}")


def weights_alone(path: Path) -> bool:
    """Whether files of this name can hold weights and nothing else.

    >>> [weights_alone(Path(name)) for name in ("net.pth", "net.mopir", "net.onnx")]
    [True, False, False]
    """
    return path.suffix.lower() in FORMATS.keys() - GRAPH_FORMATS.keys() and not path.is_dir()


def needs_network(path: Path) -> bool:
    """Whether a file of this name, or a folder, can be made of a network only.

    Raises:
        FormatError: If the suffix is unknown.
    """
    suffix = path.suffix.lower()
    if suffix in FORMATS and not path.is_dir():
        return False
    if suffix and suffix not in GRAPH_FORMATS and not path.is_dir():
        known = ", ".join([*READABLE, "or a folder of PyTorch source"])
        raise FormatError(f"{path}: unknown suffix {path.suffix!r}; known: {known}")
    return True


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the file and those of the same network that are there beside it."""
    return graph_format_of(path).files(path) if needs_network(path) else (path,)


def open_file(path: Path) -> WeightFile:
    """Read a file of weights or of a network; its suffix says the format, and a .mopir file itself what it holds.

    Raises:
        FormatError: If the suffix is unknown, or the file is damaged, unsafe or of another format.
        ImportError: If the format's framework is not installed; the message says how to install it.
        OSError: If the file cannot be read.
    """
    check_readable_suffix(path)
    if path.suffix.lower() in FORMATS:
        opened = open_weights(path)
        if "graph" not in opened.notes:
            return opened
    from mopruning.cli.network_file import NetworkFile

    return NetworkFile(path, read_model(path))


def is_network(opened: WeightFile) -> TypeGuard[NetworkFile]:
    """Whether an opened file holds a network."""
    return opened.model is not None


def trained(opened: WeightFile) -> tuple[dict[str, Any], dict[str, str]]:
    """Tell trained parameters from what else a file holds: by its graph, or else by names and dtypes.

    Returns:
        Canonical arrays by name, and for every other tensor what it is.
    """
    weights = opened.weights()  # all of them: whatever is damaged should be told now, not while the output is written
    known, others = opened.split()
    return {name: weights[name] for name in known}, others
