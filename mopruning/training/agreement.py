"""Agreement: whether all processes that share a training have the same masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from mopruning.arrays import Array, on_host
from mopruning.errors import StateError
from mopruning.packing import pack


def digests(masks: Mapping[str, Array]) -> dict[str, str]:
    """Return a hash of each mask, in the order of their names.

    >>> import numpy as np
    >>> digests({"fc": np.array([[True, False]])})
    {'fc': 'ff84685052417f76'}
    """
    found = {}
    for name in sorted(masks):
        bits = pack(on_host(masks[name])).tobytes()
        found[name] = hashlib.blake2b(
            bits, digest_size=8, salt=repr(tuple(masks[name].shape)).encode()[:16]
        ).hexdigest()
    return found


def check_agreement(found: Sequence[Mapping[str, str]]) -> None:
    """Raise StateError, naming process and parameter, where one has another mask than the first.

    Args:
        found: The `digests` of each process.
    """
    for rank, one in enumerate(found):
        for name in sorted(found[0].keys() | one.keys()):
            if one.get(name) != found[0].get(name):
                raise StateError(
                    f"rank {rank} has another mask of {name!r} than rank 0: their weights differ; was one changed by "
                    "hand, or trained on other gradients? Resume all ranks from one checkpoint"
                )
