"""The block that `from_ir` builds: MXNet's SymbolBlock, with what it does not do for parameters of any name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from mopruning.backends.mxnet.framework import gluon, mx

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


class Network(gluon.SymbolBlock):  # type: ignore[misc]  # MXNet brings no types
    """A network that computes a symbol.

    Args:
        outputs: The symbols of its outputs.
        inputs: Those of its inputs, in order.
        contents: Parameter -> its numbers, which are copied.
        trained: Names of the parameters that train. The others, such as running statistics, never have a gradient.
    """

    def __init__(
        self, outputs: Sequence[Any], inputs: Sequence[Any], contents: Mapping[str, NumPyArray], trained: set[str]
    ) -> None:
        super().__init__(list(outputs), list(inputs))
        for name, parameter in self.params.items():
            parameter.grad_req = "write" if name in trained else "null"
            parameter._differentiable = name in trained  # so that nothing takes it for a weight
            parameter.shape = contents[name].shape
            parameter.initialize(mx.init.Zero(), ctx=mx.cpu())
            parameter.data()[:] = contents[name]
        # MXNet 1.9.1 drops what letters all names begin with, and would save "layer1.weight" as "1.weight".
        self._reg_params = dict(self.params.items())

    def cast(self, dtype: Any) -> None:
        """Cast the network to another type, in place; batch normalisation stays float32, as MXNet wants it.

        MXNet 1.9.1 knows the parameters of batch normalisation by their usual names alone.
        """
        super().cast(dtype)
        if np.dtype(dtype) == np.float16:
            nodes = json.loads(self._cached_graph[1].tojson())["nodes"]
            for node in nodes:
                if node["op"] == "BatchNorm":
                    for source, *_ in node["inputs"][1:]:
                        self.params.get(nodes[source]["name"]).cast("float32")
