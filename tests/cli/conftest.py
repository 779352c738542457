"""What the tests of the command line share: ways to run it, and a small network."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mopruning import cli
from mopruning.ir.weight_files import write_weights

ROOT = Path(__file__).resolve().parents[2]
# Runs the command line as a process of its own, from an installed package or else from this checkout.
COMMAND = f"import sys; sys.path.append({str(ROOT)!r}); import conftest; from mopruning.cli import main; main()"


@pytest.fixture
def run(capsys):
    """Run the command line in this process; return exit code, stdout and stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return ended.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def fails(run):
    """Run the command line, expect the one line of an error, and return it."""

    def call(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("mopruning: error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        return err

    return call


@pytest.fixture
def process(tmp_path):
    """Run the command line as a process of its own, after some Python code."""

    def call(*arguments, before=""):
        command = [sys.executable, "-c", before + COMMAND, *map(str, arguments)]
        return subprocess.run(command, text=True, capture_output=True, cwd=tmp_path, check=False)

    return call


def make_network():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.standard_normal((8, 64, 3, 3), dtype=np.float32),
        "conv.bias": rng.standard_normal(8, dtype=np.float32),
        "bn.running_mean": np.zeros(8, np.float32),
        "odd.weight": rng.standard_normal((8, 127, 3, 3), dtype=np.float32),
        "fc.weight": rng.standard_normal((10, 128), dtype=np.float32),
        "steps": np.array(3),
    }


@pytest.fixture
def network():
    return make_network()


@pytest.fixture(params=[".npz", ".safetensors"])
def source(request, tmp_path):
    """The file of the small network, in both formats that need no framework."""
    path = tmp_path / f"in{request.param}"
    write_weights(path, make_network())
    return path


class Payload:
    """Makes a folder when unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def payload(tmp_path):
    """An object that makes the folder `marker` when unpickled."""
    return Payload(tmp_path / "marker")
