"""Ties: weights that a network has under several names, as a decoder that shares the matrix of its embedding.

A graph holds such a weight once, under its first name. The further ones stand in the model's metadata: key
``mopruning.tied``, JSON, further name -> first name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx_ir

TIED = "mopruning.tied"


def ties_of(model: onnx_ir.Model) -> dict[str, str]:
    """Return further name -> first name; what is not as expected counts as absent, since any program may write there.

    >>> weight = onnx_ir.val("embed.weight", const_value=onnx_ir.tensor([[1.0]]))
    >>> graph = onnx_ir.Graph([], [], nodes=[], initializers=[weight], opset_imports={"": 20})
    >>> noted = '{"decoder.weight":"embed.weight","lost.weight":"gone.weight"}'
    >>> ties_of(onnx_ir.Model(graph, ir_version=10, metadata_props={TIED: noted}))
    {'decoder.weight': 'embed.weight'}
    """
    try:
        noted = json.loads(model.metadata_props.get(TIED, "null"))
    except (ValueError, RecursionError):
        return {}
    held = model.graph.initializers
    return {
        further: first
        for further, first in (noted.items() if isinstance(noted, dict) else ())
        if isinstance(first, str) and first in held and further not in held
    }


def ties_metadata(ties: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata entry for further name -> first name."""
    return {TIED: json.dumps(dict(ties), separators=(",", ":"))} if ties else {}
