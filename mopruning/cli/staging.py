"""Files that are written, looked at, and only then put in their place."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mopruning.errors import FormatError


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a path of the same name in a folder of its own; what was written there moves beside `target` at the end.

    Everything in that folder moves: files that stand beside the target as well as a folder. Each file is moved in one
    step, `target` itself last; files of a folder that is there already are replaced one by one. On an error, or an
    interrupt, nothing is moved and nothing is left. Where an ONNX file is replaced that has its weights in a file
    beside it, these go last of all.

    Args:
        target: The file or folder to write or to replace.

    Yields:
        Where to write it.

    Raises:
        OSError: If the folder of `target` does not exist or cannot be written to.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "net.json"
    >>> with staged(target) as path:
    ...     written = path.write_text("{}") + path.with_suffix(".npz").write_text("weights")
    ...     list(target.parent.glob("net.*"))
    []
    >>> sorted(path.name for path in target.parent.iterdir())
    ['net.json', 'net.npz']
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(target.parent))
    folder = target.parent / f".mopruning-{secrets.token_hex(8)}.tmp"
    folder.mkdir()
    try:
        yield folder / target.name
        older = _weights_beside(target)
        moved = sorted(folder.iterdir(), key=lambda path: path.name == target.name)
        for path in moved:
            _move(path, target.parent / path.name)
        if older:
            from mopruning.ir.onnx_files import remove

            remove(older, kept=[path.name for path in moved])
    except FormatError as error:
        if str(folder) not in str(error):
            raise
        raise FormatError(str(error).replace(str(folder), str(target.parent))) from error  # the name that was asked for
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _weights_beside(target: Path) -> list[Path]:
    """List the files of weights that belong to an ONNX file alone."""
    if not any(path.suffix == ".data" and path.name.startswith(target.name) for path in target.parent.iterdir()):
        return []  # without loading what reads such files
    from mopruning.ir.onnx_files import external_weights

    return external_weights(target)


def _move(path: Path, target: Path) -> None:
    if path.is_dir() and target.is_dir():
        for inner in sorted(path.iterdir(), reverse=True):  # weights before the source that loads them
            _move(inner, target / inner.name)
    else:
        os.replace(path, target)


def bytes_of(paths: tuple[Path, ...]) -> int:
    """Return how many bytes files, and all that is in folders, take."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())
