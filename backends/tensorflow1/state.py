"""The state of a pruner in variables of a graph, where a Saver finds it and the graph can use it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning.arrays import on_host
from mopruning.backends.tensorflow1.weights import Array, Weights, parts_of
from mopruning.errors import StateError
from mopruning.packing import pack
from mopruning.plan import Plan
from mopruning.pruner import Pruner, plan_text, read_plan_text
from mopruning.scores import SCORES

SCOPE = "mopruning"


class State:
    """Creates the variables of one pruner, all of them in GLOBAL_VARIABLES and none trainable.

    Args:
        plan: The plan.
        weights: The weights it was made for.
        observed: Names of those whose gradients will be seen.

    Attributes:
        text: The plan as it is saved.
        plan_text: Variable of the plan under which the state was made; "" before the first run.
        steps: Variable of the updates counted.
        last_update: Variable of the scheduled update done last, -1 before the first.
        initial: Variable of the sparsity at the start of each pruned weight in the order of their names, -1: none.
        masks: Variables of masks by name, as the weights lie; all True before masks are in force.
        observed: Variables of scores made of weights and gradients by name, as the weights lie.
    """

    def __init__(self, plan: Plan, weights: Weights, observed: Collection[str]) -> None:
        self._plan = plan
        self._layouts = weights.layouts
        self._rows = {row.name: row for row in plan.pruned}
        self.text = plan_text(plan.to_dict())
        with tf.init_scope(), tf.name_scope(None), tf.name_scope(SCOPE):
            with tf.device("/cpu:0"):  # the masks that they decide on are computed on the host
                self.plan_text = _variable("", "plan")
                self.steps = _variable(np.int64(0), "steps")
                self.last_update = _variable(np.int64(-1), "last_update")
                self.initial = _variable(np.full(len(self._rows), -1.0), "initial")
            self.masks = {name: _beside(weights.variables[name], True, tf.bool, f"mask/{name}") for name in self._rows}
            self.observed = {}
            for name in self._rows:
                if name in observed:
                    variable = weights.variables[name]
                    # -0.0 plus anything is that thing to the last bit, its sign included
                    self.observed[name] = _beside(variable, -0.0, _wide(variable.dtype), f"observed/{name}")

    @property
    def variables(self) -> list[Any]:
        """All variables, in one order."""
        few = [self.plan_text, self.steps, self.last_update, self.initial]
        return [*few, *self.masks.values(), *self.observed.values()]

    def read(self) -> list[tf.Tensor]:
        """Return tensors of what the variables hold when these tensors are computed."""
        return [parts_of(variable)[0].read_value() for variable in self.variables]

    @property
    def decided(self) -> slice:
        """Which of all variables a mask update changes."""
        return slice(2, 4 + len(self.masks))

    def pruner(self, values: Sequence[Any], unread: Mapping[str, Array]) -> Pruner:
        """Return a pruner in the state that the variables had.

        Args:
            values: What they held, in the order of `variables`.
            unread: Stands for the weights, which such a pruner does not read.

        Raises:
            StateError: If it belongs to another plan.
        """
        pruner = Pruner(self._plan, unread)
        pruner.load_state_dict(self.to_dict(values))
        return pruner

    def to_dict(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return what `Pruner.load_state_dict` takes, of what the variables held in the order of `variables`."""
        held = [np.asarray(value) for value in values]
        initial = dict(zip(sorted(self._rows), held[3].tolist(), strict=True))
        masks = dict(zip(self.masks, held[4:], strict=False))
        observed = dict(zip(self.observed, held[4 + len(masks) :], strict=True))
        text = held[0].item()
        begun = int(held[2]) >= 0 or any(share >= 0.0 for share in initial.values())
        return {
            **_read_text(text or self.text),
            "steps": int(held[1]),
            "last_update": int(held[2]),
            "initial": {name: share for name, share in initial.items() if share >= 0.0},
            "masks": {name: pack(self._layouts[name].to_canonical(m)) for name, m in masks.items()} if begun else {},
            "observed": {name: self._layouts[name].to_canonical(value) for name, value in observed.items()},
        }

    def to_values(self, pruner: Pruner) -> list[Array]:
        """Return what the variables hold when they have the state of a pruner, in the order of `variables`."""
        state = pruner.state_dict()
        initial = [state["initial"].get(name, -1.0) for name in sorted(self._rows)]
        values: list[Array] = [np.array(self.text, np.object_)]
        values += [np.array(state[key], np.int64) for key in ("steps", "last_update")]
        values.append(np.array(initial, np.float64))
        for known, variables, missing in ((pruner.masks, self.masks, True), (pruner.observed, self.observed, -0.0)):
            for name, variable in variables.items():
                if name in known:
                    values.append(self._layouts[name].to_native(on_host(known[name])))
                else:
                    values.append(np.full(variable.shape.as_list(), missing, variable.dtype.as_numpy_dtype))
        return values


def observable(plan: Plan, with_gradient: Collection[str]) -> Collection[str]:
    """Return the names of the pruned weights whose gradients the plan's score needs and sees."""
    return [row.name for row in plan.pruned if SCORES[plan.recipe.score].gradients and row.name in with_gradient]


def _variable(value: Any, name: str) -> Any:
    return tf.Variable(value, trainable=False, use_resource=True, name=name)


def _beside(weight: Any, value: Any, dtype: Any, name: str) -> Any:
    """Create a variable of a weight's shape that lies where the weight does."""
    with tf.distribute.get_strategy().extended.colocate_vars_with(weight):
        return _variable(tf.fill(weight.shape.as_list(), tf.constant(value, dtype)), name)


def _wide(dtype: Any) -> Any:
    """Return the dtype of the scores that the core makes of weights of a dtype."""
    return tf.float64 if dtype.base_dtype == tf.float64 else tf.float32


def _read_text(text: str | bytes) -> dict[str, Any]:
    try:
        return read_plan_text(text)
    except (ValueError, KeyError, TypeError):
        raise StateError(f"variable {SCOPE}/plan holds no plan but {text[:40]!r}: is the checkpoint whole?") from None
