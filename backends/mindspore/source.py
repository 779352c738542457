"""Source: an IR model becomes a folder with a readable Python file and a checkpoint, which run without this package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.backends.mindspore import printing
from mopruning.backends.mindspore.sources import import_kept
from mopruning.backends.mindspore.writer import lowered, to_tensor
from mopruning.ir.mindspore_ckpt import write_weights
from mopruning.ir.source_folder import SOURCE, write_source_folder

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def to_folder(model: onnx_ir.Model, folder: str | os.PathLike[str]) -> None:
    r'''Write a network as Python source and weights, which need mindspore and nothing else.

    ``model.py`` holds one Cell, and ``load()``, which builds it with the weights of ``weights.ckpt`` beside it.
    Parameters have their names; the network trains, in GRAPH and in PYNATIVE mode.

    Args:
        model: A model within the operator profile; it is not changed.
        folder: Where the two files go; it is made if need be, and files of these names in it are replaced.

    Raises:
        UnsupportedOperators: If the model is outside the profile, or MindSpore cannot express it; all nodes are named.
        FormatError: If its shapes do not fit together.
        OSError: If the folder cannot be written to.

    >>> import tempfile
    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("tiny")
    >>> x = net.relu(net.conv(net.input("x", (3, 8, 8)), "conv1", 4, 3), "relu")
    >>> folder = Path(tempfile.mkdtemp())
    >>> to_folder(net.model({"output": x}), folder)
    >>> print(*(folder / "model.py").read_text().splitlines()[20:30], sep="\n")
    class Tiny(nn.Cell):
        """The network; it takes x."""
    <BLANKLINE>
        def __init__(self):
            super().__init__(auto_prefix=False)  # parameters have their names already
            self.conv1 = named(nn.Conv2d(3, 4, 3, pad_mode="valid"), 'conv1')
    <BLANKLINE>
        def construct(self, x):
            x = self.conv1(x)
            x = ops.relu(x)
    '''
    low = lowered(model)
    text = printing.source(printing.class_name(model), low)
    contents = {**low.contents, **low.constants}
    write_source_folder(folder, text, "weights.ckpt", lambda path: write_weights(path, contents))


def run_folder(folder: Path, inputs: Sequence[NumPyArray]) -> list[NumPyArray]:
    """Run what `to_folder` wrote on some inputs, in inference."""
    network = import_kept(folder / SOURCE).load()
    outputs = network(*(to_tensor(array) for array in inputs))
    return [one.asnumpy() for one in (outputs if isinstance(outputs, tuple) else (outputs,))]
