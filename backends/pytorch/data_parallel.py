"""Data-parallel training: one process, or several that share every batch and do what one would."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mopruning.backends.pytorch.checkpoint import load
from mopruning.backends.pytorch.global_norm import normalise_globally
from mopruning.backends.pytorch.precision import Precision
from mopruning.backends.pytorch.ranks import Ranks, averaged
from mopruning.backends.pytorch.trained_weights import to_mopir
from mopruning.errors import FormatError, RecipeError, StateError
from mopruning.ir.atomic import atomic
from mopruning.training.accounting import Accounting, accounting
from mopruning.training.data import Data
from mopruning.training.loss import check_loss
from mopruning.training.networks import LINEAR_HEADS
from mopruning.training.rows import Row
from mopruning.training.settings import GAMMA, Settings

_AT_ONCE = 500  # images of an evaluation's batches
_KEYS = ("epoch", "arch", "state_dict", "optimizer", "training")


class Training:
    """Trains a network in place with stochastic gradient descent.

    Args:
        net: The network.
        data: The images.
        settings: The numbers.
        arch: Its published name.
        model: The same network as an IR model, to write it as .mopir; its weights are replaced. None writes none.
        device: Where to train.
        amp: A key of `training.precision.PRECISIONS`, for the forward pass of training; loss, weights and evaluations
            are in float32 whatever it is.
        ranks: Processes that share each batch. Normalisations see the whole batch, so that they do what one would.

    Attributes:
        net: The network.
        completed: Epochs completed.
        updates: Optimizer updates of an epoch.

    Raises:
        RecipeError: If a batch cannot be shared equally, or there are no images.
    """

    def __init__(
        self,
        net: nn.Module,
        data: Data,
        settings: Settings,
        *,
        arch: str,
        model: onnx_ir.Model | None = None,
        device: torch.device | str = "cpu",
        amp: str = "none",
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks, self.device = ranks or Ranks(), torch.device(device)
        count = self.ranks.count
        if settings.batch_size % count:
            raise RecipeError(f"batch_size {settings.batch_size} cannot be shared equally by {count} processes")
        if len(data.train) < count or not len(data.test):
            raise RecipeError(f"{len(data.train)} images to train with, {len(data.test)} to test with: too few")
        net = net.to(self.device)
        self.net = normalise_globally(net, self.device) if count > 1 else net
        self.data, self.settings, self.arch = data, settings, arch
        self.completed = 0
        self._graph = model
        self._share = settings.batch_size // count
        self.updates = math.ceil(len(data.train) // count / self._share)
        self._model = averaged(self.net, self.device) if count > 1 else self.net
        self._precision = Precision(amp, self.device)
        self._optimizer = torch.optim.SGD(
            self.net.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.wd
        )

    # ---- what `mopruning.training.run` calls

    def begin(self) -> Sequence[str]:
        """Return what is told before the first epoch."""
        return [f"{sum(value.numel() for value in self.net.parameters()):,} parameters"]

    def advance(self, shown: Callable[[int, Any], None] | None = None) -> dict[str, Any]:
        """Train an epoch and evaluate; returns all of `rows.Row` but `epoch` and `seconds`.

        Raises:
            WeightError: If the training has diverged.
        """
        trained = self._epoch(shown)
        final = self._end_epoch()
        self.completed += 1
        tested = {"accuracy": self.accuracy(), "sparsity": self.sparsity().overall, "final": int(final)}
        return trained | tested

    def save(self, path: Path) -> None:
        """Write a checkpoint to go on from, which `torch.load(path, weights_only=True)` reads; whole or not at all."""
        own = {"training": self.record(), "scaler": self._precision.state_dict(), **self._own_state()}
        content = self._content() | own
        with atomic(path) as temporary, temporary.open("wb") as stream:
            torch.save(content, stream)

    def restore(self, path: Path) -> None:
        """Go on in place where a checkpoint was written.

        Raises:
            FormatError: If the file is no such checkpoint.
            StateError: If it is of another training.
            OSError: If it cannot be read.
        """
        content = load(path)
        if not isinstance(content, Mapping) or any(key not in content for key in _KEYS):
            raise FormatError(f"{path}: expected a checkpoint to go on from, with {', '.join(_KEYS)}")
        now, then = self.record(), {"amp": "none", **content["training"]}  # older ones know no other
        changed = [
            f"{name} {then.get(name)!r}, now {value!r}" for name, value in now.items() if then.get(name) != value
        ]
        if changed:
            raise StateError(f"{path}: was written by a training with {'; '.join(changed)}")
        self.net.load_state_dict(content["state_dict"])
        self.completed = int(content["epoch"])
        self._load_own_state(content)
        self._optimizer.load_state_dict(content["optimizer"])
        self._precision.load_state_dict(content.get("scaler", {}))

    def write(self, path: Path, row: Row | None) -> None:
        """Write the network as published: weights, with optimizer, rate and accuracy."""
        content = self._content() | {"best_acc1": row.accuracy if row else 0.0}
        with atomic(path) as temporary, temporary.open("wb") as stream:
            torch.save(content, stream)

    def publish(self, path: Path) -> None:
        """Write the network that `write` wrote as .mopir beside it."""
        if self._graph is not None:
            to_mopir(self._graph, path)

    # ---- what pruning adds to

    def record(self) -> dict[str, Any]:
        """Return what this training is, in plain values; one that goes on must be the same."""
        settings = vars(self.settings) | {"milestones": list(self.settings.milestones)}
        about = {"normalize": self.data.normalize, "images": len(self.data.train), "amp": self._precision.amp}
        return {"arch": self.arch, **about, **settings}

    def _end_epoch(self) -> bool:
        """Do what comes between training and evaluating; return whether the network may be kept as it is."""
        return True

    def _own_state(self) -> dict[str, Any]:
        return {}

    def _load_own_state(self, content: Mapping[str, Any]) -> None:
        pass

    # ---- what both do

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the share of right answers on the test images; processes share them."""
        net, images = self.net.eval(), self.data.test
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for pixels, labels in self.data.plain(images[self.ranks.share(len(images))], _AT_ONCE):
            answers = net(torch.from_numpy(pixels).to(self.device)).argmax(1)
            right += (answers == torch.from_numpy(labels).to(self.device)).sum()
        self.ranks.add_up([right])
        return int(right) / len(images)

    @torch.no_grad()
    def sparsity(self) -> Accounting:
        """Return the shares of zeros."""
        counts = {
            name: (value.numel() - int(value.count_nonzero()), value.numel())
            for name, value in self.net.named_parameters()
        }
        return accounting(counts, LINEAR_HEADS.get(self.arch, ()))

    def _epoch(self, shown: Callable[[int, Tensor], None] | None) -> dict[str, float]:
        epoch, ranks = self.completed, self.ranks
        rate = self.settings.learning_rate(epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(self.settings.draw(epoch, ranks.rank))  # of what is dropped out
        self._model.train()
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        batches = self.data.training(epoch, self._share, rank=ranks.rank, workers=ranks.count)
        for update, (pixels, numbers) in enumerate(batches):
            images, labels = (torch.from_numpy(one).to(self.device, non_blocking=True) for one in (pixels, numbers))
            with self._precision.autocast():
                logits = self._model(images)
                loss = F.cross_entropy(logits.float(), labels)
            self._precision.update(loss, self._optimizer)
            with torch.no_grad():
                right = (logits.argmax(1) == labels).sum()
                totals += torch.stack([torch.ones_like(right) * len(labels), right, loss * len(labels)]).double()
            if shown is not None:
                shown(update + 1, loss.detach())
        ranks.add_up([totals])
        count, right_ones, loss_sum = totals.tolist()
        check_loss(epoch, loss_sum)
        return {"lr": rate, "loss": loss_sum / count, "train_accuracy": right_ones / count}

    def _content(self) -> dict[str, Any]:
        settings = self.settings
        schedule = {"milestones": list(settings.milestones), "gamma": GAMMA, "last_epoch": self.completed}
        return {
            "epoch": self.completed,
            "arch": self.arch,
            "state_dict": {name: value.cpu() for name, value in self.net.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "scheduler": schedule,
        }
