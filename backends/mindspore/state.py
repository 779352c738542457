"""What a pruner remembers, held in MindSpore parameters: checkpoints carry it, and graphs read and write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn
from mindspore import dtype as mstype

from mopruning.backends.mindspore.weights import Host, Weights, write
from mopruning.errors import StateError
from mopruning.packing import pack
from mopruning.pruner import Pruner, plan_text, read_plan_text
from mopruning.scores import SCORES

PREFIX = "mopruning."

_PLAN_BYTES = 1024  # the plan is padded to a multiple of this: plans of one network mostly get one shape


class SparseState(nn.Cell):  # type: ignore[misc]  # MindSpore brings no types
    """Step, plan, masks and observed scores of a pruner as parameters.

    A pruner takes them up with `restore` and gives them back with `store`; in between, the parameters alone are the
    truth, whether a graph changed them or a checkpoint.

    Args:
        weights: The parameters of the network.
        pruner: The pruner, at its start.

    Attributes:
        names: Names of the pruned weights, in the order of `masks`.
        step: Optimizer updates counted so far, int32 [1].
        last_update: The scheduled update done last, int32 [1]; -1 where there was none.
        seen: Whether `observed` holds anything, bool [1].
        initial: The sparsity that each ramp began with, float64; -1 where it began with no masks.
        masks: Masks laid out as their weights are, bool, True = keep.
        observed: Scores made of weights and gradients, laid out alike; none if the recipe asks for no such score.
    """

    def __init__(self, weights: Weights, pruner: Pruner) -> None:
        super().__init__(auto_prefix=False)
        self.names = tuple(row.name for row in pruner.plan.pruned)
        self._weights = weights
        natives = [weights.parameters[name] for name in self.names]
        scored = natives if SCORES[pruner.plan.recipe.score].gradients else []
        self.step = _parameter("step", np.zeros(1, np.int32))
        self.last_update = _parameter("last_update", np.zeros(1, np.int32))
        self.seen = _parameter("seen", np.zeros(1, np.bool_))
        self.initial = _parameter("initial", np.zeros(max(1, len(natives))))
        self.plan = _parameter("plan", _encoded(pruner.plan.to_dict()))
        self.masks = ParameterTuple([_parameter(f"mask.{p.name}", np.ones(p.shape, np.bool_)) for p in natives])
        self.observed = ParameterTuple([_parameter(f"observed.{p.name}", np.zeros(p.shape, wide(p))) for p in scored])
        self.store(pruner)

    @property
    def members(self) -> tuple[Parameter, ...]:
        """All parameters, in the order of what `values` returns."""
        return (self.step, self.last_update, self.seen, self.initial, self.plan, *self.masks, *self.observed)

    @property
    def pruning(self) -> bool:
        """Whether masks are in force."""
        return bool(self.last_update.asnumpy()[0] >= 0) or bool((self.initial.asnumpy() >= 0).any())

    def store(self, pruner: Pruner) -> None:
        """Write what a pruner remembers into the parameters in place."""
        for parameter, value in zip(self.members, self.values(pruner), strict=True):
            write(parameter, value)

    def values(self, pruner: Pruner) -> list[Host]:
        """Return what a pruner remembers as values of the parameters."""
        state = pruner.state_dict()
        initial = [state["initial"].get(name, -1.0) for name in self.names] or [-1.0]
        return [
            np.array([state["steps"]], np.int32),
            np.array([state["last_update"]], np.int32),
            np.array([bool(pruner.observed)]),
            np.array(initial, np.float64),
            _encoded(state["plan"]),
            *(self._native(n, p, pruner.masks.get(n)) for n, p in zip(self.names, self.masks, strict=True)),
            *(self._native(n, p, state["observed"].get(n)) for n, p in zip(self.names, self.observed, strict=False)),
        ]

    def restore(self, pruner: Pruner, values: Sequence[Host] | None = None) -> None:
        """Let a pruner take up in place what the parameters hold.

        Args:
            pruner: The pruner.
            values: Their values, where a graph has read them already; None reads them.

        Raises:
            StateError: If they came out of a checkpoint of another plan.
        """
        step, last, seen, initial, plan, *arrays = [p.asnumpy() for p in self.members] if values is None else values
        shares = {name: float(share) for name, share in zip(self.names, initial, strict=False) if share >= 0}
        canonical = [self._weights.to_canonical(n, a).copy() for n, a in zip(self.names * 2, arrays, strict=False)]
        count = len(self.names)
        pruner.load_state_dict(
            {
                **_decoded(plan),
                "steps": int(step[0]),
                "last_update": int(last[0]),
                "initial": shares,
                "masks": {
                    name: pack(mask)
                    for name, mask in zip(self.names, canonical[:count], strict=True)
                    if last[0] >= 0 or name in shares
                },
                "observed": dict(zip(self.names, canonical[count:], strict=False)) if seen[0] else {},
            }
        )

    def load(self, pruner: Pruner, state: Mapping[str, Any]) -> None:
        """Take the parameters' values in place from tensors by name; other names are passed over.

        Raises:
            StateError: If the state belongs to another plan or is damaged; nothing is changed then.
        """
        missing = [p.name for p in (self.step, self.last_update, self.seen, self.initial, self.plan)]
        missing = [name for name in missing if name not in state]
        if missing:
            raise StateError(f"this state lacks {', '.join(missing)}: was it saved with that of mopruning?")
        empty = {"steps": 0, "last_update": -1, "initial": {}, "masks": {}, "observed": {}}
        pruner.checked({**_decoded(state[self.plan.name].asnumpy()), **empty})
        for parameter in self.members:
            shape = getattr(state.get(parameter.name), "shape", None)
            if shape != parameter.shape and parameter is not self.plan:
                raise StateError(f"{parameter.name} is damaged: expected shape {parameter.shape}, got {shape}")
        self.restore(pruner, [state[parameter.name].asnumpy() for parameter in self.members])
        self.store(pruner)

    def _native(self, name: str, like: Parameter, value: Host | None) -> Host:
        """Lay a canonical array out as `like` is; where there is none, keep all weights, or scores as they are."""
        if value is not None:
            return self._weights.to_native(name, value)
        return np.ones(like.shape, np.bool_) if like.dtype == mstype.bool_ else like.asnumpy()


def wide(parameter: Tensor) -> type[np.floating[Any]]:
    """Return the dtype in which the core scores a parameter: float32 holds all narrower ones."""
    return np.float64 if parameter.dtype == mstype.float64 else np.float32


def _parameter(name: str, value: Host) -> Parameter:
    return Parameter(Tensor(value), name=PREFIX + name, requires_grad=False)


def _encoded(plan: Mapping[str, Any]) -> Host:
    """Return a plan as JSON in bytes, padded with blanks."""
    text = plan_text(plan).encode()
    return np.frombuffer(text.ljust(-(-len(text) // _PLAN_BYTES) * _PLAN_BYTES), np.uint8)


def _decoded(plan: Host) -> dict[str, Any]:
    try:
        return read_plan_text(plan.tobytes())
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{PREFIX}plan is damaged: expected what mopruning saved ({error})") from None
