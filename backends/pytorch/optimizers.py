"""Sparse optimizers: any PyTorch optimizer plus sparsity, and one class for each optimizer of `torch.optim`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mopruning.backends.pytorch.hooks import attach, native_class, warn_of_masks
from mopruning.backends.pytorch.sparsifier import TorchSparsifier
from mopruning.backends.pytorch.weights import Named, Weights, layouts_of, module_of
from mopruning.errors import RecipeError
from mopruning.plan import Plan
from mopruning.pruner import Pruner
from mopruning.sparse_arguments import read_sparse, sparse_signature, take_sparse


class _Planned:
    """What both kinds of sparse optimizer show of their inside."""

    _sparsifier: TorchSparsifier | None = None

    @property
    def plan(self) -> Plan | None:
        return self._sparsifier.pruner.plan if self._sparsifier else None

    @property
    def pruner(self) -> Pruner | None:
        return self._sparsifier.pruner if self._sparsifier else None


class _Sparse(_Planned, Optimizer):
    """The sparse half of every class below.

    Every argument of the native optimizer is accepted unchanged; those of
    `mopruning.published.from_optimizer_arguments`, and `groups`, come on top. With none of them set it behaves as the
    native one, bit for bit. Copies, pickles and `state_dict` keep plan and masks.

    Args:
        params: As the native optimizer takes them, or the module itself. Where they are neither a module nor the
            unused `model.named_parameters()` or `model.parameters()`, nothing tells transposed convolutions, whose
            weights then count as [out, in, *kernel].
        param_name: Names of the parameters, where `params` has none: `model.named_parameters()` or the module.
            Parameters that stay without a name are called by their place, such as "group0.param2".
        recipe: A recipe (object, mapping or file) in place of the sparse arguments.
        prune_device: "default" computes masks where a parameter lies, "cpu" on the host.

    Attributes:
        plan: What happens to every parameter and why; printable.
        pruner: The state machine behind it; both are None where nothing is to be pruned.

    Raises:
        RecipeError: If a sparse argument makes no sense or names no parameter.
    """

    def __init__(
        self,
        params: Any,
        *args: Any,
        param_name: Named | None = None,
        recipe: Any = None,
        prune_device: Any = "default",
        **kwargs: Any,
    ) -> None:
        sparse = take_sparse(kwargs)
        modules = _modules(params, param_name)  # the native optimizer is about to exhaust its generators
        super().__init__(params.named_parameters() if isinstance(params, nn.Module) else params, *args, **kwargs)
        self._sparsifier = _make_sparse(self, param_name, modules, recipe, sparse, prune_device)

    def __init_subclass__(cls) -> None:
        """Show the native signature with the sparse arguments after it."""
        super().__init_subclass__()
        if "__init__" not in cls.__dict__:
            cls.__signature__ = sparse_signature(native_class(cls), _Sparse.__init__)  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_sparsifier": self._sparsifier}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if state.get("_sparsifier") is not None:  # a copy, whose hooks torch has left behind; or merely loading
            attach(self, state["_sparsifier"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group in place; its weights are planned by the same recipe."""
        modules = _modules([param_group])
        super().add_param_group(param_group)
        _extend(self._sparsifier, self, modules)


