"""Small Moffett networks, and a reading of the format's twelve operators in NumPy that is the oracle of its tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
from numpy.lib.stride_tricks import sliding_window_view

from tests.ir.small_models import run

RANDOM = np.random.default_rng(0)
Nodes = list[dict[str, Any]]
Arrays = dict[str, np.ndarray]


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def data(number: int, *shape: int, name: str = "data") -> dict[str, Any]:
    return {"node_id": number, "node_type": "Var", "node_name": name, "op_type": "Const", "shape": list(shape)}


def call(number: int, operator: str, *inputs: int | str, **attributes: Any) -> dict[str, Any]:
    attrs = attributes or None
    return {"node_id": number, "node_type": "Call", "op_type": operator, "inputs": list(inputs), "attrs": attrs}


def norm(name: str, channels: int) -> Arrays:
    parts = {f"{name}_{part}": floats(channels) for part in ("gamma", "beta", "mean")}
    return {**parts, f"{name}_var": np.abs(floats(channels)) + np.float32(0.5)}


def conv(
    number: int, source: int, name: str, weight: np.ndarray, pad: int = 0, stride: int = 1, **more: Any
) -> dict[str, Any]:
    return call(
        *(number, "nn.conv2d", source, name),
        **{
            "strides": [stride] * 2,
            "padding": [pad] * 4,
            "kernel_size": list(weight.shape[2:]),
            "W_shape": list(weight.shape),
            **more,
        },
    )


def classifier() -> tuple[Nodes, Arrays]:
    """Convolution, normalisation, a residual block, poolings and a dense layer, with gaps in the ids."""
    arrays = {
        "w0": floats(8, 3, 3, 3),
        **norm("bn", 8),
        "w1": floats(8, 8, 3, 3),
        "b1": floats(8),
        "fc": floats(5, 8),
        "fc_bias": floats(5),
    }
    nodes = [
        data(3, 1, 3, 16, 16),
        conv(7, 3, "w0", arrays["w0"], pad=1, stride=2),
        call(12, "nn.batch_norm", 7, "bn_gamma", "bn_beta", "bn_mean", "bn_var", epsilon=1e-3, axis=1, _shape=[8]),
        call(16, "nn.relu", 12),
        conv(20, 16, "w1", arrays["w1"], pad=1),
        call(21, "nn.bias_add", 20, "b1", _shape=[8]),
        call(22, "add", 21, 16),
        call(25, "nn.max_pool2d", 22, pool_size=[3, 3], strides=[2, 2], padding=[1, 1], layout="NCHW", ceil_mode=False),
        call(
            26,
            "nn.avg_pool2d",
            25,
            pool_size=[2, 2],
            strides=[2, 2],
            padding=[0, 0],
            layout="NCHW",
            ceil_mode=True,
            count_include_pad=False,
        ),
        call(27, "nn.global_avg_pool2d", 26, layout="NCHW"),
        call(28, "nn.batch_flatten", 27),
        call(31, "nn.dense", 28, "fc", units=5, _shape=[5, 8]),
        call(32, "nn.bias_add", 31, "fc_bias", _shape=[5]),
    ]
    return nodes, arrays


def detector() -> tuple[Nodes, Arrays]:
    """A transposed convolution with a bias, and two heads."""
    arrays = {
        "w0": floats(6, 3, 3, 3),
        "up": floats(6, 4, 4, 4),
        "up_bias": floats(4),
        "heat": floats(2, 4, 1, 1),
        "size": floats(3, 4, 1, 1),
        "size_bias": floats(3),
    }
    nodes = [
        data(0, 1, 3, 8, 8),
        conv(1, 0, "w0", arrays["w0"], pad=1, stride=2),
        call(
            4,
            "nn.conv2d_transpose",
            1,
            "up",
            channels=4,
            strides=[2, 2],
            padding=[1, 1, 1, 1],
            kernel_size=[4, 4],
            W_shape=[6, 4, 4, 4],
        ),
        call(5, "nn.bias_add", 4, "up_bias", _shape=[4]),
        call(6, "nn.relu", 5),
        conv(8, 6, "heat", arrays["heat"]),
        call(9, "sigmoid", 8),
        conv(11, 6, "size", arrays["size"]),
        call(12, "nn.bias_add", 11, "size_bias", _shape=[3]),
    ]
    return nodes, arrays


NETS = {"classifier": classifier, "detector": detector}


def save(folder: Path, nodes: Any, arrays: Arrays, pickled: bool = True) -> tuple[Path, Path]:
    (folder / "net.json").write_text(nodes if isinstance(nodes, str) else json.dumps(nodes))
    if pickled:
        np.savez(folder / "net.npz", arrays)  # as published: arr_0 is a pickled dict
    else:
        np.savez(folder / "net.npz", **arrays)
    return folder / "net.json", folder / "net.npz"


# The oracle


def padded(x: np.ndarray, pads: list[int], value: float) -> np.ndarray:
    top, left, bottom, right = pads * (4 // len(pads))
    return np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)], constant_values=value)


def convolved(x: np.ndarray, w: np.ndarray, attrs: Mapping[str, Any]) -> np.ndarray:
    x = padded(x, attrs.get("padding", [0]), 0)
    (sh, sw), (dh, dw), groups = attrs.get("strides", [1, 1]), attrs.get("dilation", [1, 1]), attrs.get("groups", 1)
    span = [(size - 1) * step + 1 for size, step in zip(w.shape[2:], (dh, dw), strict=True)]
    seen = sliding_window_view(x, span, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
    parts = zip(np.split(seen, groups, 1), np.split(w, groups), strict=True)
    return np.concatenate([np.einsum("nchwij,ocij->nohw", part, kernel) for part, kernel in parts], 1)


def deconvolved(x: np.ndarray, w: np.ndarray, attrs: Mapping[str, Any]) -> np.ndarray:
    (sh, sw), (top, left, bottom, right) = attrs["strides"], attrs["padding"]
    n, _, h, width = x.shape
    _, out, kh, kw = w.shape
    full = np.zeros((n, out, (h - 1) * sh + kh, (width - 1) * sw + kw))
    for i in range(h):
        for j in range(width):
            full[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += np.einsum("nc,cohw->nohw", x[:, :, i, j], w)
    return full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]


def pooled(x: np.ndarray, attrs: Mapping[str, Any], average: bool) -> np.ndarray:
    (kh, kw), (sh, sw), pads = attrs["pool_size"], attrs["strides"], attrs.get("padding", [0])
    counted = np.ones_like(x)
    counts_padding = average and attrs.get("count_include_pad")
    counted = padded(counted, pads, 1 if counts_padding else 0)
    x = padded(x, pads, 0 if average else -np.inf)
    more = [
        -(size - k) % s if attrs.get("ceil_mode") else 0
        for size, k, s in zip(x.shape[2:], (kh, kw), (sh, sw), strict=True)
    ]
    x, counted = padded(x, [0, 0, *more], 0 if average else -np.inf), padded(counted, [0, 0, *more], 0)
    windows, counts = (sliding_window_view(v, (kh, kw), axis=(2, 3))[:, :, ::sh, ::sw] for v in (x, counted))
    return windows.sum((4, 5)) / counts.sum((4, 5)) if average else windows.max((4, 5))


def evaluate(nodes: Nodes, arrays: Arrays, given: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Compute every node in NumPy, straight from the file's meaning."""
    values: dict[int, np.ndarray] = {number: value.astype(np.float64) for number, value in given.items()}
    for node in nodes:
        number, attrs = node["node_id"], node.get("attrs") or {}
        if node["node_type"] == "Var" or number in values:
            continue
        x, *rest = [
            values[source] if isinstance(source, int) else arrays[source].astype(np.float64)
            for source in node["inputs"]
        ]
        spread = (-1, *[1] * (x.ndim - 2))
        match node["op_type"]:
            case "nn.conv2d":
                values[number] = convolved(x, rest[0], attrs)
            case "nn.conv2d_transpose":
                values[number] = deconvolved(x, rest[0], attrs)
            case "nn.batch_norm":
                gamma, beta, mean, var = (one.reshape(spread) for one in rest)
                values[number] = (x - mean) / np.sqrt(var + attrs["epsilon"]) * gamma + beta
            case "nn.relu":
                values[number] = np.maximum(x, 0)
            case "sigmoid":
                values[number] = 1 / (1 + np.exp(-x))
            case "nn.max_pool2d" | "nn.avg_pool2d":
                values[number] = pooled(x, attrs, node["op_type"] == "nn.avg_pool2d")
            case "nn.global_avg_pool2d":
                values[number] = x.mean((2, 3), keepdims=True)
            case "nn.batch_flatten":
                values[number] = x.reshape(len(x), -1)
            case "nn.dense":
                values[number] = x @ rest[0].T
            case "nn.bias_add":
                values[number] = x + rest[0].reshape(spread)
            case "add":
                values[number] = x + rest[0]
    return values


def assert_computes(net: onnx_ir.Model, expected: list[np.ndarray], *given: np.ndarray) -> None:
    feeds = {str(value.name): x for value, x in zip(net.graph.inputs, given, strict=True)}
    for got, wanted in zip(run(net, feeds), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
