"""TensorFlow's files: frozen graphs (.pb), checkpoints with their graph (CKPT.meta), and SavedModel folders."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir
import tensorflow.compat.v1 as tf
from google.protobuf import message, text_format

from mopruning.backends.tensorflow1.exporting.checkpoint import checkpoint_contents
from mopruning.backends.tensorflow1.exporting.nodes import Source
from mopruning.backends.tensorflow1.reader import read
from mopruning.backends.tensorflow1.writer import from_ir, lowered
from mopruning.errors import FormatError
from mopruning.ir.atomic import atomic

PathLike: TypeAlias = "str | os.PathLike[str]"
Shapes: TypeAlias = "Mapping[str, Sequence[int | None]] | None"

SIGNATURE = "serving_default"
"""Name of the signature of a SavedModel that is read and written."""

_LARGEST = (1 << 31) - (1 << 24)
"""Bytes of weights that a frozen graph may have: protobuf ends at 2 GB, and the graph itself takes some."""


def read_frozen(
    path: PathLike,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    flags: Mapping[str, bool] | None = None,
    shapes: Shapes = None,
) -> onnx_ir.Model:
    """Read a frozen graph: a GraphDef whose weights are constants.

    Nothing of the file is run; operations that would run Python code are refused, as are all that are not known.

    Args:
        path: A .pb file, or .pbtxt with the same as text.
        inputs: Names of the tensors that are the inputs; None for all placeholders that the outputs depend on.
        outputs: Names of the tensors that are the outputs; None for those that nothing reads.
        flags: Name of a boolean placeholder -> what it is, where it is not false.
        shapes: Name of an input -> its shape, as in the file, where that does not tell it.

    Raises:
        FormatError: If the file is damaged, or no graph, or its weights are not in it.
        UnsupportedOperators: If it computes with operations outside the profile; all of them are listed.
        OSError: If it cannot be read.
    """
    file = Path(path)
    if file.name == "saved_model.pb":
        return read_saved_model(file.parent, shapes=shapes)
    graph = _parsed(file, tf.GraphDef(), "GraphDef")
    if not graph.node:
        raise FormatError(f"{file}: is no GraphDef of TensorFlow: it has no nodes")
    return read(Source(str(file), graph, {}, inputs, outputs, flags or {}, shapes or {}, title=file.stem))


def read_meta(
    path: PathLike,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    flags: Mapping[str, bool] | None = None,
    shapes: Shapes = None,
) -> onnx_ir.Model:
    """Read a checkpoint with its graph: CKPT.meta, and CKPT.index and CKPT.data-... beside it.

    Args:
        path: The .meta file.
        inputs: As for `read_frozen`; where a signature in the file names them, that counts.
        outputs: Likewise.
        flags: As for `read_frozen`.
        shapes: Likewise.

    Raises:
        FormatError: If a file is damaged or of another format, or a weight is not in the checkpoint.
        UnsupportedOperators: If the graph computes with operations outside the profile; all of them are listed.
        OSError: If a file cannot be read.
    """
    file = Path(path)
    meta = _parsed(file, tf.MetaGraphDef(), "MetaGraphDef")
    if not meta.graph_def.node:
        raise FormatError(f"{file}: is no MetaGraphDef of TensorFlow: it has no nodes")
    return _of_meta_graph(meta, file, file.with_suffix(""), inputs, outputs, flags or {}, shapes or {})


def read_saved_model(
    folder: PathLike, *, signature: str = SIGNATURE, flags: Mapping[str, bool] | None = None, shapes: Shapes = None
) -> onnx_ir.Model:
    """Read a SavedModel: the graph for serving, and its variables.

    Args:
        folder: The folder that has saved_model.pb.
        signature: Name of the signature whose inputs and outputs are taken.
        flags: As for `read_frozen`.
        shapes: Input -> shape.

    Raises:
        FormatError: If a file is damaged, or there is no such signature.
        UnsupportedOperators: If the graph computes with operations outside the profile; all of them are listed.
        OSError: If a file cannot be read.
    """
    file = Path(folder) / "saved_model.pb"
    saved = _parsed(file, tf_saved_model(), "SavedModel")
    serving = [meta for meta in saved.meta_graphs if "serve" in meta.meta_info_def.tags] or list(saved.meta_graphs)
    if not serving:
        raise FormatError(f"{file}: is no SavedModel: it has no graph")
    meta = serving[0]
    if signature not in meta.signature_def:
        known = ", ".join(sorted(meta.signature_def)) or "none"
        raise FormatError(f"{file}: has no signature {signature!r}; there are {known}")
    prefix = Path(folder) / "variables" / "variables"
    return _of_meta_graph(meta, file, prefix, None, None, flags or {}, shapes or {}, signature)


def tf_saved_model() -> Any:
    """Return an empty SavedModel message, for which TensorFlow has no public name."""
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel()


def _of_meta_graph(
    meta: Any,
    file: Path,
    prefix: Path,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    flags: Mapping[str, bool],
    shapes: Mapping[str, Sequence[int | None]],
    signature: str = SIGNATURE,
) -> onnx_ir.Model:
    titles: dict[str, str] = {}
    found = meta.signature_def.get(signature) if signature in meta.signature_def else None
    if found is not None and inputs is None and outputs is None:
        inputs = [info.name for _, info in sorted(found.inputs.items())]
        outputs = [info.name for _, info in sorted(found.outputs.items())]
        titles = {info.name: key for key, info in (*found.inputs.items(), *found.outputs.items())}
    contents = checkpoint_contents(meta.graph_def, prefix, str(file))
    title = prefix.name if prefix.name != "variables" else file.parent.name
    source = Source(str(file), meta.graph_def, contents, inputs, outputs, flags, shapes, title=title, titles=titles)
    return read(source)


def _parsed(file: Path, empty: Any, kind: str) -> Any:
    content = file.read_bytes()
    try:
        if file.suffix.lower() == ".pbtxt":
            return text_format.Parse(content.decode(), empty)
        empty.ParseFromString(content)
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{file}: is no {kind} of TensorFlow: {' '.join(str(error).split())[:200]}") from None
    return empty


def write_frozen(model: onnx_ir.Model, path: PathLike) -> None:
    """Write a frozen graph: what computes in inference, with the weights as constants. Images are NHWC.

    Dropout and the momentum of batch normalisations are noted in it, so that what is read back trains as before.

    Args:
        model: The model; it is not changed.
        path: The .pb file.

    Raises:
        UnsupportedOperators: If TensorFlow cannot express the model.
        FormatError: If its weights take more than 2 GB, which protobuf cannot hold.
        OSError: If the file cannot be written.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size > _LARGEST:
        raise FormatError(
            f"{os.fspath(path)}: {size} bytes of weights do not fit into a frozen graph, which ends at 2 GB; write a "
            "checkpoint (CKPT.meta) or a SavedModel (a folder)"
        )
    low, _, _ = lowered(model, frozen=True)
    definition = low.graph.as_graph_def()
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        stream.write(definition.SerializeToString())


