"""Kernels: blocks with gates, computed for one image and only in the channels that it keeps, compiled by Numba.

A channel lies in memory as a plane: rows of `side + 1` numbers, of which the first is zero, between two rows of zeros.
The zero before a row is the border to the right of the row above as well. So what a kernel's tap sees of a plane is the
plane from another number on, and a convolution runs along one long vector, whatever the side. Kept channels are reached
by their numbers; no weight is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numba
import numpy as np

from mopruning.backends.pytorch.manidp.convolution import GROUP, LANES, convolve1, convolve2, convolve4

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Function = TypeVar("Function", bound=Callable[..., Any])

COLOURS = 3  # channels of an image
IDENTITY, SUBSAMPLE, CONVOLUTION = range(3)
"""Kinds of shortcut."""

LINEAR = np.dtype([(name, np.int64) for name in ("weight", "bias")])
"""Where weight and bias of a convolution begin in the array that holds all weights, normalisation folded in."""

_GATE = np.dtype([(name, np.int64) for name in ("fc1", "fc2", "bias", "thre")])
_NUMBERS = ("inputs", "outputs", "hidden", "stride", "side_in", "side", "shortcut", "before")

BLOCK = np.dtype(
    [(name, np.int64) for name in _NUMBERS]
    + [(name, _GATE) for name in ("mb1", "mb2")]
    + [(name, LINEAR) for name in ("conv_a", "conv_b", "downsample")]
)
"""A block: what it is like, and where its weights begin. `shortcut` is its kind; `before` is how many channels of zeros
option A puts first."""


def _compiled(function: Function) -> Function:
    # Sums may be reordered and products fused; NaN and infinity stay what they are. What Numba 0.68 remembers on disk
    # it makes anew when this file changes, not when convolution.py alone does.
    freedom = {"contract", "reassoc", "nsz"}
    result: Function = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=freedom)(function)
    return result


@_compiled
def plane(side: int) -> int:
    """Return the numbers of a plane, with room behind it for whole vectors at any tap."""
    row = side + 1
    return -(-(2 * row + 2 + -(-side * row // LANES) * LANES) // LANES) * LANES


class Room(NamedTuple):
    """Memory in which an image is computed.

    Args:
        planes: What a block gets and what it gives [2, numbers].
        between: Planes between its convolutions.
        phases: Four planes for each input channel of a block of stride 2, of the pixels in even and odd places.
        sums: Planes of the output channels that are computed together.
        means: Global average of each channel of the input.
        means_between: Of each channel between the convolutions.
        hidden: Hidden features of a gate.
        factors: What each channel is scaled by.
        kept: Numbers of the channels that are kept, by the first gate and by the second.
        every: Numbers of all channels.
        rows: Where the weights of each output channel that is being computed begin.
        taps: Where each of the nine taps begins in a plane; length of a plane of the input, and of one of the output.
    """

    planes: NumPyArray
    between: NumPyArray
    phases: NumPyArray
    sums: NumPyArray
    means: NumPyArray
    means_between: NumPyArray
    hidden: NumPyArray
    factors: NumPyArray
    kept: NumPyArray
    every: NumPyArray
    rows: NumPyArray
    taps: NumPyArray


def room(blocks: NumPyArray) -> Room:
    """Return memory for one image at a time; `blocks` is `BLOCK` [blocks]."""

    def numbers(*shape: int) -> NumPyArray:
        return np.zeros(shape, np.float32)

    shapes = [(int(one["inputs"]), int(one["side_in"])) for one in blocks]
    shapes += [(int(one["outputs"]), int(one["side"])) for one in blocks]
    shapes.append((COLOURS, shapes[0][1]))
    most = max(channels * plane(side) for channels, side in shapes)
    widest = max(channels for channels, _ in shapes)
    halved = [4 * int(one["inputs"]) * plane(int(one["side"])) for one in blocks if one["stride"] == 2]
    return Room(
        planes=numbers(2, most),
        between=numbers(most),
        phases=numbers(max(halved, default=1)),
        sums=numbers(GROUP * max(plane(side) for _, side in shapes)),
        means=numbers(widest),
        means_between=numbers(widest),
        hidden=numbers(int(blocks["hidden"].max())),
        factors=numbers(widest),
        kept=np.zeros((2, widest), np.int64),
        every=np.arange(max(widest, COLOURS), dtype=np.int64),
        rows=np.zeros(GROUP, np.int64),
        taps=np.zeros(11, np.int64),
    )


@_compiled
def _row(planes: NumPyArray, channel: int, y: int, side: int) -> NumPyArray:
    """Return the pixels of a row."""
    start = channel * plane(side) + (y + 1) * (side + 1) + 1
    return planes[start : start + side]


@_compiled
def _gate(
    means: NumPyArray,
    inputs: int,
    hidden_features: int,
    outputs: int,
    weights: NumPyArray,
    gate: Any,
    clamp_max: float,
    room: Room,
    kept: NumPyArray,
) -> int:
    """Set the factors and numbers of the channels that are kept, and return how many."""
    hidden, factors = room.hidden, room.factors
    for feature in range(hidden_features):
        total = np.float32(0)
        row = weights[gate.fc1 + feature * inputs :]
        for channel in range(inputs):
            total += row[channel] * means[channel]
        hidden[feature] = max(total, np.float32(0))
    count = 0
    for channel in range(outputs):
        total = np.float32(0)
        row = weights[gate.fc2 + channel * hidden_features :]
        for feature in range(hidden_features):
            total += row[feature] * hidden[feature]
        saliency = min(max(total + weights[gate.bias + channel], np.float32(0)), clamp_max)
        # a channel that is kept and scaled by 0 is as good as pruned; NaN goes on, so that it shows
        if not saliency < weights[gate.thre] and saliency != 0:
            factors[channel] = saliency
            kept[count] = channel
            count += 1
    return count


@_compiled
def _finish(
    sums: NumPyArray, number: int, planes: NumPyArray, channel: int, side: int, bias: float, factor: float, adds: bool
) -> np.float32:
    """Write ``relu(sum + bias) * factor``, or ``relu(old + (sum + bias) * factor)``; return the mean of that."""
    row, length = side + 1, plane(side)
    found, out = sums[number * length :], planes[channel * length + row + 1 :]
    for y in range(side):
        found[y * row + side] = -np.inf  # stays 0 in the zeros between rows
    total = np.float32(0)
    if adds:
        for x in range(side * row):
            out[x] = max(out[x] + (found[x] + bias) * factor, np.float32(0))
            total += out[x]
    else:
        for x in range(side * row):
            out[x] = max(found[x] + bias, np.float32(0)) * factor
            total += out[x]
    return total / np.float32(side * side)


@_compiled
def _positive(planes: NumPyArray, channel: int, side: int) -> np.float32:
    """Apply ReLU in place, and return the mean."""
    out = planes[channel * plane(side) :]
    total = np.float32(0)
    for x in range((side + 2) * (side + 1)):
        out[x] = max(out[x], np.float32(0))
        total += out[x]
    return total / np.float32(side * side)


@_compiled
def _halve(planes: NumPyArray, channels: int, side_in: int, phases: NumPyArray, side: int) -> None:
    """Part the numbers of each plane by even and odd rows and columns, borders included."""
    length_in, length, row_in, row = plane(side_in), plane(side), side_in + 1, side + 1
    for channel in range(channels):
        for phase in range(4):
            out = phases[(4 * channel + phase) * length :]
            for y in range(row - phase // 2):
                source = planes[channel * length_in + (2 * y + phase // 2) * row_in + phase % 2 :]
                for x in range(row - phase % 2):
                    out[y * row + x] = source[2 * x]


@_compiled
def _shortcut(block: Any, weights: NumPyArray, room: Room, planes: NumPyArray, out: NumPyArray) -> None:
    """Write what a block's input is carried past it as, where the shape changes."""
    side, length = block.side, plane(block.side)
    out[: block.outputs * length] = 0
    for y in range(side):
        if block.shortcut == SUBSAMPLE:
            for channel in range(block.inputs):
                source, target = _row(planes, channel, 2 * y, block.side_in), _row(out, channel + block.before, y, side)
                for x in range(side):
                    target[x] = source[2 * x]
        else:
            for channel in range(block.outputs):
                target = _row(out, channel, y, side)
                target[:] = weights[block.downsample.bias + channel]
                for number in range(block.inputs):
                    weight = weights[block.downsample.weight + channel * block.inputs + number]
                    source = room.phases[(4 * number + 3) * length + y * (side + 1) :]
                    for x in range(side):
                        target[x] += weight * source[x]


