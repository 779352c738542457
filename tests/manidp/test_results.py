"""The page of results: its table and pictures from a tiny training, and what it refuses."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import manidp_results  # noqa: E402
import manidp_runs  # noqa: E402
import page  # noqa: E402
from manidp_pictures import extremes, kept_channels  # noqa: E402
from manidp_static import StaticTraining, allocate, kept_filters  # noqa: E402

from mopruning.backends.pytorch.manidp import Training, checkpoint, network, state_of  # noqa: E402
from mopruning.errors import FormatError, StateError  # noqa: E402
from mopruning.manidp import Evaluation, Settings, cost, program, structure  # noqa: E402
from mopruning.manidp.record import Record  # noqa: E402
from mopruning.training.checkpoints import Checkpoints  # noqa: E402
from mopruning.training.data import Data  # noqa: E402
from tests.manidp.pytorch_worker import TINY, drawn  # noqa: E402

SETTINGS = Settings(epochs=2, batch_size=16, lr=0.02, target_remain_rate=0.5)
DATA = Data(drawn(48), drawn(40, seed=1), "cifar")


def train(folder: Path, one: Training) -> None:
    place = Checkpoints("checkpoint.pth", partial(checkpoint.save, one), partial(checkpoint.restore, one))
    given = argparse.Namespace(save_path=folder, resume=False, print_freq=100, arch="tiny", dataset="drawn")
    program.run(one, given, place, "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a finished ManiDP training and of its static rival."""
    place = tmp_path_factory.mktemp("trainings")
    train(place / "dynamic", Training(network(TINY, gate_scale=0.1), DATA, SETTINGS))
    kept = allocate(TINY, 0.6 * cost(TINY).dense)
    train(place / "static", StaticTraining(network(TINY), DATA, SETTINGS, kept))
    return place / "dynamic", place / "static"


@pytest.fixture(autouse=True)
def figures(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(page, "FIGURES", tmp_path / "figures")
    return tmp_path / "figures"


def test_a_page_with_its_table_and_pictures(folders, tmp_path, figures):
    dynamic, static = (manidp_runs.read(one, DATA.test, static=number == 1) for number, one in enumerate(folders))
    torch.save(state_of(network(TINY)), tmp_path / "dense.pth")
    dense = manidp_runs.dense_answers(tmp_path / "dense.pth", dynamic, DATA.test)
    faults = manidp_results.report(
        *(dynamic, static, dense, DATA.test, tmp_path), pretrained="nets/dense.pth", more="--gate_scale 0.1 --amp bf16"
    )
    text = (tmp_path / "manidp.md").read_text()
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in text.splitlines() if line.startswith("| ")}
    for name, found in (("dense start", dense), ("ManiDP", dynamic.answers), ("static filters", static.answers)):
        assert rows[name][:2] == [f"{100 * found.accuracy:.2f}", f"{100 - 100 * found.accuracy:.2f}"]
    assert rows["ManiDP"][4] == f"{100 * dynamic.answers.reduction:.1f} |"
    assert f"{dynamic.answers.macs.mean() / 1e6:.2f}" == rows["ManiDP"][3]
    pictures = re.findall(r"\]\((.+\.png)\)", text)
    assert len(pictures) == 3
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert (figures / "manidp.json").exists()
    assert "--epochs 2" in text
    assert "--gate_scale 0.1 --amp bf16" in text.replace(" \\\n   ", "")
    assert "for as many epochs" in text
    assert str(tmp_path) not in text
    assert all(fault in text for fault in faults)


def test_a_training_that_went_on_stands_beside_what_it_went_on_from(folders, tmp_path):
    dynamic, static = (manidp_runs.read(one, DATA.test, static=number == 1) for number, one in enumerate(folders))
    longer = manidp_runs.read(folders[0], DATA.test, before=5)
    right = dynamic.answers.labels
    better = dataclasses.replace(longer, answers=dataclasses.replace(longer.answers, predictions=right))
    dense = dataclasses.replace(dynamic.answers, predictions=right)
    faults = manidp_results.report(dynamic, static, dense, DATA.test, tmp_path, pretrained="dense.pth", longer=better)
    assert not any("below the dense start" in fault for fault in faults)  # that is asked of the longer one
    assert faults == manidp_results.missed(dynamic, static, dense, better)
    assert any("not ahead of static" in fault for fault in faults)  # and that of the one trained for as long
    text = (tmp_path / "manidp.md").read_text()
    rows = {line.split(" | ")[0][2:]: line.split(" | ")[1:] for line in text.splitlines() if line.startswith("| ")}
    assert rows["ManiDP, 2 epochs more"][0] == "100.00"
    assert rows["ManiDP"][0] == f"{100 * dynamic.answers.accuracy:.2f}"
    assert "Of 7 epochs in all there is no static rival." in text
    assert "--longer longer_results" in text
    assert "--pretrain_path manidp_results/checkpoint.pth --pretrain_gates" in text.replace(" \\\n   ", "")
    commands = text.partition("```sh")[2].partition("```")[0]
    assert commands.count("--pretrain_path dense.pth") == 2  # of ManiDP and of the static rival
    wider = dataclasses.replace(longer, record=Record(structure("dyresnet20"), SETTINGS, "cifar"))
    with pytest.raises(StateError, match="goes on with a training of another network"):
        manidp_results.report(dynamic, static, None, DATA.test, tmp_path, longer=wider)


