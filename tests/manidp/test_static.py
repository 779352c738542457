"""The static rival of ManiDP: it costs what was asked for, its channels stay dead, and it resumes bit for bit."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import manidp_static  # noqa: E402
from manidp_static import StaticTraining, allocate, kept_filters, macs_of, recipe, static_macs  # noqa: E402

from mopruning.backends.pytorch.manidp import Training, checkpoint, network, state_of  # noqa: E402
from mopruning.errors import FormatError, RecipeError, StateError  # noqa: E402
from mopruning.manidp import STRUCTURES, Settings, cost, program, states  # noqa: E402
from mopruning.manidp.history import History  # noqa: E402
from mopruning.manidp.record import Record  # noqa: E402
from mopruning.schedules import Polynomial  # noqa: E402
from mopruning.training.checkpoints import Checkpoints  # noqa: E402
from mopruning.training.data import Data  # noqa: E402
from tests.manidp.pytorch_worker import TINY, drawn  # noqa: E402

SETTINGS = Settings(epochs=4, batch_size=16, lr=0.05)
DATA = Data(drawn(64), drawn(21, seed=1), "cifar")
HALF = allocate(TINY, 0.5 * cost(TINY).dense)


def training(**options) -> StaticTraining:
    return StaticTraining(network(TINY), DATA, SETTINGS, HALF, ramp=0.5, **options)


def train(folder: Path, *, resume: bool = False, **options) -> StaticTraining:
    one = training(**options)
    place = Checkpoints("checkpoint.pth", partial(checkpoint.save, one), partial(checkpoint.restore, one))
    given = argparse.Namespace(save_path=folder, resume=resume, print_freq=100, arch="tiny", dataset="drawn")
    program.run(one, given, place, "cpu")
    return one


# ---- what it costs


@pytest.mark.parametrize("arch", ["dyresnet20", "dyresnet56", "dyresnet18"])
@pytest.mark.parametrize("share", [0.3, 0.4585, 0.5, 0.93, 1.0])
def test_it_costs_what_was_asked_for_within_a_filter(arch, share):
    structure = STRUCTURES[arch]
    wanted = share * cost(structure).dense
    kept = allocate(structure, wanted)
    channels = np.array(structure.gate_channels)
    assert (kept >= 1).all()
    assert (kept <= channels).all()
    found = static_macs(structure, kept[None])[0]
    one_more = static_macs(structure, np.minimum(kept + np.eye(len(kept), dtype=int), channels))
    assert abs(found - wanted) <= max(1, one_more.max() - found)
    assert np.ptp(kept / channels) <= 1 / channels.min()  # all layers lose the same share


def test_what_it_costs_has_no_gates():
    channels = np.array([STRUCTURES["dyresnet20"].gate_channels])
    assert static_macs(STRUCTURES["dyresnet20"], channels).tolist() == [40_813_184]


@pytest.mark.parametrize("wanted", [0, 1e9])
def test_what_cannot_be_is_refused(wanted):
    with pytest.raises(RecipeError, match="one filter each"):
        allocate(STRUCTURES["dyresnet20"], wanted)


def test_only_convolutions_in_blocks_lose_filters():
    structure = STRUCTURES["dyresnet20"]
    kept = allocate(structure, 20e6)
    plan = recipe(structure, kept, "magnitude", Polynomial(length=10)).plan(states.shapes(structure, gates=False))
    pruned = {row.name: row.target for row in plan.rows if row.target}
    assert len(pruned) == 18
    assert all(name.rpartition(".")[0].endswith(("conv_a", "conv_b")) for name in pruned)


# ---- training


@pytest.mark.parametrize("options", [{}, {"score": "fpgm"}, {"amp": "bf16"}], ids=str)
def test_filters_are_gone_and_channels_dead(options, tmp_path):
    one = train(tmp_path, **options)
    assert kept_filters(one.net).tolist() == HALF.tolist()
    seen = {}
    for block in one.net.blocks:
        for number, layer in enumerate(block.layers()):
            layer.register_forward_hook(partial(keep, seen, (block.block.name, number)))
    one.net.eval()(torch.rand(3, 3, 16, 16), gates=False)
    alive = [
        seen[block.block.name, number].ne(0).any(3).any(2).any(0).sum() for block in one.net.blocks for number in (1, 3)
    ]
    assert [int(count) for count in alive] == HALF.tolist()  # behind a normalisation, a removed channel is zero
    rows = History.read(tmp_path / "log.csv", 4).rows
    assert [row.mean_macs for row in rows[1:]] == [static_macs(TINY, HALF[None])[0]] * 3  # the ramp ends in time
    assert rows[0].mean_macs > rows[1].mean_macs
    assert rows[-1].cross_entropy < rows[0].cross_entropy
    with np.load(tmp_path / "evaluation.npz") as held:
        assert (held["kept"] == HALF).all()
        assert (held["macs"] == static_macs(TINY, HALF[None])).all()
        assert np.mean(held["predictions"] == held["labels"]) == rows[-1].accuracy


def keep(seen, name, module, inputs, output) -> None:
    seen[name] = output


def test_gates_are_left_as_they_were(tmp_path):
    before, after = network(TINY).state_dict(), train(tmp_path).net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "mb" in name)


def test_it_starts_as_the_dense_network():
    one = training()
    dense = one.start()
    assert dense.mean_macs == cost(TINY).dense
    same = Training(network(TINY), DATA, SETTINGS).evaluate(DATA.test, gates=False)
    assert (dense.cross_entropy == same.cross_entropy).all()


def test_resumed_it_ends_where_it_would_have(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    write, count = History.write, []

    def stop_at_third(self, path):
        write(self, path)
        count.append(path)
        if len(count) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(History, "write", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut")
    resumed = train(tmp_path / "cut", resume=True)
    contents = [torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("whole", "cut")]
    assert contents[0]["epoch"] == contents[1]["epoch"] == 4
    found = state_of(resumed.net)
    for name, value in state_of(whole.net).items():
        assert torch.equal(value, found[name]), name
    momenta = [content["training"]["optimizer"]["state"] for content in contents]
    for number, state in momenta[0].items():
        assert torch.equal(state["momentum_buffer"], momenta[1][number]["momentum_buffer"])
    logs = [
        [tuple(vars(row).values())[:-1] for row in History.read(tmp_path / name / "log.csv", 4).rows]
        for name in ("whole", "cut")
    ]
    assert logs[0] == logs[1]


def test_another_training_does_not_go_on(tmp_path):
    train(tmp_path)
    with pytest.raises(StateError, match=r"was asked for .*'magnitude'.*'fpgm'"):
        checkpoint.restore(training(score="fpgm"), tmp_path / "checkpoint.pth")
    with pytest.raises(StateError, match="was asked for None"):
        training().load_state_dict(Training(network(TINY), DATA, SETTINGS).state_dict())


# ---- the command line


def test_as_much_as_another_took(tmp_path):
    train(tmp_path)
    same = Record(TINY, SETTINGS, "cifar")
    assert macs_of(tmp_path, same) == static_macs(TINY, HALF[None])[0]
    with pytest.raises(StateError, match="was trained with epochs 4, now 5; normalize 'cifar', now 'none'"):
        macs_of(tmp_path, Record(TINY, Settings(epochs=5, batch_size=16, lr=0.05), "none"))
    (tmp_path / "evaluation.npz").unlink()
    with pytest.raises(FormatError, match="has completed 4 of 4 epochs"):
        macs_of(tmp_path, same)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--macs", "2e7", "--lambda_lasso", "1"], "--lambda_lasso is about gates"),
        (["--macs", "2e7", "--ramp", "2"], "--ramp must be from 0 to 1"),
        (["--macs", "2e7", "--like", "there"], "give one"),
        (["--makes", "2e7"], "unrecognized arguments"),
    ],
)
def test_mistakes_on_the_command_line(arguments, told, capsys):
    with pytest.raises(SystemExit):
        manidp_static.read_options(arguments)
    assert told in capsys.readouterr().err


def test_mistakes_end_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["manidp_static.py", "--macs", "2e7", "--data_path", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^manidp_static\.py: [^\n]*$"):
        manidp_static.main()


def test_without_a_goal_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["manidp_static.py"])
    assert manidp_static.main() == 0
    assert "--macs or --like" in capsys.readouterr().out