class SparseOptimizer(_Planned, Optimizer):
    """Wraps any `torch.optim.Optimizer` instance and adds sparsity to it.

    Parameter groups, state and options are the wrapped optimizer's own, so that schedulers, gradient scalers and
    checkpoints see what they know. Copies and pickles keep plan and masks.

    Args:
        optimizer: The optimizer to make sparse; from now on step it through this wrapper or directly, alike.
        param_name: Names of the parameters: the module (best, for it tells how weights lie) or
            `model.named_parameters()`. May be left out where the optimizer was built from named parameters.
        recipe: A recipe (object, mapping or file) in place of the sparse arguments.
        prune_device: "default" computes masks where a parameter lies, "cpu" on the host.
        **sparse: As `mopruning.published.from_optimizer_arguments`; and `groups`, as `mopruning.prune.BasePrune`.

    Raises:
        TypeError: If `optimizer` is none or sparse already, or an argument is unknown.
        RecipeError: If a sparse argument makes no sense or names no parameter.

    >>> model = nn.Linear(8, 4)
    >>> native = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparse = SparseOptimizer(native, model, target_sparsity=0.5)
    >>> model(torch.ones(1, 8)).sum().backward()
    >>> _ = sparse.step()
    >>> int((model.weight == 0).sum())
    16
    """

    def __init__(
        self,
        optimizer: Optimizer,
        param_name: Named | None = None,
        *,
        recipe: Any = None,
        prune_device: Any = "default",
        **sparse: Any,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"SparseOptimizer wraps a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self._sparsifier = _make_sparse(optimizer, param_name, _modules(param_name), recipe, sparse, prune_device)

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # not set yet, while unpickling
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # What others set on an optimizer to steer it must reach the one that works: GradScaler sets the last two.
        inner = name in ("param_groups", "state", "defaults", "grad_scale", "found_inf")
        object.__setattr__(self.optimizer if inner else self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self if name in self.__dict__ else self.optimizer, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "_sparsifier": self._sparsifier}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._sparsifier is not None:
            attach(self.optimizer, self._sparsifier)  # torch leaves hooks behind when it copies

    def step(self, closure: Any = None) -> Any:
        """Perform one update of the wrapped optimizer and one of the masks."""
        return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset all gradients in place."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group in place; its weights are planned by the same recipe."""
        modules = _modules([param_group])
        self.optimizer.add_param_group(param_group)
        _extend(self._sparsifier, self.optimizer, modules)

    def state_dict(self) -> dict[str, Any]:
        """Return the wrapped optimizer's state with the sparsity section."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load in place what `state_dict` returned."""
        self.optimizer.load_state_dict(state_dict)

    def __repr__(self) -> str:
        return f"SparseOptimizer({self.optimizer!r})"


class SGDSparse(_Sparse, torch.optim.SGD):
    """`torch.optim.SGD` with sparsity.

    >>> model = nn.Linear(64, 8)
    >>> optimizer = SGDSparse(model.named_parameters(), lr=0.1, target_sparsity=0.75)
    >>> model(torch.ones(1, 64)).sum().backward()
    >>> optimizer.step()
    >>> print(optimizer.pruner.sparsity)
    0.75
    """


class AdamSparse(_Sparse, torch.optim.Adam):
    """`torch.optim.Adam` with sparsity."""


class AdamWSparse(_Sparse, torch.optim.AdamW):
    """`torch.optim.AdamW` with sparsity."""


class NAdamSparse(_Sparse, torch.optim.NAdam):
    """`torch.optim.NAdam` with sparsity."""


class RAdamSparse(_Sparse, torch.optim.RAdam):
    """`torch.optim.RAdam` with sparsity."""


class AdamaxSparse(_Sparse, torch.optim.Adamax):
    """`torch.optim.Adamax` with sparsity."""


class AdagradSparse(_Sparse, torch.optim.Adagrad):
    """`torch.optim.Adagrad` with sparsity."""


class AdadeltaSparse(_Sparse, torch.optim.Adadelta):
    """`torch.optim.Adadelta` with sparsity."""


class RMSpropSparse(_Sparse, torch.optim.RMSprop):
    """`torch.optim.RMSprop` with sparsity."""


class RpropSparse(_Sparse, torch.optim.Rprop):
    """`torch.optim.Rprop` with sparsity."""


class ASGDSparse(_Sparse, torch.optim.ASGD):
    """`torch.optim.ASGD` with sparsity."""


class AdafactorSparse(_Sparse, torch.optim.Adafactor):
    """`torch.optim.Adafactor` with sparsity."""


class LBFGSSparse(_Sparse, torch.optim.LBFGS):
    """`torch.optim.LBFGS` with sparsity; its history starts anew whenever masks change."""


class MuonSparse(_Sparse, torch.optim.Muon):
    """`torch.optim.Muon` with sparsity."""


def _make_sparse(
    optimizer: Optimizer,
    param_name: Named | None,
    modules: list[nn.Module],
    recipe: Any,
    sparse: Mapping[str, Any],
    prune_device: Any,
) -> TorchSparsifier | None:
    loaded = read_sparse(recipe, sparse)
    if not loaded.active:
        optimizer.register_load_state_dict_pre_hook(warn_of_masks)
        return None
    members = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    layouts = layouts_of(modules)
    weights = Weights(() if param_name is None else param_name, members, layouts)
    if param_name is not None and not weights:
        raise RecipeError("param_name names none of the optimizer's parameters; is it of another model?")
    if "param_names" in optimizer.param_groups[0]:
        weights.extend(_by_place(optimizer), layouts=layouts)
    if len(modules) == 1:  # names what has no name yet, and knows the further names of tied parameters
        weights.extend(modules[0], members)
    weights.extend(_by_place(optimizer), layouts=layouts)
    sparsifier = TorchSparsifier(weights, loaded, prune_device)
    attach(optimizer, sparsifier)
    return sparsifier


def _extend(sparsifier: TorchSparsifier | None, optimizer: Optimizer, modules: list[nn.Module]) -> None:
    if sparsifier is not None:
        sparsifier.extend(_by_place(optimizer), layouts_of(modules))


def _by_place(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter under the name its group gives it, or one made of its place."""
    for g, group in enumerate(optimizer.param_groups):
        names = group.get("param_names") or [f"group{g}.param{i}" for i in range(len(group["params"]))]
        yield from zip(names, group["params"], strict=True)


def _modules(*sources: object) -> list[nn.Module]:
    """Return the modules that parameters, names and parameter groups come from, as far as they tell."""
    found: dict[int, nn.Module] = {}
    for source in sources:
        groups = source if isinstance(source, list) else [source]
        for group in groups:
            module = module_of(group.get("params") if isinstance(group, dict) else group)
            if module is not None:
                found[id(module)] = module
    return list(found.values())
