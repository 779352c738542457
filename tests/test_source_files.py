"""Written source is imported where it lies, and nothing is left beside it; folders are written with their weights."""

import doctest
import sys
from pathlib import Path

import pytest

from mopruning.errors import FormatError
from mopruning.ir import source_folder
from mopruning.ir.source_folder import SOURCE, write_source_folder
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


def test_kept_modules_are_found_by_their_name(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("answer = 6 * 7\n", encoding="utf-8")
    module = import_source(path, kept_as="mopruning_test_kept")
    assert sys.modules.pop("mopruning_test_kept") is module
    path.write_text("import sys\nassert __name__ in sys.modules\nfrom nowhere_at_all import nothing\n")
    with pytest.raises(ModuleNotFoundError):
        import_source(path, kept_as="mopruning_test_kept")
    assert "mopruning_test_kept" not in sys.modules


def test_source_folders_are_made_with_their_weights(tmp_path):
    folder = tmp_path / "new" / "net"
    for text in ("first = 1\n", "second = 2\n"):
        write_source_folder(folder, text, "weights.bin", lambda path, text=text: path.write_text(text) and None)
        assert {file.name: file.read_text() for file in folder.iterdir()} == {SOURCE: text, "weights.bin": text}


def test_weights_that_cannot_be_written_leave_the_old_folder(tmp_path):
    write_source_folder(tmp_path, "old = 1\n", "weights.bin", Path.touch)
    with pytest.raises(ZeroDivisionError):
        write_source_folder(tmp_path, "new = 2\n", "weights.bin", lambda path: 1 / 0)
    assert (tmp_path / SOURCE).read_text() == "old = 1\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_docstrings():
    result = doctest.testmod(source_folder)
    assert result.attempted > 0
    assert result.failed == 0
