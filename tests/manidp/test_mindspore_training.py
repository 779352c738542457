"""Training in MindSpore: the loss falls, thresholds change when the core says so, a resumed training goes on alike."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from tests.backends.conftest import in_mode

ms = pytest.importorskip("mindspore")


from mopruning.backends.mindspore.manidp import Training, checkpoint, network, state_of  # noqa: E402
from mopruning.datasets import Images  # noqa: E402
from mopruning.errors import FormatError, StateError, WeightError  # noqa: E402
from mopruning.ir.mindspore_ckpt import read_checkpoint, write_weights  # noqa: E402
from mopruning.manidp import Settings, Structure, remain_rate, states, threshold  # noqa: E402
from mopruning.manidp.structure import CIFAR  # noqa: E402
from mopruning.training.data import Data  # noqa: E402

SMALL = Structure(CIFAR, (1, 1, 1), (8, 16, 32), 4, 16)
SETTINGS = Settings(epochs=3, batch_size=16, lr=0.02, target_remain_rate=0.5, thre_cls=1.5)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in a folder of the test's own: MindSpore leaves one called rank_0 behind where a graph fails."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def graph_mode():
    yield from in_mode("GRAPH")


@pytest.fixture(scope="module")
def data() -> Data:
    """Noise that is brighter the higher its class."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 72)
    pixels = random.integers(0, 80, (72, 16, 16, 3)) + 45 * labels[:, None, None, None]
    images = Images(pixels.astype(np.uint8), labels)
    return Data(images[:40], images[40:], seed=1)


def started(data: Data, settings: Settings = SETTINGS, amp_level: str = "O0") -> Training:
    net = network(SMALL, gate_scale=0.1, amp_level=amp_level)
    return Training(net, data, settings)


@pytest.mark.slow
def test_training(data, tmp_path, graph_mode):
    training = started(data)
    dense = training.start()
    assert training.control.limit > 0
    assert dense.mean_macs == dense.macs[0] == training.evaluate(data.test, gates=False).mean_macs
    shown: list[float] = []
    rows = [training.epoch(lambda _, loss: shown.append(float(loss))) for _ in range(2)]
    assert [len(shown), training.updates] == [6, 3]
    assert rows[1]["loss"] < rows[0]["loss"]
    assert rows[1]["cross_entropy"] < rows[0]["cross_entropy"]
    weights = [16, 16, 8]  # images of each batch: the last has fewer
    assert rows[0]["loss"] == pytest.approx(np.average(shown[:3], weights=weights), rel=1e-6)
    assert rows[1]["limit"] == pytest.approx(1.5 * rows[0]["cross_entropy"])
    assert rows[0]["lr"] > rows[1]["lr"] > 0

    # thresholds are those of the second epoch's sums; the first sets none
    for gate in training.net.gates:
        wanted = threshold(gate.mask_sum.asnumpy().astype(np.float64) / 40, remain_rate(1, 3, 0.5))
        assert float(gate.thre.asnumpy()[0]) == pytest.approx(wanted, rel=1e-6)
    tested = training.evaluate(data.test)
    assert tested.labels.tolist() == data.test.labels.tolist()
    assert tested.mean_macs < dense.mean_macs
    assert tested.accuracy > 0.4

    path = tmp_path / "half.ckpt"
    checkpoint.save(training, path)
    training.epoch()
    wanted, last = state_of(training.net), training.evaluate(data.test)

    resumed = started(data)
    checkpoint.restore(resumed, path)
    assert resumed.control.epoch == 2
    np.testing.assert_array_equal(resumed.evaluate(data.test).kept, tested.kept)
    resumed.epoch()
    for name, value in state_of(resumed.net).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    checkpoint.save(resumed, tmp_path / "whole.ckpt")

    net, record = checkpoint.read_network(tmp_path / "whole.ckpt")
    assert record is not None
    assert (record.structure, record.settings, record.normalize) == (SMALL, SETTINGS, "cifar")
    again = Training(net, data, SETTINGS).evaluate(data.test)
    np.testing.assert_array_equal(again.kept, last.kept)
    np.testing.assert_array_equal(again.predictions, last.predictions)


def test_checkpoints_are_mindspore_s_own(data, tmp_path):
    """MindSpore loads the network's part by itself, and a checkpoint of its own making is read with its thresholds."""
    training = started(data)
    training.net.set_thresholds([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    checkpoint.save(training, tmp_path / "one.ckpt")
    held = ms.load_checkpoint(str(tmp_path / "one.ckpt"))
    assert json.loads(held.pop("manidp"))["normalize"] == "cifar"
    other = network(SMALL, seed=9)
    missing, _ = ms.load_param_into_net(other, held)
    assert not missing
    for name, value in state_of(other).items():
        np.testing.assert_array_equal(value, state_of(training.net)[name], err_msg=name)
    arrays = {parameter.name: parameter.asnumpy() for parameter in other.get_parameters()}
    assert arrays.keys() < read_checkpoint(tmp_path / "one.ckpt").tensors.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "was written by a training with lr 0.02, now 0.5"),
        ({"epochs": 4}, "was written by a training with epochs 3, now 4"),
    ],
)
def test_other_trainings_do_not_go_on(data, tmp_path, change, message):
    checkpoint.save(started(data), tmp_path / "one.ckpt")
    other = started(data, dataclasses.replace(SETTINGS, **change))
    with pytest.raises(StateError, match=message):
        checkpoint.restore(other, tmp_path / "one.ckpt")
    with pytest.raises(StateError, match="normalize 'cifar', now 'none'"):
        checkpoint.restore(started(dataclasses.replace(data, normalize="none")), tmp_path / "one.ckpt")


def test_weights_alone_are_no_training(data, tmp_path):
    write_weights(tmp_path / "net.ckpt", states.initial(SMALL))
    with pytest.raises(FormatError, match="expected a checkpoint of a ManiDP training"):
        checkpoint.restore(started(data), tmp_path / "net.ckpt")


def test_states_of_optimizers_are_checked(data):
    training = started(data)
    state = training.state_dict()
    assert "accum.conv_1_3x3.weight" in state
    with pytest.raises(StateError, match=r"'accum.conv_1_3x3.weight': expected \(8, 3, 3, 3\), got none"):
        training.load_state_dict({name: one for name, one in state.items() if name != "accum.conv_1_3x3.weight"})


@pytest.mark.slow
def test_float16(data, graph_mode):
    """A loss that is scaled, in a graph that leaves out an update that overflows."""
    training = started(data, dataclasses.replace(SETTINGS, lr=0.005), amp_level="O2")
    training.start()
    before = state_of(training.net)
    first, second = training.epoch(), training.epoch()
    assert second["cross_entropy"] < first["cross_entropy"]
    after = state_of(training.net)
    assert all((before[name] != after[name]).any() for name in before if name.endswith("conv_a.weight"))
    assert np.isfinite(training.evaluate(data.test).cross_entropy).all()
    scale = training.state_dict()["scale_value"]
    assert scale > 0


def test_a_diverged_training_is_told(data, monkeypatch):
    training = started(data)
    monkeypatch.setattr(training, "_step", lambda *_: ms.Tensor(np.full(5, np.nan, np.float32)))
    with pytest.raises(WeightError, match="epoch 1: the loss is nan; try a lower learning rate"):
        training.epoch()
