"""The published programs for MindSpore: they train, resume and evaluate what any framework has written."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mopruning import datasets  # noqa: E402
from mopruning.backends.mindspore.device import devices  # noqa: E402
from mopruning.ir.mindspore_ckpt import read_checkpoint, write_weights  # noqa: E402
from mopruning.manidp import STRUCTURES, Settings, Structure, cost, states  # noqa: E402
from mopruning.manidp.history import History  # noqa: E402
from mopruning.manidp.structure import CIFAR  # noqa: E402
from mopruning.training.data import Data  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "manidp"
SMALL = Structure(CIFAR, (1, 1, 1), (8, 16, 32), 10, 32)
"""Takes the place of ResNet-20: compiling that takes too long for a test."""
SHORT = (
    *("--data_path", ".", "--batch_size", "20", "--lr", "0.02", "--gate_scale", "0.1", "--save_path", "out"),
    *("--target_remain_rate", "0.5"),
)
TESTED = 22
_RESULT = re.compile(r"result: {'acc': ([\d.]+)}\nmean MACs ([\d,]+) \([-+][\d.]+%\), an image; (\d+) images\n")


@pytest.fixture(autouse=True)
def modes():
    """Leave MindSpore in the mode that it was in: the programs choose one."""
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., str]:
    """Runs a program in a folder with 40 images to train with and 22 to test with, and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOPRUNING_DATA", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # as the programs would, for good
    monkeypatch.setitem(STRUCTURES, "dyresnet20", SMALL)
    names = [f"data_batch_{number}" for number in range(1, 6)]
    for seed, (name, count) in enumerate([*((name, 8) for name in names), ("test_batch", TESTED)]):
        write_images(Path(f"{name}.bin"), seed, count)

    def call(script: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(FOLDER / script), run_name="__main__")
        return capsys.readouterr().out

    return call


