"""What ONNX computes and PyTorch has no one function for; needs nothing but torch, so that it can be copied.

`source.to_folder` writes those that a network uses into its file, as they stand here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Constant(nn.Module):
    """Holds a tensor that is part of the computation, and of the state dict only on request."""

    def __init__(self, value: Tensor, persistent: bool = False) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=persistent)

    def forward(self) -> Tensor:
        """Return the tensor."""
        return self.value  # type: ignore[return-value]


class RunningNorm(nn.Module):
    """Batch normalisation whose parameters and running statistics live elsewhere; in training it updates the latter."""

    def __init__(self, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Normalise over axis 1."""
        return F.batch_norm(x, mean, variance, scale, bias, self.training, self.momentum, self.eps)


def normalised(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Normalise over axis 1 by a mean and variance that are computed, and so may have gradients."""
    shape = [1, -1, *[1] * (x.ndim - 2)]
    x = (x - mean.reshape(shape)) * (variance + eps).rsqrt().reshape(shape)
    return x * scale.reshape(shape) + bias.reshape(shape)


def sizes(numbers: Sequence[int], like: Tensor) -> Tensor:
    """Return whole numbers as a tensor where `like` is."""
    return torch.tensor(numbers, dtype=torch.int64, device=like.device)


def deconvolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    crop: Sequence[int],
) -> Tensor:
    """Transposed convolution that is cropped, or widened by negative numbers, by other amounts at either end."""
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[x.ndim - 3]
    y = F.pad(function(x, weight, None, stride, 0, 0, groups, dilation), [-amount for amount in crop])
    return y if bias is None else y + bias.reshape(-1, *[1] * (x.ndim - 2))


def windows(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int], dilation: Sequence[int], ceil: bool
) -> list[int]:
    """Return the padding for `F.pad` that lets all windows in, a last one that crosses the end too if `ceil`."""
    axes = len(kernel)
    result: list[int] = []
    for i in range(axes):
        size, begin, end = x.shape[i - axes], pads[i], pads[axes + i]
        span = (kernel[i] - 1) * dilation[i] + 1
        room = size + begin + end - span
        count = (-(-room // stride[i]) if ceil else room // stride[i]) + 1
        if ceil and (count - 1) * stride[i] >= size + begin:
            count -= 1  # a window that would start behind the last value
        result = [begin, (count - 1) * stride[i] + span - size - begin, *result]
    return result


def max_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], pads: Sequence[int], dilation: Sequence[int], ceil: bool
) -> Tensor:
    """Return the maximum over windows, with padding of any size at either end."""
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    x = F.pad(x, windows(x, kernel, stride, pads, dilation, ceil), value=lowest)
    function: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    return function(x, tuple(kernel), tuple(stride), 0, tuple(dilation))


def average_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
    count_padding: bool,
) -> Tensor:
    """Return the mean over windows, with padding of any size at either end, which counts on request."""
    axes = len(kernel)
    ones = torch.ones(1, 1, *x.shape[-axes:], dtype=x.dtype, device=x.device)
    around = windows(x, kernel, stride, pads, dilation, ceil)
    if count_padding:
        stated = [pads[axes * side + i] for i in reversed(range(axes)) for side in (0, 1)]
        ones = F.pad(ones, stated, value=1.0)
        around_ones = [have - given for have, given in zip(around, stated, strict=True)]
    else:
        around_ones = around
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    box = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    each = F.pad(x, around).flatten(0, 1).unsqueeze(1)
    sums = function(each, box, None, stride, 0, dilation)
    sums = sums.reshape(*x.shape[:2], *sums.shape[2:])
    return sums / function(F.pad(ones, around_ones), box, None, stride, 0, dilation)


def pad_from_inside(x: Tensor, begins: Sequence[int], ends: Sequence[int], mode: str) -> Tensor:
    """Pad each axis with its own values: mirrored ("reflect") or the outermost one repeated ("edge")."""
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            size = x.shape[axis]
            index = torch.arange(-begin, size + end, device=x.device)
            if mode == "reflect" and size > 1:
                period = 2 * (size - 1)
                index = index.remainder(period)
                index = torch.where(index < size, index, period - index)
            x = x.index_select(axis, index.clamp(0, size - 1))
    return x


def take(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Pick entries along an axis by an index of any shape; negative ones count from the end."""
    axis = axis % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index)
    return x.index_select(axis, index.flatten()).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def take_each(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Pick an entry along an axis for each element of the index; negative ones count from the end."""
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


def slice_back(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    """Take a slice with a negative step, with bounds as ONNX clamps them."""
    size = x.shape[axis]
    start = min(max(start + size if start < 0 else start, 0), size - 1)
    end = min(max(end + size if end < 0 else end, -1), size - 1)
    return (
        x.index_select(axis, torch.arange(start, end, step, device=x.device)) if start > end else x.narrow(axis, 0, 0)
    )


def spread(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcast a tensor and a shape against each other."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """Move channels into blocks of the image, the blocks' axes being the first of the channels'."""
    n, channels, height, width = x.shape
    x = x.reshape(n, block, block, channels // (block * block), height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, channels // (block * block), height * block, width * block)


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """Move blocks of the image into channels, the inverse of `depth_to_space`."""
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, channels * block * block, height // block, width // block)


def running_sum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Sum up along an axis; `exclusive` leaves out the entry itself, `reverse` starts at the end."""
    total = x.flip(axis).cumsum(axis).flip(axis) if reverse else x.cumsum(axis)
    return total - x if exclusive else total


def last_extreme(x: Tensor, axis: int, keepdim: bool, largest: bool) -> Tensor:
    """Return the last index of the largest (or smallest) entry along an axis."""
    function = torch.argmax if largest else torch.argmin
    return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim)


