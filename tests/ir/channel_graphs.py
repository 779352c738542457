"""Small graphs by hand, one for each way in which channels are coupled, and a maker of random ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir

from mopruning.ir.builder import Builder
from mopruning.ir.coupling import coupling
from tests.ir.small_models import INT64, Weights, model, node, number, put, whole

IMAGE = {"x": ["N", 3, 6, 6]}


def conv(w: Weights, name: str, x: str, out: int, into: int, kernel: int = 3, bias: bool = True, **attributes: object):
    """A convolution that keeps the size of the image, with weights of its own."""
    names = [w.make(f"{name}.weight", out, into, kernel, kernel)] + ([w.make(f"{name}.bias", out)] if bias else [])
    return node("Conv", name, f"{x} {' '.join(names)}", **{"pads": [kernel // 2] * 4, **attributes})


def norm(w: Weights, name: str, x: str, channels: int):
    return node("BatchNormalization", name, f"{x} {w.norm(name, channels)}")


def dense(w: Weights, name: str, x: str, out: int, into: int):
    return node("Gemm", name, f"{x} {w.make(f'{name}.weight', out, into)} {w.make(f'{name}.bias', out)}", transB=1)


def residual(w: Weights):
    return [
        *(conv(w, "a", "x", 6, 3, bias=False), norm(w, "n", "a", 6), node("Relu", "r", "n")),
        *(conv(w, "b", "r", 6, 6), node("Add", "sum", "b r"), conv(w, "y", "sum", 4, 6)),
    ]


def joined(w: Weights):
    return [
        *(conv(w, "a", "x", 3, 3), conv(w, "b", "x", 4, 3, kernel=1), node("Concat", "c", "a b", axis=1)),
        *(norm(w, "n", "c", 7), conv(w, "y", "n", 2, 7)),
    ]


def grouped(w: Weights):
    return [
        *(conv(w, "a", "x", 8, 3), node("Relu", "r", "a"), conv(w, "b", "r", 4, 4, group=2)),
        conv(w, "y", "b", 3, 4, pads=[0] * 4),
    ]


def depthwise(w: Weights):
    return [
        *(conv(w, "a", "x", 4, 3), norm(w, "n", "a", 4), conv(w, "b", "n", 8, 1, group=4), node("Relu", "r", "b")),
        conv(w, "y", "r", 3, 8, kernel=1),
    ]


def deconvolution(w: Weights):
    first, second, third = (
        w.make(name, *shape)
        for name, shape in {"a.weight": (3, 6, 2, 2), "b.weight": (6, 2, 2, 2), "c.weight": (4, 1, 3, 3)}.items()
    )
    return [
        node("ConvTranspose", "a", f"x {first} {w.make('a.bias', 6)}", strides=[2, 2]),
        node("ConvTranspose", "b", f"a {second} {w.make('b.bias', 4)}", group=2),
        *(node("Sigmoid", "s", "b"), node("ConvTranspose", "c", f"s {third}", group=4), conv(w, "y", "c", 2, 4)),
    ]


def flattened(w: Weights):
    return [
        *(
            conv(w, "a", "x", 4, 3),
            node("Relu", "r", "a"),
            node("MaxPool", "p", "r", kernel_shape=[2, 2], strides=[2, 2]),
        ),
        *(node("Flatten", "f", "p"), dense(w, "b", "f", 5, 36), node("Tanh", "t", "b"), dense(w, "y", "t", 3, 5)),
    ]


def reshaped_to_dense(w: Weights):
    w["open"], w["whole"], w["first"] = whole(0, -1), whole(-1, 108), whole(0)
    w["rest"] = whole(144)
    return [
        *(conv(w, "a", "x", 4, 3), node("Reshape", "f", "a open"), dense(w, "b", "f", 108, 144)),
        *(node("Reshape", "g", "b whole"), dense(w, "c", "g", 4, 108), node("Shape", "size", "a")),
        *(
            node("Gather", "batch", "size first"),
            node("Concat", "to", "batch rest", axis=0),
            node("Reshape", "h", "a to"),
        ),
        *(dense(w, "d", "h", 4, 144), node("Sub", "y", "c d")),
    ]


def recalibrated(w: Weights):
    return [
        *(conv(w, "a", "x", 6, 3), node("HardSwish", "h", "a"), node("GlobalAveragePool", "p", "h")),
        *(conv(w, "b", "p", 2, 6, kernel=1), node("Relu", "r", "b"), conv(w, "c", "r", 6, 2, kernel=1)),
        *(node("Sigmoid", "s", "c"), node("Mul", "m", "h s"), conv(w, "y", "m", 3, 6, kernel=1, bias=False)),
    ]


def slopes(w: Weights):
    w["slope"] = np.linspace(0.1, 0.5, 4).astype(np.float32).reshape(4, 1, 1)
    w["low"], w["high"] = number(-1), number(6)
    scale = f"{w.make('i.weight', 4)} {w.make('i.bias', 4)}"
    return [
        *(conv(w, "a", "x", 4, 3), node("PRelu", "p", "a slope"), conv(w, "b", "p", 4, 4)),
        *(node("InstanceNormalization", "i", f"b {scale}"), node("Clip", "l", "i low high"), conv(w, "y", "l", 2, 4)),
    ]


def widened(w: Weights):
    w["starts"], w["ends"], w["axes"], w["steps"] = whole(0, 0), whole(6, 6), whole(2, 3), whole(2, 2)
    w["pads"] = whole(0, 1, 0, 0, 0, 2, 0, 0)
    return [
        *(conv(w, "a", "x", 3, 3), node("Relu", "r", "a"), node("Slice", "s", "r starts ends axes steps")),
        *(node("Pad", "p", "s pads"), conv(w, "b", "r", 6, 3, strides=[2, 2]), node("Add", "sum", "b p")),
        conv(w, "y", "sum", 2, 6),
    ]


def shuffled(w: Weights):
    w["cut"], w["pair"], w["flat"] = whole(3, 3), whole(0, 2, 3, 6, 6), whole(0, -1, 6, 6)
    return [
        *(conv(w, "a", "x", 6, 3), node("Split", "halves", "a cut", "left right", axis=1), conv(w, "b", "right", 3, 3)),
        *(
            node("Concat", "c", "left b", axis=1),
            node("Reshape", "q", "c pair"),
            node("Transpose", "t", "q", perm=[0, 2, 1, 3, 4]),
        ),
        *(node("Reshape", "s", "t flat"), node("Split", "thirds", "s", "one two three", axis=1, num_outputs=3)),
        *(node("Sum", "sum", "one two three"), conv(w, "y", "sum", 2, 2)),
    ]


def chosen(w: Weights):
    w["picked"], w["one"] = whole(4, 0, 0, -1), whole(2).reshape(())
    w["starts"], w["ends"], w["axes"] = whole(1), whole(5), whole(1)
    return [
        *(conv(w, "a", "x", 6, 3), node("Gather", "g", "a picked", axis=1), conv(w, "b", "g", 4, 4)),
        *(node("Slice", "s", "a starts ends axes"), node("Add", "sum", "b s"), conv(w, "y", "sum", 2, 4)),
        *(node("Gather", "h", "a one", axis=1), node("Flatten", "z", "h")),
    ]


def resized(w: Weights):
    w["scales"], w["sizes"] = np.float32([1, 1, 2, 2]), whole(1, 4, 6, 6)
    return [
        *(
            conv(w, "a", "x", 4, 3),
            node("Resize", "u", "a _ scales", mode="nearest"),
            node("AveragePool", "v", "u", kernel_shape=[2, 2]),
        ),
        *(node("Resize", "d", "v _ _ sizes", mode="linear"), node("SpaceToDepth", "s", "d", blocksize=2)),
        *(conv(w, "b", "s", 8, 16), node("DepthToSpace", "t", "b", blocksize=2), conv(w, "y", "t", 3, 2)),
    ]


def attention(w: Weights):
    w["heads"], w["flat"], w["axis"] = whole(0, 5, 2, 3), whole(0, 5, 6), whole(1)
    w["half"] = number(0.5)
    nodes = []
    for name in "qkv":
        nodes += [
            node("Transpose", f"{name}.t", w.make(f"{name}.weight", 6, 4), perm=[1, 0]),
            node("MatMul", f"{name}.m", f"x {name}.t"),
            node("Add", f"{name}.a", f"{name}.m {w.make(f'{name}.bias', 6)}"),
            node("Reshape", f"{name}.h", f"{name}.a heads"),
            node("Transpose", name, f"{name}.h", perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
        ]
    return [
        *(
            *nodes,
            node("MatMul", "qk", "q k"),
            node("Mul", "scaled", "qk half"),
            node("Softmax", "share", "scaled", axis=-1),
        ),
        *(node("MatMul", "mixed", "share v"), node("Transpose", "back", "mixed", perm=[0, 2, 1, 3])),
        *(node("Reshape", "joined", "back flat"), node("MatMul", "o", f"joined {w.make('o.weight', 6, 4)}")),
        *(node("Add", "rest", "o x"), node("ReduceMean", "mean", "rest axis", keepdims=0), dense(w, "y", "mean", 3, 4)),
    ]


def normalised(w: Weights):
    scale = f"{w.make('n.weight', 6)} {w.make('n.bias', 6)}"
    w["last"] = whole(-1)
    return [
        *(node("MatMul", "a", f"x {w.make('a.weight', 4, 6)}"), node("LayerNormalization", "n", f"a {scale}", axis=-1)),
        *(node("MatMul", "b", f"n {w.make('b.weight', 6, 5)}"), node("Softmax", "s", "b", axis=1)),
        *(node("MatMul", "c", f"s {w.make('c.weight', 5, 4)}"), node("ReduceMax", "y", "c last", keepdims=0)),
    ]


def words(w: Weights):
    w.make("table", 7, 4)
    return [
        *(node("Gather", "e", "table x"), node("Transpose", "t", "e", perm=[1, 0, 2])),
        node("LSTM", "l", f"t {w.make('l.w', 1, 12, 4)} {w.make('l.r', 1, 12, 3)}", "l h", hidden_size=3),
        *(node("Gemm", "g", f"flat {w.make('g.weight', 3, 5)}"), node("Relu", "r", "g")),
        *(node("Transpose", "turned", "table", perm=[1, 0]), node("MatMul", "back", f"r {w.make('k', 5, 4)}")),
        node("MatMul", "y", "back turned"),
    ]


def unknown(w: Weights):
    w["k"] = whole(2)
    return [
        *(conv(w, "a", "x", 4, 3), node("Relu", "r", "a"), node("TopK", "t", "r k", "values places", axis=2)),
        *(conv(w, "b", "values", 4, 4), conv(w, "y", "b", 2, 4)),
    ]


def with_input(w: Weights):
    return [conv(w, "a", "x", 3, 3), node("Add", "s", "a x"), conv(w, "b", "s", 4, 3), conv(w, "y", "b", 2, 4)]


GRAPHS: Mapping[str, tuple[Callable[[Weights], list], Mapping[str, list[int | str]], tuple[str, ...]]] = {
    **{
        rule.__name__: (rule, IMAGE, ("y",))
        for rule in (
            *(residual, joined, grouped, depthwise, deconvolution, flattened, reshaped_to_dense, recalibrated, slopes),
            *(widened, shuffled, unknown, with_input),
        )
    },
    "chosen": (chosen, IMAGE, ("y", "z")),
    "resized": (resized, {"x": [1, 3, 6, 6]}, ("y",)),
    "attention": (attention, {"x": ["N", 5, 4]}, ("y",)),
    "normalised": (normalised, {"x": ["N", 5, 4]}, ("y",)),
    "words": (words, {"x": ["N", 5], "flat": ["N", 3]}, ("y", "l")),
}
"""Name -> what makes the nodes, the inputs and the outputs."""


def build(name: str, seed: int = 0) -> onnx_ir.Model:
    """One of the graphs, with random weights."""
    make, inputs, outputs = GRAPHS[name]
    w = Weights(seed)
    nodes = make(w)
    return model(inputs, nodes, list(outputs), w, types={"x": INT64} if name == "words" else None)


def feeds(net: onnx_ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs, two samples where the batch is open."""
    random = np.random.default_rng(seed)
    found = {}
    for value in net.graph.inputs:
        shape = [size if isinstance(size, int) else 2 for size in value.shape]
        whole_numbers = value.dtype == onnx_ir.DataType.INT64
        found[value.name] = random.integers(0, 7, shape) if whole_numbers else random.standard_normal(shape, np.float32)
    return found


