"""Source: an IR model becomes a folder with a readable Python file and its weights, which run without this package."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
import torch

from mopruning.backends.pytorch import printing
from mopruning.backends.pytorch.lowering import functions
from mopruning.backends.pytorch.lowering.context import Lowering
from mopruning.backends.pytorch.tying import join, untied
from mopruning.backends.pytorch.writer import class_name, lowered
from mopruning.ir.source_folder import SOURCE, write_source_folder
from mopruning.ir.ties import ties_of
from mopruning.source_files import import_source

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_IMPORTS = (
    ("math", "import math"),
    ("Sequence", "from collections.abc import Sequence"),
    ("Path", "from pathlib import Path"),
    ("torch", "import torch"),
    ("F", "import torch.nn.functional as F"),
    ("load_file", "from safetensors.torch import load_file"),
    ("Tensor", "from torch import Tensor, nn"),
)
_STANDARD = 3  # of these, from the standard library

_MODEL = '''class {name}(nn.Module):
    """The network; {inputs}."""

    def __init__(self) -> None:
        super().__init__()
{modules}

    def forward(self, {arguments}):
{forward}


def load(path=Path(__file__).with_name("weights.safetensors")) -> {name}:
    """Build the network with its weights, in training mode: call `eval()` before using it."""
    model = {name}()
    model.load_state_dict(load_file(path))
    return model
'''


def to_folder(model: onnx_ir.Model, folder: str | os.PathLike[str]) -> None:
    r'''Write a network as Python source and weights, which need torch and safetensors and nothing else.

    ``model.py`` holds one class with the modules and the forward pass, and ``load()``, which builds the network with
    the weights of ``weights.safetensors`` beside it. Modules and parameters have their names; the network trains.

    Args:
        model: A model within the operator profile; it is not changed.
        folder: Where the two files go; it is made if need be, and files of these names in it are replaced.

    Raises:
        UnsupportedOperators: If the model is outside the profile.
        FormatError: If PyTorch cannot express it.
        OSError: If the folder cannot be written to.

    >>> import tempfile
    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("tiny")
    >>> x = net.relu(net.conv(net.input("x", (3, 8, 8)), "conv1", 4, 3), "relu")
    >>> folder = Path(tempfile.mkdtemp())
    >>> to_folder(net.model({"output": x}), folder)
    >>> print(*(folder / "model.py").read_text().splitlines()[11:22], sep="\n")
    class Tiny(nn.Module):
        """The network; it takes x."""
    <BLANKLINE>
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(in_channels=3, out_channels=4, kernel_size=3, bias=False)
    <BLANKLINE>
        def forward(self, x):
            x = self.conv1(x)
            x = F.relu(x)
            return x
    '''
    from safetensors.torch import save_file

    low = lowered(untied(model))
    joined, _ = join(low, ties_of(model))
    name = class_name(model)
    name = f"{name}Network" if hasattr(functions, name) else name  # apart from what the file needs besides
    weights = {**low.root.state_dict(), **printing.large_constants(low)}
    weights |= {further: weights[further].clone() for further in joined}  # no shared memory
    text = _source(name, low, joined)
    write_source_folder(folder, text, "weights.safetensors", lambda path: save_file(weights, path))


def run_folder(folder: Path, inputs: Sequence[NumPyArray]) -> list[NumPyArray]:
    """Run what `to_folder` wrote on some inputs, in inference."""
    module = import_source(folder / SOURCE)
    with torch.no_grad():
        outputs = module.load().eval()(*(torch.from_numpy(array) for array in inputs))
    return [one.numpy() for one in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]


def _source(name: str, low: Lowering, joined: Mapping[str, str]) -> str:
    arguments, statements = printing.forward(low)
    helpers = printing.helpers(low)
    body = _MODEL.format(
        name=name,
        inputs="it takes " + ", ".join(arguments),
        modules=_indented([*printing.modules(low), *printing.ties(low, joined)]),
        arguments=", ".join(arguments),
        forward=_indented(statements),
    )
    text = f"{helpers}\n\n\n{body}" if helpers else body
    needed = [line for word, line in _IMPORTS if re.search(rf"(?<![\w.\"]){word}\b", text) or word == "Tensor"]
    standard = [line for _, line in _IMPORTS[:_STANDARD] if line in needed]
    others = [line for _, line in _IMPORTS[_STANDARD:] if line in needed]
    if "Tensor" not in re.findall(r"\bTensor\b", text):
        others[-1] = "from torch import nn"
    head = [f'"""The network {name}: load() builds it with its weights; needs torch and safetensors."""', ""]
    head += ["from __future__ import annotations", "", *standard, "", *others]
    return "\n".join(head) + f"\n\n\n{text}"


def _indented(lines: list[str]) -> str:
    return "\n".join(" " * 8 + line for line in lines)
