"""Weights under several names: stored once, and one parameter under all its names wherever they arrive."""

from __future__ import annotations

import copy
import functools
import json

import pytest

torch = pytest.importorskip("torch")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402
from torch.testing import assert_close  # noqa: E402

from mopruning import ir  # noqa: E402
from mopruning.backends import pytorch  # noqa: E402
from mopruning.ir.onnx_files import read_onnx, write_onnx  # noqa: E402
from mopruning.ir.ties import TIED, ties_of  # noqa: E402
from tests.backends.pytorch_ir_networks import bits  # noqa: E402

TOKENS = torch.arange(10).reshape(2, 5)


class Tied(nn.Module):
    """An embedding whose matrix the decoder shares, with or without a bias of its own."""

    def __init__(self, bias=False) -> None:
        super().__init__()
        self.encoder = nn.Embedding(64, 64)
        self.dense = nn.Linear(64, 64)
        self.decoder = nn.Linear(64, 64, bias=bias)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        return self.decoder(self.dense(self.encoder(tokens)).relu())


class Twice(nn.Module):
    """One module at two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.other = self.one

    def forward(self, x):
        return self.other(self.one(x))


class Scaled(nn.Module):
    """A vector under two names, of which one is read by no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.again = nn.Module()
        self.again.scale = self.scale
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) * self.scale


CASES = [(Tied(), TOKENS), (Tied(bias=True), TOKENS), (Twice(), torch.randn(2, 3, 8, 8)), (Scaled(), torch.rand(2, 4))]


@functools.cache
def read(case):
    return pytorch.to_ir(*CASES[case])


@pytest.mark.parametrize("case", range(len(CASES)), ids=["tied", "bias", "module", "unread"])
@pytest.mark.parametrize("suffix", ["", ".mopir", ".onnx"])
def test_all_names_arrive_and_stay_one_parameter(case, suffix, tmp_path):
    (module, x), model = CASES[case], read(case)
    if suffix:
        save, load = (ir.save, ir.load) if suffix == ".mopir" else (write_onnx, read_onnx)
        save(model, tmp_path / f"net{suffix}")
        model = load(tmp_path / f"net{suffix}")
    network = pytorch.from_ir(model)
    for one in (network, copy.deepcopy(network)):
        assert bits(one.state_dict()) == bits(module.state_dict())
        assert [name for name, _ in one.named_parameters()] == [name for name, _ in module.named_parameters()]
        tensors = one.state_dict(keep_vars=True)
        for further, first in ties_of(model).items():
            assert tensors[further] is tensors[first], further
    assert_close(network.eval()(x), module.eval()(x))


@pytest.mark.parametrize("bias", [False, True])
def test_layers_are_of_their_kind_and_train_as_one(bias):
    module = Tied(bias)
    network = pytorch.from_ir(pytorch.to_ir(module, TOKENS))
    assert type(network.encoder) is nn.Embedding
    assert type(network.decoder) is nn.Linear
    assert network.decoder.weight is network.encoder.weight
    for one in (module, network):
        one.train()(TOKENS).square().mean().backward()
        torch.optim.SGD(one.parameters(), lr=0.1).step()
    assert_close(network.decoder.weight, module.decoder.weight)
    assert_close(network.encoder.weight.grad, module.encoder.weight.grad)


@pytest.mark.parametrize("config", [{"balance": "fix"}, {"balance": "none"}])
def test_masks_are_those_of_the_source(config):
    module = Tied()
    network = pytorch.from_ir(pytorch.to_ir(module, TOKENS))
    for one in (module, network):
        pruning = {name: 0.75 for name, weight in one.named_parameters() if weight.ndim == 2}
        pytorch.Prune(one, 0, 0, 1, pruning, **config).prune()
        assert torch.equal(one.decoder.weight, one.encoder.weight)
    assert 0.7 < float((module.encoder.weight == 0).float().mean()) < 0.8
    assert bits(network.state_dict()) == bits(module.state_dict())


def test_a_module_called_twice_is_one_module():
    module = Twice()
    network = pytorch.from_ir(pytorch.to_ir(module, torch.randn(2, 3, 8, 8)))
    assert network.get_submodule("other.1") is network.get_submodule("one.1")
    x = torch.randn(2, 3, 8, 8)
    for one in (module, network):
        one.train()(x)
    assert int(network.state_dict()["other.1.num_batches_tracked"]) == 2
    assert_close(network.state_dict()["other.1.running_mean"], module.other[1].running_mean)


@pytest.mark.parametrize(
    "noted",
    [
        "",
        "[]",
        '{"a": 1, "b": ["dense.bias"], "c": "gone"}',
        '{"dense.bias": "encoder.weight"}',
        '{"x": "y", "y": "x"}',
        '{"": 0}',
    ],
)
def test_ties_that_someone_else_wrote_are_ignored(noted):
    model = read(0).clone()
    expected = set(Tied().state_dict()) - {"decoder.weight"}
    model.metadata_props[TIED] = noted
    assert ties_of(model) == {}
    assert set(pytorch.from_ir(model).state_dict()) == expected


def test_names_that_no_module_can_have_are_refused():
    from mopruning.errors import FormatError

    model = read(0).clone()
    for name in ('a".b', "a..b", "encoder.weight.more", "forward"):
        model.metadata_props[TIED] = json.dumps({name: "encoder.weight"})
        with pytest.raises(FormatError, match="cannot be a name in a PyTorch module"):
            pytorch.from_ir(model)


@pytest.mark.parametrize("case", range(len(CASES)), ids=["tied", "bias", "module", "unread"])
def test_source_that_is_written_is_tied_too(case, tmp_path):
    (module, x), model = CASES[case], read(case)
    pytorch.to_folder(model, tmp_path)
    scope = {"__file__": str(tmp_path / "model.py")}
    exec((tmp_path / "model.py").read_text(), scope)
    network = scope["load"]()
    assert_close(network.eval()(x), module.eval()(x))
    if case < 2:  # where layers read the weight under both names
        assert network.decoder.weight is network.encoder.weight
        assert bits(network.state_dict()) == bits(module.state_dict())
        assert "self.decoder.weight = self.encoder.weight" in (tmp_path / "model.py").read_text()
