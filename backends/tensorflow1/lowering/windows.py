"""How convolutions and pools move: which of TensorFlow's rules of padding means the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.lowering.context import Tensor
from mopruning.ir.lowering import Window
from mopruning.ir.windows import same_pads


def padding_of(window: Window, sizes: Sequence[int | None], kernel: Sequence[int]) -> str:
    """Return TensorFlow's name of a padding: "VALID", "SAME", or "EXPLICIT" where no rule means it.

    Its rules: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2.

    Args:
        window: How it moves.
        sizes: Spatial sizes of the input.
        kernel: Sizes of the kernel.
    """
    if not any(window.pads):
        return "VALID"
    for axis, size in enumerate(sizes):
        span = (kernel[axis] - 1) * window.dilations[axis] + 1
        if same_pads(size, span, window.strides[axis]) != (window.starts[axis], window.ends[axis]):
            return "EXPLICIT"
    return "SAME"


def pad_image(x: Tensor, pads: Sequence[int], value: Any = 0) -> Tensor:
    """Pad the axes between the first and the last; `pads` has the starts, then the ends."""
    axes = len(pads) // 2
    around = [[0, 0], *([pads[axis], pads[axes + axis]] for axis in range(axes)), [0, 0]]
    return tf.pad(x, around, constant_values=value)


def explicit_list(pads: Sequence[int]) -> list[int]:
    """Return pads as the attribute `explicit_paddings` has them, for NHWC."""
    axes = len(pads) // 2
    return [0, 0, *(number for axis in range(axes) for number in (pads[axis], pads[axes + axis])), 0, 0]
