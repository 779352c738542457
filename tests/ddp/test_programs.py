"""The programs as they are called: every type of pruning, what is fed back, and what a mistake comes to."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from mopruning import NM, BankBalanced, ir  # noqa: E402
from mopruning.training import flags  # noqa: E402
from mopruning.training.rows import History  # noqa: E402

PROGRAMS = Path(__file__).resolve().parents[2] / "examples/ddp"
SMALL = ["--dataset", "digits", "--model", "resnet8", "--train_images", "32", "--test_images", "20"]
SMALL += ["--batch_size", "16", "--lr", "0.01", "--device", "cpu"]
CONV, INNER, SHORT, HEAD = "layer2.0.conv2.weight", "layer3.0.conv2.weight", "layer2.0.downsample.weight", "fc.weight"


def program(name: str):
    spec = importlib.util.spec_from_file_location(name, PROGRAMS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(monkeypatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    monkeypatch.setattr(History, "plot", lambda *_: None)  # tested with ManiDP's
    program(name).main()


def config(folder: Path, ratios: dict[str, object]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"prune_ratio": {f"module.{name}": value for name, value in ratios.items()}}))
    return path


TYPES = {
    "irre_prune": {CONV: 0.9, SHORT: 0.5, HEAD: 0.25},
    "mn_prune": {CONV: "m4n2", INNER: "m8n1", HEAD: "m4n1"},
    "pat_prune": {CONV: 0.4, INNER: 0.8, SHORT: 0.5},
    "stripe_prune": {CONV: 0.5, SHORT: 0.25, HEAD: 0.5},
    "filter_prune": {CONV: 0.5, INNER: 0.25},
    "bank_prune": {INNER: 0.75, CONV: 0.5},
}
ZEROS = {  # of 9,216, 36,864, 512 and 640 weights
    "irre_prune": {CONV: 8294, SHORT: 256, HEAD: 160},
    "mn_prune": {CONV: 4608, INNER: 32256, HEAD: 480},
    "pat_prune": {CONV: 4096, INNER: 29489, SHORT: 0},
    "stripe_prune": {CONV: 4608, SHORT: 128, HEAD: 0},
    "filter_prune": {CONV: 4608, INNER: 9216},
    "bank_prune": {INNER: 27648, CONV: 0},
}
REASONS = {
    "pat_prune": "layer2.0.downsample.weight 32x16x1x1 dense - kernel patterns need 3x3 kernels",
    "stripe_prune": "linear.weight 10x64 dense - stripes need a convolution kernel",
    "bank_prune": "layer2.0.conv2.weight 32x32x3x3 dense -",
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_pruning(kind, tmp_path, monkeypatch, capsys):
    given = ["--config_file", config(tmp_path, TYPES[kind]), "--prune_type", kind, "--out", tmp_path, "--log_tag", "t"]
    call(monkeypatch, "prune", *SMALL, *given, "--epochs", 2, "--retrain_epoch", 1)
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "log-digits-resnet8-t.txt").read_text().splitlines() == lines
    assert [line for line in lines if line.startswith("Epoch=0 Acc ")]
    if kind in REASONS:
        assert [line for line in lines if line.startswith(REASONS[kind])], lines
    folder = tmp_path / "checkpoints" / kind
    rows = History.read(folder / "digits_resnet8-t.csv", 2).rows
    assert [row.final for row in rows] == [1, 1]
    assert rows[0].sparsity == rows[1].sparsity > 0  # it never drifts
    assert sum(f"overall {rows[0].sparsity:.4%}" in line for line in lines) == 1
    for name in ("digits_resnet8-t", "digits_resnet8_le-t"):
        weights = torch.load(folder / f"{name}.pth", weights_only=True)
        model = ir.load(folder / f"{name}.mopir")
        for key, zeros in ZEROS[kind].items():
            own = key.replace("fc.", "linear.")
            assert int((weights[own] == 0).sum()) == zeros, own
            array = model.graph.initializers[own].const_value.numpy()
            np.testing.assert_array_equal(array, weights[own].numpy())
    if kind == "mn_prune":
        assert (weights[INNER].reshape(64, 8, 8, 9).ne(0).sum(2) == NM(1, 8).n).all()
    if kind == "bank_prune":
        assert (weights[INNER].reshape(64, 64, 9).ne(0).sum(1) == BankBalanced(64).bank / 4).all()


def test_what_was_written_is_fed_back(tmp_path, monkeypatch, capsys):
    """Trained from scratch, pruned from there, and what was pruned pruned once more: nothing is lost."""
    common = [*SMALL, "--out", tmp_path]
    call(monkeypatch, "train_scratch", *common, "--epochs", 1)
    scratch = tmp_path / "checkpoints/scratch/digits_resnet8_scratch_ddp-.pth"
    held = torch.load(scratch, weights_only=True)
    assert set(held) == {"epoch", "arch", "state_dict", "best_acc1", "optimizer", "scheduler"}
    assert (held["epoch"], held["arch"]) == (1, "resnet8")
    said = capsys.readouterr().out
    assert f"test {held['best_acc1']:.2%}" in said
    prune = [*common, "--config_file", config(tmp_path, {CONV: 0.5, INNER: 1, SHORT: 0})]
    call(monkeypatch, "prune", *prune, "--weight_file", scratch, "--epochs", 0)
    assert f"Epoch=0 Acc {held['best_acc1']:.2%} -> " in capsys.readouterr().out
    pruned = tmp_path / "checkpoints/irre_prune/digits_resnet8-.pth"
    weights = torch.load(pruned, weights_only=True)
    for name, value in held["state_dict"].items():
        kept = weights[name].ne(0) if name in (CONV, INNER) else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(weights[name][kept], value[kept]), name
    assert (weights[CONV] == 0).sum() == 4608
    assert not weights[INNER].any()  # a ratio of 1 is all of it
    assert weights[SHORT].all()  # and 0 is nothing
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "wrapped.pth")
    call(monkeypatch, "prune", *prune, "--weight_file", tmp_path / "wrapped.pth", "--epochs", 0, "--log_tag", "again")
    again = torch.load(tmp_path / "checkpoints/irre_prune/digits_resnet8-again.pth", weights_only=True)
    assert all(torch.equal(again[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config_file", "misspelt.yaml"], "'module.layer2.0.conv3.weight' matches no parameter; did you mean"),
        (["--config_file", "large.yaml"], r"prune_ratio\['module.conv1.weight'\] must lie from 0 to 1, got 1.2"),
        (
            ["--config_file", "none.yaml"],
            "--config_file: there is no none.yaml; in .*prune_config there are .*vgg16",
        ),
        (["--model", "resnet20"], "there is no .*resnet20_digits_irre.yaml"),
        (["--config_file", "good.yaml", "--weight_file", "none.pth"], "--weight_file: there is no none.pth"),
        (["--config_file", "good.yaml", "--weight_file", "other.pth"], "weights of another network: it lacks 'conv1"),
        (
            ["--config_file", "good.yaml", "--resume"],
            "--resume: there is no checkpoints/irre_prune/digits_res",
        ),
        (["--config_file", "good.yaml", "--resume", "x.pth"], "expected the name digits_resnet8-TAG.resume.pth"),
    ],
)
def test_mistakes_end_in_one_line(arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, ratios in (
        ("misspelt", {"module.layer2.0.conv3.weight": 0.5}),
        ("large", {"module.conv1.weight": 1.2}),
        ("good", {"module.conv1.weight": 0.2}),
    ):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"prune_ratio": ratios}))
    torch.save({"fc.weight": torch.ones(2, 3)}, "other.pth")
    with pytest.raises(SystemExit, match=rf"^prune\.py: [^\n]*{told}[^\n]*$"):
        call(monkeypatch, "prune", *SMALL, *arguments)


def test_torchvision_s_weights_are_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    arguments = ["--dataset", "imagenet", "--model", "squeezenet1_1", "--pretrained", "True", "--device", "cpu"]
    with pytest.raises(
        SystemExit, match=r"--pretrained: .*checkpoints has no squeezenet1_1-\*\.pth; put torchvision's"
    ):
        call(monkeypatch, "train_scratch", *arguments)


# ---- flags

PUBLISHED = {
    "data_root": "data",
    "model": "wrn40_2",
    "dataset": "cifar10",
    "batch_size": 256,
    "epochs": 200,
    "lr": 0.1,
    "lr_decay_milestones": (120, 150, 180),
    "print_freq": 0,
    "pretrained": False,
    "log_tag": "",
    "ip": "127.0.0.29",
    "local_rank": -1,
    "resume": None,
    "seed": 0,
    "amp": "none",  # not published
}


def test_published_defaults():
    scratch = flags.parse(flags.scratch_parser("trains"), [])
    prune = flags.parse(flags.prune_parser("prunes", PROGRAMS / "prune_config"), [])
    for options in (scratch, prune):
        assert {name: vars(options)[name] for name in PUBLISHED} == PUBLISHED
    assert (scratch.wd, prune.wd) == (5e-5, 1e-4)
    assert (prune.prune_type, prune.prune_freq, prune.retrain_epoch) == ("irre_prune", 1, 1)
    assert flags.config_file(prune) == PROGRAMS / "prune_config/wrn40_2_cifar10_irre.yaml"


def test_published_command_lines():
    parser = flags.prune_parser("prunes", PROGRAMS / "prune_config")
    line = (
        "--data_root data --model vgg16 --dataset cifar10 --batch_size 1024 --epochs 100 --lr 0.05 --weight-decay 5e-5 "
        "-p 10 --lr_decay_milestones 40,70,90 --log_tag example --prune_type filter_prune --weight_file ./w.pth "
        "--retrain_epoch 50 --prune_freq 5 --ip 127.0.0.1 --port 23456 --local_rank 0 --resume"
    )
    options = flags.parse(parser, line.split())
    assert (options.wd, options.print_freq, options.lr_decay_milestones) == (5e-5, 10, (40, 70, 90))
    assert flags.outputs(options).files.checkpoint.name == "cifar10_vgg16-example.resume.pth"
    for given, wanted in (([], True), (["True"], True), (["False"], False)):
        found = flags.parse(parser, ["--dataset", "imagenet", "--model", "resnet18", "--pretrained", *given])
        assert found.pretrained is wanted


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--retrain_epochs", "3"], "unrecognized arguments: --retrain_epochs 3"),
        (["--prune_type", "irregular"], "invalid choice: 'irregular'"),
        (["--prune_freq", "0"], "prune_freq must be a whole number from 1"),
        (["--model", "squeezenet1_0"], "'squeezenet1_0' is unknown; did you mean"),
        (["--pretrained"], "torchvision has no networks for cifar10; give --weight_file"),
        (["--lr_decay_milestones", "a,b"], "expected epochs such as 40,70,90"),
        (["--shortcut", "A"], "--shortcut A is for resnet8, resnet20, resnet32, resnet44, resnet56, resnet110"),
        (["--shortcut", "A", "--model", "resnet18"], "--shortcut A is for resnet8"),
        (["--amp", "fp8"], "invalid choice: 'fp8'"),
    ],
)
def test_mistakes_on_the_command_line(arguments, told, capsys):
    with pytest.raises(SystemExit):
        flags.parse(flags.prune_parser("prunes", PROGRAMS / "prune_config"), arguments)
    assert told in capsys.readouterr().err
