"""What PyTorch knows of a network beyond its graph, kept as text in the model's metadata.

It is JSON under the key ``mopruning.pytorch`` of `metadata_props`, which is left out where it would say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir

KEY = "mopruning.pytorch"


@dataclass(frozen=True)
class Notes:
    """What is known of a network beyond its graph.

    Args:
        batches: Path of a batch normalisation -> batches it has seen; "*" for all that are not named. Empty where the
            network does not come from PyTorch.
        cumulative: Paths of the batch normalisations that average over all batches (``momentum=None``).
        dropouts: Name of a Dropout node -> "channels", "alpha" or "alpha channels", where it does not drop elements.
        paddings: Path of an embedding -> its `padding_idx`, the row that is not trained.
    """

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
        kept = {name: value for name, value in others.items() if value}
        return {KEY: json.dumps(kept, separators=(",", ":"))} if kept else {}

    @classmethod
    def of(cls, model: onnx_ir.Model) -> Notes:
        """Read the notes of a model; what is not as expected counts as absent, since any program may write there.

        >>> graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20})
        >>> Notes.of(onnx_ir.Model(graph, ir_version=10, metadata_props={KEY: '{"batches":{"bn1":7}}'})).batches
        {'bn1': 7}
        """
        others = _mapping(_read(model))
        dropouts, cumulative = _mapping(others.get("dropouts")), others.get("cumulative")
        return cls(
            batches=_counts(others.get("batches")),
            cumulative=tuple(name for name in cumulative if isinstance(name, str)) if type(cumulative) is list else (),
            dropouts={name: kind for name, kind in dropouts.items() if isinstance(kind, str)},
            paddings=_counts(others.get("paddings")),
        )


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


def _read(model: onnx_ir.Model) -> Any:
    try:
        return json.loads(model.metadata_props.get(KEY, "null"))
    except (ValueError, RecursionError):
        return None


def _mapping(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}


def _counts(content: Any) -> dict[str, int]:
    return {name: count for name, count in _mapping(content).items() if type(count) is int and 0 <= count < 1 << 62}
