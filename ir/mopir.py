"""The .mopir format: a network, or weights alone, with every weight in the encoding that takes the fewest bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mopruning.errors import FormatError
from mopruning.files import TensorFile
from mopruning.ir import container, json_text
from mopruning.ir.lazy import LazyArray, lazy, read_all

if TYPE_CHECKING:
    import onnx_ir

    from mopruning.recipe import Recipe

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
PathLike: TypeAlias = "str | os.PathLike[str]"
Notes: TypeAlias = "Recipe | Mapping[str, Any] | None"
"""What can be written as a JSON object."""

PREFIX = "mopruning."
"""Before "recipe" and "provenance" in the metadata of a model that carries them."""

_NOTES = ("recipe", "provenance")


# ---- networks


def save(model: onnx_ir.Model, path: PathLike, *, recipe: Notes = None, provenance: Notes = None) -> None:
    """Write a network, whole or not at all.

    Args:
        model: A model that keeps to the operator profile; it is not changed.
        path: Where to; a file that is there is replaced.
        recipe: How it was pruned; by default what the model carries.
        provenance: Where it comes from, as a JSON object; by default what the model carries.

    Raises:
        FormatError: If the model is outside the operator profile, or holds what the format cannot.
        OSError: If the file cannot be written.

    >>> import tempfile
    >>> import onnx_ir
    >>> path = Path(tempfile.mkdtemp()) / "net.mopir"
    >>> x, y = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 64]), onnx_ir.val("y", onnx_ir.DataType.FLOAT, ["N", 8])
    >>> w = onnx_ir.val("fc.weight", const_value=onnx_ir.tensor(np.eye(8, 64, dtype=np.float32)))
    >>> fc = onnx_ir.node("Gemm", [x, w], {"transB": 1}, outputs=[y], name="fc")
    >>> graph = onnx_ir.Graph([x], [y], nodes=[fc], initializers=[w], opset_imports={"": 20}, name="net")
    >>> save(onnx_ir.Model(graph, ir_version=10), path, provenance={"dataset": "none"})
    >>> model = load(path)
    >>> model.graph.initializers["fc.weight"].const_value.numpy().sum()
    8.0
    >>> model.metadata_props["mopruning.provenance"]
    '{"dataset":"none"}'
    """
    from mopruning.ir.graph_text import to_text
    from mopruning.ir.stored_tensor import lazy_array
    from mopruning.ir.validation import validate

    validate(model)
    metadata = dict(model.metadata_props)
    carried = {key: metadata.pop(PREFIX + key, None) for key in _NOTES}
    texts = {"graph": to_text(model, metadata)} | _notes({"recipe": recipe, "provenance": provenance}, carried)
    tensors = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None  # as `validate` knows
        tensors[name] = lazy_array(tensor)
    container.write(path, tensors, texts)


def load(path: PathLike) -> onnx_ir.Model:
    """Read a network; its weights stay in the file, mapped into memory, until they are used.

    Args:
        path: A file that `save` wrote.

    Returns:
        The model, checked against the operator profile. Its metadata carries "mopruning.recipe" and
        "mopruning.provenance", JSON text, where the file has them. A damaged weight raises FormatError when first used.

    Raises:
        FormatError: If the file is damaged, of another version, or holds weights without a graph.
        OSError: If it cannot be read.
    """
    tensors, texts = container.read(path)
    if "graph" not in texts:
        raise FormatError(f"{os.fspath(path)}: holds weights without a graph; read them with load_weights")
    from mopruning.ir.graph_text import from_text
    from mopruning.ir.stored_tensor import stored_tensor
    from mopruning.ir.validation import validate

    _check_notes(path, texts)
    try:
        model = from_text(texts["graph"], {name: stored_tensor(name, one) for name, one in tensors.items()})
        validate(model)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: graph: {error}") from None
    model.metadata_props.update({PREFIX + key: texts[key] for key in _NOTES if key in texts})
    return model


# ---- weights alone


def save_weights(
    weights: Mapping[str, NumPyArray | LazyArray],
    path: PathLike,
    *,
    recipe: Notes = None,
    provenance: Notes = None,
) -> None:
    """Write weights without a graph, whole or not at all.

    Args:
        weights: Arrays by name; lazy ones are read one at a time.
        path: Where to; a file that is there is replaced.
        recipe: How they were pruned.
        provenance: Where they come from, as a JSON object.

    Raises:
        FormatError: If the format cannot hold a tensor's dtype.
        OSError: If the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "net.mopir"
    >>> save_weights({"fc.weight": np.eye(2)}, path)
    >>> load_weights(path)
    {'fc.weight': array([[1., 0.],
           [0., 1.]])}
    """
    texts = _notes({"recipe": recipe, "provenance": provenance}, {})
    container.write(path, {name: lazy(array) for name, array in weights.items()}, texts)


def load_weights(path: PathLike) -> dict[str, NumPyArray]:
    """Read and decode every weight of a file, with or without a graph.

    Args:
        path: A file that `save` or `save_weights` wrote.

    Returns:
        Read-only arrays by name, in the file's order.

    Raises:
        FormatError: If the file is damaged or of another version; the message names the tensor and the check.
        OSError: If it cannot be read.
    """
    return read_all(container.read(path)[0])


def write_weights(path: PathLike, weights: Mapping[str, NumPyArray | LazyArray]) -> None:
    """Write weights without a graph: `save_weights` as `mopruning.files` calls it."""
    save_weights(weights, path)


@dataclass
class MopirFile(TensorFile):
    """The content of a .mopir file, with everything needed to write it back with other weights.

    Args:
        path: Where it was read from.
        tensors: Every tensor by name, in the network's order.
        texts: The graph, the recipe and the provenance, as far as the file has them.
    """

    path: Path
    tensors: dict[str, LazyArray]
    texts: dict[str, str]

    @property
    def notes(self) -> Mapping[str, str]:
        """The graph, the recipe and the provenance, as far as the file has them."""
        return self.texts

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of what stands beside the tensors."""
        return tuple(sorted(self.texts))

    def weights(self) -> dict[str, NumPyArray]:
        """Return every tensor by name, decoded; arrays may be read-only."""
        return read_all(self.tensors)

    def arrays(self) -> dict[str, NumPyArray]:
        """Return every tensor, for a file of another format.

        Raises:
            FormatError: If another format would lose the graph, the recipe or the provenance.
        """
        if self.texts:
            what = " and ".join(self.beside)
            raise FormatError(f"{self.path}: only .mopir can hold its {what}; write that format")
        return self.weights()

    def save(self, path: PathLike) -> None:
        """Write a file of the same format, whole or not at all."""
        container.write(path, self.tensors, self.texts)

    @staticmethod
    def _held(array: NumPyArray) -> LazyArray:
        return lazy(array)


def open_weights(path: PathLike) -> MopirFile:
    """Read a .mopir file with all that belongs to it; its tensors are decoded when asked for.

    Raises:
        FormatError: If the file is damaged or of another version.
        OSError: If it cannot be read.
    """
    tensors, texts = container.read(path)
    return MopirFile(Path(path), dict(tensors), texts)


# ---- recipe and provenance


def _notes(given: Mapping[str, Notes], carried: Mapping[str, str | None]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, content in given.items():
        if content is not None:
            plain = content if isinstance(content, Mapping) else content.to_dict()
            try:
                found[key] = json_text.compact(dict(plain))
            except FormatError as error:
                raise FormatError(f"{key} {error}") from None
        elif carried.get(key) is not None:
            found[key] = str(carried[key])
    return found


def _check_notes(path: PathLike, texts: Mapping[str, str]) -> None:
    for key in texts.keys() & set(_NOTES):
        try:
            content = json_text.parse(texts[key])
        except FormatError as error:
            raise FormatError(f"{os.fspath(path)}: {key} {error}") from None
        if not isinstance(content, dict):
            raise FormatError(f"{os.fspath(path)}: {key} must be a JSON object, got {type(content).__name__}")
