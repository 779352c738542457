"""MXNet networks for the tests of its reader and writer, and how they are run and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mopruning.backends.mxnet.framework import gluon, mx

nn = gluon.nn
RANDOM = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def array(content: Any) -> Any:
    """The same numbers in MXNet; a single number has one axis there."""
    content = np.asarray(content)
    result = mx.nd.empty(content.shape or (1,), dtype=content.dtype)
    result[:] = content
    return result


def outputs_of(network: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run a network for inference."""
    return [one.asnumpy() for one in _flat(network(*(array(content) for content in inputs)))]


def _flat(found: Any) -> list[Any]:
    return [one for part in found for one in _flat(part)] if isinstance(found, (list, tuple)) else [found]


def assert_close(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float = 1e-5) -> None:
    """Types and shapes are the same, and numbers but for rounding, as a share of the largest."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == (other.shape or (1,))
        if other.dtype.kind == "f":
            largest = max(float(np.abs(other).max()), 1e-6)
            np.testing.assert_allclose(one.reshape(other.shape), other, rtol=0, atol=tolerance * largest)
        else:
            np.testing.assert_array_equal(one.reshape(other.shape), other)


class Layers(gluon.HybridBlock):
    """Layers of many kinds, and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.conv = nn.Conv2D(8, 3, padding=1, groups=2, in_channels=4)
            self.norm = nn.BatchNorm(in_channels=8)
            self.fixed = nn.BatchNorm(in_channels=8, scale=False)
            self.instance = nn.InstanceNorm(in_channels=8)
            self.layer = nn.LayerNorm(in_channels=8)
            self.up = nn.Conv2DTranspose(4, 3, strides=2, padding=1, output_padding=1, in_channels=8)
            self.slopes = nn.PReLU(in_channels=4)
            self.rows = nn.Dense(7, flatten=False, in_units=4)
            self.last = nn.Dense(5, in_units=28)
            self.offset = self.params.get_constant("offset", floats(1, 8, 1, 1))

    def hybrid_forward(self, F: Any, x: Any, offset: Any) -> Any:  # noqa: N803 - MXNet's name for it
        x = F.relu(self.fixed(self.instance(F.broadcast_add(self.norm(self.conv(x)), offset))))
        x = F.transpose(self.layer(F.transpose(x, (0, 2, 3, 1))), (0, 3, 1, 2))
        x = self.slopes(self.up(x))
        options = {"stride": (2, 2), "pooling_convention": "full"}
        x = F.Pooling(x, kernel=(3, 3), pad=(1, 1), pool_type="avg", count_include_pad=False, **options)
        x = F.Pooling(x, kernel=(2, 2), pool_type="max", **options)
        x = F.reshape(F.reshape(x, (0, 0, -3)), (0, 0, -4, -1, 4))
        x = F.LeakyReLU(F.mean(F.slice_axis(x, axis=3, begin=0, end=4), axis=2), act_type="elu")
        x = F.softmax(self.rows(x), axis=1) * 2.5 - 1
        first, second = F.split(F.concat(x, x * x, dim=1), num_outputs=2, axis=1)
        return (
            self.last(F.Dropout(first + second)),
            F.argmax(first, axis=1),
            F.topk(second, k=2, axis=2, ret_typ="both")[0],
            F.L2Normalization(first),
            F.log_softmax(second),
        )


def _sequential(*functions: Any) -> Any:
    network = nn.HybridSequential()
    network.add(*(one if isinstance(one, gluon.Block) else nn.HybridLambda(one) for one in functions))
    return network


IMAGE = floats(2, 6, 5, 7)