@_compiled
def _set_taps(taps: NumPyArray, side: int, phases: bool) -> None:
    """Set `Room.taps` for planes of the output's side, or four phases of each that make one input channel."""
    row, length = side + 1, plane(side)
    for y in range(3):
        for x in range(3):
            if phases:
                taps[3 * y + x] = (y % 2 * 2 + x % 2) * length + y // 2 * row + x // 2
            else:
                taps[3 * y + x] = y * row + x
    taps[9] = 4 * length if phases else length
    taps[10] = length


@_compiled
def _layer(
    room: Room,
    source: NumPyArray,
    inputs: NumPyArray,
    channels: int,
    side: int,
    weights: NumPyArray,
    layer: Any,
    kept: NumPyArray,
    planes: NumPyArray,
    means: NumPyArray,
    adds: bool,
) -> None:
    """Compute the kept output channels of a convolution from some of its input channels, and finish them."""
    # taken out once: each look into a tuple counts references
    sums, taps, rows, factors = room.sums, room.taps, room.rows, room.factors
    own, bias = weights[layer.weight :], weights[layer.bias :]
    vectors = (side * (side + 1) + LANES - 1) // LANES
    done = 0
    while done < len(kept):
        left = len(kept) - done
        count = GROUP if left >= GROUP else 2 if left >= 2 else 1
        for number in range(count):
            rows[number] = kept[done + number] * channels * 9
        if count == GROUP:
            convolve4(sums, source, taps, inputs, len(inputs), own, rows, vectors)
        elif count == 2:
            convolve2(sums, source, taps, inputs, len(inputs), own, rows, vectors)
        else:
            convolve1(sums, source, taps, inputs, len(inputs), own, rows, vectors)
        for number in range(count):
            channel = kept[done + number]
            means[channel] = _finish(sums, number, planes, channel, side, bias[channel], factors[channel], adds)
        done += count


