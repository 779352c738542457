"""The harness of MXNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mopruning.backends import mxnet
from mopruning.backends.mxnet.framework import NDArray, mx
from mopruning.backends.mxnet.states import SparseState, arrays_in
from tests.backends.harness import LAYERS, Array, Case, Trainer

CASES = (
    Case("SGDSparse", {"learning_rate": 0.1}),
    Case("SGDSparse", {"learning_rate": 0.1, "momentum": 0.9}),
    Case("SGDSparse", {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.01, "clip_gradient": 0.5, "lazy_update": False}),
    Case("NAGSparse", {"learning_rate": 0.1}),
    Case("NAGSparse", {"learning_rate": 0.1, "momentum": 0.9}),
    Case("NAGSparse", {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.01, "clip_gradient": 0.5}),
    Case("AdamSparse", {"learning_rate": 0.01}),
    Case("AdamSparse", {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-6, "lazy_update": False}),
    Case("AdamSparse", {"learning_rate": 0.01, "wd": 0.01, "begin_num_update": 10}),
    Case("NadamSparse", {"learning_rate": 0.01}),
    Case("NadamSparse", {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-6, "schedule_decay": 0.01}),
    Case("NadamSparse", {"learning_rate": 0.01, "wd": 0.01, "clip_gradient": 0.5}),
    Case("AdamaxSparse", {"learning_rate": 0.01}),
    Case("AdamaxSparse", {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.9, "wd": 0.01}),
    Case("AdaGradSparse", {"learning_rate": 0.1}),
    Case("AdaGradSparse", {"learning_rate": 0.1, "eps": 1e-6, "wd": 0.01}),
    Case("AdaDeltaSparse"),
    Case("AdaDeltaSparse", {"rho": 0.8, "epsilon": 1e-4, "wd": 0.01}),
    Case("RMSPropSparse", {"learning_rate": 0.01}),
    Case("RMSPropSparse", {"learning_rate": 0.01, "gamma1": 0.8, "gamma2": 0.7, "epsilon": 1e-6, "centered": True}),
    Case("RMSPropSparse", {"learning_rate": 0.01, "clip_weights": 2.0, "wd": 0.01}),
    Case("FtrlSparse", {"learning_rate": 0.1}),
    Case("FtrlSparse", {"learning_rate": 0.1, "lamda1": 0.001, "beta": 0.5, "wd": 0.01}),
    Case("FTMLSparse", {"learning_rate": 0.01}),
    Case("FTMLSparse", {"learning_rate": 0.01, "beta1": 0.7, "beta2": 0.9, "epsilon": 1e-6, "wd": 0.01}),
    Case("SignumSparse", {"learning_rate": 0.01}),
    Case("SignumSparse", {"learning_rate": 0.01, "momentum": 0.0}),
    Case("SignumSparse", {"learning_rate": 0.01, "momentum": 0.8, "wd_lh": 0.01, "wd": 0.01}),
    Case("SGLDSparse", {"learning_rate": 0.01}),
    Case("DCASGDSparse", {"learning_rate": 0.1, "lamda": 0.1}),
    Case("LARSSparse", {"learning_rate": 0.1, "lazy_update": False}),
    Case("LARSSparse", {"learning_rate": 1.0, "momentum": 0.9, "eta": 0.01, "eps": 1e-6, "momentum_correction": False}),
    Case("LBSGDSparse", {"learning_rate": 0.1, "momentum": 0.9}),
    Case("LBSGDSparse", {"learning_rate": 0.1, "warmup_strategy": "lars", "warmup_epochs": 1}),
    Case("LAMBSparse", {"learning_rate": 0.01}),
    Case("LAMBSparse", {"learning_rate": 0.01, "lower_bound": 1e-3, "upper_bound": 10.0, "bias_correction": False}),
    Case("LAMBSparse", {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-5, "wd": 0.01}),
    Case("GroupAdaGradSparse", {"learning_rate": 0.1, "eps": 1e-4}, axes=2),
)


class MxnetTrainer:
    """A network that holds the weights, and a Trainer with its optimizer."""

    def __init__(self, weights: Mapping[str, Array], make: Any) -> None:
        self.net = net_with(weights)
        self.parameters = {name: self.net.collect_params()[name] for name in weights}
        self.trainer = mx.gluon.Trainer([*self.parameters.values()], make(self.net))

    def step(self, gradients: Mapping[str, Array]) -> None:
        if isinstance(self.trainer.optimizer, mx.optimizer.Adamax):  # it divides 0 by 0 where no slope ever was
            gradients = {name: np.where(value == 0, np.float32(1e-6), value) for name, value in gradients.items()}
        for name, gradient in gradients.items():
            parameter = self.parameters[name]
            parameter.grad()[:] = self._native(name, gradient)
            parameter.data()._fresh_grad = True
        mx.random.seed(int(1000 * sum(np.abs(value).sum() for value in gradients.values())))  # SGLD draws noise
        self.trainer.step(1)

    def weights(self) -> dict[str, Array]:
        return {name: self._canonical(name, parameter.data()) for name, parameter in self.parameters.items()}

    def masks(self) -> dict[str, Array]:
        pruner = getattr(self.trainer.optimizer, "pruner", None)
        return {name: mask.copy() for name, mask in pruner.masks.items()} if pruner else {}

    def state(self) -> dict[str, list[Array]]:
        states = self.trainer._updaters[0].states
        return {
            name: [
                self._canonical(name, array)
                for array in arrays_in(opened(states.get(index)))
                if array.shape == self.parameters[name].shape
            ]
            for index, name in enumerate(self.parameters)
        }

    def everything(self) -> Any:
        optimizer = self.trainer.optimizer
        hidden = ("param_dict", "lr_scheduler", "_rounds", "_index_update_count")
        settings = {key: plain(value) for key, value in vars(optimizer).items() if key not in hidden}
        states = {index: plain(opened(state)) for index, state in self.trainer._updaters[0].states.items()}
        pruner = getattr(optimizer, "pruner", None)
        return {"settings": settings, "states": states} | ({"mopruning": plain(pruner.state_dict())} if pruner else {})

    def save(self, folder: Path) -> None:
        self.net.save_parameters(str(folder / "net.params"))
        self.trainer.save_states(str(folder / "trainer.states"))

    def load(self, folder: Path) -> None:
        self.net.load_parameters(str(folder / "net.params"))
        self.trainer.load_states(str(folder / "trainer.states"))

    def _native(self, name: str, value: Array) -> Array:
        return value.swapaxes(0, 1) if LAYERS[name][0] == "transposed" else value

    def _canonical(self, name: str, array: NDArray) -> Array:
        value = array.asnumpy()
        return value.swapaxes(0, 1) if LAYERS[name][0] == "transposed" else value


class MxnetHarness:
    """Builds trainers around the classes of `mxnet.optimizer` and their sparse ones."""

    plain_sgd = Case("NAGSparse", {"learning_rate": 0.25})  # without momentum; SGD turns every -0.0 into +0.0

    def native(self, case: Case, weights: Mapping[str, Array]) -> Trainer:
        return MxnetTrainer(weights, lambda net: native_class(case.cls)(**case.options))

    def sparse(self, case: Case, weights: Mapping[str, Array], recipe: Mapping[str, Any]) -> Trainer:
        cls = getattr(mxnet, case.cls)
        return MxnetTrainer(weights, lambda net: cls(param_name=net, recipe=recipe or None, **case.options))


HARNESS = MxnetHarness()


def native_class(name: str) -> Any:
    name = name.removesuffix("Sparse")
    return getattr(mx.optimizer, name, None) or getattr(mx.optimizer.contrib, name)


def net_with(weights: Mapping[str, Array]) -> Any:
    """Build a network of native layers that holds the weights given, under their names."""
    net = mx.gluon.Block(prefix="")
    layers = mx.gluon.nn
    for name, value in weights.items():
        path, _, attribute = name.rpartition(".")
        kind, shape = LAYERS[name]
        if attribute == "weight":
            options = {"use_bias": f"{path}.bias" in weights, "prefix": f"{path}."}
            if kind == "conv":
                layer = layers.Conv2D(shape[0], shape[2:], in_channels=shape[1], **options)
            elif kind == "transposed":
                layer = layers.Conv2DTranspose(shape[0], shape[2:], in_channels=shape[1], **options)
                value = value.swapaxes(0, 1)
            else:
                layer = layers.Dense(shape[0], in_units=shape[1], **options)
            layer.initialize()
            net.register_child(layer, path)
        parameter = getattr(net._children[path], attribute)
        parameter.data()[:] = value
    return net


def opened(state: Any) -> Any:
    """Return a native optimizer state out of a sparse one."""
    return state.native if isinstance(state, SparseState) else state


def plain(tree: Any) -> Any:
    """Return nested settings with NumPy arrays for MXNet's."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value) for value in tree]
    return tree.asnumpy() if isinstance(tree, NDArray) else tree