def resizing() -> Any:
    return _sequential(
        lambda op, x: op.LRN(x, nsize=5, alpha=0.01, beta=0.75, knorm=2),
        lambda op, x: op.UpSampling(x, scale=2, sample_type="nearest"),
        lambda op, x: op.contrib.BilinearResize2D(x, height=13, width=9),
        lambda op, x: op.contrib.BilinearResize2D(x, height=8, width=1, align_corners=False),
        lambda op, x: op.contrib.BilinearResize2D(x, height=8, width=6, align_corners=False),
        lambda op, x: op.contrib.AdaptiveAvgPooling2D(x, output_size=(4, 3)),
        lambda op, x: op.slice_like(x, op.slice_axis(x, axis=2, begin=1, end=4), axes=(2,)),
    )


def elements() -> Any:
    return _sequential(
        *(nn.GELU(), nn.SELU(), nn.Swish(), nn.ELU(), nn.LeakyReLU(0.1), nn.Activation("softsign")),
        lambda op, x: op.broadcast_mod(x, op.ones_like(x) * 0.7),
        lambda op, x: op.where(x > 0.3, x, op.zeros_like(x)),
        lambda op, x: op.stack(x, x + 1, axis=1),
        lambda op, x: op.concat(op.tile(x, reps=(2, 1, 1, 1, 1)), op.repeat(x, repeats=2, axis=0), dim=1),
        lambda op, x: op.pad(op.reshape(x, (0, -3, -2)), mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 0, 2)),
        lambda op, x: op.slice(op.swapaxes(x, dim1=1, dim2=2), begin=(None, 5, 1), end=(None, 0, 3), step=(1, -2, 1)),
        lambda op, x: op.space_to_depth(op.broadcast_to(x, shape=(0, 0, 0, 0)), block_size=2),
        lambda op, x: (
            op.norm(x, axis=1)
            + op.rsqrt(op.square(op.sum(x, axis=1)) + 1)
            + op.broadcast_mul(op.max(x, axis=1), op.mean(x))
        ),
    )


def recurrent(kind: str, layers: int, both: bool, layout: str = "TNC") -> Any:
    return getattr(gluon.rnn, kind)(5, num_layers=layers, bidirectional=both, layout=layout, input_size=4)


CASES = {
    "layers": (Layers, [floats(2, 4, 15, 15)]),
    "resizing": (resizing, [IMAGE]),
    "elements": (elements, [floats(2, 6, 6, 10)]),
    "embedding": (
        lambda: _sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Dense(3, in_units=20)),
        [np.float32([[1, 8, 0, 2, 3]])],
    ),
    "signal": (
        lambda: _sequential(nn.Conv1D(4, 3, in_channels=3), nn.MaxPool1D(2, ceil_mode=True), nn.GlobalAvgPool1D()),
        [floats(2, 3, 11)],
    ),
    "volume": (
        lambda: _sequential(nn.Conv3D(4, 2, in_channels=3), nn.AvgPool3D(2), nn.BatchNorm(in_channels=4)),
        [floats(2, 3, 5, 6, 7)],
    ),
    "lstm": (lambda: recurrent("LSTM", 1, False), [floats(6, 2, 4)]),
    "lstm both": (lambda: recurrent("LSTM", 2, True), [floats(6, 2, 4)]),
    "lstm batch first": (lambda: recurrent("LSTM", 1, True, "NTC"), [floats(2, 6, 4)]),
    "gru": (lambda: recurrent("GRU", 2, False), [floats(6, 2, 4)]),
    "gru both": (lambda: recurrent("GRU", 1, True), [floats(6, 2, 4)]),
}
"""Name -> what builds the network, and its inputs."""


def built(name: str) -> tuple[Any, list[np.ndarray]]:
    """A network with weights of all sizes, ready to run, and its inputs."""
    make, inputs = CASES[name]
    network = make()
    network.initialize(mx.init.Normal(0.3))
    mx.random.seed(0)
    outputs_of(network, inputs)
    for own, parameter in network.collect_params().items():
        if own.endswith(("gamma", "running_var")):
            parameter.data()[:] = 1 + np.abs(floats(*parameter.shape)) / 4
    return network, inputs
