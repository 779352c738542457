"""MindSpore's callbacks, errors that come out of graphs, checkpoints of a training, and two workers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, nn, ops  # noqa: E402
from mindspore.train import CheckpointConfig, Model, ModelCheckpoint  # noqa: E402
from mindspore.train.callback import Callback  # noqa: E402

from mopruning.backends import mindspore  # noqa: E402
from mopruning.errors import RecipeError, StateError, WeightError  # noqa: E402
from tests.backends.mindspore_networks import (  # noqa: E402
    RAMP,
    assert_same,
    batch,
    by_hand,
    cell_of,
    data,
    mlp,
    momentum,
    share,
    values,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in a folder of the test's own: MindSpore leaves one called rank_0 behind where a graph fails."""
    monkeypatch.chdir(tmp_path)


# --- callbacks -------------------------------------------------------------------------------------------------------


class Watch(Callback):
    """Notes how sparse a weight is after each step."""

    def __init__(self, parameter):
        super().__init__()
        self.parameter, self.seen = parameter, []

    def on_train_step_end(self, run_context):
        self.seen.append(share(self.parameter))


@pytest.mark.parametrize("mode", ["PYNATIVE", "GRAPH"], indirect=True)
def test_prune_as_a_callback(mode):
    net, twin = mlp(), mlp()
    watch = Watch(net[0].weight)
    prune = mindspore.Prune(net, 1, 4, 2, {"0.weight": 0.75, "2.weight": 0.75}, balance="none")
    model = Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), 0.01))
    model.train(1, data(8), callbacks=[mindspore.PruneCallback(prune), watch], dataset_sink_mode=False)
    cell = cell_of(twin, mindspore.SGDSparse(twin, 0.01, **RAMP))
    for step in range(8):
        cell(*batch(step))
    assert_same(values(net), values(twin))
    assert watch.seen[0] == 0
    assert watch.seen[4:] == [0.75] * 4


