"""What a file holds, for whoever looks at one weight after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopruning.cli.opening import check_readable_suffix, files_of, is_network, open_file
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
    from mopruning.cli.notes import read_notes
    from mopruning.ir.container import StoredArray
    from mopruning.ir.lazy import lazy

    check_readable_suffix(path)
    if path.suffix.lower() == ".safetensors":
        from mopruning.ir.weight_files import read_lazily

        tensors = read_lazily(path)[0]
        return Contents((path,), *parameters(tensors), _bytes(tensors))
    opened = open_file(path)
    known, others = opened.split()
    held = {name: lazy(one) for name, one in opened.held().items()}
    computed = opened.parameters if is_network(opened) else {}
    return Contents(
        files_of(path),
        {name: lazy(one) for name, one in known.items()},
        others,
        _bytes(held),
        {name: one for name, one in held.items() if isinstance(one, StoredArray)},
        opened.model,
        {name: (str(one.node.name), one.node.op_type) for name, one in computed.items()},
        read_notes(opened.notes),
    )


def _bytes(tensors: Mapping[str, LazyArray]) -> int:
    return sum(one.nbytes for one in tensors.values())
