"""Which runtimes gain from a sparse weight, and why not: one row a runtime, as things stood in November 2026.

A pattern of zeros is no speed by itself. Each row says what a runtime needs of a layer, what it gives for it, and where
that is written; `reasons` compares a layer with all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mopruning.conformity import Conformity

CHECKED = "2026-11"
"""Month in which the rows were last compared with their sources."""


@dataclass(frozen=True)
class Layer:
    """What a runtime asks of a layer before it uses its zeros.

    Args:
        kind: "convolution", "transposed convolution", "dense", "recurrent", "embedding", or another word.
        shape: Canonical shape of its weight, [out, in, *kernel]; `in` of a group, where there are several.
        dtype: NumPy's name of the weight's type, or "bfloat16".
        sparsity: Share of zeros.
        conformity: The patterns that its zeros satisfy.
        groups: Groups of a convolution.
        mobile: What `not_mobile` says of its network; "" where it is not known.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    conformity: Conformity
    groups: int = 1
    mobile: str = ""

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.shape[0] if self.shape else 1

    @property
    def inputs(self) -> int:
        """Input channels of a group."""
        return self.shape[1] if len(self.shape) > 1 else 1


Check: TypeAlias = Callable[[Layer], "str | None"]
"""Compares a layer with one need: None where it is met, else a few words on what is in the way."""


@dataclass(frozen=True)
class Runtime:
    """One runtime, or one way to run a sparse network.

    Args:
        key: Short name, for programs and for the heads of tables.
        name: Its name.
        hardware: What it runs on.
        needs: What a layer must be like, in words.
        gain: What it gives.
        sources: Where needs and gain are written.
        checks: The needs that can be told from a layer alone.
        never: Why no layer gains, whatever its zeros; "" where some do.
    """

    key: str
    name: str
    hardware: str
    needs: str
    gain: str
    sources: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    never: str = ""

    def reasons(self, layer: Layer) -> tuple[str, ...]:
        """Say what keeps the runtime from using the layer's zeros, what cannot be changed first; () if nothing does."""
        if self.never:
            return (self.never,)
        found = (check(layer) for check in self.checks)
        return tuple(reason for reason in found if reason is not None)


def reasons(layer: Layer) -> dict[str, tuple[str, ...]]:
    """Compare a layer with every runtime.

    Returns:
        By key of each runtime what keeps it from using the layer's zeros, () where it uses them.

    >>> import numpy as np
    >>> from mopruning.conformity import conformity
    >>> weight = np.ones((64, 127, 3, 3)); weight[:, ::2] = 0.0
    >>> layer = Layer("convolution", weight.shape, "float16", 64 / 127, conformity(weight))
    >>> reasons(layer)["tensorrt"]
    ('inputs 127, no multiple of 16', 'inputs 127, no multiple of 4')
    """
    return {runtime.key: runtime.reasons(layer) for runtime in RUNTIMES}


def not_mobile(layers: Iterable[tuple[str, tuple[int, ...], int]]) -> str:
    """Say which layer keeps a network from being one of 1x1 and depthwise convolutions behind a first 3x3 one.

    Args:
        layers: Kind, canonical shape and groups of each, in their order.

    Returns:
        The first that does not belong, in words; "" where all do.

    >>> not_mobile([("convolution", (16, 3, 3, 3), 1), ("convolution", (16, 1, 3, 3), 16), ("dense", (9, 16), 1)])
    ''
    >>> not_mobile([("convolution", (16, 3, 3, 3), 1), ("convolution", (16, 16, 3, 3), 1)])
    'the network has a 3x3 convolution of 16 inputs'
    """
    for kind, shape, groups in layers:
        kernel, inputs = shape[2:], shape[1] if len(shape) > 1 else 1
        fits = kernel == (1, 1) or (kernel == (3, 3) and inputs == 3) or (inputs == 1 and groups == shape[0])
        if "convolution" in kind and not (fits and kind == "convolution"):
            return f"the network has a {'x'.join(map(str, kernel))} {kind} of {inputs} inputs"
    return ""


