"""PyTorch checkpoints: what is kept on the way through, and that nothing in a hostile file runs."""

import doctest
import os
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mopruning.backends.pytorch import checkpoint as module  # noqa: E402  needs torch
from mopruning.backends.pytorch.checkpoint import read_checkpoint, write_weights  # noqa: E402
from mopruning.errors import FormatError  # noqa: E402
from mopruning.files import open_weights, save_weights  # noqa: E402
from mopruning.ir.weight_files import read_weights  # noqa: E402


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(8, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.decode = torch.nn.Linear(4, 8, bias=False)
        self.decode.weight = self.embed.weight


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Tied()


def training(network):
    """What a training program saves besides the weights."""
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    sum(p.sum() for p in network.parameters()).backward()
    optimizer.step()
    return {
        "epoch": 3,
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": {"lr": [0.1, None]},
    }


def test_everything_else_survives(network, tmp_path):
    content = training(network)
    torch.save(content, tmp_path / "in.pth")
    file = read_checkpoint(tmp_path / "in.pth")
    file.replace({"embed.weight": torch.zeros(8, 4)})
    file.save(tmp_path / "out.pth")
    got = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(got) == list(content)
    assert (got["epoch"], got["args"]) == (3, {"lr": [0.1, None]})
    assert not got["state_dict"]["embed.weight"].any()
    torch.testing.assert_close(got["state_dict"]["norm.weight"], network.norm.weight.detach(), rtol=0, atol=0)
    for index, state in content["optimizer"]["state"].items():
        assert torch.equal(got["optimizer"]["state"][index]["momentum_buffer"], state["momentum_buffer"])
    assert got["state_dict"]._metadata == content["state_dict"]._metadata
    Tied().load_state_dict(got["state_dict"], strict=True)
    assert torch.equal(
        torch.load(tmp_path / "in.pth", weights_only=True)["state_dict"]["embed.weight"], network.embed.weight
    )


def test_tied_tensors_are_one_and_stay_tied(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "in.pth")
    file = read_checkpoint(tmp_path / "in.pth")
    assert file.aliases == {"decode.weight": "embed.weight"}
    assert "decode.weight" not in file.weights()
    file.replace({"embed.weight": torch.ones(8, 4)})
    file.save(tmp_path / "out.pth")
    got = torch.load(tmp_path / "out.pth", weights_only=True)
    assert got["decode.weight"].data_ptr() == got["embed.weight"].data_ptr()
    assert (got["decode.weight"] == 1).all()


def test_views_of_one_memory_stay_views(tmp_path):
    whole = torch.arange(12.0).reshape(4, 3)
    torch.save({"whole": whole, "row": whole[1], "turned": whole.T}, tmp_path / "in.pth")
    file = read_checkpoint(tmp_path / "in.pth")
    assert not file.aliases
    file.replace({"whole": torch.zeros(4, 3)})
    file.save(tmp_path / "out.pth")
    got = torch.load(tmp_path / "out.pth", weights_only=True)
    assert not got["row"].any()
    assert not got["turned"].any()


@pytest.mark.parametrize(
    ("wrap", "location"),
    [
        (lambda state: state, ()),
        (lambda state: {"state_dict": state, "epoch": 1}, ("state_dict",)),
        (lambda state: {"model": state, "lr": torch.tensor(0.1)}, ("model",)),
        (lambda state: {"model": {"state_dict": state}}, ("model", "state_dict")),
        (
            lambda state: {"model_state_dict": state, "optimizer": {"state": {}, "param_groups": []}},
            ("model_state_dict",),
        ),
        (lambda state: {"backbone": state, "epoch": 1}, ("backbone",)),
        (lambda state: {"params": {"lr": 0.1}, "student": state}, ("student",)),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_state_dict_is_found(wrap, location, legacy, tmp_path):
    state = OrderedDict({"fc.weight": torch.eye(2)})
    torch.save(wrap(state), tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    file = read_checkpoint(tmp_path / "net.pt")
    assert file.location == location
    assert torch.equal(file.weights()["fc.weight"], torch.eye(2))


def test_parameters_lose_their_gradient_bookkeeping_but_not_their_kind(tmp_path):
    torch.save({"w": torch.nn.Parameter(torch.ones(2, 2))}, tmp_path / "net.pth")
    file = read_checkpoint(tmp_path / "net.pth")
    assert not file.weights()["w"].requires_grad
    file.replace({"w": torch.zeros(2, 2)})
    file.save(tmp_path / "out.pth")
    got = torch.load(tmp_path / "out.pth", weights_only=True)["w"]
    assert isinstance(got, torch.nn.Parameter)
    assert not got.detach().any()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.ones(2), "expected a state dict or a mapping that holds one, got Tensor"),
        ({}, "holds no state dict"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "holds no state dict"),
        ({"one": {"w": torch.ones(1)}, "two": {"w": torch.ones(1)}}, r"several state dicts \(one, two\)"),
    ],
)
def test_files_without_one_state_dict_are_refused(content, reason, tmp_path):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(FormatError, match=rf"net\.pth: .*{reason}"):
        read_checkpoint(tmp_path / "net.pth")


def test_mapping_that_holds_itself_is_refused(tmp_path):
    content = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(FormatError, match="holds no state dict"):
        read_checkpoint(tmp_path / "net.pth")


def test_replacing_takes_the_same_shape_and_dtype_only(tmp_path):
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"w: expected torch.float32 \(2, 2\), got torch.float32 \(4,\)"):
        read_checkpoint(tmp_path / "net.pth").replace({"w": torch.ones(4)})


