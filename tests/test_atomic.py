"""Files that appear whole or not at all."""

import doctest
import importlib
import os
import stat

import numpy as np
import pytest

from mopruning.ir.atomic import atomic
from mopruning.ir.weight_files import write_weights


def test_file_appears_whole_and_replaces_the_old_one(tmp_path):
    (tmp_path / "out").write_text("old")
    with atomic(tmp_path / "out") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "out").read_text() == "old"
    assert (tmp_path / "out").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_interrupt_removes_the_temporary_file(error, tmp_path):
    def write():
        with atomic(tmp_path / "out") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []


def test_new_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic(tmp_path / "out") as temporary:
        temporary.write_text("whole")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    write_weights(tmp_path / "net.safetensors", {"w": np.ones(1)})
    assert stat.S_IMODE((tmp_path / "net.safetensors").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("sync"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    with atomic(tmp_path / "out") as temporary:
        temporary.write_text("whole")
    assert done[:2] == ["sync", "rename"]


def test_folder_as_target_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError), atomic(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match="no such folder"), atomic(tmp_path / "none" / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_doctests():
    failed, attempted = doctest.testmod(importlib.import_module("mopruning.ir.atomic"))
    assert attempted
    assert not failed
