"""Precision: computes a network in half precision, and scales gradients for it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mopruning.names import check_choice
from mopruning.training.precision import PRECISIONS


class Precision:
    """Computes in the precision that was asked for; with "none" it changes nothing.

    Args:
        amp: A key of `PRECISIONS`. Gradients of "fp16" are scaled, so that small ones do not become 0; an update whose
            gradients overflow is left out, and the next ones are scaled less.
        device: Where is trained.

    Raises:
        RecipeError: If there is no such precision.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        name = PRECISIONS[check_choice(amp, PRECISIONS, "amp:")]
        self.amp = amp
        self._device = device.type
        self._dtype: torch.dtype | None = None if name is None else getattr(torch, name)
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which a network is computed."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device, self._dtype)

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Compute gradients anew and update weights in place."""
        optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return how gradients are scaled; nothing where they are not."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in place where `state_dict` was taken."""
        if self._scaler.is_enabled() and state:
            self._scaler.load_state_dict(dict(state))
