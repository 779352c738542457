"""Several processes do what one does, agree on their masks, and go on after one of them was killed."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mopruning import ir  # noqa: E402
from mopruning.errors import RecipeError, StateError  # noqa: E402
from mopruning.training.agreement import check_agreement, digests  # noqa: E402
from mopruning.training.rows import History  # noqa: E402
from mopruning.training.soft_pruning import SoftPruning  # noqa: E402
from tests.ddp.worker import SOFT, training  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, dict[str, list[int]]]:
    """All trainings of the worker: where they lie, and how the processes of each ended."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    out = tmp_path_factory.mktemp("runs")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(ROOT / "tests/ddp/worker.py"), str(out)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert said.returncode == 0, said.stderr
    lines = [line.split() for line in said.stdout.splitlines()]
    return out, {name: [int(status) for status in statuses] for name, *statuses in lines}


def state(folder: Path, rank: int = 0) -> dict:
    return torch.load(folder / f"state-{rank}.pth", weights_only=True)


def log(folder: Path) -> History:
    return History.read(folder / "checkpoints/irre_prune/drawn_tiny-a.csv", 5)


def test_two_processes_do_what_one_does(runs):
    out, ends = runs
    assert (ends["one"], ends["two"]) == ([0], [0, 0])
    one, two = state(out / "one"), state(out / "two")
    for name, value in one["net"].items():
        torch.testing.assert_close(two["net"][name], value, rtol=1e-5, atol=1e-5, msg=name)
    for name, mask in one["masks"].items():
        assert torch.equal(mask, two["masks"][name])
    for row, other in zip(log(out / "one").rows, log(out / "two").rows, strict=True):
        assert other.loss == pytest.approx(row.loss, rel=1e-5)
        assert (other.accuracy, other.sparsity, other.final) == (row.accuracy, row.sparsity, row.final)
    assert log(out / "two").rows[-1].loss < 0.8 * log(out / "two").rows[0].loss  # there was something to do


def test_processes_have_the_same_weights(runs):
    out, _ = runs
    first, second = state(out / "two"), state(out / "two", 1)
    for name, value in first["net"].items():
        assert torch.equal(value, second["net"][name]), name
    for one, other in zip(first["momentum"], second["momentum"], strict=True):
        assert torch.equal(one, other)


def test_only_frozen_epochs_and_updates_are_sparse(runs):
    out, _ = runs
    rows = log(out / "two").rows
    assert [row.final for row in rows] == [int(SOFT.sparse(epoch)) for epoch in range(5)] == [1, 0, 1, 1, 1]
    assert [round(row.sparsity, 3) for row in rows] == [0.35, 0.0, 0.35, 0.35, 0.35]
    assert [row.lr for row in rows] == pytest.approx([0.05, 0.05, 0.05, 0.005, 0.005])


def test_what_is_frozen_stays_zero_and_is_not_remembered(runs):
    out, _ = runs
    found = state(out / "two")
    names = [name for name, _ in training().net.named_parameters()]
    for name, mask in found["masks"].items():
        assert int(mask.sum()) == {"conv2.weight": 216, "fc.weight": 24}[name]
        assert not found["net"][name][~mask].any()
        assert not found["momentum"][names.index(name)][~mask].any()


def test_the_saved_file_is_sparse_and_plain(runs):
    out, _ = runs
    folder = out / "two/checkpoints/irre_prune"
    last = torch.load(folder / "drawn_tiny_le-a.pth", weights_only=True)
    best = torch.load(folder / "drawn_tiny-a.pth", weights_only=True)
    found = state(out / "two")["net"]
    assert list(last) == list(found)
    assert all(torch.equal(last[name], found[name]) for name in found)
    for weights in (best, last):
        assert (int((weights["conv2.weight"] == 0).sum()), int((weights["fc.weight"] == 0).sum())) == (216, 8)
    model = ir.load(folder / "drawn_tiny_le-a.mopir")
    array = model.graph.initializers["conv2.weight"].const_value.numpy()
    assert torch.equal(torch.from_numpy(array.copy()), last["conv2.weight"])


def test_masks_that_differ_are_told(runs):
    out, ends = runs
    assert ends["differ"] == [1, 1]
    for rank in range(2):
        said = (out / f"differ/said-{rank}.txt").read_text()
        assert said.startswith("worker.py: rank 1 has another mask of 'conv2.weight' than rank 0"), said


