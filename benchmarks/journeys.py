"""Journeys of a network: PyTorch or ONNX, .mopir, PyTorch and onnxruntime; and how it was when it arrived."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from sessions import session
from torch import nn

from mopruning import Pruner, Recipe, ir
from mopruning.backends import pytorch
from mopruning.ir.parameters import parameters

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

CLOSE = 1e-4  # of the range of the outputs; what `mopruning convert` allows
CLOSE_COSINE = 1e-6
YES = 0.3  # from which on a text detector's pixel counts as text, as its package has it
BATCH = 250
SPARSITY = 0.5
UNPRUNED = "embeddings."


@dataclasses.dataclass(frozen=True)
class Arrival:
    """How the outputs of a network that has travelled compare with those of the one that was sent.

    Args:
        differ: Predictions that are others.
        margin: Of those, the largest lead of the first class over the second, as share of the range of the outputs.
        error: Largest difference of an output, as share of their range.
        cosine: One minus the smallest cosine of two embeddings of one sentence; 0 where none are measured.
    """

    differ: int
    margin: float
    error: float
    cosine: float = 0.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One network, dense or pruned.

    Args:
        network: Its name.
        pruned: How it was pruned.
        sparsity: Share of zeros in all weights of two or more axes.
        score: Share of right predictions; where there are no labels, of those as the dense network has them, or the
            mean cosine to its embedding.
        predictions: How many were compared.
        published: Share of right predictions that is known.
        torch: After .mopir, in PyTorch.
        onnxruntime: After .mopir and .onnx, in onnxruntime.
        mopir: Bytes of the .mopir file.
        dense: Bytes of the weights.
        same: Whether names, shapes and bits of every parameter and buffer are the same in each place.
        failure: What went wrong; empty if nothing.
    """

    network: str
    pruned: str
    sparsity: float = 0.0
    score: float | None = None
    predictions: int = 0
    published: float | None = None
    torch: Arrival | None = None
    onnxruntime: Arrival | None = None
    mopir: int = 0
    dense: int = 0
    same: bool = False
    failure: str = ""

    @property
    def met(self) -> bool:
        arrivals = [one for one in (self.torch, self.onnxruntime) if one is not None]
        close = all(one.error <= CLOSE and one.cosine <= CLOSE_COSINE and one.margin <= CLOSE for one in arrivals)
        right = self.published is None or self.pruned or abs(100 * (self.score or 0) - self.published) < 0.005
        return bool(not self.failure and len(arrivals) == 2 and close and right and self.same)


# ---- running


def in_torch(net: nn.Module, inputs: Sequence[torch.Tensor]) -> NumPyArray:
    """Return the output of a network for all inputs."""
    net.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs[0]), BATCH):
            batch = [values[start : start + BATCH] for values in inputs]
            if batch[0].ndim == 4 and batch[0].shape[1] == 3:
                batch[0] = batch[0].contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
            parts.append(net(*batch).numpy())
    return np.concatenate(parts)


def in_onnxruntime(path: Path, inputs: Sequence[torch.Tensor]) -> NumPyArray:
    """Return the first output of an ONNX file for all inputs."""
    opened = session(path, 1)
    names = [one.name for one in opened.get_inputs()]
    parts = []
    for start in range(0, len(inputs[0]), BATCH):
        feeds = {name: values[start : start + BATCH].numpy() for name, values in zip(names, inputs, strict=True)}
        parts.append(opened.run(None, feeds)[0])
    return np.concatenate(parts)


def predicted(outputs: NumPyArray, axis: int | None) -> NumPyArray:
    """Return the classes, or for embeddings (axis 0) the sentence that is nearest to each."""
    if axis is None:
        return outputs > YES
    if axis == 0:
        near = outputs @ outputs.T
        np.fill_diagonal(near, -1.0)
        return near.argmax(1)
    return outputs.argmax(axis)


def compared(got: NumPyArray, wanted: NumPyArray, axis: int | None) -> Arrival:
    reach = float(np.ptp(wanted)) or 1.0
    others = predicted(got, axis) != predicted(wanted, axis)
    margin = 0.0
    if others.any() and axis == -1:
        first = np.sort(wanted, axis=-1)[..., -2:]
        margin = float((first[..., 1] - first[..., 0])[others].max()) / reach
    elif others.any():
        margin = 1.0 if axis == 0 else float(np.abs(wanted - YES)[others].max()) / reach
    cosine = float(1.0 - (got.astype(np.float64) * wanted).sum(1).min()) if axis == 0 else 0.0
    return Arrival(int(others.sum()), margin, float(np.abs(got - wanted).max()) / reach, cosine)


# ---- pruning


def one_shot(weights: Mapping[str, NumPyArray], granularity: str) -> dict[str, NumPyArray]:
    """Return what to keep, bool, of each canonical weight that the granularity fits."""
    skip = [f"{UNPRUNED}*"] if any(name.startswith(UNPRUNED) for name in weights) else []
    recipe = Recipe(sparsity=SPARSITY, granularity=granularity, skip=skip)
    masks = Pruner(recipe.plan({name: weight.shape for name, weight in weights.items()}), weights).step(weights)
    return {name: np.asarray(keep) for name, keep in (masks or {}).items()}


