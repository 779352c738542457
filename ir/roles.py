"""What each initializer of a graph is: a trained parameter, a buffer, or a constant of an operator.

Where the content does not tell (a trained scalar, a buffer in the state dict, a constant matrix), the model's metadata
do: key ``mopruning.roles``, JSON, name -> "parameter", "buffer" or "constant".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx_ir

from mopruning.ir.parameters import parameters

ROLES = "mopruning.roles"
KINDS = ("parameter", "buffer", "constant")

_FLOATS = (onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)


def roles_of(model: onnx_ir.Model) -> dict[str, str]:
    """Return initializer -> "parameter", "buffer" or "constant": what the model notes, else what its use says.

    >>> graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20})
    >>> roles_of(onnx_ir.Model(graph, ir_version=10, metadata_props={ROLES: '{"gone":"parameter"}'}))
    {}
    """
    noted = noted_roles(model)
    return {name: noted.get(name, role) for name, role in default_roles(model).items()}


def default_roles(model: onnx_ir.Model) -> dict[str, str]:
    """Say what each initializer is, going by the operators that use it.

    Floating numbers that `mopruning.ir.parameters` finds are parameters; running statistics are buffers, and so are
    whole matrices of int8; everything else is a constant.
    """
    trained = parameters(model)
    statistics = {
        value.name
        for node in model.graph
        if node.op_type == "BatchNormalization"
        for value in node.inputs[3:5]
        if value is not None
    }
    roles = {}
    for name, value in model.graph.initializers.items():
        floating = value.const_value is not None and value.const_value.dtype in _FLOATS
        if name in statistics or (name in trained and not floating):
            roles[name] = "buffer"
        else:
            roles[name] = "parameter" if name in trained else "constant"
    return roles


def noted_roles(model: onnx_ir.Model) -> dict[str, str]:
    """Read the roles in the metadata; what is not as expected counts as absent, since any program may write there."""
    try:
        noted = json.loads(model.metadata_props.get(ROLES, "null"))
    except (ValueError, RecursionError):
        return {}
    return {name: role for name, role in noted.items() if role in KINDS} if isinstance(noted, dict) else {}


def roles_metadata(model: onnx_ir.Model, roles: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata entry for roles, of those alone that `default_roles` would not find."""
    usual = default_roles(model)
    noted = {name: role for name, role in roles.items() if usual.get(name, role) != role}
    return {ROLES: json.dumps(noted, separators=(",", ":"))} if noted else {}
