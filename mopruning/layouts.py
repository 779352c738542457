"""How a framework's weight lies, against the canonical [out, in, *kernel] that the core sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mopruning.arrays import Array, namespace


def swap_channels(array: Array, groups: int) -> Array:
    """Swap input and output channels within each group, which undoes itself.

    ONNX, PyTorch, MXNet and MindSpore have the weight of a transposed convolution as [in, out / groups, *kernel], the
    inputs of each group together; what comes out is [out, in / groups, *kernel].

    Args:
        array: Of at least two axes; NumPy's or any with `swapaxes` and `reshape`, such as torch's.
        groups: How many groups, 1 or more.

    Returns:
        A view wherever strides can express it.

    >>> swap_channels(np.arange(8).reshape(4, 2), 2)
    array([[0, 2],
           [1, 3],
           [4, 6],
           [5, 7]])
    """
    if groups < 2:
        return array.swapaxes(0, 1)
    first, second, *kernel = array.shape
    split = array.reshape(groups, first // groups, second, *kernel)
    return split.swapaxes(1, 2).reshape(groups * second, first // groups, *kernel)


@dataclass(frozen=True)
class Layout:
    """How a parameter lies in its layer, as PyTorch, MXNet and MindSpore have it.

    Args:
        groups: For a transposed convolution, [in, out / groups, *kernel] with the inputs of each group together, its
            groups; 0 for all others.
        channels_last: Whether the second axis comes last, as in convolutions of data format NWC, NHWC or NDHWC.
        flat: Whether a 1-D kernel lies as a 2-D one of height 1: [.., .., 1, width].

    >>> Layout(groups=2).shape((6, 5, 3, 3))
    (10, 3, 3, 3)
    >>> Layout(channels_last=True).to_canonical(np.empty((8, 3, 3, 4))).shape
    (8, 4, 3, 3)
    >>> Layout(flat=True).to_native(np.empty((6, 5, 3))).shape
    (6, 5, 1, 3)
    """

    groups: int = 0
    channels_last: bool = False
    flat: bool = False

    def to_canonical(self, array: Array) -> Array:
        """Return a native array as a canonical one; a view wherever strides can express it."""
        array = namespace(array).moveaxis(array, -1, 1) if self.channels_last else array
        array = array[:, :, 0] if self.flat else array
        return swap_channels(array, self.groups) if self.groups else array

    def to_native(self, array: Array) -> Array:
        """Return a canonical array as a native one, the inverse."""
        array = swap_channels(array, self.groups) if self.groups else array
        array = array[:, :, None] if self.flat else array
        return namespace(array).moveaxis(array, 1, -1) if self.channels_last else array

    def shape(self, native: tuple[int, ...]) -> tuple[int, ...]:
        """Return the canonical shape of a parameter."""
        return tuple(self.to_canonical(np.broadcast_to(np.False_, native)).shape)


@dataclass(frozen=True)
class KernelLayout:
    """How a variable lies whose axes are in an order of their own, as TensorFlow has it.

    Args:
        axes: Which axis of the variable each canonical axis is.
        multiplier: For a depthwise kernel [*kernel, in, multiplier], whose canonical form is
            [in * multiplier, 1, *kernel], the multiplier; 0 for all else.

    >>> KernelLayout((3, 2, 0, 1)).to_canonical(np.empty((3, 5, 16, 32))).shape
    (32, 16, 3, 5)
    >>> KernelLayout((2, 3, 0, 1), multiplier=2).to_canonical(np.empty((3, 5, 16, 2))).shape
    (32, 1, 3, 5)
    """

    axes: tuple[int, ...]
    multiplier: int = 0

    def to_canonical(self, array: Array) -> Array:
        """Return the values of a variable in canonical form; a view wherever strides can express it."""
        turned = array.transpose(self.axes)
        return turned.reshape(-1, 1, *turned.shape[2:]) if self.multiplier else turned

    def to_native(self, array: Array) -> Array:
        """Return canonical values as the variable has them, the inverse, contiguous."""
        if self.multiplier:
            array = array.reshape(-1, self.multiplier, *array.shape[2:])
        return np.ascontiguousarray(array.transpose(np.argsort(self.axes)))

    def shape(self, native: tuple[int, ...]) -> tuple[int, ...]:
        """Return the canonical shape of a variable."""
        turned = tuple(native[axis] for axis in self.axes)
        return (math.prod(turned[:2]), 1, *turned[2:]) if self.multiplier else turned
