"""What `to_ir` refuses, saying why, its silence, and the notes it leaves for `from_ir`."""

from __future__ import annotations

import doctest
import importlib
import logging
import subprocess
import sys
import warnings

import pytest

torch = pytest.importorskip("torch")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from mopruning.backends import pytorch  # noqa: E402
from mopruning.backends.pytorch.notes import Notes  # noqa: E402
from mopruning.errors import FormatError  # noqa: E402
from mopruning.ir.roles import noted_roles  # noqa: E402
from mopruning.ir.validation import UnsupportedOperators  # noqa: E402
from tests.backends.pytorch_ir_networks import Function, ResNet  # noqa: E402

IMAGE = torch.zeros(1, 3, 8, 8)


def test_all_unsupported_operators_are_listed_at_once():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Function(lambda x: torch.special.zeta(x.abs() + 2, x.abs() + 1))
            self.second = Function(lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False))
            self.third = Function(lambda x: torch.special.i0e(x) + x[:, [0, 1, 2], [1, 2, 3]].sum())

        def forward(self, x):
            return torch.einsum("nchw,ncvw->nhv", x, self.third(self.second(self.first(x))))

    with pytest.raises(UnsupportedOperators) as raised:
        pytorch.to_ir(Net(), torch.randn(2, 3, 8, 8))
    found = {(problem.node, problem.operator) for problem in raised.value.problems}
    assert found == {
        *(("first", "prims.zeta.default"), ("second", "GridSample"), ("third", "prims.bessel_i0e.default")),
        *(("third", "index"), ("einsum", "Einsum")),
    }


def test_operators_that_check_what_they_compute_are_listed_too():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Function(torch.linalg.cholesky)

        def forward(self, x):
            found = self.inner(torch.linalg.inv(x)) + torch.linalg.solve(x, x)
            return found + torch.special.bessel_j0(x) + torch.histc(x)[:3]

    with pytest.raises(UnsupportedOperators) as raised:
        pytorch.to_ir(Net(), torch.randn(2, 3, 3))
    found = {(problem.node, problem.operator) for problem in raised.value.problems}
    assert found == {
        *(("linalg_inv", "aten.linalg_inv.default"), ("inner", "aten.linalg_cholesky.default")),
        *(("linalg_solve", "aten.linalg_solve.default"), ("bessel_j0", "prims.bessel_j0.default")),
        ("histc", "aten.histc.default"),
    }


def _script():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls it deprecated
        return torch.jit.script(nn.ReLU())


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x + self.seen


@pytest.mark.parametrize(
    ("module", "example", "error", "words"),
    [
        ("net", IMAGE, TypeError, "torch.nn.Module"),
        (_script(), IMAGE, TypeError, "torch.nn.Module"),
        (nn.ReLU(), "image", TypeError, "tensors"),
        (nn.ReLU(), (1, 2), TypeError, "tensors"),
        (nn.Linear(8, 2), (IMAGE, IMAGE), FormatError, "too many positional arguments"),
        (nn.Linear(8, 2), {"y": IMAGE}, FormatError, "missing a required argument"),
        (nn.Linear(3, 2), IMAGE, FormatError, "traced with this example"),
        (Function(lambda x: x if x.sum() > 0 else -x), IMAGE, FormatError, "depends on the values"),
        (Function(lambda x: x.reshape(6, -1)), torch.zeros(2, 3, 8, 8), FormatError, "dynamic_batch=False"),
        (Function(lambda x: (x, 3)), IMAGE, FormatError, "'output_1' is 3"),
        (nn.LazyLinear(3), IMAGE, FormatError, "dummy batch"),
        (Counting(), IMAGE, FormatError, "'seen'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_refusals_say_what_is_wrong(module, example, error, words):
    with pytest.raises(error) as raised:
        pytorch.to_ir(module, example)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 600


def test_nothing_is_printed_logged_or_warned(capfd, caplog):
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pytorch.from_ir(pytorch.to_ir(ResNet(), torch.zeros(1, 3, 16, 16)))
        with pytest.raises(FormatError):
            pytorch.to_ir(Function(lambda x: x if x.sum() > 0 else -x), IMAGE)
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO] == []


def test_adapter_loads_onnx_only_when_it_is_needed(tmp_path):
    code = (
        "import sys; from mopruning.backends import pytorch\n"
        "assert not {'onnx', 'onnx_ir', 'onnxscript'} & set(sys.modules)\n"
        "assert {'to_ir', 'from_ir', 'to_folder'} <= set(pytorch.__all__)\n"
        "pytorch.from_ir; assert 'onnxscript' not in sys.modules\n"
        "pytorch.to_ir; assert 'onnxscript' in sys.modules\n"
        "try: pytorch.no_such\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "no_such" in done.stdout


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"roles": 3}',
        '{"batches": {"bn": -1, "*": "x"}, "cumulative": {"a": 1}, "dropouts": [1]}',
        "9" * 5000,
    ],
)
def test_notes_that_someone_else_wrote_are_ignored(content):
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20})
    metadata = {"mopruning.roles": content, "mopruning.pytorch": content}
    model = onnx_ir.Model(graph, ir_version=10, metadata_props=metadata)
    assert Notes.of(model) == Notes()
    assert noted_roles(model) == {}


def test_notes_return_as_they_were():
    notes = Notes({"*": 3}, ("bn",), {"drop": "channels"}, {"word": 0})
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20})
    assert Notes.of(onnx_ir.Model(graph, ir_version=10, metadata_props=notes.to_metadata())) == notes
    assert Notes().to_metadata() == {}


@pytest.mark.parametrize("name", ["reader", "writer", "source", "notes"])
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"mopruning.backends.pytorch.{name}"))
    assert result.attempted
    assert not result.failed
