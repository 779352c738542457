"""Arrays of any library: a NumPy view where the memory is the host's, the array API elsewhere."""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

Array: TypeAlias = Any
"""An array of any library that speaks the Python array API (NumPy, torch, CuPy, JAX, ...)."""


def namespace(array: Array) -> ModuleType:
    """Return the array-API namespace of `array`, or raise TypeError naming what was passed."""
    try:
        return array_api_compat.array_namespace(array)
    except TypeError:
        raise TypeError(
            f"expected an array (NumPy, torch or another library of the Python array API), got {type(array).__name__}; "
            "wrap lists with numpy.asarray"
        ) from None


def plain(array: Array) -> Array:
    """Return the values alone: a tensor that tracks gradients without its graph, all else as it is."""
    detach = getattr(array, "detach", None)
    return detach() if detach is not None else array


def host_view(array: Array) -> np.ndarray[Any, Any] | None:
    """Return a NumPy array of the same values where they lie in host memory, None on another device.

    No bytes are copied, but for bfloat16 and float8 tensors: NumPy knows those types only as extensions, so they
    are widened to float32, which keeps every value and its order.
    """
    if isinstance(array, (np.ndarray, np.generic)):  # arithmetic on a 0-D array gives a scalar
        return np.asarray(array)  # the base class: a np.matrix has two axes whatever it is reshaped to
    if not str(array_api_compat.device(array)).startswith("cpu"):
        return None
    if any(name in str(array.dtype) for name in ("bfloat16", "float8")):
        xp = namespace(array)
        array = xp.astype(array, xp.float32)
    return np.from_dlpack(array)


def on_host(array: Array) -> np.ndarray[Any, Any]:
    """Return a NumPy array of the same values, copied where they lie on another device."""
    view = host_view(array)
    if view is None:
        copy = array_api_compat.to_device(array, "cpu")
        view = host_view(copy)  # which knows bfloat16
        view = np.asarray(copy) if view is None else view
    return view


def like(result: np.ndarray[Any, Any], array: Array) -> Array:
    """Return `result`, in C order and writable, as an array of the library and on the device of `array`."""
    result = np.require(result, requirements=["C", "W"])
    if isinstance(array, (np.ndarray, np.generic)):
        return result
    return namespace(array).asarray(result, device=array_api_compat.device(array))


def rankable(array: Array) -> Array:
    """Return `array` in a dtype whose comparisons are native: half-width floats become float32.

    Every float16 and bfloat16 value is a float32 value, so ranks and ties stay as they are.
    """
    if isinstance(array, np.ndarray):
        if array.dtype == np.bool_:
            return array.view(np.uint8)
        narrow = array.dtype.kind == "V" or array.dtype.itemsize <= 2
        return array.astype(np.float32) if narrow and array.dtype.kind not in "iu" else array
    xp = namespace(array)
    if xp.isdtype(array.dtype, "bool"):
        return xp.astype(array, xp.uint8)
    if any(name in str(array.dtype) for name in ("float16", "float8")):
        return xp.astype(array, xp.float32)
    return array


def native(array: Array) -> Array:
    """Return the values of `array` as masks rank them: in place where they lie in host memory, `rankable`.

    >>> native(np.array([1.5, 0.5], np.float16)).dtype
    dtype('float32')
    """
    values = plain(array)
    view = host_view(values)
    return rankable(values if view is None else view)


def all_finite(array: Array) -> bool:
    """Tell whether no element is NaN or infinite; integers always are finite."""
    xp = namespace(array)
    if array_api_compat.size(array) == 0 or xp.isdtype(array.dtype, ("integral", "bool")):
        return True
    if isinstance(array, np.ndarray) and array.dtype in (np.float32, np.float64):
        # Bits rank as floats do, infinity and NaN last, on either side of zero: one pass where nothing is negative.
        infinity = int(np.array(np.inf, array.dtype).view(f"i{array.itemsize}"))
        negative = 1 << (8 * array.itemsize - 1)
        largest = int(array.view(f"u{array.itemsize}").max())
        return largest < infinity or (
            largest < infinity + negative and int(array.view(f"i{array.itemsize}").max()) < infinity
        )
    return bool(xp.all(xp.isfinite(array)))


def count_true(mask: Array) -> int:
    """Count the True elements of a bool array, on its own device."""
    if isinstance(mask, np.ndarray):
        return int(np.count_nonzero(mask))
    xp = namespace(mask)
    return int(xp.sum(xp.astype(mask, xp.int64)))