def resize(
    x: Tensor,
    output: Sequence[int],
    scales: Sequence[float],
    mode: str,
    coordinates: str,
    rounding: str,
) -> Tensor:
    """Resize any axes, one after the other, as ONNX's Resize does.

    Args:
        x: Any tensor.
        output: Size of each axis of the result.
        scales: Output over input size of each axis.
        mode: "nearest", "linear" or "cubic" (with the coefficient -0.75).
        coordinates: "half_pixel", "pytorch_half_pixel", "align_corners" or "asymmetric".
        rounding: For "nearest": "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil".
    """
    for axis, (size, scale) in enumerate(zip(output, scales, strict=True)):
        if size != x.shape[axis] or scale != 1.0:
            x = _resize_axis(x, axis, size, scale, mode, coordinates, rounding)
    return x


def _resize_axis(x: Tensor, axis: int, size: int, scale: float, mode: str, coordinates: str, rounding: str) -> Tensor:
    old = x.shape[axis]
    place = torch.arange(size, dtype=torch.float32, device=x.device)
    if coordinates == "align_corners":
        place = place * (old - 1) / (size - 1) if size > 1 else place * 0
    elif coordinates == "asymmetric":
        place = place / scale
    elif coordinates == "pytorch_half_pixel" and size == 1:
        place = place * 0
    else:
        place = (place + 0.5) / scale - 0.5
    if mode == "nearest":
        rounded = {
            "floor": place.floor(),
            "ceil": place.ceil(),
            "round_prefer_ceil": (place + 0.5).floor(),
            "round_prefer_floor": (place - 0.5).ceil(),
        }[rounding]
        return x.index_select(axis, rounded.long().clamp(0, old - 1))
    if mode == "linear":
        place = place.clamp(0, old - 1)
    first = place.floor()
    t = (place - first).to(x.dtype)
    if mode == "linear":
        steps = [(0, 1 - t), (1, t)]
    else:  # Keys' cubic convolution, with the coefficient -0.75
        near = [((1.25 * d - 2.25) * d * d + 1) for d in (t, 1 - t)]
        far = [((-0.75 * d + 3.75) * d - 6) * d + 3 for d in (t + 1, 2 - t)]
        steps = [(-1, far[0]), (0, near[0]), (1, near[1]), (2, far[1])]
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    parts = [
        x.index_select(axis, (first.long() + tap).clamp(0, old - 1)) * weight.reshape(shape) for tap, weight in steps
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def recurrent(
    operator: str,
    x: Tensor,
    weights: Tensor,
    recurrence: Tensor,
    biases: Tensor | None,
    states: Sequence[Tensor | None],
    direction: str,
) -> tuple[Tensor, ...]:
    """Run one layer of LSTM or GRU, given the weights as ONNX lays them out.

    Args:
        operator: "LSTM" or "GRU".
        x: Sequence [time, N, in].
        weights: Weights of the input [directions, gates * hidden, in].
        recurrence: Weights of the state [directions, gates * hidden, hidden].
        biases: Biases [directions, 2 * gates * hidden], of the input and then of the state.
        states: Initial states [directions, N, hidden]; None for zeros.
        direction: "forward", "reverse" or "bidirectional".

    Returns:
        Output [time, directions, N, hidden] and the final states.
    """
    order = (0, 2, 3, 1) if operator == "LSTM" else (1, 0, 2)  # PyTorch's gates, as places in ONNX's
    hidden = recurrence.shape[2]
    if direction == "reverse":
        x = x.flip(0)
    parameters = []
    for i in range(weights.shape[0]):
        parts = [weights[i], recurrence[i], *(() if biases is None else biases[i].chunk(2))]
        for part in parts:
            gates = part.chunk(len(order))
            parameters.append(torch.cat([gates[k] for k in order]))
    zeros = x.new_zeros(weights.shape[0], x.shape[1], hidden)
    initial = [zeros if state is None else state for state in states]
    both = weights.shape[0] == 2
    if operator == "LSTM":
        y, *ends = torch.lstm(x, initial, parameters, biases is not None, 1, 0.0, False, both, False)
    else:
        y, *ends = torch.gru(x, initial[0], parameters, biases is not None, 1, 0.0, False, both, False)
    if direction == "reverse":
        y = y.flip(0)
    return by_direction(y, weights.shape[0]), *ends


def by_direction(y: Tensor, directions: int) -> Tensor:
    """Separate the directions of a recurrent layer: [time, N, directions * hidden] to [time, directions, N, hidden]."""
    return y.reshape(y.shape[0], y.shape[1], directions, -1).transpose(1, 2)


def scaled(size: int, factor: float) -> int:
    """Return the size that a factor gives, as ONNX rounds it."""
    return math.floor(size * factor)


def ratio(new: int, old: int) -> float:
    """Return a scale."""
    return new / old