# ---- needs


def _kinds(*kinds: str) -> Check:
    return lambda layer: None if layer.kind in kinds else f"{layer.kind}, not {_listed(kinds)}"


def _dtypes(*names: str) -> Check:
    return lambda layer: None if layer.dtype in names else f"{layer.dtype}, not {_listed(names)}"


def _pattern(n: int, m: int) -> Check:
    def check(layer: Layer) -> str | None:
        most = layer.conformity.nm.get(m)
        if most is None:
            return f"inputs {layer.inputs}, no multiple of {m}"
        return None if most <= n else f"{most} of {m} non-zero, not {n}"

    return check


def _multiples(what: str, usual: int, others: Mapping[str, int] | None = None, *, kinds: tuple[str, ...] = ()) -> Check:
    """Ask that the inputs or outputs are a multiple of `usual`, or of another number for some types.

    Args:
        what: "inputs" or "outputs".
        usual: Of what number.
        others: Of what other number, by type.
        kinds: Ask it only of these; () asks it of all.
    """

    def check(layer: Layer) -> str | None:
        size: int = getattr(layer, what)
        step = (others or {}).get(layer.dtype, usual)
        fits = size % step == 0 or (kinds and layer.kind not in kinds)
        return None if fits else f"{what} {size}, no multiple of {step}"

    return check


def _zeros(least: float, within: float = 0.0) -> Check:
    """Ask for a share of zeros; one that is no sharp limit is met by a weight pruned to it, whose count is floored."""

    def check(layer: Layer) -> str | None:
        if layer.sparsity + within >= least:
            return None
        percent = math.floor(layer.sparsity * 1000) / 10  # 79.99% must not be shown as 80.0%
        return f"{percent:.1f}% zeros, below {100 * least:.3g}%"

    return check


def _banks(bank: int, use: float) -> Check:
    """Ask that no bank of input channels holds many more than the mean does: the fullest sets the time of all."""

    def check(layer: Layer) -> str | None:
        counts = layer.conformity.banks.get(bank)
        if counts is None:
            return f"inputs {layer.inputs}, no multiple of {bank}"
        fewest, most = counts
        if most == bank:
            return f"a bank of {bank} without a zero"
        mean = (1 - layer.sparsity) * bank
        return None if mean >= use * most else f"{fewest} to {most} of {bank} non-zero, not balanced"

    return check


def _whole_units(layer: Layer) -> str | None:
    found = layer.conformity
    return None if found.zero_filters[0] or found.zero_channels[0] else "no zero filter or channel"


def _pointwise(layer: Layer) -> str | None:
    if layer.kind != "convolution":
        return f"{layer.kind}, not a 1x1 convolution"
    kernel = "x".join(map(str, layer.shape[2:]))
    if layer.groups > 1:
        return f"{layer.groups} groups, not one"
    return None if layer.shape[2:] == (1, 1) else f"{kernel} convolution, not 1x1"


def _mobile(layer: Layer) -> str | None:
    return layer.mobile or None


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


# ---- the table

_HALVES = ("float16", "bfloat16", "int8")

