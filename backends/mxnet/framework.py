"""MXNet itself, imported in this one place because it needs help on a present-day NumPy."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np

_REMOVED = {"bool": bool, "complex": complex, "float": float, "int": int, "object": object, "str": str}
"""What NumPy called these built-in types until 1.23. MXNet 1.9.1 looks `numpy.bool` up while it is imported."""


@contextlib.contextmanager
def removed_aliases(module: object = np) -> Iterator[None]:
    """Give NumPy the names back that it has not got any more, for the time of the block.

    >>> with removed_aliases():
    ...     "bool" in vars(np)
    True
    """
    missing = {name: value for name, value in _REMOVED.items() if name not in vars(module)}  # getattr would warn
    for name, value in missing.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name in missing:
            delattr(module, name)


with removed_aliases(), warnings.catch_warnings():
    # MXNet 1.9.1 looks up functions that NumPy has given away, to hand them on, and compares versions with distutils.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"mxnet\.")
    import mxnet as mx

NDArray = mx.nd.NDArray
Context = mx.Context
Optimizer = mx.optimizer.Optimizer
Updater = mx.optimizer.Updater
gluon = mx.gluon

__all__ = ["Context", "NDArray", "Optimizer", "Updater", "gluon", "mx", "removed_aliases"]
