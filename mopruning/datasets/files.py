"""Where the files of a data set lie: in a folder, in one of the folders in it, or in an archive."""

from __future__ import annotations

import gzip
import importlib
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO

from mopruning.errors import FormatError

INFLATION = 1032
"""Times that deflate can make its input larger, at most (https://zlib.net/zlib_tech.html)."""

ARCHIVES = (".tar.gz", ".tgz", ".tar")

_CHUNK = 1 << 20
_SLACK = 1 << 16  # bytes of a small file that its headers may take
_BROKEN = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error)
_SUBFOLDERS = (
    *("data", "raw", "mnist", "MNIST/raw", "FashionMNIST/raw", "package", "package/data"),
    *("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-100-binary", "cifar-100-python"),
    *("Imagenet32_train_npz", "Imagenet32_val_npz", "Imagenet32_train", "Imagenet32_val"),
)


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Args:
        where: What errors call it.
        path: Where it lies; None for one out of an archive.
        held: Content of one out of an archive.
    """

    where: str
    path: Path | None = None
    held: bytes = b""

    def content(self) -> bytes:
        """Return the bytes of the file."""
        return self.held if self.path is None else self.path.read_bytes()


def collect(path: Path, wanted: Collection[str]) -> dict[str, File]:
    """Find files by name in a folder, one of the usual folders in it, or an archive.

    Args:
        path: A folder, or a tar archive, packed or not.
        wanted: Names, without folders.

    Returns:
        Those that are there, by name; they come from one folder.

    Raises:
        FormatError: If the archive is damaged, or claims sizes that it cannot hold.
    """
    if not path.is_dir():
        return _unpacked(path, wanted)
    for folder in (path, *(path / name for name in _SUBFOLDERS)):
        found = {name: File(os.fspath(folder / name), folder / name) for name in wanted if (folder / name).is_file()}
        if found:
            return found
    return {}


def _unpacked(path: Path, wanted: Collection[str]) -> dict[str, File]:
    limit = path.stat().st_size * INFLATION
    found: dict[str, File] = {}
    with refusing(os.fspath(path), "archive", *_BROKEN), tarfile.open(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name not in wanted or not member.isfile():
                continue
            where = f"{path}: {member.name}"
            if name in found:
                raise FormatError(f"{where}: there is another file of this name in the archive")
            if member.size > limit:
                raise FormatError(f"{where}: damaged: it claims {member.size} bytes, the archive cannot hold {limit}")
            stream = archive.extractfile(member)
            assert stream is not None  # it is a file
            with stream:
                found[name] = File(where, held=read_exactly(stream, member.size, where))
    return found


@contextmanager
def refusing(where: str, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a damaged file into a FormatError."""
    try:
        yield
    except FormatError:
        raise
    except errors as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FormatError(f"{where}: damaged, or no {what}: {reason}") from error


def read_exactly(stream: IO[bytes], size: int, where: str) -> bytes:
    """Read a number of bytes, in parts, so that memory is taken for what is there and not for what is claimed.

    Raises:
        FormatError: If there are fewer.
    """
    parts, left = [], size
    while left:
        part = stream.read(min(left, _CHUNK))
        if not part:
            raise FormatError(f"{where}: truncated: expected {size} bytes, got {size - left}")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def check_inflation(packed: int, unpacked: int, where: str) -> None:
    """Raise FormatError where so many bytes cannot have been packed into so few."""
    if unpacked > packed * INFLATION + _SLACK:
        raise FormatError(f"{where}: damaged: it claims {unpacked} bytes, which {packed} packed bytes cannot hold")


@contextmanager
def gunzipped(content: bytes, where: str) -> Iterator[IO[bytes]]:
    """Open the content of a .gz file; damage to it is a FormatError."""
    import io

    with refusing(where, "gzip file", EOFError, OSError, zlib.error), gzip.open(io.BytesIO(content)) as stream:
        yield stream  # type: ignore[misc]


def optional(module: str, package: str, purpose: str) -> ModuleType:
    """Import a module of the extra "data".

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}: pip install 'mopruning[data]'") from error
