"""Running TensorFlow's files in TensorFlow, on arrays as the IR has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.exporting.nodes import Nodes, Source, parsed
from mopruning.backends.tensorflow1.exporting.notes import Notes

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def run_frozen(path: Path, inputs: Sequence[NumPyArray]) -> list[NumPyArray] | None:
    """Run a frozen graph; see `run_meta`."""
    definition = tf.GraphDef()
    definition.ParseFromString(path.read_bytes())
    return _run(lambda session: tf.import_graph_def(definition, name=""), inputs)


def run_meta(path: Path, inputs: Sequence[NumPyArray]) -> list[NumPyArray] | None:
    """Run a checkpoint with its graph, in inference.

    Args:
        path: The .meta file.
        inputs: Arrays in the order of the model: images are [N, channels, height, width].

    Returns:
        The outputs, as the IR has them; None where the file does not say which tensors are inputs and outputs, as those
        that this package writes do.
    """

    def load(session: Any) -> None:
        tf.train.import_meta_graph(str(path)).restore(session, str(path.with_suffix("")))

    return _run(load, inputs)


def run_saved_model(folder: Path, inputs: Sequence[NumPyArray]) -> list[NumPyArray] | None:
    """Run a SavedModel; see `run_meta`."""
    return _run(lambda session: tf.saved_model.load(session, ["serve"], str(folder)), inputs)


def _run(load: Callable[[Any], object], inputs: Sequence[NumPyArray]) -> list[NumPyArray] | None:
    with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
        load(session)
        notes = Notes.of(Nodes(Source("", graph.as_graph_def(), {}, None, None, {}, {})))
        if len(notes.inputs) != len(inputs) or not notes.outputs:
            return None
        feeds = {
            _tensor(tensor): np.transpose(array, notes.orders.get(name, range(array.ndim)))
            for (name, tensor), array in zip(notes.inputs.items(), inputs, strict=True)
        }
        results = session.run([_tensor(tensor) for tensor in notes.outputs.values()], feeds)
        return [
            np.transpose(array, np.argsort(notes.orders.get(name, range(array.ndim))))
            for name, array in zip(notes.outputs, results, strict=True)
        ]


def _tensor(text: str) -> str:
    """Return a tensor's name in full, which notes leave out for the first output of an operation."""
    return "{}:{}".format(*parsed(text))
