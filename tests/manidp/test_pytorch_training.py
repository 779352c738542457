"""Training in PyTorch: the core's rules carried out, resumed bit for bit, shared by processes that agree."""

from __future__ import annotations

import copy
import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mopruning.backends.pytorch.manidp import Training, checkpoint, load_state, network, state_of  # noqa: E402
from mopruning.errors import FormatError, RecipeError, StateError, WeightError  # noqa: E402
from mopruning.manidp import NOTHING_PRUNED, Settings, learning_rate, remain_rate, structure, threshold  # noqa: E402
from mopruning.training.data import Data  # noqa: E402
from tests.manidp.pytorch_worker import TINY, drawn  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(epochs=4, batch_size=16, lr=0.05, target_remain_rate=0.5, seed=3)


def training(settings: Settings = SETTINGS, *, amp: str = "none", **options) -> Training:
    return Training(network(TINY, **options), Data(drawn(72), drawn(30, seed=1), seed=settings.seed), settings, amp=amp)


def same(one: Training, other: Training) -> bool:
    states = state_of(one.net), state_of(other.net)
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_epoch_sums_saliencies_and_sets_thresholds():
    one = training(dataclasses.replace(SETTINGS, thre_freq=2))
    one.start()
    sums = [np.zeros(channels) for channels in TINY.gate_channels]

    def watch(number: int, saliencies: torch.Tensor) -> None:
        sums[number] += saliencies.detach().sum(0).numpy()

    for number, found in enumerate(one.net.gates):
        found.register_forward_hook(lambda _, inputs, output, number=number: watch(number, output[0]))
    for epoch in range(3):
        for row in sums:
            row.fill(0)
        one.epoch()
        for found, row in zip(one.net.gates, sums, strict=True):
            np.testing.assert_allclose(found.mask_sum, row, rtol=1e-5)
            rate = remain_rate(epoch, 4, 0.5)
            wanted = NOTHING_PRUNED if epoch < 2 else threshold(found.mask_sum.double().numpy() / 72, rate)
            assert found.thre.item() == np.float32(wanted)
    assert one.control.epoch == 3


def test_rates_limits_and_means_are_the_controller_s():
    one = training()
    one.start()
    dense = one.evaluate(one.data.train, gates=False)
    assert one.control.limit == pytest.approx(0.5 * dense.cross_entropy.mean(), rel=1e-6)
    first = one.control.limit
    rows, seen = [], []
    for _ in range(2):
        rows.append(one.epoch(lambda done, loss: seen.append((done, loss.item()))))
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5] * 2
    assert rows[0]["limit"] == first
    assert rows[1]["limit"] == 0.5 * rows[0]["cross_entropy"]
    assert [row["lr"] for row in rows] == [learning_rate(update, 20, 0.05) for update in (4, 9)]
    assert rows[0]["loss"] == pytest.approx(np.average([loss for _, loss in seen[:5]], weights=[16, 16, 16, 16, 8]))
    for row in rows:
        parts = row["cross_entropy"] + 0.1 * row["lasso"] + 0.1 * row["graph"]
        assert row["loss"] == pytest.approx(parts, rel=1e-6)
        assert 0 <= row["train_accuracy"] <= 1


def test_decay_of_network_and_gates():
    one = training(dataclasses.replace(SETTINGS, decay=0.25, decay_branch=0.125))
    names = {id(value): name for name, value in one.net.named_parameters()}
    groups = one.state_dict()["optimizer"]["param_groups"]
    assert [(group["weight_decay"], group["nesterov"], group["momentum"]) for group in groups] == [
        (0.25, True, 0.9),
        (0.125, True, 0.9),
    ]
    counts = [sum(("mb" in name) == branch for name in names.values()) for branch in (False, True)]
    assert [len(group["params"]) for group in groups] == counts


def test_loss_falls_and_channels_go():
    one = training(dataclasses.replace(SETTINGS, epochs=6, lr=0.02, lambda_lasso=0.01), gate_scale=0.1)
    one.start()
    rows = [one.epoch() for _ in range(6)]
    assert rows[-1]["cross_entropy"] < 0.8 * rows[0]["cross_entropy"]
    found = one.evaluate(one.data.test)
    assert 0.05 < found.reduction < 0.95
    assert len(np.unique(found.kept, axis=0)) > 1  # images differ in what they keep


