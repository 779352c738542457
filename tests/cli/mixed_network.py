"""A network that stores weights in every way there is, and the same masks found without the IR."""

import numpy as np

from mopruning import mask
from tests.ir.small_models import Weights, model, node

WEIGHTS = ("grouped.weight", "shared.weight", "up.weight", "gemm.weight", "matmul.weight", "turned.weight")
GROUPS = 2


def mixed():
    """Grouped and shared convolutions, a grouped deconvolution, dense layers stored either way, and free operands."""
    w = Weights(seed=3)
    w |= {"low": np.float32(-3), "high": np.float32(3)}
    norm = w.norm("bn", 8)
    nodes = [
        node("Conv", "grouped", f"x {w.make('grouped.weight', 8, 4, 3, 3)}", pads=[1] * 4, group=GROUPS),
        node("BatchNormalization", "bn", f"grouped {norm}"),
        node("Clip", "clip", "bn low high"),
        node("Conv", "first", f"clip {w.make('shared.weight', 8, 8, 1, 1)}"),
        node("Relu", "relu", "first"),
        node("Conv", "second", "relu shared.weight"),
        node("ConvTranspose", "up", f"second {w.make('up.weight', 8, 4, 2, 2)}", strides=[2, 2], group=GROUPS),
        node("GlobalAveragePool", "pool", "up"),
        node("Flatten", "flatten", "pool"),
        node("Gemm", "gemm", f"flatten {w.make('gemm.weight', 8, 16)} {w.make('gemm.bias', 16)}"),
        node("MatMul", "matmul", f"gemm {w.make('matmul.weight', 16, 12)}"),
        node("Add", "placed", f"matmul {w.make('positions', 1, 12)}"),
        node("Transpose", "turn", w.make("turned.weight", 4, 12), perm=[1, 0]),
        node("MatMul", "y", "placed turn"),
    ]
    return model({"x": ["N", 8, 6, 6]}, nodes, ["y"], w)


def other_way(name, array):
    """From how `mixed` stores a weight to [out, in, *kernel], and back."""
    if name == "up.weight":
        return np.concatenate([np.swapaxes(part, 0, 1) for part in np.split(array, GROUPS)])
    return array.T if name in ("gemm.weight", "matmul.weight") else array


def pruned_by_hand(arrays, granularity, sparsity=None, names=WEIGHTS):
    """The arrays of `mixed` with weights pruned, found without the IR."""
    result = dict(arrays)
    for name in names:
        keep = other_way(name, mask(np.abs(other_way(name, arrays[name])), granularity, sparsity))
        result[name] = np.where(keep, arrays[name], np.float32(0))
    return result


def damage(file, array):
    """Flip a bit in the first number of a tensor that a file holds dense."""
    content = bytearray(file.read_bytes())
    start = content.index(array.tobytes())
    content[start] ^= 1
    file.write_bytes(content)
