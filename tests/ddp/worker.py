"""Trainings in several processes, forked from one that has imported everything; see test_ranks.py."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mopruning.backends.pytorch.ranks import Ranks, together
from mopruning.backends.pytorch.soft_pruning import PruningTraining
from mopruning.backends.pytorch.writer import from_ir
from mopruning.datasets import Images
from mopruning.ir.builder import Builder
from mopruning.recipe import Recipe
from mopruning.training import program
from mopruning.training.data import Data
from mopruning.training.rows import History
from mopruning.training.settings import Settings
from mopruning.training.soft_pruning import SoftPruning

SETTINGS = Settings(epochs=5, batch_size=16, lr=0.05, milestones=(3,), wd=1e-3, seed=4)
SOFT = SoftPruning(epochs=5, retrain_epoch=3, prune_freq=2)
RECIPE = Recipe(layers={"conv2.weight": 0.5, "fc.weight": 0.25}, granularity="unstructured")


def drawn(count: int, seed: int = 0) -> Images:
    """Return images of 12 x 12 that a small network learns: noise on a colour for each class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    pixels = rng.integers(0, 120, (count, 12, 12, 3))
    pixels[np.arange(count), :, :, labels % 3] += 60 + 20 * labels[:, None, None]
    return Images(pixels.clip(0, 255).astype(np.uint8), labels)


def network(seed: int = 0):
    """Return a small IR network: two normalised convolutions, and a dense layer."""
    net = Builder("tiny", seed)
    x = net.relu(net.batch_norm(net.conv(net.input("input", (3, 12, 12)), "conv1", 6, 3, stride=2), "bn1"), "relu1")
    x = net.relu(net.batch_norm(net.conv(x, "conv2", 8, 3), "bn2"), "relu2")
    return net.model({"output": net.gemm(net.flatten(net.global_average_pool(x, "pool"), "flatten"), "fc", 4)})


def training(ranks: Ranks | None = None, *, seed: int = 0, settings: Settings = SETTINGS, **options) -> PruningTraining:
    model = network(seed)
    data = Data(drawn(48), drawn(21, seed=1), "none", seed=settings.seed)
    given = {"recipe": RECIPE, "soft": SOFT, "arch": "tiny", "model": model, "ranks": ranks} | options
    return PruningTraining(from_ir(model), data, settings, given.pop("recipe"), given.pop("soft"), **given)


def options(folder: Path, *, resume: bool = False) -> argparse.Namespace:
    given = {"epochs": 5, "print_freq": 0, "model": "tiny", "dataset": "drawn"}
    return argparse.Namespace(**given, resume="" if resume else None)


def train(
    ranks: Ranks, folder: Path, *, resume: bool = False, kill: tuple[int, int, int] | None = None, amp: str = "none"
) -> PruningTraining:
    """Train as the program does; the process `kill[0]` is killed in epoch `kill[1]` at update `kill[2]`."""
    one = training(ranks, seed=ranks.rank, amp=amp)  # the first one's weights are to be everyone's
    advance = one.advance

    def watched(shown: Callable[[int, object], None]) -> dict[str, object]:
        def update(done: int, loss: object) -> None:
            shown(done, loss)
            if kill == (ranks.rank, one.completed, done):
                os.kill(os.getpid(), signal.SIGKILL)

        return advance(update)

    one.advance = watched  # type: ignore[method-assign]
    names = program.Outputs(folder, "irre_prune", "drawn", "tiny", "a")
    program.run(one, options(folder, resume=resume), names, about="tiny", first=ranks.first)
    return one


def usual(folder: Path, **given) -> None:
    """Train in this process of several, and write down what it came to."""
    with together("cpu") as (_, ranks):
        one = train(ranks, folder, **given)
        keep(one, folder / f"state-{ranks.rank}.pth")


def keep(one: PruningTraining, path: Path) -> None:
    masks = {name: torch.as_tensor(mask) for name, mask in one._sparsifier.pruner.masks.items()}
    momentum = [state["momentum_buffer"] for state in one._optimizer.state.values()]
    torch.save({"net": one.net.state_dict(), "masks": masks, "momentum": momentum}, path)


def differ(folder: Path) -> None:
    """Let one process have another weight than the others."""
    with together("cpu") as (_, ranks):
        one = training(ranks)
        if ranks.rank == 1:
            with torch.no_grad():
                one.net.get_parameter("conv2.weight").neg_()[0].zero_()
        one.begin()


def forked(count: int, folder: Path, function: Callable[..., None], **given) -> list[int]:
    """Run a function in so many processes; return how each ended. What they say goes to said-RANK.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            os.environ["RANK"] = str(rank)
            said = os.open(folder / f"said-{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            status = 3
            try:
                function(folder, **given)
                status = 0
            except SystemExit as end:
                print(end, flush=True)
                status = 1
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> None:
    torch.set_num_threads(1)
    History.plot = lambda *_: None  # type: ignore[method-assign]  # a second each, and no part of this
    sys.argv[0] = "worker.py"
    training().begin()  # imports what is imported late, once for all
    out = Path(sys.argv[1])
    ends = {
        "one": forked(1, out / "one", usual),
        "two": forked(2, out / "two", usual),
        "half": forked(2, out / "half", usual, amp="bf16"),
        "differ": forked(2, out / "differ", differ),
        # in the soft phase, where weights have grown back, and where masks are frozen
        "first": forked(2, out / "killed", usual, kill=(1, 2, 2)),
        "second": forked(2, out / "killed", usual, kill=(0, 4, 1), resume=True),
        "third": forked(2, out / "killed", usual, resume=True),
    }
    for name, statuses in ends.items():
        print(name, *statuses)


if __name__ == "__main__":
    main()