def test_an_evaluation_is_in_the_order_of_the_images():
    one = training()
    net = one.net.eval()
    for found in net.gates:
        found.thre.fill_(1.0)
    whole = one.evaluate(one.data.test)
    ((pixels, labels),) = one.data.plain(one.data.test, 100)
    with torch.no_grad():
        details = net.details(torch.from_numpy(pixels))
    np.testing.assert_array_equal(whole.predictions, details.logits.argmax(1))
    np.testing.assert_array_equal(whole.labels, labels)
    np.testing.assert_array_equal(whole.kept, details.kept())
    dense = one.evaluate(one.data.test, gates=False)
    assert dense.reduction == 0
    assert whole.reduction > 0


def test_evaluating_changes_nothing():
    one, other = training(), training()
    for each in (one, other):
        each.start()
        each.epoch()
    one.evaluate(one.data.test)
    one.evaluate(one.data.train, gates=False)
    assert same(one, other)


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_killed_and_resumed_is_bit_identical(amp, tmp_path):
    whole = training(amp=amp)
    whole.start()
    for _ in range(4):
        whole.epoch()
    first = training(amp=amp)
    first.start()
    first.epoch()
    first.epoch()
    checkpoint.save(first, tmp_path / "checkpoint.pth")
    second = training(dataclasses.replace(SETTINGS), amp=amp, seed=9)
    assert not same(first, second)
    checkpoint.restore(second, tmp_path / "checkpoint.pth")
    assert second.control.epoch == 2
    second.epoch()
    second.epoch()
    assert same(whole, second)
    assert whole.control.state_dict() == second.control.state_dict()


def test_how_a_training_began_is_kept_and_precision_compared(tmp_path):
    first = training(amp="bf16")
    first.begun |= {"gate_scale": 0.5, "pretrain_path": "resnet20.th"}
    checkpoint.save(first, tmp_path / "new.pth")
    with pytest.raises(StateError, match=r"new\.pth: was written by a training with amp 'bf16', now 'none'$"):
        checkpoint.restore(training(), tmp_path / "new.pth")
    second = training(amp="bf16")
    checkpoint.restore(second, tmp_path / "new.pth")
    assert second.begun == first.begun
    content = torch.load(tmp_path / "new.pth", weights_only=True)
    for name in first.begun:
        del content[name]
    torch.save(content, tmp_path / "old.pth")
    third = training(amp="fp16")
    checkpoint.restore(third, tmp_path / "old.pth")
    assert third.begun == {"amp": "fp16"}


def test_a_checkpoint_needs_no_code(tmp_path):
    one = training()
    one.start()
    one.epoch()
    one.epoch()
    checkpoint.save(one, tmp_path / "checkpoint.pth")
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pth"]
    content = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert content["epoch"] == 2
    assert content["settings"] == dataclasses.asdict(SETTINGS)
    net = checkpoint.read_network(tmp_path / "checkpoint.pth")
    assert not net.training
    x = torch.rand(2, 3, 16, 16)
    assert net.gates[0].thre == one.net.gates[0].thre > NOTHING_PRUNED
    torch.testing.assert_close(net(x), one.net.eval()(x))


def test_a_checkpoint_of_another_training(tmp_path):
    one = training()
    checkpoint.save(one, tmp_path / "checkpoint.pth")
    with pytest.raises(StateError, match=r"was written by a training with lr 0\.05, now 0\.1$"):
        checkpoint.restore(training(dataclasses.replace(SETTINGS, lr=0.1)), tmp_path / "checkpoint.pth")
    other = training()
    other.data = dataclasses.replace(other.data, normalize="none")
    with pytest.raises(StateError, match="normalize 'cifar', now 'none'"):
        checkpoint.restore(other, tmp_path / "checkpoint.pth")


def test_no_checkpoint(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "weights.pth")
    with pytest.raises(FormatError, match="expected a checkpoint of a ManiDP training, with structure, settings"):
        checkpoint.read(tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError):
        checkpoint.read(tmp_path / "none.pth")


