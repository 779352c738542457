"""Pickles of NumPy arrays, read without running anything in them.

A pickle is a program. This one may call nothing but the stand-ins below for the functions with which NumPy's arrays
describe themselves, so neither NumPy nor anything else is handed what the file says before it has been checked.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_CODE = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1|\?)")
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


def load_dict(content: bytes, where: str, whole: str = "dict") -> dict[Any, Any]:
    """Read a dict out of the bytes of a pickle; arrays in it are of class `PickledArray`.

    Strings of Python 2 are read as Latin-1.

    Args:
        content: A pickled dict, or the 0-d object array that `numpy.savez` makes of one.
        where: What errors call it.
        whole: What errors say was expected.

    Raises:
        FormatError: If it is damaged, no dict, or names anything but NumPy arrays.

    >>> load_dict(pickle.dumps({"w": np.ones(2, np.float32)}), "net.npz")["w"].array()
    array([1., 1.], dtype=float32)
    >>> load_dict(pickle.dumps({"w": print}), "net.npz")
    Traceback (most recent call last):
    ...
    mopruning.errors.FormatError: net.npz: refused: the pickle asks for builtins.print; only NumPy arrays are read
    """
    try:
        result = _Unpickler(io.BytesIO(content), where).load()
        if isinstance(result, PickledArray):
            result = result.item()
    except FormatError:
        raise
    except Exception as error:  # a damaged pickle makes the unpickler raise almost anything
        raise damaged(where, error) from error
    if not isinstance(result, dict):
        raise FormatError(f"{where}: the pickle holds a {type(result).__name__}, expected a {whole}")
    return result


def damaged(where: str, error: Exception) -> FormatError:
    """Return the error for a pickle that cannot be read to its end."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return FormatError(f"{where}: the pickle is damaged or holds more than arrays: {reason}")


class _DType:
    """Stand-in for numpy.dtype: keeps a code, such as "f4", and the byte order that follows."""

    __slots__ = ("_code",)

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str) or not (_CODE.fullmatch(code) or code in ("O", "O8")):
            raise ValueError(f"the dtype {code!r:.80} is not read")
        self._code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise ValueError(f"byte order {state[1]!r}")
        if self._code[0] not in "<>=|O":
            self._code = state[1] + self._code

    @property
    def of_objects(self) -> bool:
        return self._code.startswith("O")

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self._code)


class PickledArray:
    """Stand-in for numpy.ndarray: keeps shape, dtype and bytes until `array` has checked them."""

    __slots__ = ("_content", "_dtype", "_fortran", "_shape")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, self._shape, self._dtype, self._fortran, self._content = state

    def item(self) -> Any:
        """Return the one object of a 0-d object array, else the array itself."""
        if self._dtype.of_objects and self._shape == () and isinstance(self._content, list) and len(self._content) == 1:
            return self._content[0]
        return self

    def array(self) -> NumPyArray:
        """Return the array, after checking that its bytes fill its shape.

        Raises:
            ValueError: If they do not, or the array holds Python objects.
        """
        shape, content = self._shape, self._content
        if isinstance(content, str):  # the bytes of Python 2, which `load_dict` reads as Latin-1
            content = content.encode("latin1")
        if not isinstance(shape, tuple) or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"its shape is {shape!r:.80}")
        if not isinstance(self._dtype, _DType) or self._dtype.of_objects:
            raise ValueError("it holds Python objects")
        dtype = self._dtype.numpy()
        if not isinstance(content, (bytes, bytearray)) or len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"its bytes do not hold the shape {list(shape)} of {dtype}")
        flat: NumPyArray = np.frombuffer(content, dtype)
        native = flat.astype(dtype.newbyteorder("="), copy=False)
        return native.reshape(shape, order="F" if self._fortran else "C")


def _empty(*description: Any) -> PickledArray:
    """Stand in for numpy's _reconstruct; what the array is follows as its state."""
    return PickledArray()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    """Stand in for numpy's _frombuffer, which pickle protocol 5 calls."""
    result = PickledArray()
    result.__setstate__((shape, dtype, order == "F", content))
    return result


def _latin1(text: Any, encoding: Any) -> bytes:
    """Stand in for _codecs.encode, as which pickle protocols before 3 write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"bytes in {encoding!r:.80}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stand in for bytes, which those protocols call for an empty array."""
    return b""


class _Named:
    """What a name in the pickle stands for; it can be called and nothing else, least of all changed."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError(f"it sets {name!r:.80}")

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


_STAND_INS: dict[str, Callable[..., Any]] = {
    "_reconstruct": _empty,
    "ndarray": _empty,
    "dtype": _DType,
    "_frombuffer": _from_buffer,
}

_PurePython: Any = pickle._Unpickler
# Not the one in C: it allocates what a damaged file asks for before it looks whether that many bytes are there. So does
# this one for a bytearray (CPython 3.11), whose opcode is replaced below.


def _load_bytearray(unpickler: Any) -> None:
    size = int.from_bytes(unpickler.read(8), "little")
    unpickler.append(unpickler.read(min(size, sys.maxsize)))


class _Unpickler(_PurePython):  # type: ignore[misc]
    dispatch = {**_PurePython.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}  # noqa: RUF012  # as the base class has it

    def __init__(self, stream: io.BytesIO, where: str) -> None:
        super().__init__(stream, encoding="latin1")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _STAND_INS:
            return _Named(_STAND_INS[name])
        if (module, name) == ("_codecs", "encode"):
            return _Named(_latin1)
        if (module, name) in (("__builtin__", "bytes"), ("builtins", "bytes")):
            return _Named(_no_bytes)
        raise FormatError(f"{self._where}: refused: the pickle asks for {module}.{name}; only NumPy arrays are read")

    def get_extension(self, code: int) -> None:
        raise FormatError(f"{self._where}: refused: the pickle asks for extension {code}; only NumPy arrays are read")
