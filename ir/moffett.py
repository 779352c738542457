"""The published Moffett pair: NAME.json, a graph of twelve operators, and NAME.npz, its parameters.

A node carries its id from the file in its metadata under "moffett.node_id", and its name ends in it ("conv2d_287").
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.errors import FormatError
from mopruning.ir import npz as plain_npz
from mopruning.ir.atomic import atomic
from mopruning.ir.moffett_graph import build
from mopruning.ir.moffett_nodes import Edits, edited, read_nodes
from mopruning.ir.moffett_writer import to_nodes
from mopruning.ir.pickled_arrays import read_pickled
from mopruning.ir.validation import validate

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
FilePath: TypeAlias = "str | os.PathLike[str]"

_PICKLED = "arr_0.npy"  # what numpy.savez calls an array that is given no name
_NPY: Any = np.lib.format  # as NumPy before 2.0 has no types for it


def read_moffett(
    graph: FilePath,
    parameters: FilePath | None = None,
    *,
    input_node_ids: Sequence[int] = (),
    output_node_ids: Sequence[int] = (),
    update_node_cfg: Edits = (),
) -> onnx_ir.Model:
    """Read a Moffett pair, or a part of it.

    Padding, groups, dilation, the counting of pads and the bias of transposed convolutions are taken over in full.
    A bias_add goes into the convolution or dense layer before it. Nodes that lead to no output are left out. The weight
    of a transposed convolution is taken as [in, out, ...]; if its ``channels`` show that it lies as [out, in, ...], it
    is turned.

    Args:
        graph: The .json file.
        parameters: The .npz file, by default the one of the same name beside it. Its pickled dict is read by a reader
            that knows NumPy arrays and nothing else; an archive of plain named arrays is read as well.
        input_node_ids: Ids of nodes whose values the model takes as inputs, in this order; what lies before them is
            left out. By default the inputs of the network, and ids that are read but not there.
        output_node_ids: Ids of nodes whose values the model gives, in this order. By default those nothing reads.
        update_node_cfg: Attributes to set before the network is built: a mapping id -> attributes, or a list of pairs
            or of mappings with a "node_id". The file's names count, and those of PyTorch's modules (``stride``,
            ``kernel_size``). For a 224-pixel network on 32-pixel images, for instance,
            ``{287: {"strides": [1, 1]}, 299: {"pool_size": [1, 1], "strides": [1, 1], "padding": [0, 0]}}``.

    Returns:
        A model that `mopruning.ir.validation.validate` accepts; its batch axis is open.

    Raises:
        UnsupportedOperators: If nodes that are needed call operators the format does not have; all are listed.
        FormatError: If the files are damaged or unsafe, do not belong together, or an id or attribute is unknown; the
            message names the node.
        OSError: If they cannot be read.

    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> nodes = [
    ...     {"node_id": 0, "node_type": "Var", "node_name": "data", "op_type": "Const", "shape": [1, 3]},
    ...     {"node_id": 2, "node_type": "Call", "op_type": "nn.dense", "inputs": [0, "w"], "attrs": {"units": 2}},
    ... ]
    >>> _ = (folder / "net.json").write_text(json.dumps(nodes))
    >>> np.savez(folder / "net.npz", {"w": np.ones((2, 3), np.float32)})  # as published: a pickled dict
    >>> model = read_moffett(folder / "net.json", folder / "net.npz")
    >>> model.graph.node(0).name, list(model.graph.initializers)
    ('dense_2', ['w'])
    """
    file = Path(graph)
    arrays = _read_parameters(_beside(graph) if parameters is None else Path(parameters))
    try:
        nodes = edited(read_nodes(file.read_text(encoding="utf-8")), update_node_cfg)
        model = build(file.stem, nodes, arrays, tuple(input_node_ids), tuple(output_node_ids))
    except UnicodeDecodeError as error:
        raise FormatError(f"{file}: no Moffett graph: {error}") from None
    except FormatError as error:
        if hasattr(error, "problems"):
            raise
        raise FormatError(f"{file}: {error}") from error
    validate(model)
    return model


def write_moffett(
    model: onnx_ir.Model, graph: FilePath, parameters: FilePath | None = None, *, pickled: bool = False
) -> tuple[int, ...]:
    """Write a model as a Moffett pair, each file whole or not at all.

    Ids that the model had when it was read stay where they can. Dropout and Identity, which do nothing in inference,
    have no operator there and are left out; a batch axis that is open becomes 1.

    Args:
        model: A model of convolutions, poolings, dense layers and the other operators of the format; it is not changed.
        graph: Where the .json goes.
        parameters: Where the .npz goes; beside the .json under the same name by default.
        pickled: Write one pickled dict, as published programs expect, rather than named arrays.

    Returns:
        The ids of the model's outputs. `read_moffett` needs them where an output is also read inside the network, or
        where their order is not that of the nodes.

    Raises:
        UnsupportedOperators: If the format has no operator for some nodes; all are listed.
        FormatError: If an initializer has a type .npz does not know.
        OSError: If a file cannot be written.
    """
    validate(model)
    text, arrays, outputs = to_nodes(model)
    with atomic(_beside(graph) if parameters is None else parameters) as temporary:
        if pickled:
            with temporary.open("wb") as stream:
                np.savez(stream, np.array(arrays, object))
        else:
            plain_npz.write(temporary, arrays, compressed=False)
    with atomic(graph) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return outputs


def _beside(graph: FilePath) -> Path:
    return Path(graph).with_suffix(".npz")


def _read_parameters(path: Path) -> dict[str, NumPyArray]:
    """Read the arrays of an .npz file by name, pickled as one dict or plain."""
    with path.open("rb") as file:
        try:
            pickled = _pickled(file)
        except Exception as error:  # a damaged header makes NumPy and zipfile raise almost anything
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise FormatError(f"{path}: truncated, or no .npz file: {reason}") from None
    return plain_npz.read(path)[0] if pickled is None else read_pickled(pickled, str(path))


def _pickled(file: IO[bytes]) -> bytes | None:
    """Return the pickle in an archive that holds nothing else, None for one of plain arrays."""
    with zipfile.ZipFile(file) as archive:
        if archive.namelist() != [_PICKLED]:
            return None
        with archive.open(_PICKLED) as stream:
            version = _NPY.read_magic(stream)
            read_header = _NPY.read_array_header_1_0 if version == (1, 0) else _NPY.read_array_header_2_0
            _, _, dtype = read_header(stream)
            return stream.read() if dtype.hasobject else None
