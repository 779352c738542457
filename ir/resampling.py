"""Resampling along one axis, as ONNX's Resize does it: where each new element lies among the old ones, and its shares.

For frameworks whose own resizing means something else: an axis is resized by picking elements, or by a product with a
table of shares. The formulas (`moved`, `rounded`, `taps`) take whatever computes as NumPy's arrays do, such as the
tensors of a graph, whose sizes may be open; `positions`, `nearest` and `shares` are these for sizes that are known.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_CUBIC = -0.75  # the coefficient of Keys' cubic convolution, the only one in the profile


def moved(place: Any, old: Any, new: Any, scale: Any, coordinates: str, ops: Any = np) -> Any:
    """Return where new elements lie among the old ones (ONNX, Resize: coordinate_transformation_mode).

    Args:
        place: The new elements, counted from 0; floating numbers.
        old: Elements before, a floating number of the same type.
        new: Elements after, likewise.
        scale: The scale.
        coordinates: "half_pixel", "pytorch_half_pixel", "align_corners" or "asymmetric".
        ops: What has `equal`, `maximum`, `where` and `zeros_like` for these numbers.

    >>> moved(np.arange(3.0), 5.0, 3.0, 0.6, "align_corners").tolist()
    [0.0, 2.0, 4.0]
    """
    if coordinates == "align_corners":
        return place * (old - 1) / ops.maximum(new - 1, 1)
    if coordinates == "asymmetric":
        return place / scale
    place = (place + 0.5) / scale - 0.5
    if coordinates == "pytorch_half_pixel":
        place = ops.where(ops.equal(new, 1), ops.zeros_like(place), place)
    return place


def rounded(place: Any, rounding: str, ops: Any = np) -> Any:
    """Return the whole numbers next to places (ONNX, Resize: nearest_mode).

    Args:
        place: Floating numbers.
        rounding: "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil".
        ops: What has `floor` and `ceil` for them.

    >>> rounded(np.array([0.5, 1.6]), "round_prefer_floor").tolist()
    [0.0, 2.0]
    """
    if rounding == "floor":
        return ops.floor(place)
    if rounding == "ceil":
        return ops.ceil(place)
    return ops.floor(place + 0.5) if rounding == "round_prefer_ceil" else ops.ceil(place - 0.5)


def taps(t: Any, mode: str) -> list[tuple[int, Any]]:
    """Return the old elements that a new one is mixed of: how far from the one before it each is, and its share.

    Args:
        t: How far the new element lies behind the old one before it, from 0 to 1.
        mode: "linear", or "cubic" (R. Keys, Cubic convolution interpolation for digital image processing, 1981,
            equation 15).

    >>> taps(0.25, "linear"), [share for _, share in taps(0.5, "cubic")]
    ([(0, 0.75), (1, 0.25)], [-0.09375, 0.59375, 0.59375, -0.09375])
    """
    if mode == "linear":
        return [(0, 1 - t), (1, t)]
    near = [((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [((_CUBIC * d + -5 * _CUBIC) * d - -8 * _CUBIC) * d + -4 * _CUBIC for d in (t + 1, 2 - t)]
    return [(-1, far[0]), (0, near[0]), (1, near[1]), (2, far[1])]


def positions(old: int, new: int, scale: float | None, coordinates: str) -> NumPyArray:
    """Return where the new elements lie among the old ones (ONNX, Resize: coordinate_transformation_mode).

    Args:
        old: Elements before.
        new: Elements after.
        scale: The scale, where the node gives one; by default `new / old`.
        coordinates: "half_pixel", "pytorch_half_pixel", "align_corners" or "asymmetric".

    Returns:
        float32 [new], unbounded: -0.25 lies before the first element.

    >>> positions(2, 4, None, "half_pixel").tolist()
    [-0.25, 0.25, 0.75, 1.25]
    """
    place = np.arange(new, dtype=np.float32)
    factor = np.float32(new / old if scale is None else scale)
    result: NumPyArray = moved(place, np.float32(old), np.float32(new), factor, coordinates)
    return result


def nearest(places: NumPyArray, old: int, rounding: str) -> NumPyArray:
    """Return the index of the old element that each new one is, int64 [new] (ONNX, Resize: nearest_mode).

    Args:
        places: As `positions` returns them.
        old: Elements before.
        rounding: "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil".

    >>> nearest(positions(2, 4, None, "half_pixel"), 2, "round_prefer_floor").tolist()
    [0, 0, 1, 1]
    """
    result: NumPyArray = np.clip(rounded(places, rounding), 0, old - 1).astype(np.int64)
    return result


def shares(places: NumPyArray, old: int, mode: str) -> NumPyArray:
    """Return how much of each old element each new one has, float64 [new, old]; rows add up to 1.

    Beyond the ends the first and last element go on.

    Args:
        places: As `positions` returns them.
        old: Elements before.
        mode: "linear" or "cubic".

    >>> shares(positions(2, 4, None, "half_pixel"), 2, "linear").tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    if mode == "linear":
        places = np.clip(places, 0, old - 1)
    first = np.floor(places)
    t = (places - first).astype(np.float64)
    table = np.zeros((len(places), old))
    for tap, share in taps(t, mode):
        index = np.clip(first + tap, 0, old - 1).astype(np.int64)
        np.add.at(table, (np.arange(len(places)), index), share)
    return table
