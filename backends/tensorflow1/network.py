"""A network of the IR as a TensorFlow graph that trains, and how its weights get into a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import tensorflow.compat.v1 as tf

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_AT_ONCE = 1 << 27  # bytes of weights that are loaded together


@dataclass(frozen=True, eq=False)
class Network:
    """A TensorFlow graph with variables, and what they start with.

    Args:
        name: Name of the network.
        graph: The graph.
        inputs: Placeholders by their names in the IR, in order. Images are NHWC.
        outputs: Tensors by their names in the IR, in order. Images are NHWC.
        training: Boolean placeholder: feed True in a training step. Then dropout drops, batch normalisation takes the
            batch's statistics, and the updates of its running ones are in the collection UPDATE_OPS.
        variables: Variables by the parameters' names in the IR.
        orders: Input or output -> its axes in the order that the tensor has, (0, 2, 3, 1) for an image; those that
            lie as in the IR are left out.
        contents: Variable -> function that returns what it starts with, as it lies in TensorFlow.
    """

    name: str
    graph: tf.Graph
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    training: Any
    variables: Mapping[str, Any]
    orders: Mapping[str, tuple[int, ...]]
    contents: Mapping[str, Callable[[], NumPyArray]] = field(repr=False)

    def load(self, session: Any) -> None:
        """Put the weights into a session in place, some at a time; they are no part of the graph.

        `tf.global_variables_initializer` knows nothing of them: it makes them zero. In a MonitoredTrainingSession, load
        them by ``tf.train.Scaffold(init_fn=lambda _, session: network.load(session))``.
        """
        feeds: dict[Any, NumPyArray] = {}
        assigns = []
        for name, variable in self.variables.items():
            assigns.append(variable.initializer)
            feeds[variable.initializer.inputs[1]] = self.contents[name]()
            # every set of assignments is planned anew, which takes longer than they do: as many as fit
            if sum(array.nbytes for array in feeds.values()) > _AT_ONCE:
                session.run(assigns, feeds)
                assigns, feeds = [], {}
        if assigns:
            session.run(assigns, feeds)

    def session(self, **options: Any) -> Any:
        """Return a new `tf.Session` of the graph with the weights loaded; `options` are its own."""
        session = tf.Session(graph=self.graph, **options)
        self.load(session)
        return session

    def run(self, arrays: Sequence[NumPyArray], session: Any = None) -> list[NumPyArray]:
        """Compute the outputs for inputs that lie as in the IR: images are NCHW on both ends.

        Args:
            arrays: One array for each input, in order.
            session: A session of the graph; None for a new one with the weights as they were.
        """
        if session is None:
            with self.session() as own:
                return self.run(arrays, own)
        feeds = {
            placeholder: np.transpose(array, self.orders.get(name, range(array.ndim)))
            for (name, placeholder), array in zip(self.inputs.items(), arrays, strict=True)
        }
        results = session.run(list(self.outputs.values()), feeds)
        return [
            np.transpose(array, np.argsort(self.orders.get(name, range(array.ndim))))
            for name, array in zip(self.outputs, results, strict=True)
        ]