def test_expanded_tensor_cannot_be_pruned(tmp_path):
    torch.save({"w": torch.ones(1).expand(4, 4)}, tmp_path / "net.pth")
    file = read_checkpoint(tmp_path / "net.pth")
    with pytest.raises(FormatError, match="tensor 'w' cannot be written to"):
        file.replace({"w": torch.zeros(4, 4)})


# To other formats and back


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.int64]
)
def test_flat_state_dict_goes_to_safetensors_and_back(dtype, tmp_path):
    state = {
        "w": torch.tensor([[1.5, -0.0], [0.25, 3.0]]).to(dtype),
        "t": torch.arange(6).reshape(2, 3).T,
        "n": torch.tensor(2),
    }
    torch.save(state, tmp_path / "1.pth")
    save_weights(open_weights(tmp_path / "1.pth"), tmp_path / "2.safetensors")
    save_weights(open_weights(tmp_path / "2.safetensors"), tmp_path / "3.pt")
    got = torch.load(tmp_path / "3.pt", weights_only=True)
    assert set(got) == set(state)
    for name, tensor in state.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert torch.equal(got[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))


def test_tied_tensors_are_written_under_both_names(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "net.pth")
    file = open_weights(tmp_path / "net.pth")
    file.replace({"embed.weight": torch.ones(8, 4)})
    save_weights(file, tmp_path / "net.npz")
    got = read_weights(tmp_path / "net.npz")
    np.testing.assert_array_equal(got["decode.weight"], np.ones((8, 4), np.float32), strict=True)


def test_what_another_format_cannot_hold_is_not_lost_silently(network, tmp_path):
    torch.save(training(network), tmp_path / "net.pth")
    with pytest.raises(
        FormatError, match=r"holds epoch, optimizer, args beside the weights, which only \.pth and \.pt"
    ):
        save_weights(open_weights(tmp_path / "net.pth"), tmp_path / "net.npz")
    torch.save({"w": torch.ones(2), "_extra_state": {"scale": 1}}, tmp_path / "net.pth")
    with pytest.raises(FormatError, match="'_extra_state' is no dense tensor"):
        save_weights(open_weights(tmp_path / "net.pth"), tmp_path / "net.npz")
    assert not (tmp_path / "net.npz").exists()


def test_what_is_no_dense_tensor_by_name_passes_through(tmp_path):
    state = {"w": torch.ones(2, 2), "s": torch.eye(2).to_sparse(), "m": torch.ones(2, device="meta"), 3: torch.ones(1)}
    torch.save(state, tmp_path / "net.pth")
    file = read_checkpoint(tmp_path / "net.pth")
    assert list(file.weights()) == ["w"]
    file.save(tmp_path / "out.pth")
    assert torch.equal(torch.load(tmp_path / "out.pth", weights_only=True)["s"].to_dense(), torch.eye(2))
    with pytest.raises(FormatError, match="'s' is no dense tensor"):
        file.arrays()


def test_dtypes_torch_lacks_are_refused(tmp_path):
    for array in (np.array(["text"]), np.zeros(2, ml_dtypes.float8_e4m3b11fnuz)):
        with pytest.raises(FormatError, match=r"tensor 'w': PyTorch has no dtype"):
            write_weights(tmp_path / "net.pth", {"w": array})
    assert list(tmp_path.iterdir()) == []


def test_same_content_gives_the_same_bytes(tmp_path):
    for name in ("1.pth", "2.pth"):
        write_weights(tmp_path / name, {"w": np.ones(3)})
    assert (tmp_path / "1.pth").read_bytes() == (tmp_path / "2.pth").read_bytes()


# Damaged and hostile files


class Payload:
    """Makes a folder when unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True])
def test_payload_is_refused_and_not_run(legacy, tmp_path):
    marker = tmp_path / "marker"
    content = {"w": torch.ones(2), "x": Payload(marker)}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FormatError, match=r"net\.pth: refused: it contains code \(\w+\.mkdir\), which was not run"):
        read_checkpoint(tmp_path / "net.pth")
    assert not marker.exists()
    torch.load(tmp_path / "net.pth", weights_only=False)
    assert marker.exists()  # so the payload is a live one


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickle_is_refused_and_not_run(protocol, tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "net.pth").write_bytes(pickle.dumps({"w": Payload(marker)}, protocol))
    with pytest.raises(FormatError, match="refused"):
        read_checkpoint(tmp_path / "net.pth")
    assert not marker.exists()


def test_whole_module_is_refused_with_advice(network, tmp_path):
    torch.save(network, tmp_path / "net.pth")
    with pytest.raises(
        FormatError, match=r"refused: it contains code \(.*Tied\), which was not run; save model\.state_dict\(\)"
    ):
        read_checkpoint(tmp_path / "net.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "net.pt")
    with pytest.raises(FormatError, match="refused: it contains code"):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_no_truncation_goes_unnoticed(legacy, tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"state_dict": {"w": torch.ones(64, 64)}}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    for length in [0, 1, 2, 15, *range(16, len(content), 997), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(FormatError, match=str(path)) as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="unexpected EOF" if legacy else "truncated"):
        read_checkpoint(path)


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "net.pth"
    path.write_text("hello, this is text")
    with pytest.raises(FormatError, match=r"torch\.save did not write it"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    with pytest.raises(FormatError, match="damaged or no PyTorch checkpoint"):
        read_checkpoint(path)


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")


def test_doctests():
    failed, attempted = doctest.testmod(module)
    assert attempted
    assert not failed
