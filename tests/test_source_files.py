"""Written source is imported where it lies, and nothing is left beside it."""

import sys

import pytest

from mopruning.errors import FormatError
from mopruning.source_files import import_source


def test_source_is_run_and_leaves_nothing(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("answer = 6 * 7\n", encoding="utf-8")
    before = sys.dont_write_bytecode
    assert import_source(path).answer == 42
    assert sys.dont_write_bytecode is before
    assert list(tmp_path.iterdir()) == [path]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"weights\.safetensors: is no Python file"):
        import_source(tmp_path / "weights.safetensors")
