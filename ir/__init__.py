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
    from mopruning.ir.validation import describe as describe
    from mopruning.ir.validation import validate as validate

_HOMES: Mapping[str, str] = {
    "describe": "mopruning.ir.validation",
    "passes": "mopruning.ir.passes",
    "validate": "mopruning.ir.validation",
    "zoo": "mopruning.ir.zoo",
}
"""Public name -> the module that is it or defines it."""

__all__ = ["describe", "passes", "validate", "zoo"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
