"""The harness of PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mopruning.backends import pytorch
from tests.backends.harness import LAYERS, Array, Case, Trainer

DEVICE = torch.device(os.environ.get("MOPRUNING_TEST_DEVICE", "cpu"))

CASES = (
    Case("SGDSparse", {"lr": 0.1}),
    Case("SGDSparse", {"lr": 0.1, "momentum": 0.9}),
    Case("SGDSparse", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    Case("SGDSparse", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    Case("SGDSparse", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    Case("SGDSparse", {"lr": 0.1, "weight_decay": 0.01, "maximize": True}),
    Case("SGDSparse", {"lr": 0.1, "momentum": 0.9, "foreach": True}),
    Case("SGDSparse", {"lr": 0.1, "momentum": 0.9, "foreach": False}),
    Case("SGDSparse", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "fused": True}),
    Case("AdamSparse", {"lr": 0.01}),
    Case("AdamSparse", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6}),
    Case("AdamSparse", {"lr": 0.01, "amsgrad": True}),
    Case("AdamSparse", {"lr": 0.01, "weight_decay": 0.01, "maximize": True}),
    Case("AdamSparse", {"lr": 0.01, "weight_decay": 0.01, "decoupled_weight_decay": True}),
    Case("AdamSparse", {"lr": 0.01, "foreach": True, "amsgrad": True}),
    Case("AdamSparse", {"lr": 0.01, "foreach": False}),
    Case("AdamSparse", {"lr": 0.01, "fused": True, "amsgrad": True}),
    Case("AdamWSparse", {"lr": 0.01}),
    Case("AdamWSparse", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "amsgrad": True}),
    Case("AdamWSparse", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    Case("AdamWSparse", {"lr": 0.01, "foreach": True}),
    Case("AdamWSparse", {"lr": 0.01, "fused": True}),
    Case("NAdamSparse", {"lr": 0.01}),
    Case("NAdamSparse", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "momentum_decay": 0.01}),
    Case("NAdamSparse", {"lr": 0.01, "weight_decay": 0.01, "maximize": True}),
    Case("NAdamSparse", {"lr": 0.01, "weight_decay": 0.01, "decoupled_weight_decay": True, "foreach": True}),
    Case("RAdamSparse", {"lr": 0.01}),
    Case("RAdamSparse", {"lr": 0.01, "betas": (0.8, 0.7), "eps": 1e-6}),
    Case("RAdamSparse", {"lr": 0.01, "weight_decay": 0.01, "maximize": True}),
    Case("RAdamSparse", {"lr": 0.01, "weight_decay": 0.01, "decoupled_weight_decay": True, "foreach": True}),
    Case("AdamaxSparse", {"lr": 0.01}),
    Case("AdamaxSparse", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.01}),
    Case("AdamaxSparse", {"lr": 0.01, "maximize": True, "foreach": True}),
    Case("AdagradSparse", {"lr": 0.1}),
    Case("AdagradSparse", {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-6}),
    Case("AdagradSparse", {"lr": 0.1, "initial_accumulator_value": 0.5}),
    Case("AdagradSparse", {"lr": 0.1, "weight_decay": 0.01, "maximize": True}),
    Case("AdagradSparse", {"lr": 0.1, "foreach": True}),
    Case("AdagradSparse", {"lr": 0.1, "fused": True}),
    Case("AdadeltaSparse", {"lr": 1.0}),
    Case("AdadeltaSparse", {"lr": 1.0, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.01}),
    Case("AdadeltaSparse", {"lr": 1.0, "maximize": True, "foreach": True}),
    Case("RMSpropSparse", {"lr": 0.01}),
    Case("RMSpropSparse", {"lr": 0.01, "alpha": 0.9, "eps": 1e-6, "centered": True}),
    Case("RMSpropSparse", {"lr": 0.01, "momentum": 0.9}),
    Case("RMSpropSparse", {"lr": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.01, "maximize": True}),
    Case("RMSpropSparse", {"lr": 0.01, "momentum": 0.9, "foreach": True}),
    Case("RpropSparse", {"lr": 0.01}),
    Case("RpropSparse", {"lr": 0.01, "etas": (0.6, 1.1), "step_sizes": (1e-4, 1.0), "maximize": True}),
    Case("RpropSparse", {"lr": 0.01, "foreach": True}),
    Case("ASGDSparse", {"lr": 0.1}),
    Case("ASGDSparse", {"lr": 0.1, "lambd": 0.01, "alpha": 0.5, "t0": 2, "weight_decay": 0.01}),
    Case("ASGDSparse", {"lr": 0.1, "maximize": True, "foreach": True}),
    Case("AdafactorSparse", {"lr": 0.1}),
    Case("AdafactorSparse", {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-20, 1e-2), "d": 2.0, "weight_decay": 0.1}),
    Case("AdafactorSparse", {"lr": 0.1, "maximize": True, "foreach": True}),
    Case("LBFGSSparse", {"lr": 0.5}),
    Case("LBFGSSparse", {"lr": 0.5, "max_iter": 4, "max_eval": 5, "history_size": 3, "line_search_fn": "strong_wolfe"}),
    Case("LBFGSSparse", {"lr": 0.5, "tolerance_grad": 1e-3, "tolerance_change": 1e-3}),
    Case("MuonSparse", {"lr": 0.1}, axes=2),
    Case("MuonSparse", {"lr": 0.1, "momentum": 0.8, "nesterov": False, "weight_decay": 0.01}, axes=2),
    Case("MuonSparse", {"lr": 0.1, "ns_steps": 3, "ns_coefficients": (3.0, -4.0, 2.0), "eps": 1e-6}, axes=2),
    Case("MuonSparse", {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw"}, axes=2),
)


class PytorchTrainer:
    """A module that holds the weights, and its optimizer."""

    def __init__(self, weights: Mapping[str, Array], make: Any) -> None:
        self.module = module_with(weights)
        self.optimizer = make(self.module)

    def step(self, gradients: Mapping[str, Array]) -> None:
        given = {name: self._native(name, value) for name, value in gradients.items()}
        parameters = dict(self.module.named_parameters())
        if not isinstance(self.optimizer, torch.optim.LBFGS):
            for name, gradient in given.items():
                parameters[name].grad = gradient
            self.optimizer.step()
            return

        def closure() -> Tensor:
            """A bowl whose slope at the origin is the gradient given: line searches need one that bends."""
            self.optimizer.zero_grad()
            loss = sum((given[name] * p).sum() + 2.0 * (p * p).sum() for name, p in parameters.items())
            loss.backward()
            return loss

        self.optimizer.step(closure)

    def weights(self) -> dict[str, Array]:
        return {name: self._canonical(name, parameter) for name, parameter in self.module.named_parameters()}

    def masks(self) -> dict[str, Array]:
        pruner = getattr(self.optimizer, "pruner", None)
        masks = pruner.masks if pruner else {}
        return {name: torch.as_tensor(mask).cpu().numpy().copy() for name, mask in masks.items()}

    def state(self) -> dict[str, list[Array]]:
        return {
            name: [
                self._canonical(name, value)
                for value in self.optimizer.state.get(parameter, {}).values()
                if isinstance(value, Tensor) and value.shape == parameter.shape
            ]
            for name, parameter in self.module.named_parameters()
        }

    def everything(self) -> Any:
        return plain(self.optimizer.state_dict())

    def save(self, folder: Path) -> None:
        content = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(content, folder / "checkpoint.pt")

    def load(self, folder: Path) -> None:
        content = torch.load(folder / "checkpoint.pt", weights_only=True, map_location=DEVICE)
        self.module.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])

    def _native(self, name: str, value: Array) -> Tensor:
        tensor = torch.tensor(value, device=DEVICE)
        return tensor.transpose(0, 1).contiguous() if LAYERS[name][0] == "transposed" else tensor

    def _canonical(self, name: str, tensor: Tensor) -> Array:
        array = tensor.detach().cpu().numpy().copy()
        return array.swapaxes(0, 1) if LAYERS[name][0] == "transposed" else array


class PytorchHarness:
    """Builds trainers around the classes of `torch.optim` and their sparse ones."""

    plain_sgd = Case("SGDSparse", {"lr": 0.25})

    def native(self, case: Case, weights: Mapping[str, Array]) -> Trainer:
        cls = getattr(torch.optim, case.cls.removesuffix("Sparse"))
        return PytorchTrainer(weights, lambda module: cls(module.named_parameters(), **case.options))

    def sparse(self, case: Case, weights: Mapping[str, Array], recipe: Mapping[str, Any]) -> Trainer:
        cls = getattr(pytorch, case.cls)
        return PytorchTrainer(
            weights, lambda module: cls(module.named_parameters(), recipe=recipe or None, **case.options)
        )


HARNESS = PytorchHarness()


def module_with(weights: Mapping[str, Array]) -> nn.Module:
    """Build a module of native layers that holds the weights given."""
    module = nn.Module()
    for name, value in weights.items():
        path, _, attribute = name.rpartition(".")
        kind, shape = LAYERS[name]
        if attribute == "weight":
            layer: nn.Module
            if kind == "conv":
                layer = nn.Conv2d(shape[1], shape[0], shape[2:], bias=f"{path}.bias" in weights)
            elif kind == "transposed":
                layer = nn.ConvTranspose2d(shape[1], shape[0], shape[2:], bias=False)
                value = value.swapaxes(0, 1)
            else:
                layer = nn.Linear(shape[1], shape[0], bias=f"{path}.bias" in weights)
            module.add_module(path, layer)
        with torch.no_grad():
            getattr(module.get_submodule(path), attribute).copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return module.to(DEVICE)


def plain(tree: Any) -> Any:
    """Return nested settings with NumPy arrays for tensors."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value) for value in tree]
    return tree.detach().cpu().numpy().copy() if isinstance(tree, Tensor) else tree
