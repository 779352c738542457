"""Training: carries out what the core's `Controller` says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mopruning.backends.mindspore.manidp.losses import Loss
from mopruning.backends.mindspore.manidp.networks import DynamicResNet, load_state, state_of
from mopruning.backends.mindspore.weights import write
from mopruning.datasets import Images
from mopruning.errors import StateError
from mopruning.manidp import Controller, Evaluation, Settings, program
from mopruning.training.data import Data

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_AT_ONCE = 500  # images of an evaluation's batches
_SCALE, _WINDOW = 2.0**10, 1000  # what a loss in float16 is scaled by at first; updates before that is doubled


class Training(program.Training):
    """Trains a network with gates in place, compiled as one graph where MindSpore's mode is GRAPH.

    Args:
        net: The network. Evaluations are in float32 whatever its `amp_level`.
        data: The images.
        settings: The numbers.
        begun: What the record keeps of how the network was made: `gate_scale`, `pretrain_path`, `pretrain_gates`.

    Attributes:
        control: The rules of time.
        updates: Optimizer updates of an epoch.
    """

    def __init__(
        self, net: DynamicResNet, data: Data, settings: Settings, *, begun: Mapping[str, Any] | None = None
    ) -> None:
        self.net, self.data, self.settings, self.begun = net, data, settings, dict(begun or {})
        self.updates = math.ceil(len(data.train) / settings.batch_size)
        self.control = Controller(settings, self.updates)
        trained = net.trainable_params()
        groups = [
            {"params": [one for one in trained if "mb" not in one.name], "weight_decay": settings.decay},
            {"params": [one for one in trained if "mb" in one.name], "weight_decay": settings.decay_branch},
        ]
        # not nn.Momentum, which on a CPU takes use_nesterov and moves as without it (MindSpore 2.10)
        nesterov = settings.momentum > 0
        self._optimizer = nn.SGD(groups, settings.lr, settings.momentum, nesterov=nesterov)
        self._scaler, self._evaluated = None, net
        if net.amp_level != "O0":
            self._scaler = ms.amp.DynamicLossScaler(_SCALE, 2, _WINDOW)
            self._evaluated = DynamicResNet(net.structure, clamp_max=settings.clamp_max)
        self._step = self._compiled(Loss(settings))

    def _compiled(self, loss: Loss) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        net, optimizer, scaler = self.net, self._optimizer, self._scaler

        def forward(images: Any, labels: Any, limit: Any) -> Any:
            logits, saliencies, _, features = net(images, True)
            total, cross_entropy, penalty, graph = loss(logits, saliencies, features, labels, limit)
            right = (logits.argmax(1).astype(ms.int32) == labels).astype(ms.float32).sum()
            shown = ops.stack((ops.mean(cross_entropy), penalty, graph, total, right))
            return (total if scaler is None else scaler.scale(total)), shown

        gradient = ms.value_and_grad(forward, None, optimizer.parameters, has_aux=True)

        def step(images: Any, labels: Any, limit: Any) -> Any:
            (_, shown), slopes = gradient(images, labels, limit)
            if scaler is None:
                optimizer(slopes)
            else:
                finite = ms.amp.all_finite(slopes)
                if finite:
                    optimizer(scaler.unscale(slopes))
                scaler.adjust(finite)
            return shown

        return ms.jit(step) if ms.get_context("mode") == ms.GRAPH_MODE else step

    def epoch(self, shown: Callable[[int, Tensor], None] | None = None) -> dict[str, float]:
        """Train an epoch; see `program.Training`."""
        net, control, settings = self.net, self.control, self.settings
        net.set_train()
        net.reset_sums()
        rate, limit = settings.lr, control.limit
        found, counts = [], []
        for update, (images, labels) in enumerate(self.data.training(control.epoch, settings.batch_size)):
            rate = control.learning_rate(update)
            write(self._optimizer.learning_rate, np.array(rate, np.float32))
            one = self._step(Tensor(images), Tensor(labels.astype(np.int32)), Tensor(np.float32(limit)))
            found.append(one)
            counts.append(len(labels))
            if shown is not None:
                shown(update + 1, one[3])
        # read only now: reading makes a device wait
        values, weights = np.stack([one.asnumpy() for one in found]).astype(np.float64), np.array(counts)
        cross_entropy, penalty, graph, loss = (float(np.average(values[:, i], weights=weights)) for i in range(4))
        return self._end_epoch(
            rate,
            int(weights.sum()),
            [gate.mask_sum.asnumpy() for gate in net.gates],
            loss=loss,
            cross_entropy=cross_entropy,
            right=float(values[:, 4].sum()),
            lasso=penalty,
            graph=graph,
        )

    def evaluate(self, images: Images, *, gates: bool = True) -> Evaluation:
        """Return what the network answers for images.

        Args:
            images: The images.
            gates: Without, the network computes every channel as it is.
        """
        if self._evaluated is not self.net:
            load_state(self._evaluated, state_of(self.net))
        return evaluate(self._evaluated, self.data, images, gates=gates)

    def state_dict(self) -> dict[str, NumPyArray]:
        """Return arrays that go on where this stands; the network's own state and the controller's apart."""
        return {parameter.name: parameter.asnumpy().copy() for parameter in self._remembered()}

    def load_state_dict(self, state: Mapping[str, NumPyArray]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            StateError: If an array is missing or of another shape.
        """
        for parameter in self._remembered():
            value = state.get(parameter.name)
            if value is None or value.shape != parameter.shape:
                got = "none" if value is None else f"shape {list(value.shape)}"
                raise StateError(f"state of the optimizer: {parameter.name!r}: expected {parameter.shape}, got {got}")
            write(parameter, value)

    def _remembered(self) -> list[Any]:
        """Return what the optimizer, and the scaling of the loss, keep besides the weights."""
        own = {id(parameter) for parameter in self.net.get_parameters()}
        kept = [one for one in self._optimizer.get_parameters() if id(one) not in own]
        return kept + ([] if self._scaler is None else [self._scaler.scale_value, self._scaler.counter])


def evaluate(net: DynamicResNet, data: Data, images: Images, *, gates: bool = True) -> Evaluation:
    """Return what a network answers for images, in their order.

    Args:
        net: The network.
        data: Says how images are normalised.
        images: The images.
        gates: Without, the network computes every channel as it is.
    """
    net.set_train(False)
    channels = np.array(net.structure.gate_channels)
    size = min(_AT_ONCE, len(images))
    found = []
    for pixels, labels in data.plain(images, size):
        # a last batch of another size would be another graph; images do not see each other
        missing = size - len(labels)
        batch = Tensor(np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), pixels.dtype)]))
        if gates:
            details = net.details(batch)
            logits, kept = details.logits.asnumpy(), details.kept()
        else:
            logits, kept = net(batch, False, False).asnumpy(), np.tile(channels, (size, 1))
        found.append((logits[: len(labels)], labels, kept[: len(labels)]))
    logits, labels, kept = (np.concatenate(same) for same in zip(*found, strict=True))
    return Evaluation(net.structure, logits.argmax(1), labels, _cross_entropy(logits, labels), kept)


def _cross_entropy(logits: NumPyArray, labels: NumPyArray) -> NumPyArray:
    with np.errstate(invalid="ignore"):  # logits of float16 may be infinite
        above = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(above).sum(1)) - above[np.arange(len(labels)), labels]  # type: ignore[no-any-return]