@pytest.mark.parametrize("wrapped", [False, True])
def test_pretrained_weights_leave_the_gates(wrapped, tmp_path):
    """The public ResNets' file: a state dict inside a dict, names with `module.`, layers of other names."""
    names = {"conv_1_3x3": "conv1", "bn_1": "bn1", "stage_": "layer", "conv_a": "conv1", "bn_a": "bn1"}
    names |= {"conv_b": "conv2", "bn_b": "bn2", "classifier": "linear"}
    option_a = dataclasses.replace(structure("dyresnet20"), shortcut="A")
    source = network(option_a, seed=5)
    state = {}
    for name, value in source.state_dict().items():
        if "mb" not in name:
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            state[f"module.{name}"] = value
    torch.save({"state_dict": state, "best_prec1": 91.73} if wrapped else state, tmp_path / "net.th")
    net = network(option_a, seed=6)
    before = copy.deepcopy(net.gates[3].state_dict())
    checkpoint.load_pretrained(net, tmp_path / "net.th")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net.eval()(x, gates=False), source.eval()(x, gates=False))
    for name, value in net.gates[3].state_dict().items():
        torch.testing.assert_close(value, before[name])
    with pytest.raises(StateError, match="--shortcut A"):
        checkpoint.load_pretrained(network(structure("dyresnet20")), tmp_path / "net.th")


def test_a_training_that_diverges_says_so():
    one = training(dataclasses.replace(SETTINGS, lr=1e20))
    one.start()
    with pytest.raises(WeightError, match="lower learning rate"):
        one.epoch()


@pytest.mark.parametrize("size", [1, 7])
def test_small_batches(size):
    one = training(dataclasses.replace(SETTINGS, batch_size=size, lr=0.001), gate_scale=0.1)
    one.data = dataclasses.replace(one.data, train=one.data.train[:8])
    one.start()
    assert all(np.isfinite(value) for value in one.epoch().values())
    assert all(torch.isfinite(value).all() for value in state_of(one.net).values())


# ---- processes


def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def processes(count: int, out: Path, *arguments: str) -> list[dict[str, np.ndarray]]:
    """Run the worker in so many processes, and return what each has found."""
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "WORLD_SIZE": str(count)}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(ROOT / "tests/manidp/pytorch_worker.py"), "--out", str(out), *arguments]
    started = [
        subprocess.Popen(command, env=common | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(count)
    ]
    said = [process.communicate(timeout=240)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0] * count, "\n".join(said)
    assert not any("FutureWarning" in one for one in said), said[0]
    return [dict(np.load(f"{out}-{rank}.npz")) for rank in range(count)]


@pytest.mark.slow
def test_processes_agree(tmp_path):
    one, other = processes(2, tmp_path / "ranks")
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert one["state/stage_2.0.mb1.thre"] > NOTHING_PRUNED
    np.testing.assert_array_equal(one["labels"], drawn(21, seed=1).labels)  # in order, none left out


@pytest.mark.slow
def test_processes_do_what_one_alone_does(tmp_path):
    one, _ = processes(2, tmp_path / "ranks", "--alike")
    (alone,) = processes(1, tmp_path / "alone", "--alike")
    thresholds = [name for name in alone if name.endswith(".thre")]
    assert len(thresholds) == len(TINY.gates)
    for name in (*thresholds, "limit", "loss"):
        np.testing.assert_allclose(one[name], alone[name], rtol=1e-4, atol=1e-6, err_msg=name)
    for name in alone:
        if name.startswith("state/"):
            np.testing.assert_allclose(one[name], alone[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_batch_that_cannot_be_shared():
    from mopruning.backends.pytorch.ranks import Ranks

    with pytest.raises(RecipeError, match="batch_size 16 cannot be shared equally by 3 processes"):
        Training(network(TINY), Data(drawn(4), drawn(4)), SETTINGS, ranks=Ranks(0, 3))


def test_every_item_has_one_process():
    from mopruning.backends.pytorch.ranks import Ranks

    for items in (0, 1, 7, 12):
        shares = [range(items)[Ranks(rank, 3).share(items)] for rank in range(3)]
        assert [number for share in shares for number in share] == list(range(items))


def test_a_state_without_sums_loads():
    net = network(TINY)
    load_state(net, {name: value for name, value in state_of(net).items() if not name.endswith("mask_sum")})
