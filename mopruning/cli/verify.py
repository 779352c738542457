"""`mopruning verify`: whether a file is whole, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mopruning.cli.options import File, From
from mopruning.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir

    from mopruning.ir.lazy import LazyArray


def verify(
    file: File,
    from_: From = None,
) -> None:
    """Check that a file is whole: its graph, every tensor, every checksum.

    The graph must keep to the operator profile and its shapes must fit together; every tensor is decoded, and its CRC32
    compared where the format has one. Nothing in the file is run. What is wrong is told in one line, with exit code 2.
    """
    from mopruning.cli.staging import bytes_of
    from mopruning.files import FORMATS
    from mopruning.model_files import GRAPH_FORMATS, check_readable, graph_format_of, read_model

    check_readable(file)
    suffix = file.suffix.lower()
    files: tuple[Path, ...] = (file,)
    stored: Mapping[str, LazyArray] = {}
    tensors: Iterator[tuple[str, Any]]
    if from_ == "mopir" or (from_ is None and suffix == ".mopir"):
        from mopruning.ir import container

        stored, texts = container.read(file)
        kind, model = "mopir", (read_model(file, "mopir") if "graph" in texts else None)
        tensors = _read(stored)
    elif from_ is None and suffix in FORMATS.keys() - GRAPH_FORMATS.keys():
        from mopruning.files import format_of

        kind, model = format_of(file).name, None
        tensors = _weights(file)
    else:
        row = graph_format_of(file, from_)
        kind, files, model = row.name, row.files(file), read_model(file, from_)
        tensors = _initializers(file, model)
    if model is not None:
        _check_graph(file, model)
    count, numbers, zeros, broken = _counts(tensors)
    print(f"OK: {file} ({kind}, {bytes_of(files):,} bytes)")
    print(_graph_line(model) if model is not None else "no graph")
    print(f"{count} tensors, {numbers:,} numbers, {zeros:,} of them zero ({zeros / max(1, numbers):.4f})")
    if stored:
        print("stored as:", _encodings(stored))
    if broken:
        print("not finite:", ", ".join(broken))


def _weights(file: Path) -> Iterator[tuple[str, Any]]:
    from mopruning.files import open_weights

    if file.suffix.lower() in (".npz", ".safetensors"):
        from mopruning.ir.weight_files import read_lazily

        yield from _read(read_lazily(file)[0])
    else:
        yield from open_weights(file).weights().items()


def _initializers(file: Path, model: onnx_ir.Model) -> Iterator[tuple[str, Any]]:
    from mopruning.cli.network_file import initializers

    yield from _read(initializers(file, model))


def _read(tensors: Mapping[str, LazyArray]) -> Iterator[tuple[str, Any]]:
    for name, one in tensors.items():
        yield name, one.read()


def _check_graph(file: Path, model: onnx_ir.Model) -> None:
    from mopruning.ir.passes import infer_shapes
    from mopruning.ir.passes.shapes import ShapeError
    from mopruning.ir.validation import validate

    validate(model)
    try:
        infer_shapes(model)
    except ShapeError as error:
        raise FormatError(f"{file}: {error}") from None


def _counts(tensors: Iterator[tuple[str, Any]]) -> tuple[int, int, int, list[str]]:
    """Return how many tensors, numbers and zeros there are, and which tensors are not finite throughout."""
    count = numbers = zeros = 0
    broken = []
    for name, tensor in tensors:
        if isinstance(tensor, np.ndarray):
            kept = int(np.count_nonzero(tensor))
            floating = tensor.dtype.kind == "f" or "float" in str(tensor.dtype)
            if floating and not np.isfinite(tensor).all():
                broken.append(name)
            size = tensor.size
        else:  # a torch tensor
            kept, size = int((tensor != 0).sum()), int(tensor.numel())
            if not bool(tensor.isfinite().all()):
                broken.append(name)
        count, numbers, zeros = count + 1, numbers + size, zeros + size - kept
    return count, numbers, zeros, broken


def _graph_line(model: onnx_ir.Model) -> str:
    operators = Counter(node.op_type for node in model.graph)
    parts = ", ".join(f"{count} {operator}" for operator, count in operators.most_common())
    return f"graph {model.graph.name}: {len(model.graph)} nodes ({parts})"


def _encodings(stored: Mapping[str, LazyArray]) -> str:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in stored.values():
        encoding = str(getattr(one, "encoding", "dense"))
        counts[encoding] += 1
        sizes[encoding] += int(getattr(one, "stored", one.nbytes))
    return ", ".join(f"{counts[one]} {one} ({sizes[one]:,} bytes)" for one in sorted(counts))
