"""Written source: a network's Python file, imported where it lies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mopruning.errors import FormatError


def import_source(path: Path, kept_as: str | None = None) -> ModuleType:
    """Run a Python file as a module of its own, and leave no compiled copy beside it.

    Only for files that were just written here: whatever stands in it is executed.

    Args:
        path: The file.
        kept_as: Name under which the module stays in `sys.modules`; by default it is not entered there.

    Raises:
        FormatError: If it is no Python file.
    """
    spec = importlib.util.spec_from_file_location(kept_as or "mopruning_written_model", path)
    if spec is None or spec.loader is None:
        raise FormatError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    if kept_as is not None:
        sys.modules[kept_as] = module
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if kept_as is not None:
            del sys.modules[kept_as]
        raise
    finally:
        sys.dont_write_bytecode = written
    return module
