"""Source folders: a network's Python file and the weights that it loads from beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mopruning.ir.atomic import atomic

SOURCE = "model.py"
"""Name of the Python file."""


def write_source_folder(folder: str | os.PathLike[str], text: str, weights: str, write: Callable[[Path], None]) -> None:
    r"""Write weights and then the Python file that loads them, each whole or not at all.

    Args:
        folder: Where the two files go; it is made if need be, and files of these names in it are replaced.
        text: The Python file.
        weights: Name of the other file.
        write: Writes the weights to a path.

    Raises:
        OSError: If the folder cannot be written to.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "net"
    >>> write_source_folder(folder, "answer = 42\n", "weights.bin", lambda path: path.touch())
    >>> sorted(file.name for file in folder.iterdir())
    ['model.py', 'weights.bin']
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with atomic(target / weights) as temporary:
        write(temporary)
    with atomic(target / SOURCE) as temporary:
        temporary.write_text(text, encoding="utf-8")