def test_what_the_checkpoint_says_is_the_command(folders):
    dynamic, static = (manidp_runs.read(one, DATA.test, static=number == 1) for number, one in enumerate(folders))
    found = " ".join(manidp_runs.command(dynamic, "nets/dense.pth", "--amp bf16").replace("\\\n", "").split())
    assert found == (
        "python examples/manidp/main.py --arch 1x1x1 --shortcut conv --data_path cifar10 --normalize cifar "
        "--pretrain_path dense.pth --target_remain_rate 0.5 --epochs 2 --batch_size 16 --lr 0.02 --amp bf16"
    )
    found = manidp_runs.command(static, None, "--gate_scale 0.1 --amp bf16")
    assert f"--macs {static.answers.macs[0]}" in found
    assert "--amp bf16" in found
    assert "--gate_scale" not in found


@pytest.mark.parametrize("arch", ["dyresnet20", "dyresnet56"])
def test_it_knows_the_networks(arch):
    assert manidp_runs.arch(structure(arch, shortcut="A")) == arch


def test_a_training_under_way_is_evaluated_as_it_stands(tmp_path):
    for name, one in (
        ("dynamic", Training(network(TINY, gate_scale=0.1), DATA, SETTINGS)),
        ("static", StaticTraining(network(TINY), DATA, SETTINGS, allocate(TINY, 0.6 * cost(TINY).dense))),
    ):
        folder = tmp_path / name
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(program, "write_evaluation", None)  # never reached
            save, count = checkpoint.save, []

            def stop(training, path, save=save, count=count):
                save(training, path)
                raise KeyboardInterrupt

            patch.setattr(checkpoint, "save", stop)
            with pytest.raises(KeyboardInterrupt):
                train(folder, one)
        found = manidp_runs.read(folder, DATA.test, static=name == "static")
        assert found.name.endswith(", after 1 of 2 epochs")
        assert len(found.rows) == 1
        assert found.answers.accuracy == found.rows[0].accuracy
        assert found.answers.mean_macs == found.rows[0].mean_macs
        if name == "static":
            assert (found.answers.kept == kept_filters(found.net)).all()
            assert manidp_results.verdict(found, ["this"]).endswith("Missed so far: this.")


def test_what_is_no_result_is_refused_in_one_line(folders, tmp_path, monkeypatch, capsys):
    dynamic, static = folders
    with pytest.raises(FormatError, match="nowhere: is no result of a training: expected"):
        manidp_runs.read(tmp_path / "nowhere", DATA.test)
    with pytest.raises(FormatError, match="prunes filters for all images alike: --static"):
        manidp_runs.read(static, DATA.test)
    with pytest.raises(FormatError, match="is no static rival"):
        manidp_runs.read(dynamic, DATA.test, static=True)
    with pytest.raises(FormatError, match="answers for other images than the 39 of the test set"):
        manidp_runs.read(dynamic, DATA.test[:39])
    monkeypatch.setattr(manidp_results, "find", lambda *_: DATA.test)
    monkeypatch.setattr(sys, "argv", ["manidp_results.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^manidp_results\.py: [^\n]*: is no result[^\n]*$"):
        manidp_results.main()
    monkeypatch.setattr(sys, "argv", ["manidp_results.py"])
    assert manidp_results.main() == 0
    assert capsys.readouterr().out == "left out: no folder of a training\n"


def test_what_is_missed_is_told():
    def result(right: int, kept: int) -> manidp_runs.Result:
        predictions = np.where(np.arange(1000) < right, 0, 1)
        zeros = np.zeros(1000, np.int64)
        channels = np.minimum(TINY.gate_channels, kept)
        found = Evaluation(TINY, predictions, zeros, np.zeros(1000), np.tile(channels, (1000, 1)))
        return manidp_runs.Result(Record(TINY, SETTINGS, "cifar"), 2, [], network(TINY), found, None)

    dense = result(900, 8).answers
    assert manidp_results.missed(result(892, 1), result(891, 1), dense) == []
    faults = manidp_results.missed(result(891, 8), result(891, 1), dense)
    assert [fault.split(",")[0] for fault in faults] == [
        *("0.0% saved", "0.90 points below the dense start", "not ahead of static filters (89.10%)")
    ]


# ---- pictures


def test_easy_and_hard_images_are_right_ones():
    kept = np.tile(np.array([[1, 1, 1, 1, 1, 1]]), (5, 1)) * np.array([[1], [4], [2], [3], [1]])
    found = Evaluation(TINY, np.array([0, 1, 0, 0, 1]), np.array([1, 1, 0, 0, 1]), np.zeros(5), kept)
    cheap, dear = extremes(found, 2)  # the first is wrong
    assert (cheap.tolist(), dear.tolist()) == ([4, 2], [1, 3])


def test_channels_that_are_drawn_are_those_kept(folders):
    found = manidp_runs.read(folders[0], DATA.test)
    cells = kept_channels(found.net, DATA.test[:7], "cifar")
    assert cells.shape == (7, 6, 8)
    assert (cells[:, 4:].sum(2) == found.answers.kept[:7, 4:]).all()  # layers of 8 channels are drawn as they are
    assert ((cells[:, 0].sum(1) // 2) == found.answers.kept[:7, 0]).all()  # of 4: two places each


def test_a_rival_trained_otherwise_is_told_so(folders):
    dynamic, static = (manidp_runs.read(one, DATA.test, static=number == 1) for number, one in enumerate(folders))
    other = dataclasses.replace(static, record=Record(TINY, Settings(epochs=3, batch_size=16, lr=0.02), "cifar"))
    assert "(unlike ManiDP with epochs 3, ManiDP 2)" in manidp_results.compared(dynamic, other)
    wider = dataclasses.replace(static, record=Record(structure("dyresnet20"), SETTINGS, "cifar"))
    with pytest.raises(StateError, match="rival of another network"):
        manidp_results.report(dynamic, wider, None, DATA.test)
