"""Sources: where the files of networks lie that are built from source, and how these are imported.

GRAPH mode compiles a Cell from its source: it reads the file, and finds the names that `construct` uses in the module
of the class, by the name that `sys.modules` has for it (MindSpore 2.10). So both stay as long as the process.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

from mopruning.errors import FormatError

_numbers = itertools.count(1)


def import_kept(path: Path) -> ModuleType:
    """Run a Python file as a module that stays in `sys.modules`, and leave no compiled copy beside it.

    Only for files that were just written here: whatever stands in it is executed.

    Raises:
        FormatError: If it is no Python file.
    """
    name = f"mopruning_mindspore_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FormatError(f"{path}: is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.dont_write_bytecode = written
    return module


def import_text(text: str) -> ModuleType:
    """Write a module to a file of its own that lies as long as the process lives, and import it."""
    file = Path(tempfile.mkdtemp(dir=_folder().name)) / "model.py"
    file.write_text(text, encoding="utf-8")
    return import_kept(file)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return the folder of all such files, which goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="mopruning-mindspore-")
