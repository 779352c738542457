"""The program itself: help without waiting, usage errors, and life without torch."""

import doctest

import pytest

from mopruning import __version__, cli
from mopruning.cli import output

LIST_MODULES = "import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr)); "
BLOCK_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def test_error_of_a_process_is_one_line_without_a_traceback(process, tmp_path):
    (tmp_path / "net.npz").write_text("hello")
    done = process("inspect", tmp_path / "net.npz")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("mopruning: error: ")


def test_help_lists_every_command_without_importing_it(process):
    done = process("--help", before=LIST_MODULES)
    assert done.returncode == 0
    assert "Usage: mopruning" in done.stdout
    for command in cli.COMMANDS:
        assert f"  {command} " in done.stdout
    assert {"torch", "matplotlib", "mopruning.cli.demo", "mopruning.cli.prune"}.isdisjoint(done.stderr.split())


def test_inspecting_arrays_imports_no_framework(process, source):
    done = process("inspect", source, before=LIST_MODULES)
    assert done.returncode == 0
    assert {"torch", "matplotlib", "mopruning.backends"}.isdisjoint(done.stderr.split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: mopruning {command}" in out


def test_version(run):
    assert run("--version") == (0, f"mopruning {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [("inspct", "x"), ("inspect",), ("prune", "a.npz"), ("prune", "a", "b", "--sparsity", "x")]
)
def test_wrong_usage_is_exit_code_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("mopruning: error: ")
    assert err.count("\n") == 1
    assert "--help" in err


def test_without_torch_arrays_work_and_checkpoints_say_what_to_install(process, source):
    assert process("inspect", source, before=BLOCK_TORCH).returncode == 0
    checkpoint = source.with_suffix(".pth")
    checkpoint.write_bytes(b"PK")
    done = process("inspect", checkpoint, before=BLOCK_TORCH)
    expected = "mopruning: error: backend 'pytorch' needs torch: pip install 'mopruning[pytorch]'\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_doctests():
    failed, attempted = doctest.testmod(output)
    assert attempted
    assert not failed