@_compiled
def _block(
    block: Any,
    weights: NumPyArray,
    clamp_max: float,
    room: Room,
    planes: NumPyArray,
    out: NumPyArray,
    counts: NumPyArray,
) -> None:
    """Compute a block; its input's planes become its output's, or `out` does where the shape changes."""
    inputs, outputs, side, between = block.inputs, block.outputs, block.side, room.between
    count = _gate(room.means, inputs, block.hidden, outputs, weights, block.mb1, clamp_max, room, room.kept[0])
    counts[0], first = count, room.kept[0, :count]
    source = planes
    if block.stride == 2:
        _halve(planes, inputs, block.side_in, room.phases, side)
        source = room.phases
    _set_taps(room.taps, side, block.stride == 2)
    means, every = room.means_between, room.every[:inputs]
    means[:outputs] = 0
    _layer(room, source, every, inputs, side, weights, block.conv_a, first, between, means, False)

    count = _gate(means, outputs, block.hidden, outputs, weights, block.mb2, clamp_max, room, room.kept[1])
    counts[1], second = count, room.kept[1, :count]
    if block.shortcut != IDENTITY:
        _shortcut(block, weights, room, planes, out)
        planes = out
    _set_taps(room.taps, side, False)
    _layer(room, between, first, outputs, side, weights, block.conv_b, second, planes, room.means, True)
    if block.shortcut == IDENTITY:
        return  # what is pruned stays as it was, after the ReLU of the block before
    done = 0
    for channel in range(outputs):
        if done < count and second[done] == channel:
            done += 1
        else:
            room.means[channel] = _positive(planes, channel, side)


@_compiled
def _load(image: NumPyArray, planes: NumPyArray) -> None:
    side = image.shape[1]
    planes[: len(image) * plane(side)] = 0
    for channel in range(len(image)):
        for y in range(side):
            _row(planes, channel, y, side)[:] = image[channel, y]


@_compiled
def compute(
    image: NumPyArray,
    stem: NumPyArray,
    blocks: NumPyArray,
    weights: NumPyArray,
    clamp_max: float,
    room: Room,
    means: NumPyArray,
    counts: NumPyArray,
) -> None:
    """Compute all blocks for one image.

    Args:
        image: An image, or what the first block gets before ReLU, float32 [channels, side, side].
        stem: `LINEAR` [1] of a first convolution of 3x3 and stride 1, or [0] where it has been computed already.
        blocks: `BLOCK` [blocks].
        weights: All weights, float32.
        clamp_max: Largest saliency, float32.
        room: Memory; what stands in it before does not matter.
        means: Takes the global average of each channel of the result, float32 [channels].
        counts: Takes how many channels each gate keeps, int64 [gates].
    """
    now, channels, side = 0, blocks[0].inputs, blocks[0].side_in
    if len(stem) > 0:
        colours, every = room.planes[1], room.every
        _load(image, colours)
        room.planes[0, : channels * plane(side)] = 0
        room.factors[:channels] = 1
        _set_taps(room.taps, side, False)
        target, first = room.planes[0], every[:channels]
        _layer(room, colours, every[:COLOURS], COLOURS, side, weights, stem[0], first, target, room.means, False)
    else:
        _load(image, room.planes[0])
        for channel in range(channels):
            room.means[channel] = _positive(room.planes[0], channel, side)
    for number in range(len(blocks)):
        block = blocks[number]
        if number == 0 or block.shortcut != IDENTITY:
            room.between[: block.outputs * plane(block.side)] = 0  # borders lie elsewhere
        _block(block, weights, clamp_max, room, room.planes[now], room.planes[1 - now], counts[2 * number :])
        if block.shortcut != IDENTITY:
            now = 1 - now
    means[:] = room.means[: len(means)]
