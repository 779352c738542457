"""Which backends can be tested here, and which must be.

`MOPRUNING_TEST_BACKENDS` (names with commas) says which must be there: absent, they fail instead of being skipped.
"""

from __future__ import annotations

import os

import pytest

from mopruning.backends import installed, load

REQUIRED = set(filter(None, os.environ.get("MOPRUNING_TEST_BACKENDS", "").replace(" ", "").split(",")))


def absence(name: str) -> str | None:
    """Say why a backend cannot be tested here, or None where it can: its framework is there, whatever it then does."""
    if not installed(name):
        try:
            load(name)
        except ImportError as error:
            return str(error)
    return None


def require(name: str) -> None:
    """Skip the test where a backend is absent, or fail it where that backend must be there."""
    if reason := absence(name):
        (pytest.fail if name in REQUIRED else pytest.skip)(reason)