RUNTIMES: tuple[Runtime, ...] = (
    Runtime(
        "shrink",
        "any runtime, after shrinking",
        "any",
        "filters or input channels that are zero throughout, and that what they are coupled to lets go",
        "a smaller dense network: fewer bytes and products everywhere",
        ("https://arxiv.org/abs/2301.12900",),
        (_whole_units,),
    ),
    Runtime(
        "cusparselt",
        "PyTorch semi-structured (cuSPARSELt)",
        "NVIDIA GPU, Ampere or later",
        "2:4 along the inputs; nn.Linear; float16, bfloat16 or int8; both sizes multiples of 16, for int8 of 32",
        "half the products of large batches; at batch 1 slower than dense",
        (
            "https://github.com/pytorch/pytorch/blob/main/torch/sparse/semi_structured.py",
            "https://github.com/pytorch/pytorch/issues/111339",
        ),
        (
            _kinds("dense"),
            _multiples("inputs", 16, {"int8": 32}),
            _multiples("outputs", 16, {"int8": 32}),
            _pattern(2, 4),
            _dtypes(*_HALVES),
        ),
    ),
    Runtime(
        "tensorrt",
        "TensorRT with sparse weights",
        "NVIDIA GPU, Ampere or later",
        "2:4 along the inputs; convolution or dense; float16, bfloat16 or int8; inputs a multiple of 16, for int8 of "
        "32, outputs of 8",
        "usually 15% of the time or less, with 256 channels and more; it takes the dense kernel where that is faster",
        (
            "https://github.com/NVIDIA/TensorRT/issues/2310",
            "https://github.com/NVIDIA/TensorRT/issues/3849",
            "https://github.com/NVIDIA/apex/tree/master/apex/contrib/sparsity",
        ),
        (
            _kinds("convolution", "dense"),
            _multiples("inputs", 16, {"int8": 32}),
            _multiples("outputs", 8),
            _pattern(2, 4),
            _dtypes(*_HALVES),
        ),
    ),
    Runtime(
        "torch_csr",
        "PyTorch sparse CSR",
        "CPU",
        "dense layers of float32 or float64; pays from 80% zeros",
        "2.6 times as fast at 90%, 5.2 at 95%, against PyTorch's own dense layer (3072x768, batch 64, 2 threads)",
        ("https://docs.pytorch.org/docs/stable/sparse.html",),
        (_kinds("dense"), _zeros(0.8, within=0.001), _dtypes("float32", "float64")),
    ),
    Runtime(
        "bank64",
        "bank-balanced accelerators (Moffett)",
        "accelerators that read banks of 64",
        "nearly as many non-zeros in each bank of 64 inputs; a convolution's outputs a multiple of 4",
        "64 / k times fewer products with k of 64, whatever the layer",
        ("https://arxiv.org/abs/1811.00206",),
        (
            _kinds("convolution", "dense", "recurrent"),
            _multiples("outputs", 4, kinds=("convolution",)),
            _banks(64, 0.9),
        ),
    ),
    Runtime(
        "xnnpack",
        "XNNPACK in TensorFlow Lite",
        "CPU, foremost ARM",
        "1x1 convolutions of float32 with two thirds of zeros, in a network that begins with a 3x3 convolution of "
        "stride 2 over 3 channels, has only depthwise ones beside them and ends in a mean",
        "networks 1.2 to 2.4 times as fast on phones, and half the size",
        (
            "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/delegates/xnnpack/README.md",
            "https://ai.googleblog.com/2021/03/accelerating-neural-networks-on-mobile.html",
        ),
        (_pointwise, _mobile, _zeros(2 / 3), _dtypes("float32")),
    ),
    Runtime(
        "openvino",
        "OpenVINO with sparse weights decompression",
        "Xeon with AMX",
        "dense layers of int8 with more zeros than a threshold, 80% in its documentation",
        "fewer bytes to load where memory sets the time; none for float32",
        ("https://docs.openvino.ai/2025/notebooks/sparsity-optimization-with-output.html",),
        (_kinds("dense"), _zeros(0.8, within=0.001), _dtypes("int8")),
    ),
    Runtime(
        "onnxruntime",
        "onnxruntime",
        "any",
        "-",
        "none in time; sparse initializers make smaller files",
        ("https://github.com/microsoft/onnxruntime/issues/5578",),
        never="makes every weight dense as it loads",
    ),
    Runtime(
        "deepsparse",
        "DeepSparse",
        "CPU",
        "-",
        "none any more; it ran unstructured sparsity on CPUs",
        ("https://github.com/neuralmagic/sparseml/issues/2364",),
        never="end of life since June 2025",
    ),
    Runtime(
        "vllm",
        "vLLM",
        "GPU",
        "-",
        "none any more",
        ("https://github.com/vllm-project/vllm/pull/36799",),
        never="its 2:4 kernels were removed in March 2026",
    ),
)
"""The runtimes, those that gain from some pattern first."""