def write_images(path: Path, seed: int, count: int) -> None:
    """Write images that are brighter the higher their class, as CIFAR-10's binary version has them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count)
    pixels = random.integers(0, 60, (count, 3072)) + 20 * labels[:, None]
    path.write_bytes(np.column_stack([labels, pixels]).astype(np.uint8).tobytes())


def result(printed: str) -> tuple[float, int, int]:
    """Return accuracy, mean MACs and number of images out of what eval.py prints."""
    found = _RESULT.fullmatch(printed)
    assert found, printed
    return float(found[1]), int(found[2].replace(",", "")), int(found[3])


def weights(path: Path, kept: bool = True) -> dict[str, np.ndarray]:
    """Write a network under the published names and return its state; without `kept`, thresholds are left out."""
    state = states.initial(SMALL, seed=4, gate_scale=0.2)
    state |= states.threshold_entries(SMALL, np.linspace(0.9, 1.1, 6))
    published = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    held = {}
    for name, value in state.items():
        layer, _, end = name.rpartition(".")
        if end == "mask_sum" or (end == "thre" and not kept):
            continue
        own = published[end] if "bn_" in layer else end
        held[f"{layer}.0.{own}" if layer.endswith("downsample") else f"{layer}.{own}"] = value
    write_weights(path, held)
    return state


@pytest.mark.slow
def test_train_then_resume_then_evaluate(run):
    pytest.importorskip("matplotlib")
    printed = run("train.py", *SHORT, "--epochs", "2", "--print_freq", "1").splitlines()
    assert printed[0] == "dyresnet20 on CPU, 40 images to train with, 22 to test with"
    assert printed[1].startswith("dense start: accuracy ")
    assert f"{cost(SMALL).total:,} MACs with gates" in printed[1]
    assert [line.split("  loss")[0] for line in printed[2:5]] == [
        *("epoch 1/2  update 1/2", "epoch 1/2  update 2/2", "epoch 1/2"),
    ]
    assert sorted(entry.name for entry in Path("out").iterdir()) == [
        *("checkpoint.ckpt", "evaluation.npz", "log.csv", "log.png"),
    ]
    rows = History.read("out/log.csv", 2).rows
    assert rows[1].cross_entropy < rows[0].cross_entropy  # the loss falls
    with np.load("out/evaluation.npz") as held:
        assert np.mean(held["predictions"] == held["labels"]) == rows[1].accuracy

    accuracy, mean_macs, images = result(
        run("eval.py", "--dataset_path", ".", "--checkpoint_path", "out/checkpoint.ckpt")
    )
    assert (accuracy, images) == (rows[1].accuracy, TESTED)
    assert mean_macs == pytest.approx(rows[1].mean_macs, abs=1)
    assert mean_macs < cost(SMALL).total

    before = read_checkpoint("out/checkpoint.ckpt").tensors
    again = run("train.py", *SHORT, "--epochs", "2", "--resume").splitlines()
    assert again[1] == "resumed after epoch 2"
    assert again[2].startswith(f"last acc: {accuracy:.2%}, mean MACs {mean_macs:,}")
    assert all((before[name] == one).all() for name, one in read_checkpoint("out/checkpoint.ckpt").tensors.items())


@pytest.mark.slow
def test_the_published_pair(run):
    """A .ckpt file without thresholds, and thres.npy beside it; over all images, or without the last smaller batch."""
    weights(Path("whole.ckpt"))
    weights(Path("net.ckpt"), kept=False)
    evaluation = ("eval.py", "--dataset_path", ".", "--platform", "CPU", "--mode", "PYNATIVE", "--checkpoint_path")
    wanted = result(run(*evaluation, "whole.ckpt"))
    assert wanted[2] == TESTED
    assert wanted[1] < cost(SMALL).total
    np.save("thres.npy", np.linspace(0.9, 1.1, 6))
    assert result(run(*evaluation, "net.ckpt")) == wanted
    Path("thres.npy").rename("other.npy")
    assert result(run(*evaluation, "net.ckpt", "--thres_path", "other.npy")) == wanted
    dropped = result(run(*evaluation, "whole.ckpt", "--drop_remainder", "--batch_size", "8"))
    assert dropped[2] == 16
    Path("cifar-10-verify-bin").mkdir()
    Path("test_batch.bin").rename("cifar-10-verify-bin/test_batch.bin")  # where the published program has it
    assert result(run(*evaluation, "whole.ckpt")) == wanted


@pytest.mark.slow
def test_what_pytorch_wrote(run):
    """Its checkpoint of a training, its state dict and an exported network: the same answers as PyTorch's own."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    from mopruning import ir
    from mopruning.backends import pytorch
    from mopruning.backends.pytorch import manidp as in_pytorch

    test = datasets.load(".", "test")
    data = Data(test, test, "none")
    net = in_pytorch.network(SMALL, gate_scale=0.2)
    net.set_thresholds([0.9, 0.95, 1.0, 1.0, 1.05, 1.1])
    training = in_pytorch.Training(net, data, Settings())
    wanted = training.evaluate(test)
    in_pytorch.checkpoint.save(training, "training.pth")
    torch.save(in_pytorch.state_of(net), "state.pt")
    ir.save(pytorch.to_ir(net.eval(), torch.zeros(2, 3, 32, 32)), "net.mopir")
    for name in ("training.pth", "state.pt", "net.mopir"):
        told = () if name == "training.pth" else ("--normalize", "none")  # a training says how images are normalised
        found = result(run("eval.py", "--dataset_path", ".", "--mode", "PYNATIVE", "--checkpoint_path", name, *told))
        assert found == (wanted.accuracy, round(wanted.mean_macs), TESTED)
    assert 0.1 < wanted.reduction < 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint_path", "net.ckpt"), r"net\.ckpt: .*missing: stage_1\.0\.mb1\.thre.*thres\.npy"),
        (("--checkpoint_path", "net.ckpt", "--thres_path", "no.npy"), "No such file"),
        (("--checkpoint_path", "gone.ckpt"), "gone.ckpt"),
        (("--checkpoint_path", "net.txt"), "unknown suffix '.txt'"),
        (("--checkpoint_path", "whole.ckpt", "--dataset_path", "nowhere"), "no such data set: nowhere"),
        (("--checkpoint_path", "whole.ckpt", "--thres_path", "no.npy"), "holds thresholds"),
        (("--checkpoint_path", "whole.ckpt", "--arch", "dyresnet56"), "is no state of this network"),
        (("--checkpoint_path", "whole.ckpt", "--shortcut", "A"), "--shortcut conv"),
    ],
)
def test_what_cannot_be_evaluated(arguments, message, run):
    weights(Path("whole.ckpt"))
    weights(Path("net.ckpt"), kept=False)
    with pytest.raises(SystemExit, match=f"^eval.py: .*({message})"):
        run("eval.py", "--dataset_path", ".", *arguments)


@pytest.mark.parametrize("script", ["eval.py", "train.py"])
def test_unknown_flags_are_errors(script, run, capsys):
    needed = ("--checkpoint_path", "x") if script == "eval.py" else ()
    with pytest.raises(SystemExit) as stopped:
        run(script, *needed, "--epoch_count", "3")
    assert stopped.value.code == 2
    assert "unrecognized arguments: --epoch_count 3" in capsys.readouterr().err


@pytest.mark.skipif("Ascend" in devices(), reason="this machine has an Ascend")
@pytest.mark.parametrize("script", ["eval.py", "train.py"])
def test_an_absent_device_is_told(script, run):
    needed = ("--checkpoint_path", "x.ckpt") if script == "eval.py" else SHORT
    present = ", ".join(devices())
    with pytest.raises(SystemExit, match=f"{script}: device_target 'Ascend' is not present; present here: {present}"):
        run(script, *needed, "--platform", "Ascend")
