"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a temporary file that takes the place of `path` once the block has ended well.

    The temporary file lies in the same folder, so that renaming it is one step; it reaches the disk before that.
    On an error it is removed and `path` is as it was.

    Args:
        path: The file to write or to replace.

    Yields:
        Path of an empty file to write to.

    Raises:
        OSError: If the folder does not exist or cannot be written to.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "net.npz"
    >>> with atomic(target) as temporary:
    ...     size = temporary.write_bytes(b"whole")
    ...     target.exists()
    False
    >>> target.read_bytes()
    b'whole'
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file name", str(target))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(target.parent))
    temporary = target.parent / f".mopruning-{secrets.token_hex(8)}.tmp"
    # not through `tempfile`, whose files only their owner may read: the umask shall decide, as for any new file
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    permissions = stat.S_IMODE(os.fstat(descriptor).st_mode)
    os.close(descriptor)
    try:
        yield temporary
        temporary.chmod(permissions)  # safetensors 0.8 puts a file of its own, made by `tempfile`, in its place
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BaseException:  # an interrupt, too, must not leave half a file behind
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the renaming itself to the disk, where the system lets a folder be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