def test_killed_and_resumed_is_bit_identical(runs):
    out, ends = runs
    assert (ends["first"], ends["second"], ends["third"]) == ([1, -9], [-9, 1], [0, 0])
    for rank, times in ((0, 1), (1, 1)):
        said = (out / f"killed/said-{rank}.txt").read_text()
        assert said.count(f"worker.py: rank {rank}: another process is gone") == times
        assert "start all again with --resume" in said
    whole, resumed = state(out / "two"), state(out / "killed")
    for name, value in whole["net"].items():
        assert torch.equal(value, resumed["net"][name]), name
    for one, other in zip(whole["momentum"], resumed["momentum"], strict=True):
        assert torch.equal(one, other)
    assert [vars(row) | {"seconds": 0} for row in log(out / "killed").rows] == [
        vars(row) | {"seconds": 0} for row in log(out / "two").rows
    ]


def test_masks_that_are_frozen_at_once_hold_after_every_update():
    one = training(soft=SoftPruning(5, 0, 1))
    one.begin()
    before = digests(one._sparsifier.pruner.masks)
    counts = []

    def watch(done: int, _: object) -> None:
        counts.append([int((one.net.get_parameter(name) == 0).sum()) for name in ("conv2.weight", "fc.weight")])

    for _ in range(2):
        one.advance(watch)
    assert counts == [[216, 8]] * 6
    assert digests(one._sparsifier.pruner.masks) == before


def test_weights_grow_back_between_updates():
    one = training(soft=SoftPruning(5, 5, 1))
    one.begin()
    counts = []
    one.advance(lambda *_: counts.append(int((one.net.get_parameter("conv2.weight") == 0).sum())))
    assert counts == [0, 0, 0]
    assert int((one.net.get_parameter("conv2.weight") == 0).sum()) == 216


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"soft": dataclasses.replace(SOFT, prune_freq=1)}, "prune_freq 2, now 1"),
        ({"amp": "fp16"}, "amp 'none', now 'fp16'"),
    ],
)
def test_another_training_does_not_go_on(other, told, tmp_path):
    training().save(tmp_path / "checkpoint.pth")
    with pytest.raises(StateError, match=f"was written by a training with {told}$"):
        training(**other).restore(tmp_path / "checkpoint.pth")
    older = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    del older["training"]["amp"], older["scaler"]  # as they were when there was one precision
    torch.save(older, tmp_path / "older.pth")
    training().restore(tmp_path / "older.pth")
    with pytest.raises(StateError, match=told):
        training(**other).restore(tmp_path / "older.pth")


# ---- precision


def test_processes_share_a_training_in_half_precision(runs):
    out, ends = runs
    assert ends["half"] == [0, 0]
    found, other, exact = state(out / "half"), state(out / "half", 1), state(out / "two")
    for name, value in found["net"].items():
        assert value.dtype == exact["net"][name].dtype
        assert torch.equal(value, other["net"][name]), name
    for name, mask in found["masks"].items():
        assert not found["net"][name][~mask].any()
    assert not torch.equal(found["net"]["conv1.weight"], exact["net"]["conv1.weight"])
    for row, one in zip(log(out / "half").rows, log(out / "two").rows, strict=True):
        assert row.loss == pytest.approx(one.loss, rel=0.05)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_goes_on_bit_for_bit(amp, tmp_path):
    whole = training(amp=amp)
    whole.begin()
    seen = []
    whole.net.register_forward_hook(lambda net, _, logits: seen.append((net.training, logits.dtype)))
    before, after = whole.advance(), whole.advance()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    assert set(seen) == {(True, half), (False, torch.float32)}  # evaluations are exact
    assert after["loss"] < before["loss"]
    first = training(amp=amp)
    first.begin()
    first.advance()
    first.save(tmp_path / "checkpoint.pth")
    second = training(amp=amp, seed=9)
    second.restore(tmp_path / "checkpoint.pth")
    assert second.advance() == after
    for name, value in whole.net.state_dict().items():
        assert torch.equal(second.net.state_dict()[name], value), name


def test_other_precisions_are_told():
    with pytest.raises(RecipeError, match="amp: 'bf32' is unknown; did you mean 'bf16'"):
        training(amp="bf32")


def test_an_update_that_overflows_is_left_out():
    one = training(amp="fp16", soft=SoftPruning(5, 0, 1))
    one.begin()
    state = one._precision.state_dict()
    one._precision.load_state_dict(state | {"scale": 1e38})
    weights = {name: value.clone() for name, value in one.net.named_parameters()}
    unchanged = []
    one.advance(lambda *_: unchanged.append(all(torch.equal(v, weights[n]) for n, v in one.net.named_parameters())))
    assert unchanged[0]
    assert one._precision.state_dict()["scale"] < 1e38
    assert int((one.net.get_parameter("conv2.weight") == 0).sum()) == 216


def test_masks_that_one_process_lacks():
    one = digests({"a": torch.ones(2, 2, dtype=torch.bool)})
    check_agreement([one, dict(one)])
    with pytest.raises(StateError, match="rank 2 has another mask of 'a'"):
        check_agreement([one, one, {}])
