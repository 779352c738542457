"""Training: carries out what the core's `Controller` says, on one device or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mopruning.backends.pytorch.manidp.losses import losses
from mopruning.backends.pytorch.manidp.networks import Details, DynamicResNet
from mopruning.backends.pytorch.precision import Precision
from mopruning.backends.pytorch.ranks import Ranks, averaged
from mopruning.datasets import Images
from mopruning.errors import RecipeError
from mopruning.manidp import Controller, Evaluation, Settings, program
from mopruning.training.data import Data

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_AT_ONCE = 500  # images of an evaluation's batches


class Training(program.Training):
    """Trains a network with gates in place.

    Args:
        net: The network.
        data: The images.
        settings: The numbers.
        device: Where to train.
        amp: A key of `training.precision.PRECISIONS`. Gates, losses and evaluations are in float32 whatever it is.
        ranks: Processes that share each batch. Similarities are those of each process's own images.
        begun: What the record keeps of how the network was made: `gate_scale`, `pretrain_path`, `pretrain_gates`.

    Attributes:
        control: The rules of time.
        updates: Optimizer updates of an epoch.

    Raises:
        RecipeError: If a batch cannot be shared equally.
    """

    def __init__(
        self,
        net: DynamicResNet,
        data: Data,
        settings: Settings,
        *,
        device: torch.device | str = "cpu",
        amp: str = "none",
        ranks: Ranks | None = None,
        begun: Mapping[str, Any] | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.device = torch.device(device)
        if settings.batch_size % self.ranks.count:
            raise RecipeError(
                f"batch_size {settings.batch_size} cannot be shared equally by {self.ranks.count} processes"
            )
        self.net, self.data, self.settings = net.to(self.device), data, settings
        self._share = settings.batch_size // self.ranks.count
        self.updates = math.ceil(len(data.train) // self.ranks.count / self._share)
        self.control = Controller(settings, self.updates)
        # buffers are not to be those of the first process: each adds up saliencies of its own
        self._model = averaged(net, self.device, sync_buffers=False) if self.ranks.count > 1 else net
        branch = [value for name, value in net.named_parameters() if "mb" in name]
        trunk = [value for name, value in net.named_parameters() if "mb" not in name]
        groups = [
            {"params": trunk, "weight_decay": settings.decay},
            {"params": branch, "weight_decay": settings.decay_branch},
        ]
        nesterov = settings.momentum > 0
        self._optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
        self._precision = Precision(amp, self.device)
        self.begun = {**(begun or {}), "amp": amp}

    def epoch(self, shown: Callable[[int, Tensor], None] | None = None) -> dict[str, float]:
        """Train an epoch; see `program.Training`."""
        net, control, settings = self.net, self.control, self.settings
        net.train()
        net.reset_sums()
        totals = torch.zeros(6, dtype=torch.float64, device=self.device)
        rate, limit = settings.lr, control.limit
        for update, (images, labels) in enumerate(self._batches()):
            rate = control.learning_rate(update)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            with self._precision.autocast():
                details: Details = self._model(images, details=True)
            parts = losses(details, labels, limit, settings)
            self._precision.update(parts.total, self._optimizer)
            with torch.no_grad():
                right = (details.logits.argmax(1) == labels).sum()
                means = torch.stack([parts.total, parts.lasso, parts.graph]) * len(labels)
                one = torch.stack([torch.ones_like(right) * len(labels), right]).double()
                totals += torch.cat([one, parts.cross_entropy.sum()[None].double(), means.double()])
            if shown is not None:
                shown(update + 1, parts.total.detach())
        count, right_ones, cross_entropy, loss, lasso, graph = self._agree(totals)
        return self._end_epoch(
            rate,
            int(count),
            [gate.mask_sum.double().cpu().numpy() for gate in net.gates],
            loss=loss / count,
            cross_entropy=cross_entropy / count,
            right=right_ones,
            lasso=lasso / count,
            graph=graph / count,
        )

    @torch.no_grad()
    def evaluate(self, images: Images, *, gates: bool = True) -> Evaluation:
        """Return what the network answers for images, in float32.

        Args:
            images: The images; processes share them.
            gates: Without, the network computes every channel as it is.
        """
        net = self.net.eval()
        channels = torch.tensor(net.structure.gate_channels)
        found: list[tuple[NumPyArray, ...]] = []
        for pixels, labels in self.data.plain(images[self.ranks.share(len(images))], _AT_ONCE):
            batch = torch.from_numpy(pixels).to(self.device)
            if gates:
                details = net.details(batch)
                logits, kept = details.logits, details.kept()
            else:
                logits, kept = net(batch, gates=False), channels.expand(len(batch), -1)
            target = torch.from_numpy(labels).to(self.device)
            loss = F.cross_entropy(logits, target, reduction="none")
            found.append((logits.argmax(1).cpu().numpy(), labels, loss.cpu().numpy(), kept.cpu().numpy()))
        arrays = [np.concatenate(same) for same in zip(*found, strict=True)]
        return Evaluation(net.structure, *self.ranks.gathered(arrays))

    def state_dict(self) -> dict[str, Any]:
        """Return what goes on where this stands, the network's own state apart."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "controller": self.control.state_dict(),
            "scaler": self._precision.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            StateError: If it is of a longer training.
        """
        self.control.load_state_dict(state["controller"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._precision.load_state_dict(state["scaler"])

    def _batches(self) -> Any:
        batches = self.data.training(self.control.epoch, self._share, rank=self.ranks.rank, workers=self.ranks.count)
        for images, labels in batches:
            yield tuple(torch.from_numpy(one).to(self.device, non_blocking=True) for one in (images, labels))

    def _agree(self, totals: Tensor) -> list[float]:
        """Add up totals and saliencies over all processes, and average statistics of normalisations, in place."""
        statistics = [
            one
            for module in self.net.modules()
            if isinstance(module, nn.BatchNorm2d)
            for one in (module.running_mean, module.running_var)
            if one is not None
        ]
        self.ranks.average(statistics)
        self.ranks.add_up([totals, *(gate.mask_sum for gate in self.net.gates)])
        return totals.tolist()
