"""Optimizer states of MXNet: the arrays within one, and the sparsity that travels with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from mopruning.backends.mxnet.framework import Context, NDArray


class Shared(Protocol):
    """What all states of one optimizer share."""

    @property
    def latest(self) -> Shared:
        """This, or what took over from it."""


class SparseState:
    """The native optimizer state of one weight, and with it what a resumed run needs to know of masks and steps.

    An Updater saves nothing but its states, unless told to save the optimizer with them; so these carry it.

    Args:
        native: What the native optimizer made.
        rounds: The rounds of the optimizer that the state belongs to, see `mopruning.backends.mxnet.hooks`.
    """

    __slots__ = ("native", "rounds")

    def __init__(self, native: Any, rounds: Shared) -> None:
        self.native = native
        self.rounds = rounds

    def __reduce__(self) -> Any:
        return SparseState, (self.native, self.rounds.latest)


def arrays_in(state: Any) -> Iterator[NDArray]:
    """Yield the arrays of an optimizer state, however it nests them.

    >>> from mopruning.backends.mxnet.framework import mx
    >>> [array.shape for array in arrays_in((None, (mx.nd.zeros(2), mx.nd.zeros(3))))]
    [(2,), (3,)]
    """
    if isinstance(state, NDArray):
        yield state
    elif isinstance(state, (tuple, list)):
        for part in state:
            yield from arrays_in(part)


def moved(state: Any, context: Context) -> Any:
    """Return an optimizer state with all its arrays on one context; those that are there already are kept."""
    if isinstance(state, NDArray):
        return state.as_in_context(context)
    return type(state)(moved(part, context) for part in state) if isinstance(state, (tuple, list)) else state
