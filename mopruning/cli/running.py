"""Running a network from its file, by the program that is the authority on it."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mopruning.errors import MopruningError
from mopruning.model_files import GraphFormat

if TYPE_CHECKING:
    import onnx_ir

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_LARGEST = 1 << 30  # bytes; larger networks are run from a file, as protobuf ends at 2 GB


class CheckError(MopruningError):
    """A network that cannot be run, or not be compared."""


@dataclass(frozen=True)
class Difference:
    """How far the outputs of two runs are apart.

    Args:
        largest: Largest difference of two numbers, NaN if only one of them is.
        share: The same as a share of the output's range, of the output where that is largest.
        output: Number of that output.
    """

    largest: float
    share: float
    output: int


def run(row: GraphFormat, path: Path, model: onnx_ir.Model | None, inputs: Sequence[NumPyArray]) -> list[NumPyArray]:
    """Run the network in a file.

    A format that has a framework of its own is run there, an .onnx file as it is, others as the graph that is read.

    Args:
        row: The file's format.
        path: The file.
        model: What was read from it, None to read it now.
        inputs: One array for each input, in order.

    Raises:
        CheckError: If the network does not run.
    """
    if row.runner is not None:
        try:
            outputs = row.run(path, inputs)
        except (MopruningError, ImportError):
            raise
        except Exception as error:  # each framework has errors of its own
            reason = " ".join(str(error).split())[:400]
            raise CheckError(f"{path} does not run in {row.name}, so it cannot be compared: {reason}") from error
        if outputs is not None:
            return outputs
    if row.name == "onnx":
        return run_onnx(path, inputs)
    model = row.read(path) if model is None else model
    import onnx_ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size < _LARGEST:
        return run_onnx(onnx_ir.to_proto(model).SerializeToString(), inputs)
    from mopruning.ir.onnx_files import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        write_onnx(model, Path(folder) / "check.onnx", external=True)
        return run_onnx(Path(folder) / "check.onnx", inputs)


def runtime() -> str:
    """Return the name of the program that runs ONNX graphs here."""
    return "onnxruntime" if importlib.util.find_spec("onnxruntime") else "onnx.reference"


def run_onnx(model: Path | bytes, inputs: Sequence[NumPyArray]) -> list[NumPyArray]:
    """Run an ONNX model, in onnxruntime if it is installed, else in ONNX's own evaluator, which is slow.

    Raises:
        CheckError: If it does not run.
    """
    try:
        if runtime() == "onnxruntime":
            return _run_in_onnxruntime(model, inputs)
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(model) if isinstance(model, Path) else model)
        weights = {one.name for one in evaluator.proto_.graph.initializer}
        names = [name for name in evaluator.input_names if name not in weights]
        return [np.asarray(one) for one in evaluator.run(None, _feeds(names, inputs))]
    except MopruningError:
        raise
    except Exception as error:  # each has errors of its own
        reason = " ".join(str(error).split())[:400]
        raise CheckError(f"{_shown(model)} does not run in {runtime()}, so it cannot be compared: {reason}") from error


def _run_in_onnxruntime(model: Path | bytes, inputs: Sequence[NumPyArray]) -> list[NumPyArray]:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Nothing is to be fused: it would only move the last bits.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feeds = _feeds([one.name for one in session.get_inputs()], inputs)
    return [np.asarray(one) for one in session.run(None, feeds)]


def _feeds(names: Sequence[str], inputs: Sequence[NumPyArray]) -> dict[str, NumPyArray]:
    if len(names) != len(inputs):
        raise CheckError(f"one end takes {len(names)} inputs, the other {len(inputs)}")
    return dict(zip(names, inputs, strict=True))


def _shown(model: Path | bytes) -> str:
    return str(model) if isinstance(model, Path) else "the network"


def random_inputs(model: onnx_ir.Model, shapes: Sequence[Sequence[int]], seed: int = 0) -> list[NumPyArray]:
    """Draw the inputs of a network: floating numbers normal, whole numbers 0 or 1, which every table can look up.

    Args:
        model: The network; its inputs say the types.
        shapes: One shape for each input.
        seed: Selects the numbers.

    Raises:
        CheckError: If an input has a type of no numbers.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    arrays = []
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    for value, shape in zip(inputs, shapes, strict=True):
        dtype = np.dtype(np.float32) if value.dtype is None else np.dtype(value.dtype.numpy())
        if dtype.kind in "biu":
            arrays.append(rng.integers(0, 2, shape).astype(dtype))
        elif dtype.kind == "f":
            arrays.append(rng.standard_normal(shape, dtype=np.float32).astype(dtype))
        else:
            raise CheckError(f"input {value.name!r} takes {value.dtype}, of which nothing is drawn; use --no-check")
    return arrays


def difference(before: Sequence[NumPyArray], after: Sequence[NumPyArray]) -> Difference:
    """Compare the outputs of two runs.

    Args:
        before: Of the source.
        after: Of the target, in the same order.

    Returns:
        The largest difference, as a share of the range of the source's output; of an output that is one number
        throughout, of its size.

    Raises:
        CheckError: If numbers or shapes of the outputs differ.
    """
    shapes, others = [one.shape for one in before], [one.shape for one in after]
    if shapes != others:
        raise CheckError(f"the outputs have other shapes: {shapes} before, {others} after")
    worst = Difference(0.0, 0.0, 0)
    for number, (left, right) in enumerate(zip(before, after, strict=True)):
        old, new = left.astype(np.float64), right.astype(np.float64)
        same = (old == new) | (np.isnan(old) & np.isnan(new))
        if same.all():
            continue
        largest = float(np.abs(old[~same] - new[~same]).max())
        finite = old[np.isfinite(old)]
        extent = float(np.ptp(finite) or abs(finite[0])) if finite.size else 0.0
        share = largest / extent if extent else np.inf
        if not share <= worst.share:  # also where it is NaN
            worst = Difference(largest, share, number)
        if np.isnan(share):
            break
    return worst
