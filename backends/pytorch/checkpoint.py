"""PyTorch checkpoints (.pth, .pt): read without running code, written back with only some weights replaced."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mopruning.errors import FormatError
from mopruning.files import TensorFile, check_replacements
from mopruning.ir.atomic import atomic

STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
"""Keys under which training programs keep the state dict, in the order they are looked for."""

OFFSET = "_checkpoint_offset"
"""Attribute of a storage that torch loaded without its bytes, as to the "meta" device: where they lie in the file."""

_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"  # what torch.save wrote before 1.6
_ZIP_MAGIC = b"PK\x03\x04"
_EXTENDED = {torch.bfloat16: "bfloat16", torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}


@dataclass
class Checkpoint(TensorFile):
    """A whole checkpoint in memory: the state dict and everything saved beside it.

    Its tensors are the dense ones, detached, a tied one under its first name. A state dict does not say which module a
    weight belongs to, so each is taken as canonical; the weight of a transposed convolution is really [in, out,
    *kernel].

    Args:
        path: Where it was read from.
        content: All that the file holds.
        location: Keys that lead from `content` to the state dict; empty where `content` is one itself.
    """

    path: Path
    content: Any
    location: tuple[str, ...]

    def __post_init__(self) -> None:
        first: dict[tuple[object, ...], str] = {}
        self.tensors: dict[str, Tensor] = {}
        self._aliases: dict[str, str] = {}
        for name, value in self.state_dict.items():
            if not (isinstance(name, str) and _is_plain(value)):
                continue
            place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
            if value.numel() and place in first:
                self._aliases[name] = first[place]
                continue
            first[place] = name
            self.tensors[name] = value.detach()

    @property
    def state_dict(self) -> Mapping[str, Any]:
        """The state dict, with the very tensors that `save` writes."""
        state = self.content
        for key in self.location:
            state = state[key]
        return state  # type: ignore[no-any-return]

    @property
    def aliases(self) -> dict[str, str]:
        """Return the tied tensors: further name -> first name of the same memory."""
        return dict(self._aliases)

    def replace(self, weights: Mapping[str, Tensor]) -> None:
        """Write new values into the tensors in place, in memory only: ties hold, the file stays as it is.

        Raises:
            FormatError: If elements of a tensor share memory (an expanded view), so that they cannot differ.
        """
        check_replacements(self.tensors, weights)
        for name, value in weights.items():
            tensor = self.tensors[name]
            try:
                with torch.no_grad():
                    tensor.copy_(value)
            except RuntimeError as error:
                raise FormatError(f"{self.path}: tensor {name!r} cannot be written to: {_first_line(error)}") from error

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return every tensor as a NumPy array, for a file of another format.

        Raises:
            FormatError: If the checkpoint holds more than one flat state dict of dense tensors.
        """
        state = flat_state(self.path, self.content, self.location)
        return {name: to_numpy(self.path, name, value.detach()) for name, value in state.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole checkpoint, whole or not at all."""
        _save(self.content, path)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint through torch's restricted unpickler: nothing in the file is executed.

    The state dict may be the whole file or lie under one of `STATE_KEYS`, or under the only other key that holds
    tensors by name.

    Args:
        path: A .pth or .pt file.

    Raises:
        FormatError: If the file is truncated, contains code (a pickled module, a TorchScript archive), is no
            checkpoint, or holds no state dict.
        OSError: If it cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "net.pth"
    >>> torch.save({"epoch": 3, "state_dict": {"fc.weight": torch.eye(2)}}, path)
    >>> read_checkpoint(path).weights()
    {'fc.weight': tensor([[1., 0.],
            [0., 1.]])}
    """
    file = Path(path)
    content = load(file)
    return Checkpoint(file, content, locate(file, content))


def write_weights(path: str | os.PathLike[str], weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write NumPy arrays as a flat state dict, whole or not at all.

    Raises:
        FormatError: If torch has no such dtype.
    """
    state = {name: to_tensor(name, array) for name, array in weights.items()}
    _save(state, path)


def _save(content: Any, path: str | os.PathLike[str]) -> None:
    # a stream, because torch writes the name of a file into it, and the temporary one's is random
    with atomic(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def load(path: Path, device: str = "cpu") -> Any:
    """Load what a file holds through torch's restricted unpickler; on the "meta" device without the tensors' bytes.

    Raises:
        FormatError: If the file is damaged, contains code, or was not written by torch.
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:  # a file that is missing or a folder is an OSError, not a damaged checkpoint
        magic = stream.read(len(_LEGACY_MAGIC))
        stream.seek(0)
        if not magic:
            raise FormatError(f"{path}: is empty, expected a PyTorch checkpoint")
        if magic.startswith(_ZIP_MAGIC) and not _has_directory(stream):
            raise FormatError(f"{path}: truncated: the directory at the end of its zip archive is missing")
        stream.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's remarks on old formats, none concerns the caller
                return torch.load(stream, map_location=device, weights_only=True)
        except Exception as error:  # a damaged pickle makes the unpickler raise almost anything
            raise FormatError(f"{path}: {_reason(error, magic)}") from error


def _has_directory(stream: BinaryIO) -> bool:
    try:
        return zipfile.is_zipfile(stream)
    except zipfile.BadZipFile:  # Python 3.11 raises it where the directory's own record is damaged
        return True  # torch says what is wrong


def _reason(error: Exception, magic: bytes) -> str:
    text = str(error)
    found = re.search(r"GLOBAL\s+([\w.]+)", text)
    if found or "TorchScript" in text:
        what = found[1] if found else "a TorchScript archive"
        return f"refused: it contains code ({what}), which was not run; save model.state_dict() alone"
    if not magic.startswith((_ZIP_MAGIC, _LEGACY_MAGIC)):
        pickle = "; a pickle could contain code, so none of it was run" if magic[:1] == b"\x80" else ""
        return f"refused: torch.save did not write it{pickle}"
    return f"damaged or no PyTorch checkpoint: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def locate(path: Path, content: Any) -> tuple[str, ...]:
    """Return the keys that lead to the state dict.

    Raises:
        FormatError: If there is none, or no telling which of several is meant.
    """
    if not isinstance(content, Mapping):
        raise FormatError(f"{path}: expected a state dict or a mapping that holds one, got {type(content).__name__}")
    if (keys := _search(content, depth=3)) is not None:
        return keys
    found = [key for key, value in content.items() if _holds_tensors(value)]
    if len(found) == 1:
        return (found[0],)
    if found:
        raise FormatError(
            f"{path}: holds several state dicts ({', '.join(map(str, found))}); save the one that is meant"
        )
    raise FormatError(f"{path}: holds no state dict: no tensor by name at the top, nor under {', '.join(STATE_KEYS)}")


def flat_state(path: Path, content: Any, location: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Return the state dict of a file that holds nothing else, as other formats can.

    Raises:
        FormatError: If the file holds more than one flat state dict of dense tensors.
    """
    if location:
        beside = [str(key) for key in content if key != location[0]]
        what = f"{', '.join(beside)} beside the weights" if beside else f"the weights under {location[0]!r}"
        raise FormatError(f"{path}: holds {what}, which only .pth and .pt can keep; write one of those")
    odd = [name for name, value in content.items() if not (isinstance(name, str) and _is_plain(value))]
    if odd:
        raise FormatError(f"{path}: {odd[0]!r} is no dense tensor; only .pth and .pt can keep it")
    return content  # type: ignore[no-any-return]


def _search(content: Any, depth: int) -> tuple[str, ...] | None:
    """Look for a state dict under the usual keys, else at the top; `depth` stops a mapping that holds itself."""
    if not isinstance(content, Mapping) or not depth:
        return None
    for key in STATE_KEYS:
        if (inner := _search(content.get(key), depth - 1)) is not None:
            return (key, *inner)
    return () if _holds_tensors(content) else None


def _holds_tensors(content: Any) -> bool:
    return isinstance(content, Mapping) and any(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def _is_plain(value: object) -> bool:
    """Tell whether a value is a dense tensor with numbers: not sparse, nested, quantized or saved without any."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_nested)
        and (value.device.type == "cpu" or getattr(value.untyped_storage(), OFFSET, None) is not None)
    )


def to_numpy(path: Path, name: str, tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor as an array that shares its memory; messages name its file and itself."""
    extended = _EXTENDED.get(tensor.dtype)
    try:
        if extended is None:
            return tensor.resolve_conj().resolve_neg().numpy()
        import ml_dtypes

        words = torch.int16 if tensor.element_size() == 2 else torch.int8
        return tensor.contiguous().view(words).numpy().view(getattr(ml_dtypes, extended))
    except TypeError as error:
        raise FormatError(f"{path}: tensor {name!r}: NumPy has no {tensor.dtype}") from error
    except ImportError:
        raise FormatError(f"{path}: tensor {name!r}: {tensor.dtype} needs ml_dtypes: pip install ml_dtypes") from None


def to_tensor(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Copy an array into a tensor; messages name it."""
    extended = {text: dtype for dtype, text in _EXTENDED.items()}.get(array.dtype.name)
    array = np.array(array, array.dtype.newbyteorder("="), order="C")  # torch wants its own, writable memory
    try:
        if extended is None:
            return torch.from_numpy(array)
        return torch.from_numpy(array.view(np.int16 if array.itemsize == 2 else np.int8)).view(extended)
    except TypeError as error:
        raise FormatError(f"tensor {name!r}: PyTorch has no dtype {array.dtype.name}") from error
