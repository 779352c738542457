"""What PyTorch knows of a network beyond its graph, kept as text in the model's metadata.

Two keys of `metadata_props`, each left out where it would say nothing:

- ``mopruning.roles``: JSON, name -> "parameter", "buffer" or "constant", for initializers whose content does not tell:
  a trained scalar, a buffer in the state dict, a constant matrix.
- ``mopruning.pytorch``: JSON of the other fields of `Notes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir

from mopruning.ir.parameters import parameters

ROLES = "mopruning.roles"
OTHERS = "mopruning.pytorch"
KINDS = ("parameter", "buffer", "constant")

_FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Notes:
    """What is known of a network beyond its graph.

    Args:
        roles: Initializer -> "parameter", "buffer" (in the state dict, not trained) or "constant", where it differs
            from what `default_roles` says.
        batches: Path of a batch normalisation -> batches it has seen; "*" for all that are not named. Empty where the
            network does not come from PyTorch.
        cumulative: Paths of the batch normalisations that average over all batches (``momentum=None``).
        dropouts: Name of a Dropout node -> "channels", "alpha" or "alpha channels", where it does not drop elements.
        paddings: Path of an embedding -> its `padding_idx`, the row that is not trained.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    batches: Mapping[str, int] = field(default_factory=dict)
    cumulative: tuple[str, ...] = ()
    dropouts: Mapping[str, str] = field(default_factory=dict)
    paddings: Mapping[str, int] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Return the entries of `metadata_props`."""
        others = {
            "batches": self.batches,
            "cumulative": list(self.cumulative),
            "dropouts": self.dropouts,
            "paddings": self.paddings,
        }
        kept = {ROLES: self.roles, OTHERS: {name: value for name, value in others.items() if value}}
        return {key: json.dumps(value, separators=(",", ":")) for key, value in kept.items() if value}

    @classmethod
    def of(cls, model: onnx_ir.Model) -> Notes:
        """Read the notes of a model; what is not as expected counts as absent, since any program may write there.

        >>> graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20})
        >>> Notes.of(onnx_ir.Model(graph, ir_version=10, metadata_props={ROLES: '{"scale":"parameter"}'})).roles
        {'scale': 'parameter'}
        """
        roles = _mapping(_read(model, ROLES))
        others = _mapping(_read(model, OTHERS))
        dropouts, cumulative = _mapping(others.get("dropouts")), others.get("cumulative")
        return cls(
            roles={name: role for name, role in roles.items() if role in KINDS},
            batches=_counts(others.get("batches")),
            cumulative=tuple(name for name in cumulative if isinstance(name, str)) if type(cumulative) is list else (),
            dropouts={name: kind for name, kind in dropouts.items() if isinstance(kind, str)},
            paddings=_counts(others.get("paddings")),
        )


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
        dtype = "" if value.const_value is None else _dtype(value.const_value.dtype)
        if name in statistics or (name in trained and dtype not in _FLOATS):
            roles[name] = "buffer"
        else:
            roles[name] = "parameter" if name in trained else "constant"
    return roles


def batch_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Shorten path -> batches seen by naming the most frequent count once.

    >>> batch_counts({"bn1": 7, "bn2": 7, "bn3": 0})
    {'*': 7, 'bn3': 0}
    """
    if not counts:
        return {}
    values = list(counts.values())
    usual = max(values, key=values.count)
    return {"*": usual} | {path: count for path, count in counts.items() if count != usual}


def _read(model: onnx_ir.Model, key: str) -> Any:
    try:
        return json.loads(model.metadata_props.get(key, "null"))
    except (ValueError, RecursionError):
        return None


def _mapping(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}


def _counts(content: Any) -> dict[str, int]:
    return {name: count for name, count in _mapping(content).items() if type(count) is int and 0 <= count < 1 << 62}


def _dtype(dtype: onnx_ir.DataType) -> str:
    return {onnx_ir.DataType.FLOAT: "float32", onnx_ir.DataType.DOUBLE: "float64"}.get(dtype, dtype.name.lower())
