"""The harness of MindSpore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mopruning.backends import mindspore
from tests.backends.harness import LAYERS, Array, Case, Trainer

MODES = {"PYNATIVE": ms.PYNATIVE_MODE, "GRAPH": ms.GRAPH_MODE}


@dataclass(frozen=True)
class ModeCase(Case):
    """A case in one of the two modes; in GRAPH the optimizer is compiled as a part of a larger graph."""

    mode: str = "PYNATIVE"

    def __str__(self) -> str:
        text = ",".join([self.cls, *(f"{k}={v}" for k, v in self.options.items() if k != "learning_rate")])
        return text if self.mode == "PYNATIVE" else f"{self.mode}-{text}"


# MindSpore 2.10's own kernels of RMSProp and AdamOffload are not exact on vectors: a native run that is resumed
# differs in the last bit there. Their cases have matrices only.
CASES = (
    ModeCase("MomentumSparse", {"learning_rate": 0.1, "momentum": 0.9}),
    ModeCase("MomentumSparse", {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01, "use_nesterov": True}),
    ModeCase("MomentumSparse", {"learning_rate": 0.1, "momentum": 0.9, "loss_scale": 8.0}, mode="GRAPH"),
    ModeCase("SGDSparse", {"learning_rate": 0.1}),
    ModeCase("SGDSparse", {"learning_rate": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ModeCase("SGDSparse", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "loss_scale": 8.0}),
    ModeCase("AdamSparse", {"learning_rate": 0.01}),
    ModeCase("AdamSparse", {"learning_rate": 0.01, "weight_decay": 0.01, "loss_scale": 8.0}, mode="GRAPH"),
    ModeCase("AdamSparse", {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "use_locking": True}),
    ModeCase("AdamSparse", {"learning_rate": 0.01, "use_nesterov": True}),
    ModeCase("AdamSparse", {"learning_rate": 0.01, "use_amsgrad": True}),
    ModeCase("AdamWeightDecaySparse", {"learning_rate": 0.01}),
    ModeCase(
        "AdamWeightDecaySparse", {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.9, "eps": 1e-5, "weight_decay": 0.1}
    ),
    ModeCase("AdamOffloadSparse", {"learning_rate": 0.01}, axes=2),
    ModeCase("LazyAdamSparse", {"learning_rate": 0.01, "weight_decay": 0.01}),
    ModeCase("AdaMaxSparse", {"learning_rate": 0.01, "beta1": 0.8, "eps": 1e-6}),
    ModeCase("AdaFactorSparse", {"learning_rate": 0.01, "relative_step": False, "beta1": 0.9}),
    ModeCase("AdagradSparse", {"learning_rate": 0.1, "accum": 0.5, "weight_decay": 0.01}),
    ModeCase("AdadeltaSparse", {"learning_rate": 1.0, "rho": 0.8, "epsilon": 1e-4}),
    ModeCase("ASGDSparse", {"learning_rate": 0.1, "lambd": 0.01, "alpha": 0.5, "t0": 2.0}, axes=2),
    ModeCase("FTRLSparse", {"learning_rate": 0.1, "l1": 0.01, "l2": 0.01}),
    ModeCase("ProximalAdagradSparse", {"learning_rate": 0.1, "l1": 0.001}),
    ModeCase("RMSPropSparse", {"learning_rate": 0.01, "decay": 0.8}, axes=2),
    ModeCase("RMSPropSparse", {"learning_rate": 0.01, "momentum": 0.9, "centered": True}, axes=2),
    ModeCase("RpropSparse", {"learning_rate": 0.01, "etas": (0.6, 1.1), "step_sizes": (1e-4, 1.0)}, axes=2),
)


class Step(nn.Cell):
    """A graph that does nothing but call the optimizer."""

    def __init__(self, optimizer: nn.Optimizer) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, *gradients: Any) -> Any:
        return self.optimizer(gradients)


class MindSporeTrainer:
    """A network that holds the weights, and its optimizer."""

    def __init__(self, weights: Mapping[str, Array], mode: str, make: Any) -> None:
        self.mode = mode
        ms.set_context(mode=MODES[mode])
        self.net = net_with(weights)
        self.optimizer = make(self.net)
        self.cell = Step(self.optimizer)

    def step(self, gradients: Mapping[str, Array]) -> None:
        ms.set_context(mode=MODES[self.mode])
        given = [Tensor(native(p.name, gradients[p.name])) for p in self.optimizer.parameters]
        self.cell(*given) if self.mode == "GRAPH" else self.optimizer(tuple(given))

    def weights(self) -> dict[str, Array]:
        return {p.name: canonical(p.name, p.asnumpy()) for p in self.optimizer.parameters}

    def masks(self) -> dict[str, Array]:
        pruner = getattr(self.optimizer, "pruner", None)
        return {name: mask.copy() for name, mask in pruner.masks.items()} if pruner else {}

    def state(self) -> dict[str, list[Array]]:
        return {
            weight.name: [
                canonical(weight.name, p.asnumpy())
                for p in self._remembered()
                if p.name.endswith(weight.name) and p.shape == weight.shape and not p.name.startswith("mopruning.")
            ]
            for weight in self.optimizer.parameters
        }

    def everything(self) -> Any:
        arrays = {p.name: p.asnumpy().copy() for p in sorted(self._remembered(), key=lambda p: p.name)}
        result: dict[str, Any] = {name: a for name, a in arrays.items() if not name.startswith("mopruning.")}
        if len(result) < len(arrays):
            result["mopruning"] = {name: a for name, a in arrays.items() if name.startswith("mopruning.")}
        return result

    def save(self, folder: Path) -> None:
        ms.save_checkpoint(self.optimizer, str(folder / "training.ckpt"))

    def load(self, folder: Path) -> None:
        found = ms.load_checkpoint(str(folder / "training.ckpt"))
        assert ms.load_param_into_net(self.optimizer, found, strict_load=True) == ([], [])

    def _remembered(self) -> list[ms.Parameter]:
        weights = {id(p) for p in self.optimizer.parameters}
        return [p for p in self.optimizer.get_parameters() if id(p) not in weights]


class MindSporeHarness:
    """Builds trainers around the optimizers of `mindspore.nn` and their sparse ones."""

    plain_sgd = ModeCase("SGDSparse", {"learning_rate": 0.25})

    def native(self, case: Case, weights: Mapping[str, Array]) -> Trainer:
        cls = getattr(nn, case.cls.removesuffix("Sparse"))
        return MindSporeTrainer(weights, mode_of(case), lambda net: cls(net.trainable_params(), **case.options))

    def sparse(self, case: Case, weights: Mapping[str, Array], recipe: Mapping[str, Any]) -> Trainer:
        cls = getattr(mindspore, case.cls)
        return MindSporeTrainer(weights, mode_of(case), lambda net: cls(net, recipe=recipe or None, **case.options))


HARNESS = MindSporeHarness()


def mode_of(case: Case) -> str:
    assert isinstance(case, ModeCase)
    return case.mode


def net_with(weights: Mapping[str, Array]) -> nn.Cell:
    """Build a network of native layers that holds the weights given."""
    net = nn.Cell()
    for name, value in weights.items():
        path, _, attribute = name.rpartition(".")
        if attribute == "weight":
            kind, shape = LAYERS[name]
            bias = f"{path}.bias" in weights
            given = {"weight_init": Tensor(native(name, value)), "has_bias": bias}
            given |= {"bias_init": Tensor(weights[f"{path}.bias"])} if bias else {}
            make = {"conv": nn.Conv2d, "transposed": nn.Conv2dTranspose, "dense": nn.Dense}[kind]
            kernel = () if kind == "dense" else (shape[2:],)
            setattr(net, path, make(shape[1], shape[0], *kernel, **given))
    return net


def native(name: str, value: Array) -> Array:
    return np.ascontiguousarray(value.swapaxes(0, 1) if LAYERS[name][0] == "transposed" else value)


def canonical(name: str, value: Array) -> Array:
    return value.swapaxes(0, 1).copy() if LAYERS[name][0] == "transposed" else value.copy()
