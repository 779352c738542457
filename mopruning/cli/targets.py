"""Where a command writes to: never over its input, and over nothing else without leave."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def check_free(read: tuple[Path, ...], written: tuple[Path, ...], force: bool) -> None:
    """Refuse to write over an input, under whatever name, or over other files without leave.

    Args:
        read: The files that are read, which are there.
        written: Those that are going to be written.
        force: Whether files may be replaced.

    Raises:
        FileExistsError: If one of them must not be written.
    """
    for file in written:
        if file.exists() and any(os.path.samefile(file, one) for one in read):
            raise FileExistsError(errno.EEXIST, "is the input, which is never changed; name another OUT", str(file))
        empty = file.is_dir() and not any(file.iterdir())
        if os.path.lexists(file) and not empty and not force:
            raise FileExistsError(errno.EEXIST, "exists; name another OUT or add --force", str(file))


def shown(target: Path) -> str:
    """Return a path as it would be typed here.

    >>> shown(Path.cwd() / "out" / "net.onnx")
    'out/net.onnx'
    """
    return str(target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target)
