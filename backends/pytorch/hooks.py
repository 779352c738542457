"""Hooks that make any PyTorch optimizer a sparse one, leaving the optimizer itself as it is."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mopruning.backends.pytorch.sharding import is_distributed
from mopruning.backends.pytorch.sparsifier import TorchSparsifier
from mopruning.sparsifier import LEAST_EPS, NO_SECTION

STATE_KEY = "mopruning"

# With gradient, weight and state zero at a position, these leave all three zero there (read in torch 2.13):
# erasing gradients before the update is enough. Any other optimizer has weights and state erased after it, too.
ZERO_PRESERVING = frozenset({"SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "ASGD"})

# These have a fused kernel on the CPU, one pass over memory instead of four to ten.
_FUSED_ON_CPU = frozenset({"SGD", "Adam", "AdamW", "Adagrad"})


def attach(optimizer: Optimizer, sparsifier: TorchSparsifier) -> None:
    """Make an optimizer sparse in place: every `step` from now on goes through the sparsifier.

    Before an update, gradients of pruned weights are zeroed, after it the sparsifier counts a step; where the masks
    change, weights and optimizer state are zeroed as well. `state_dict` gains one entry, which `load_state_dict`
    takes back.

    Raises:
        TypeError: If the optimizer is sparse already.
    """
    if is_attached(optimizer):
        raise TypeError(f"{type(optimizer).__name__} is sparse already: two sets of masks would fight over it")
    family = _family(optimizer)
    borrowed: list[dict[str, Any]] = []

    def give_back() -> None:
        while borrowed:
            borrowed.pop()["fused"] = None

    def before() -> None:
        scale = getattr(optimizer, "grad_scale", None)  # set by a GradScaler that leaves unscaling to a fused kernel
        sparsifier.penalise(1.0 if scale is None else scale)
        sparsifier.observe(1.0 if scale is None else scale)
        sparsifier.erase_gradients()

    def before_step(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        give_back()  # an update that raised has not done so
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if _overflowed(optimizer):
            return args, kwargs
        if closure is None:
            before()
        elif "closure" in kwargs:
            kwargs = {**kwargs, "closure": _then(closure, before)}
        else:
            args = (args[0], _then(closure, before), *args[2:])
        if sparsifier.pruning and family in _FUSED_ON_CPU:
            borrowed.extend(_borrow_fused(optimizer))
        return args, kwargs

    def after_step(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        give_back()
        if _overflowed(optimizer):
            return
        changed = sparsifier.step()
        if changed and isinstance(optimizer, torch.optim.LBFGS):
            optimizer.state.clear()  # its history is flat over all parameters, with directions from before the masks
        if changed:
            sparsifier.erase_state(optimizer.state)
        elif sparsifier.pruning and not _preserves_zeros(optimizer, family):
            sparsifier.erase_weights()
            sparsifier.erase_state(optimizer.state)

    def saved(_: Optimizer, state: dict[str, Any]) -> None:
        state[STATE_KEY] = sparsifier.state_dict()

    loading: list[Any] = []

    def load_begins(_: Optimizer, state: dict[str, Any]) -> None:
        section = state.get(STATE_KEY)
        if section is not None:
            sparsifier.check_state_dict(section)  # a state of another plan must not be half loaded
        loading[:] = [section]

    def load_ends(_: Optimizer) -> None:
        section = loading.pop()
        if section is None:
            warnings.warn(NO_SECTION, stacklevel=3)
        else:
            sparsifier.load_state_dict(section)
        sparsifier.erase_state(optimizer.state)

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)
    optimizer.register_state_dict_post_hook(saved)
    optimizer.register_load_state_dict_pre_hook(load_begins)
    optimizer.register_load_state_dict_post_hook(load_ends)


def is_attached(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer has been made sparse."""
    return any(getattr(hook, "__module__", "") == __name__ for hook in optimizer._optimizer_step_pre_hooks.values())


def warn_of_masks(_: Optimizer, state: dict[str, Any]) -> None:
    """Warn, before an optimizer without sparsity loads a state, that it will ignore the masks in it."""
    if STATE_KEY in state:
        warnings.warn(
            "this optimizer state holds masks, but no sparsity is configured: they are ignored, and pruned weights "
            "will train again (fix_sparsity=True keeps the zeros in the weights)",
            stacklevel=3,
        )


def native_class(cls: type[Any]) -> type[Optimizer]:
    """Return the class of `torch.optim` that a class derives from, itself if it is one."""
    return next(base for base in cls.__mro__ if f"{base.__module__}.".startswith("torch.optim."))


def _family(optimizer: Optimizer) -> str:
    """Return the class of `torch.optim` whose update rule an optimizer carries out, "" where it has one of its own."""
    native = native_class(type(optimizer))
    return native.__name__ if inspect.unwrap(type(optimizer).step) is inspect.unwrap(native.step) else ""


def _preserves_zeros(optimizer: Optimizer, family: str) -> bool:
    """Tell whether an update leaves pruned weights and their state at zero by itself."""
    if family not in ZERO_PRESERVING:
        return False
    divisors = [group for group in optimizer.param_groups if "eps" in group]
    return all(
        group["eps"] >= LEAST_EPS and not any(p.dtype == torch.float16 for p in group["params"]) for group in divisors
    )


def _overflowed(optimizer: Optimizer) -> bool:
    """Tell whether a GradScaler found infinite gradients and left it to the fused kernel to skip the update."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _then(closure: Callable[[], Any], action: Callable[[], None]) -> Callable[[], Any]:
    def both() -> Any:
        loss = closure()
        action()
        return loss

    return both


def _borrow_fused(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Switch CPU groups that leave the implementation open to the fused kernel in place; return those switched.

    While masks are in force each update also erases gradients; the memory traffic the fused kernel saves pays for
    it. Groups whose user chose an implementation keep it.
    """
    switched = []
    for group in optimizer.param_groups:
        open_choice = group.get("fused", 0) is None and group.get("foreach") is None
        if not open_choice or group.get("differentiable") or group.get("capturable"):
            continue
        trained = [p for p in group["params"] if p.grad is not None]
        if all(_fusible(p, optimizer.state.get(p)) for p in trained):
            group["fused"] = True
            switched.append(group)
    return switched


def _fusible(parameter: Tensor, state: dict[str, Any] | None) -> bool:
    """Tell whether the CPU's fused kernels may update a parameter that has its optimizer state already.

    They take all tensors for flat memory in the same order (torch 2.13): others get wrong values, and a view with
    gaps has its neighbours overwritten. State that torch makes has no gaps, so equal strides tell that nothing has.
    """
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32 or not state:
        return False
    if is_distributed(parameter):  # DTensor has no rule for aten._fused_sgd_ (torch 2.13)
        return False
    tensors = [parameter.grad, *(value for value in state.values() if isinstance(value, Tensor) and value.dim())]
    return all(
        tensor is not None
        and tensor.layout == torch.strided
        and tensor.dtype == torch.float32
        and tensor.stride() == parameter.stride()
        for tensor in tensors
    )
