"""How a network is written as Python source: its layers, its `construct`, and the functions that these need."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Iterator

import onnx_ir

from mopruning.backends.mindspore.lowering import functions
from mopruning.backends.mindspore.lowering.context import Lowering, Statement, Var

_HELPERS = ("named", "lstm", "gru")
_RESERVED = {"self", "ms", "nn", "ops", "Parameter", "Tensor", "Path", *_HELPERS}
_UNSAFE = r"[^\w.\-/:]"  # in a comment

_MODEL = '''class {name}(nn.Cell):
    """The network; it takes {arguments}."""

    def __init__(self{constants}):
        super().__init__(auto_prefix=False)  # parameters have their names already
{attributes}

    def construct(self, {arguments}):
{statements}


def load(path=Path(__file__).with_name("weights.ckpt")):
    """Build the network with its weights; `set_train()` turns BatchNorm and Dropout on."""
    weights = ms.load_checkpoint(str(path))
{build}
    ms.load_param_into_net(network, weights, strict_load=True)
    return network
'''

_PLAIN = """    with no_init_parameters():
        network = {name}()"""
_WITH_CONSTANTS = """    constants = {{name: Tensor(weights.pop(name)) for name in {names}}}
    with no_init_parameters():
        network = {name}(constants)"""


def source(name: str, low: Lowering) -> str:
    """Return the whole file of a network whose class has this name."""
    statements = [*_construct(low)]
    used = "\n".join(statements)
    attributes = [
        f"self.{attribute} = {built}"
        for attribute, built in low.attributes.items()
        if re.search(rf"\bself\.{attribute}\b", used) or built.startswith(("named", "Parameter"))
    ]
    constants = [
        attribute for attribute in low.constants if f"self.{attribute} = constants[{attribute!r}]" in attributes
    ]
    for attribute in low.constants.keys() - set(constants):
        del low.constants[attribute]
    build = _WITH_CONSTANTS.format(names=repr(tuple(constants)), name=name) if constants else _PLAIN.format(name=name)
    body = _MODEL.format(
        name=name,
        arguments=", ".join(low.inputs),
        constants=", constants" if constants else "",
        attributes=_indented(attributes),
        statements=_indented(statements),
        build=build,
    )
    text = "\n\n\n".join([*_helpers(body), body])
    imports = [word for word in ("Parameter", "Tensor", "nn", "ops") if re.search(rf"\b{word}\b", text)]
    return (
        f'"""The network {name}: load() builds it with its weights; needs mindspore and nothing else."""\n\n'
        "from pathlib import Path\n\nimport mindspore as ms\n"
        f"from mindspore import {', '.join(imports)}\n"
        f"from mindspore.nn.utils import no_init_parameters\n\n\n{text}"
    )


def class_name(model: onnx_ir.Model) -> str:
    """Return the name of a graph as that of a class.

    >>> class_name(onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], name="resnet50_v1d"), ir_version=10))
    'Resnet50V1d'
    """
    name = re.sub(r"\W", "_", model.graph.name or "network", flags=re.ASCII)
    camel = "".join(part.capitalize() for part in name.split("_")) if name == name.lower() else name
    usable = camel.isidentifier() and not keyword.iskeyword(camel) and camel not in _RESERVED
    return camel if usable and camel != "load" else "Network"


def argument(name: str, taken: set[str]) -> str:
    """Return the name of an input as that of an argument, and note it in `taken`."""
    own = re.sub(r"\W", "_", name, flags=re.ASCII)
    while not own.isidentifier() or keyword.iskeyword(own) or own in _RESERVED | taken:
        own = f"x_{own}"
    taken.add(own)
    return own


def _helpers(body: str) -> Iterator[str]:
    for name in _HELPERS:
        if re.search(rf"\b{name}\(", body):
            text = inspect.getsource(getattr(functions, name)).rstrip()
            head, _, rest = text.partition('"""')
            head = re.sub(r": (Any|nn\.Cell|str|bool)\b| -> (Any|nn\.Cell)", "", head)
            head = head.replace(' = ""', '=""')
            text = f'{head}"""{rest}'
            yield f"NATIVE = {_dict(functions.NATIVE)}\n\n\n{text}" if name == "named" else text


def _dict(table: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in table.items()) + "}"


def _construct(low: Lowering) -> Iterator[str]:
    """Yield the statements of `construct`; a variable is used again as soon as its value is not needed."""
    needed: set[Var] = set(low.outputs)
    alive: list[Statement] = []
    for statement in reversed(low.statements):
        if statement.target in needed:
            needed.update(statement.operands)
            alive.append(statement)
    alive.reverse()
    last = {operand: place for place, statement in enumerate(alive) for operand in statement.operands}
    last |= dict.fromkeys(low.outputs, len(alive))
    names = {variable: name for name, variable in low.inputs.items()}
    taken = set(low.inputs)
    kept = {name for name, variable in low.inputs.items() if any(f"{name}.shape" in s.template for s in alive)}
    block = ""
    for place, statement in enumerate(alive):
        texts = [operand.text or names[operand] for operand in statement.operands]
        expression = statement.template.format(*texts)
        for operand in set(statement.operands):
            if not operand.text and last[operand] == place and names[operand] not in kept:
                taken.discard(names[operand])
        own = next(name for name in _letters() if name not in taken)
        names[statement.target] = own
        taken.add(own)
        part = statement.place.rpartition(".")[0]
        if part and part != block:
            yield f"# {re.sub(_UNSAFE, '_', part)}"
        block = part or block
        yield f"{own} = {expression}"
    results = [variable.text or names[variable] for variable in low.outputs]
    yield f"return {', '.join(results)}"


def _letters() -> Iterator[str]:
    yield from "xyzuvw"
    number = 1
    while True:
        yield f"x{number}"
        number += 1


def _indented(lines: list[str]) -> str:
    return "\n".join(" " * 8 + line for line in lines)