class Overflowing(nn.Cell):
    """A step that says that it overflowed and was left out, each second time."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def construct(self, x, y):
        self.count += 1
        return ops.reduce_mean(x), Tensor(self.count % 2 == 0), Tensor(1.0)


def test_prune_as_a_callback_counts_no_overflow():
    net = mlp()
    prune = mindspore.Prune(net, prune_dict={"0.weight": 0.5}, balance="none")
    model = Model(Overflowing())
    model.train(1, data(6), callbacks=[mindspore.PruneCallback(prune)], dataset_sink_mode=False)
    assert prune._sparsifier.synchronised.steps == 3
    with pytest.raises(TypeError, match="takes a Prune or a sparse optimizer, got SGD"):
        mindspore.PruneCallback(nn.SGD(net.trainable_params()))


def test_where_graphs_call_no_python_the_callback_changes_masks(graph_mode, monkeypatch):
    """As on Ascend, whose graphs run without Python: between their runs masks change, within them zeros are kept."""
    for module in ("hooks", "optimizers"):
        monkeypatch.setattr(f"mopruning.backends.mindspore.{module}.PYTHON_IN_GRAPHS", ())
    net = mlp()
    with pytest.warns(UserWarning, match=r"add PruneCallback\(optimizer\)"):
        optimizer = momentum(net)
    watch = Watch(net[0].weight)
    callbacks = [mindspore.PruneCallback(optimizer), watch]
    Model(net, nn.MSELoss(), optimizer).train(1, data(8), callbacks=callbacks, dataset_sink_mode=False)
    assert watch.seen[0] == 0
    assert watch.seen[4:] == [0.75] * 4
    assert_same(values(optimizer), by_hand(8))
    with pytest.raises(RecipeError, match=r"score 'movement' needs gradients.*PYNATIVE"):
        momentum(mlp(), score="movement")


def test_without_the_callback_masks_do_not_change_there(graph_mode, monkeypatch):
    """What the test above would not notice if it did nothing."""
    for module in ("hooks", "optimizers"):
        monkeypatch.setattr(f"mopruning.backends.mindspore.{module}.PYTHON_IN_GRAPHS", ())
    net = mlp()
    with pytest.warns(UserWarning, match="update_masks"):
        optimizer = momentum(net)
    cell = cell_of(net, optimizer)
    for step in range(8):
        cell(*batch(step))
    assert share(net[0].weight) == 0
    assert optimizer.update_masks()  # late: of all updates that were missed the last one counts
    assert not optimizer.update_masks()
    assert share(net[0].weight) == 0.75


# --- errors and restarts ---------------------------------------------------------------------------------------------


def test_errors_of_mask_updates_come_out_of_graphs(graph_mode):
    net = mlp()
    optimizer = momentum(net, pretrain_step=0)
    net[0].weight.set_data(Tensor(np.full((16, 8), np.nan, np.float32)))
    with pytest.raises(WeightError, match=r"0\.weight: 128 NaN and 0 infinite of 128"):
        cell_of(net, optimizer)(*batch())


@pytest.mark.parametrize("saved_at", [1, 4])
def test_checkpoints_of_model_train_resume(saved_at, mode, tmp_path):
    def start():
        net = mlp(seed=saved_at)
        optimizer = momentum(net)
        return net, optimizer

    net, optimizer = start()
    saving = ModelCheckpoint("run", str(tmp_path), CheckpointConfig(saved_at, keep_checkpoint_max=20))
    model = Model(net, nn.MSELoss(), optimizer)
    model.train(1, data(8), callbacks=[saving], dataset_sink_mode=False)

    again, its_optimizer = start()
    path = str(tmp_path / f"run-1_{saved_at}.ckpt")
    ms.load_param_into_net(its_optimizer, ms.load_checkpoint(path))
    assert its_optimizer.pruner.steps == saved_at
    cell = cell_of(again, its_optimizer)
    for step in range(saved_at, 8):
        cell(*batch(step))
    assert_same(values(its_optimizer), values(optimizer))


def test_state_of_another_plan_is_refused_in_graphs(graph_mode, tmp_path):
    other = momentum(mlp(), target_sparsity=0.25)
    ms.save_checkpoint(other, str(tmp_path / "other.ckpt"))
    net = mlp()
    optimizer = momentum(net)
    ms.load_param_into_net(optimizer, ms.load_checkpoint(str(tmp_path / "other.ckpt")))
    with pytest.raises(StateError, match=r"another plan: 0\.weight: target 0\.75 here, 0\.25 there"):
        cell_of(net, optimizer)(*batch())


# --- several workers -------------------------------------------------------------------------------------------------

WORKER = """
import sys
import numpy as np
import mindspore as ms
from mindspore import Tensor, nn
from mindspore.communication import get_rank, init
import conftest
from mopruning.backends import mindspore
from tests.backends.mindspore_networks import batch, mlp

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device("CPU")
init()
ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=2)
net = mlp()
optimizer = mindspore.MomentumSparse(net, 0.01, 0.9, target_sparsity=0.75, pretrain_step=1, sparse_step=4, frequency=2)
cell = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)
for step in range(6):
    cell(*batch(10 * step + get_rank()))
masks = {f"mask {name}": mask for name, mask in optimizer.pruner.masks.items()}
np.savez(f"{sys.argv[1]}/{get_rank()}.npz", **masks, **{p.name: p.asnumpy() for p in optimizer.get_parameters()})
"""


@pytest.mark.slow
def test_two_workers_keep_the_same_masks(tmp_path):
    """Each sees data of its own; the gradients' mean gives both the same weights, and so the same masks."""
    msrun = shutil.which("msrun", path=str(Path(sys.executable).parent)) or shutil.which("msrun")
    assert msrun, "msrun comes with MindSpore"
    (tmp_path / "worker.py").write_text(WORKER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [msrun, "--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True"]
    command += [f"--log_dir={tmp_path / 'log'}", str(tmp_path / "worker.py"), str(tmp_path)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    logs = "".join(path.read_text(errors="replace")[-3000:] for path in (tmp_path / "log").glob("worker_*.log"))
    assert done.returncode == 0, logs
    one, other = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in (0, 1))
    assert_same(other, one)
    assert one["mask 0.weight"].mean() == one["mask 2.weight"].mean() == 0.25

    net = mlp()  # the same in one process: the mean of both workers' gradients
    optimizer = momentum(net)

    def forward(x, y):
        return nn.MSELoss()(net(x), y)

    gradient = ms.value_and_grad(forward, None, optimizer.parameters)
    for step in range(6):
        halves = [gradient(*batch(10 * step + rank))[1] for rank in (0, 1)]
        optimizer(tuple((a + b) / 2 for a, b in zip(*halves, strict=True)))
    for name, mask in optimizer.pruner.masks.items():
        np.testing.assert_array_equal(one[f"mask {name}"], mask)
    np.testing.assert_allclose(net[0].weight.asnumpy(), one["0.weight"], atol=1e-6)
