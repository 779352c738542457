"""What a file holds, for whoever looks at one weight after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopruning.cli.opening import check_readable_suffix, files_of, is_mopir, is_network, open_file
from mopruning.files import parameters

if TYPE_CHECKING:
    import onnx_ir

    from mopruning.ir.container import StoredArray
    from mopruning.ir.lazy import LazyArray


@dataclass(frozen=True)
class Contents:
    """What a file holds; no weight has been read.

    Args:
        files: The file, and the one beside it if it is a pair.
        parameters: The trained parameters, canonical, read when asked for.
        others: Of every other tensor what it is.
        dense: Bytes of all tensors when decoded.
        stored: How a .mopir file stores each tensor; empty for other formats.
        model: The network, if there is one.
        nodes: Name and operator of the node that computes with each parameter of a network.
        notes: Recipe and provenance, as far as the file has them.
    """

    files: tuple[Path, ...]
    parameters: Mapping[str, LazyArray]
    others: Mapping[str, str]
    dense: int
    stored: Mapping[str, StoredArray] = field(default_factory=dict)
    model: onnx_ir.Model | None = None
    nodes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def contents(path: Path) -> Contents:
    """Open a file of weights or of a network.

    Raises:
        FormatError: If the suffix is unknown, or the file is damaged, unsafe or of another format; also from reading
            a parameter.
        ImportError: If the format's framework is not installed; the message says how to install it.
        OSError: If the file cannot be read.
    """
    from mopruning.ir.lazy import lazy

    check_readable_suffix(path)
    if path.suffix.lower() == ".safetensors":
        from mopruning.ir.weight_files import read_lazily

        tensors = read_lazily(path)[0]
        return Contents((path,), *parameters(tensors), _bytes(tensors))
    opened = open_file(path)
    if is_network(opened):
        return _network(path, opened.model)
    if is_mopir(opened):
        from mopruning.cli.notes import read_notes
        from mopruning.ir.container import StoredArray

        stored = {name: one for name, one in opened.tensors.items() if isinstance(one, StoredArray)}
        found = parameters(opened.tensors)
        return Contents((path,), *found, _bytes(opened.tensors), stored, notes=read_notes(opened.texts))
    arrays = opened.weights()
    weights, others = parameters(arrays)
    others |= {alias: f"tied to {name}" for alias, name in opened.aliases.items()}
    dense = _bytes({name: lazy(array) for name, array in arrays.items()})
    return Contents((path,), {name: lazy(array) for name, array in weights.items()}, others, dense)


def _network(path: Path, model: onnx_ir.Model) -> Contents:
    from mopruning.cli.network_file import NetworkFile
    from mopruning.cli.notes import read_notes
    from mopruning.ir.container import StoredArray
    from mopruning.ir.mopir import PREFIX
    from mopruning.ir.stored_tensor import lazy_array

    file = NetworkFile(path, model)
    values = {name: value.const_value for name, value in model.graph.initializers.items()}
    raw = {name: lazy_array(tensor) for name, tensor in values.items() if tensor is not None}
    stored = {name: one for name, one in raw.items() if isinstance(one, StoredArray)}
    nodes = {name: (str(one.node.name), one.node.op_type) for name, one in file.parameters.items()}
    notes = read_notes(model.metadata_props, PREFIX)
    return Contents(files_of(path), *file.split(), _bytes(raw), stored, model, nodes, notes)


def _bytes(tensors: Mapping[str, LazyArray]) -> int:
    return sum(one.nbytes for one in tensors.values())