def zero_filters(net: onnx_ir.Model, share: float, seed: int = 0, coupled: bool = True) -> None:
    """Set filters to zero in place: whole channels of a group in all its weights, or others in each weight."""
    random = np.random.default_rng(seed)
    for group in coupling(net).groups:
        gone = random.random(group.channels) < share
        for axis in group.along("produces"):
            if not coupled:
                gone = random.random(group.channels) < share
            weight = net.graph.initializers[axis.name].const_value.numpy().copy()
            np.moveaxis(weight, axis.axis, 0)[(axis.channels >= 0) & gone[axis.channels]] = 0
            put(net, axis.name, weight)


def shake(net: onnx_ir.Model, seed: int = 0) -> None:
    """Move statistics, scales and biases away from 0 and 1, in place."""
    random = np.random.default_rng(seed)
    for name, value in net.graph.initializers.items():
        array = value.const_value.numpy()
        if array.dtype == np.float32 and array.ndim == 1:
            put(net, name, (array + random.uniform(-0.4, 0.4, array.shape)).astype(np.float32))


def random_graph(seed: int) -> onnx_ir.Model:
    """A network of a dozen layers that are joined at random."""
    random = np.random.default_rng(seed)
    net = Builder(f"random{seed}", seed)
    values = [net.conv(net.input("x", (3, 8, 8)), "start", 6, 3, padding=1)]
    for step in range(int(random.integers(4, 12))):
        x = values[-1] if random.random() < 0.7 else values[random.integers(len(values))]
        channels, name = int(x.shape[1]), f"n{step}"
        kind = random.integers(15)
        same = [other for other in values if other.shape == x.shape and other is not x]
        if kind < 3:
            groups = int(random.choice([g for g in (1, 1, 2, 3) if channels % g == 0]))
            padding, out = int(random.integers(2)), int(random.integers(1, 4)) * 2 * groups
            kernel = 3 if padding else 1
            x = net.conv(x, name, out, kernel, padding=padding, groups=groups, bias=bool(random.integers(2)))
        elif kind == 3:
            x = net.conv(x, name, channels * int(random.integers(1, 3)), 3, padding=1, groups=channels, bias=True)
        elif kind == 4:
            x = net.batch_norm(x, name)
        elif kind == 5 and same:
            x = net.add(x, same[random.integers(len(same))], name)
        elif kind == 6:
            x = net.concat([x, values[random.integers(len(values))]], name)
        elif kind == 7 and channels % 2 == 0:
            left, right = net.split(x, name, (channels // 2, channels // 2))
            x = net.concat([net.relu(right, f"{name}.relu"), left], f"{name}.swap")
            pair = net.reshape(x, f"{name}.pair", (2, channels // 2, 8, 8))
            x = net.reshape(net.transpose(pair, f"{name}.turn", (2, 1, 3, 4)), f"{name}.flat", (channels, 8, 8))
        elif kind == 8:
            scale = net.sigmoid(
                net.conv(net.global_average_pool(x, f"{name}.pool"), name, channels, 1, bias=True), f"{name}.s"
            )
            x = net.operation("Mul", f"{name}.mul", [x, scale], [x.shape])[0]
        elif kind == 9:
            pads = net.constant(f"{name}.pads", (0, 1, 0, 0, 0, 1, 0, 0))
            x = net.operation("Pad", name, [x, pads], [("N", channels + 2, 8, 8)])[0]
        elif kind == 10:
            groups = int(random.choice([g for g in (1, 2, 3, channels) if channels % g == 0]))
            x = net.conv_transpose(x, name, 2 * groups, 3, padding=1, groups=groups, bias=True)
        elif kind == 11:
            places = random.permutation(channels)[: max(2, channels - 2)]
            indices = net.constant(f"{name}.places", tuple(int(place) for place in places))
            x = net.operation("Gather", name, [x, indices], [("N", len(places), 8, 8)], {"axis": 1})[0]
        elif kind == 12 and channels > 3:
            bounds = [
                net.constant(f"{name}.{what}", (at,)) for what, at in (("from", 1), ("to", channels - 1), ("of", 1))
            ]
            x = net.operation("Slice", name, [x, *bounds], [("N", channels - 2, 8, 8)])[0]
        elif kind == 13:
            factor = net.parameter(f"{name}.factor", random.standard_normal((channels, 1, 1)).astype(np.float32))
            x = net.operation("PRelu" if random.integers(2) else "Mul", name, [x, factor], [x.shape])[0]
        else:
            x = net.max_pool(net.relu(x, f"{name}.relu"), name, 3, stride=1, padding=1)
        values.append(x)
    x = net.flatten(values[-1], "flatten")
    model = net.model({"y": net.gemm(x, "end", 3), "mean": net.global_average_pool(values[1], "mean")})
    shake(model, seed)
    return model