def write_meta(model: onnx_ir.Model, path: PathLike) -> None:
    """Write a checkpoint with its graph, which trains: CKPT.meta, CKPT.index and CKPT.data-00000-of-00001.

    ``saver = tf.train.import_meta_graph("CKPT.meta"); saver.restore(session, "CKPT")`` loads it in plain TensorFlow.

    Args:
        model: The model; it is not changed.
        path: The .meta file; the others are beside it.

    Raises:
        UnsupportedOperators: If TensorFlow cannot express the model.
        FormatError: If the name of the file does not end in .meta, or the model has no weights.
        OSError: If a file cannot be written.
    """
    target = Path(path)
    if target.suffix != ".meta":
        raise FormatError(f"{target}: expected a name that ends in .meta, got {target.name!r}")
    network = from_ir(model)
    if not network.variables:
        raise FormatError(f"{target}: the model has no weights, so there is nothing for a checkpoint; write a .pb file")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as folder:
        with network.graph.as_default(), network.session() as session:
            saver = tf.train.Saver(list(network.variables.values()))
            saver.save(session, str(Path(folder) / target.stem), write_state=False, strip_default_attrs=True)
        written = sorted(Path(folder).iterdir(), key=lambda file: file.suffix == ".meta")  # the graph last
        for file in written:
            os.replace(file, target.parent / file.name)


def write_saved_model(model: onnx_ir.Model, folder: PathLike) -> None:
    """Write a SavedModel, with the tag "serve" and the signature "serving_default". Images are NHWC.

    Args:
        model: The model; it is not changed.
        folder: Where to; an older SavedModel there is replaced.

    Raises:
        UnsupportedOperators: If TensorFlow cannot express the model.
        FormatError: If the folder has something else in it.
        OSError: If it cannot be written.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise FormatError(f"{target}: a SavedModel is a folder, and this is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / "saved_model.pb").is_file():
        raise FormatError(f"{target}: the folder has something else in it than a SavedModel")
    network = from_ir(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        own = Path(temporary) / "model"
        with network.graph.as_default(), network.session() as session:
            signature = tf.saved_model.predict_signature_def(dict(network.inputs), dict(network.outputs))
            builder = tf.saved_model.Builder(str(own))
            builder.add_meta_graph_and_variables(
                session, ["serve"], signature_def_map={SIGNATURE: signature}, strip_default_attrs=True
            )
            builder.save()
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(own, target)
