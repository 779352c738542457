"""Checkpoints: how a training is kept in files, each of them whole or not there at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Checkpoints:
    """How a framework keeps a training in a file.

    Args:
        name: Of the file.
        save: Writes it, given its path.
        restore: Goes on from it in place, given its path.
    """

    name: str
    save: Callable[[Path], None]
    restore: Callable[[Path], None]


@dataclass(frozen=True)
class Files:
    """Where a training is kept.

    Args:
        checkpoint: All that it needs to go on.
        log: Its epochs as CSV; their picture lies beside it.
    """

    checkpoint: Path
    log: Path

    @property
    def picture(self) -> Path:
        """Where the log is drawn."""
        return self.log.with_suffix(".png")


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: The file.
        write: Writes what is in it, given a stream.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "log.csv"
    >>> write_whole(target, lambda stream: stream.write(b"epoch"))
    >>> target.read_bytes()
    b'epoch'
    """
    temporary = Path(f"{os.fspath(path)}.part")
    with temporary.open("wb") as stream:
        write(stream)
    temporary.replace(path)
