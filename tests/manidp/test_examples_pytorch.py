"""The published program in PyTorch runs as its flags say: it trains, resumes, and leaves what it promises."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mopruning.backends.pytorch.manidp import checkpoint, network  # noqa: E402
from mopruning.manidp import states, structure  # noqa: E402
from mopruning.manidp.history import History  # noqa: E402
from tests.manidp.pytorch_worker import drawn  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "examples" / "manidp" / "main.py"
SHORT = ("--data_path", ".", "--batch_size", "8", "--lr", "0.01", "--gate_scale", "0.1", "--save_path", "out")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the program in a folder that holds 40 images to train with and 12 to test with, in the official form."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOPRUNING_DATA", raising=False)
    for name, seed, count in (*((f"data_batch_{i}", i, 8) for i in range(1, 6)), ("test_batch", 9, 12)):
        some = drawn(count, seed=seed)
        pixels = some.images.repeat(2, 1).repeat(2, 2).transpose(0, 3, 1, 2).reshape(count, -1)
        Path(f"{name}.bin").write_bytes(np.column_stack([some.labels.astype(np.uint8), pixels]).tobytes())

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(MAIN), *arguments])
        runpy.run_path(str(MAIN), run_name="__main__")

    return call


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_it_trains_and_leaves_what_it_promises(amp, run, capsys):
    pytest.importorskip("matplotlib")
    run(*SHORT, "--epochs", "2", "--print_freq", "2", "--amp", amp)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dyresnet20 on cpu, 40 images to train with, 12 to test with"
    assert re.fullmatch(r"dense start: accuracy [\d.]+%, 40,875,136 MACs with gates, limit [\d.]+", lines[1])
    assert [line.split("  loss")[0] for line in lines[2:7]] == [
        *("epoch 1/2  update 2/5", "epoch 1/2  update 4/5", "epoch 1/2"),
        *("epoch 2/2  update 2/5", "epoch 2/2  update 4/5"),
    ]
    last = re.fullmatch(r"last acc: ([\d.]+)%, mean MACs ([\d,]+) \(([-+][\d.]+)%\)", lines[8])
    assert lines[9].startswith("best acc: ")
    assert lines[10] == "checkpoint: out/checkpoint.pth"
    assert sorted(entry.name for entry in Path("out").iterdir()) == [
        *("checkpoint.pth", "evaluation.npz", "log.csv", "log.png"),
    ]
    rows = History.read("out/log.csv", 2).rows
    assert rows[1].cross_entropy < rows[0].cross_entropy  # the loss falls
    assert f"{rows[1].accuracy:.2%}" == f"{last[1]}%"
    with np.load("out/evaluation.npz") as held:
        assert np.mean(held["predictions"] == held["labels"]) == rows[1].accuracy
        assert held["kept"].shape == (12, 18)
        assert held["macs"].mean() == rows[1].mean_macs == pytest.approx(float(last[2].replace(",", "")), abs=1)
    net = checkpoint.read_network("out/checkpoint.pth")
    assert all(found.thre > -10000 for found in net.gates)


def test_resumed_it_ends_where_it_would_have(run, capsys):
    def printed() -> list[str]:
        return [re.sub(r"\d+ s$", "", line) for line in capsys.readouterr().out.splitlines()]

    run(*SHORT, "--epochs", "3")
    whole = printed()
    Path("out").rename("whole")
    with pytest.raises(KeyboardInterrupt):
        interrupted(run)
    assert printed()[:3] == whole[:3]
    run(*SHORT, "--epochs", "3", "--resume")
    lines = printed()
    assert lines[1] == "resumed after epoch 1"
    assert lines[2:] == whole[3:]
    contents = [torch.load(f"{folder}/checkpoint.pth", weights_only=True) for folder in ("whole", "out")]
    for name, value in contents[0]["state_dict"].items():
        assert torch.equal(value, contents[1]["state_dict"][name]), name
    assert len(History.read("out/log.csv", 3).rows) == 3


def interrupted(run: Callable[..., None]) -> None:
    """Run the program until it has written its first checkpoint, and a log that is one epoch further."""
    write, count = History.write, []

    def once(self: History, path: str) -> None:
        write(self, path)
        count.append(path)
        if len(count) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "write", once)
        run(*SHORT, "--epochs", "3")


def test_a_pretrained_network_starts_as_it_is(run, capsys, tmp_path):
    """The public ResNets' file in a folder of several; as the dense network it answers as before."""
    chosen = structure("dyresnet20", shortcut="A")
    source = network(chosen, seed=4)
    with torch.no_grad():
        source.classifier.bias[drawn(12, seed=9).labels[0]] += 100  # all images are of one class
    (tmp_path / "nets").mkdir()
    state = states.without_gates(source.state_dict())
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, "nets/resnet20-x.th")
    run(*SHORT, "--epochs", "1", "--pretrain_path", "nets", "--shortcut", "A", "--normalize", "imagenet")
    share = np.mean(drawn(12, seed=9).labels == drawn(12, seed=9).labels[0])
    assert f"dense start: accuracy {share:.2%}, 40,612,992 MACs" in capsys.readouterr().out


def test_a_trained_network_goes_on_with_its_gates(run, capsys):
    """As a new training, with a limit from the network as it is; without the flag, gates are new."""
    run(*SHORT, "--epochs", "2")
    trained = re.search(r"last acc: ([\d.]+)%, mean MACs ([\d,]+)", capsys.readouterr().out)
    again = *SHORT[:-1], "again", "--epochs", "1", "--pretrain_path", "out/checkpoint.pth"
    run(*again, "--pretrain_gates")
    assert f"dynamic start: accuracy {trained[1]}%, {trained[2]} mean MACs, limit " in capsys.readouterr().out
    assert checkpoint.read("again/checkpoint.pth")["pretrain_gates"] is True
    with pytest.raises(SystemExit, match="pretrain_gates True, now False"):
        run(*again, "--resume")
    run(*again)
    assert "dense start: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--resume"], "there is no|No such file"),
        (["--pretrain_path", "nowhere"], r"main\.py: --pretrain_path: there is no nowhere"),
        (["--data_path", "nowhere"], "nowhere"),
        (["--pretrain_path", "test_batch.bin"], r"test_batch\.bin: refused"),
    ],
)
def test_mistakes_end_in_one_line(arguments, told, run):
    with pytest.raises(SystemExit, match=told):
        run(*SHORT, "--epochs", "1", *arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--ngpu", "2"], "torchrun --nproc_per_node 2"),
        (["--amp", "fp8"], "invalid choice: 'fp8'"),
        (["--pretrain_gates"], "say with --pretrain_path whose gates"),
    ],
)
def test_mistakes_on_the_command_line(arguments, told, run, capsys):
    with pytest.raises(SystemExit):
        run(*SHORT, *arguments)
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun(run, tmp_path):
    """Two processes train as torchrun starts them; only one prints and writes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [*SHORT, "--epochs", "2", "--train_images", "16", "--ngpu", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launcher, str(MAIN), *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[2:4]] == ["epoch 1/2", "epoch 2/2"]
    assert len(History.read(tmp_path / "out" / "log.csv", 2).rows) == 2
