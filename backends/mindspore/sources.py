"""Sources: where the files of networks lie that are built from source, and how these are imported.

GRAPH mode compiles a Cell from its source: it reads the file, and finds the names that `construct` uses in the module
of the class, by the name that `sys.modules` has for it (MindSpore 2.10). So both stay as long as the process.
"""

from __future__ import annotations

import itertools
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

from mopruning.source_files import import_source

_numbers = itertools.count(1)


def import_kept(path: Path) -> ModuleType:
    """Run a Python file as a module that stays in `sys.modules`, and leave no compiled copy beside it.

    Only for files that were just written here: whatever stands in it is executed.

    Raises:
        FormatError: If it is no Python file.
    """
    return import_source(path, kept_as=f"mopruning_mindspore_{next(_numbers)}")


def import_text(text: str) -> ModuleType:
    """Write a module to a file of its own that lies as long as the process lives, and import it."""
    file = Path(tempfile.mkdtemp(dir=_folder().name)) / "model.py"
    file.write_text(text, encoding="utf-8")
    return import_kept(file)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return the folder of all such files, which goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="mopruning-mindspore-")
