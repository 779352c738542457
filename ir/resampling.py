"""Resampling along one axis, as ONNX's Resize does it: where each new element lies among the old ones, and its shares.

For frameworks whose own resizing means something else: an axis is resized by picking elements, or by a product with a
table of shares.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_CUBIC = -0.75  # the coefficient of Keys' cubic convolution, the only one in the profile


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
    if coordinates == "align_corners":
        return place * np.float32(old - 1) / np.float32(new - 1) if new > 1 else place * 0
    if coordinates == "asymmetric":
        return place / factor
    if coordinates == "pytorch_half_pixel" and new == 1:
        return place * 0
    return (place + np.float32(0.5)) / factor - np.float32(0.5)


def nearest(places: NumPyArray, old: int, rounding: str) -> NumPyArray:
    """Return the index of the old element that each new one is, int64 [new] (ONNX, Resize: nearest_mode).

    Args:
        places: As `positions` returns them.
        old: Elements before.
        rounding: "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil".

    >>> nearest(positions(2, 4, None, "half_pixel"), 2, "round_prefer_floor").tolist()
    [0, 0, 1, 1]
    """
    rounded: NumPyArray = {
        "floor": np.floor(places),
        "ceil": np.ceil(places),
        "round_prefer_ceil": np.floor(places + np.float32(0.5)),
        "round_prefer_floor": np.ceil(places - np.float32(0.5)),
    }[rounding]
    result: NumPyArray = np.clip(rounded, 0, old - 1).astype(np.int64)
    return result


def shares(places: NumPyArray, old: int, mode: str) -> NumPyArray:
    """Return how much of each old element each new one has, float64 [new, old]; rows add up to 1.

    Beyond the ends the first and last element go on.

    Args:
        places: As `positions` returns them.
        old: Elements before.
        mode: "linear", or "cubic" (R. Keys, Cubic convolution interpolation for digital image processing, 1981).

    >>> shares(positions(2, 4, None, "half_pixel"), 2, "linear").tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    if mode == "linear":
        places = np.clip(places, 0, old - 1)
    first = np.floor(places)
    t = (places - first).astype(np.float64)
    taps = [(0, 1 - t), (1, t)] if mode == "linear" else [(tap, _keys(np.abs(t - tap))) for tap in (-1, 0, 1, 2)]
    table = np.zeros((len(places), old))
    for tap, share in taps:
        index = np.clip(first + tap, 0, old - 1).astype(np.int64)
        np.add.at(table, (np.arange(len(places)), index), share)
    return table


def _keys(distance: NumPyArray) -> NumPyArray:
    """Return the share of an element so far away, 0 to 2 (Keys 1981, equation 15)."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return np.where(distance <= 1, near, far)