def prune_module(net: nn.Module, granularity: str) -> None:
    """Prune a module once, in place."""
    named = dict(net.named_parameters())
    masks = one_shot({name: value.detach().numpy() for name, value in named.items()}, granularity)
    with torch.no_grad():
        for name, keep in masks.items():
            named[name].masked_fill_(~torch.from_numpy(keep), 0.0)


def prune_file(source: Path, target: Path, granularity: str) -> None:
    """Prune the weights in an ONNX file once, leaving all else in it as it is."""
    net = ir.read_onnx(source)
    known = {name: one for name, one in parameters(net).items() if one.role == "weight"}
    arrays = {name: one.value.const_value.numpy().copy() for name, one in known.items()}  # type: ignore[union-attr]
    views = {name: one.canonical(arrays[name]) for name, one in known.items()}
    views = {name: view for name, view in views.items() if np.shares_memory(view, arrays[name])}
    masks = one_shot(views, granularity)
    proto = onnx.load(source)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in proto.graph.node if node.op_type == "Constant"}
    for name, keep in masks.items():
        before = onnx.numpy_helper.to_array(tensors[name])
        turned = before.shape != arrays[name].shape or not np.array_equal(before, arrays[name])
        views[name][~keep] = 0  # also in the array that this is a view of
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(arrays[name].T.copy() if turned else arrays[name], name))
    onnx.save(proto, target)


def sparsity(weights: Mapping[str, NumPyArray]) -> float:
    wide = [weight for weight in weights.values() if weight.ndim > 1 and weight.dtype.kind == "f"]
    return sum(int((weight == 0).sum()) for weight in wide) / max(1, sum(weight.size for weight in wide))


# ---- the two journeys


def initializers(model: Any) -> dict[str, NumPyArray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def bits(arrays: Mapping[str, NumPyArray]) -> dict[str, tuple[Any, ...]]:
    return {name: (array.shape, array.dtype.str, array.tobytes()) for name, array in arrays.items()}


def from_module(name: str, pruned: str, net: nn.Module, inputs: Sequence[torch.Tensor], axis: int, folder: Path) -> Any:
    """Carry a module through .mopir to PyTorch and through .onnx to onnxruntime.

    Returns:
        The row, and the outputs of the module itself.
    """
    wanted = in_torch(net, inputs)
    model = pytorch.to_ir(net, tuple(values[:2] for values in inputs))
    ir.save(model, folder / "net.mopir")
    loaded = ir.load(folder / "net.mopir")
    back = pytorch.from_ir(loaded)
    ir.write_onnx(loaded, folder / "net.onnx")
    state, arrived = ({key: value.numpy() for key, value in one.state_dict().items()} for one in (net, back))
    written = bits(initializers(ir.read_onnx(folder / "net.onnx")))
    kept = {key: value for key, value in bits(state).items() if not key.endswith("num_batches_tracked")}
    row = Row(
        name,
        pruned,
        sparsity(state),
        predictions=len(wanted),
        torch=compared(in_torch(back, inputs), wanted, axis),
        onnxruntime=compared(in_onnxruntime(folder / "net.onnx", inputs), wanted, axis),
        mopir=(folder / "net.mopir").stat().st_size,
        dense=sum(array.nbytes for array in state.values()),
        same=bits(state) == bits(arrived) and kept == {key: written.get(key) for key in kept},
    )
    return row, wanted


def from_file(name: str, pruned: str, source: Path, inputs: torch.Tensor, axis: int | None, folder: Path) -> Any:
    """Carry an ONNX file through .mopir to another one, and to PyTorch.

    Returns:
        The row, and the outputs of the file itself.
    """
    wanted = in_onnxruntime(source, [inputs])
    model = ir.read_onnx(source)
    ir.save(model, folder / "net.mopir")
    loaded = ir.load(folder / "net.mopir")
    ir.write_onnx(loaded, folder / "net.onnx")
    written = initializers(ir.read_onnx(folder / "net.onnx"))
    proto = onnx.load(source).graph
    tensors = {tensor.name: tensor for tensor in proto.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in proto.node if node.op_type == "Constant"}
    weights = {key: onnx.numpy_helper.to_array(tensor) for key, tensor in tensors.items()}
    back = pytorch.from_ir(loaded)
    row = Row(
        name,
        pruned,
        sparsity(weights),
        predictions=int(predicted(wanted, axis).size),
        torch=compared(in_torch(back, [inputs]), wanted, axis),
        onnxruntime=compared(in_onnxruntime(folder / "net.onnx", [inputs]), wanted, axis),
        mopir=(folder / "net.mopir").stat().st_size,
        dense=sum(array.nbytes for array in weights.values()),
        same=all(_same(written.get(key), array) for key, array in weights.items() if array.ndim > 1),
    )
    return row, wanted


def _same(got: NumPyArray | None, wanted: NumPyArray) -> bool:
    """Whether a weight arrived; those of dense layers lie as [out, in] in the IR, whatever the file had."""
    return got is not None and any(np.array_equal(got, one) for one in (wanted, wanted.T))
