"""The adapters: each carries the core's decisions out in one framework, behind the same names."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

BACKENDS: Mapping[str, str] = {
    "pytorch": "mopruning.backends.pytorch",
    "mxnet": "mopruning.backends.mxnet",
    "tensorflow1": "mopruning.backends.tensorflow1",
    "mindspore": "mopruning.backends.mindspore",
}
"""Adapter -> module; a new framework is one folder, one line here and one below."""

FRAMEWORKS: Mapping[str, str] = {
    "pytorch": "torch",
    "mxnet": "mxnet",
    "tensorflow1": "tensorflow",
    "mindspore": "mindspore",
}
"""Adapter -> the name that its framework is imported by."""


def installed(name: str) -> bool:
    """Whether the framework of an adapter is installed; nothing is imported.

    Raises:
        ValueError: If there is no adapter of that name.
    """
    return importlib.util.find_spec(FRAMEWORKS[_known(name)]) is not None


class Pruning(Protocol):
    """What `Prune` does in every framework."""

    def prune(self) -> None:
        """Count one optimizer update and zero what the masks leave out; call it after each update."""

    def sparsity(self) -> tuple[dict[str, float], float]:
        """Return the sparsity of each pruned parameter by name, and of all of them together."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, in types the framework's own checkpoints hold."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue in place where `state` was saved."""


class Backend(Protocol):
    """The public names that every adapter has."""

    Prune: type[Pruning]
    SparseOptimizer: type[Any]


def load(name: str) -> Backend:
    """Import an adapter by the framework's name.

    Raises:
        ValueError: If there is no adapter of that name.
        ImportError: If the framework is not installed; the message says how to install it.
    """
    return cast(Backend, importlib.import_module(BACKENDS[_known(name)]))


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"no backend {name!r}; known backends: {', '.join(BACKENDS)}")
    return name


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of an adapter, for public names whose modules take time to load.

    Args:
        package: Name of the adapter's package.
        homes: Public name -> the module within it.
    """
    adapter = package.rpartition(".")[2]

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{package}.{homes[name]}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "mopruning":
                raise
            raise ImportError(f"{adapter}.{name} needs {error.name}: pip install 'mopruning[{adapter}]'") from error
        return getattr(module, name)

    return attribute
