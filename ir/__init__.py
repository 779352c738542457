"""The sparse graph IR: what carries a sparse network between frameworks.

Public names are imported when first used, so that whoever only wants one of them does not wait for the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopruning.ir import passes as passes
    from mopruning.ir import zoo as zoo
    from mopruning.ir.moffett import read_moffett as read_moffett
    from mopruning.ir.moffett import write_moffett as write_moffett
    from mopruning.ir.mopir import load as load
    from mopruning.ir.mopir import load_weights as load_weights
    from mopruning.ir.mopir import save as save
    from mopruning.ir.mopir import save_weights as save_weights
    from mopruning.ir.onnx_files import read_onnx as read_onnx
    from mopruning.ir.onnx_files import write_onnx as write_onnx
    from mopruning.ir.passes.shrink import shrink as shrink
    from mopruning.ir.validation import describe as describe
    from mopruning.ir.validation import validate as validate

_HOMES: Mapping[str, str] = {
    "describe": "mopruning.ir.validation",
    "load": "mopruning.ir.mopir",
    "load_weights": "mopruning.ir.mopir",
    "passes": "mopruning.ir.passes",
    "read_moffett": "mopruning.ir.moffett",
    "read_onnx": "mopruning.ir.onnx_files",
    "save": "mopruning.ir.mopir",
    "save_weights": "mopruning.ir.mopir",
    "shrink": "mopruning.ir.passes.shrink",
    "validate": "mopruning.ir.validation",
    "write_moffett": "mopruning.ir.moffett",
    "write_onnx": "mopruning.ir.onnx_files",
    "zoo": "mopruning.ir.zoo",
}
"""Public name -> the module that is it or defines it."""

__all__ = [
    "describe",
    "load",
    "load_weights",
    "passes",
    "read_moffett",
    "read_onnx",
    "save",
    "save_weights",
    "shrink",
    "validate",
    "write_moffett",
    "write_onnx",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
