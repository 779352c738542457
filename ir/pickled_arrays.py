"""The pickled dict of arrays in an .npz, read without running anything: only NumPy arrays come out of it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.pickled import PickledArray, damaged, load_dict

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def read_pickled(content: bytes, where: str) -> dict[str, NumPyArray]:
    """Read a dict name -> array out of the bytes of a pickle.

    Args:
        content: A pickled dict, or the 0-d object array that `numpy.savez` makes of one.
        where: What errors call it.

    Raises:
        FormatError: If it is damaged, names anything but NumPy arrays, or holds something else.

    >>> import pickle
    >>> read_pickled(pickle.dumps({"w": np.ones(2, np.float32)}), "net.npz")
    {'w': array([1., 1.], dtype=float32)}
    """
    found = load_dict(content, where, "dict of arrays")
    try:
        return {_name(name, where): _array(value, name, where) for name, value in found.items()}
    except FormatError:
        raise
    except Exception as error:  # arrays whose state a damaged pickle never gave
        raise damaged(where, error) from error


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise FormatError(f"{where}: names must be text, got {name!r:.80}")
    return name


def _array(value: Any, name: str, where: str) -> NumPyArray:
    if not isinstance(value, PickledArray):
        raise FormatError(f"{where}: tensor {name!r} is a {type(value).__name__}, expected a NumPy array")
    try:
        return value.array()
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"{where}: tensor {name!r} is damaged: {error}") from None
