"""The pruner: the state machine that says, step by step, which weights to keep."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopruning.arrays import Array, like, namespace, on_host
from mopruning.batchnorm import scale_names
from mopruning.coupled_masks import coupled_masks, first_follower_masks
from mopruning.coupling import FilterGroup
from mopruning.errors import StateError
from mopruning.names import Names
from mopruning.packing import pack, unpack
from mopruning.placement import Whole
from mopruning.plan import Plan, PlanRow
from mopruning.scores import SCORES, bn_scale, fpgm, magnitude

STATE_VERSION = 1


class Pruner:
    """Every rule of time: when masks change, how sparse they are then, what survives a restart.

    An adapter calls `step` once after each optimizer update and zeroes the weights that the current masks
    leave out; it decides nothing itself.

    Args:
        plan: What happens to every parameter.
        weights: The parameters at the start, canonical, by name. Needed only where the recipe says
            `restore_sparsity` or `fix_sparsity`: the zeros they hold become the first masks.
        place: Where weights lie, if not whole in this process (`mopruning.sharding.Sharded`).

    Attributes:
        plan: The plan.
        steps: Optimizer updates counted so far.
        masks: Current mask of each pruned parameter (bool, canonical, True = keep); empty before the first update.
        observed: Scores made of weights and gradients, accumulated so far, by name.
        place: Where the weights lie.

    Raises:
        StateError: If the recipe continues from existing zeros and `weights` is missing.
        RecipeError: If the plan cannot be carried out where the weights lie.

    >>> from mopruning import Recipe
    >>> weights = {"fc": np.array([[4.0, -1.0, 3.0, 2.0]])}
    >>> pruner = Pruner(Recipe(sparsity=0.5).plan({"fc": (1, 4)}))
    >>> pruner.step(weights)["fc"].astype(int)
    array([[1, 0, 1, 0]])
    >>> pruner.step(weights) is None
    True
    """

    def __init__(self, plan: Plan, weights: Mapping[str, Array] | None = None, place: Whole | None = None) -> None:
        self.place = Whole() if place is None else place
        self.steps = 0
        self.masks: dict[str, Array] = {}
        self._last_update = -1
        self._initial: dict[str, float] = {}
        self.observed: dict[str, Array] = {}
        self.replan(plan, weights)

    def replan(self, plan: Plan, weights: Mapping[str, Array] | None = None) -> None:
        """Take over a plan in place: parameters known before keep their masks, new ones start at the next update."""
        self.place.check(plan)
        self.plan = plan
        self._rows = {row.name: row for row in plan.pruned}
        self._scales = scale_names(plan) if plan.recipe.score == "bn_scale" else {}
        recipe = plan.recipe
        if not (recipe.restore_sparsity or recipe.fix_sparsity):
            return
        if weights is None:
            raise StateError("restore_sparsity and fix_sparsity read the masks off the weights: pass weights to Pruner")
        first = first_follower_masks(plan.groups, weights)
        for name in self._rows.keys() - self.masks.keys():
            self.masks[name] = first[name] if name in first else weights[name] != 0
            size = math.prod(self._rows[name].shape)
            self._initial[name] = 1.0 - (size - self.place.zeros(name, self.masks[name])) / max(1, size)

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the weights that a mask update reads: those that are pruned, and what their scores depend on."""
        others = [*self._scales.values(), *(reader.name for group in self._read_groups for reader in group.readers)]
        return tuple(dict.fromkeys([*self._rows, *others]))

    @property
    def _read_groups(self) -> list[FilterGroup]:
        """The groups in whose scores the weights that read a channel count."""
        return [group for group in self.plan.groups if group.read] if self.plan.recipe.score == "magnitude" else []

    @property
    def wants_gradients(self) -> bool:
        """Whether `observe` should see the gradients of the coming update."""
        score = SCORES[self.plan.recipe.score]
        if not score.gradients or self._finished:
            return False
        return score.accumulates or self._due(self.steps + 1) is not None

    @property
    def sparsity(self) -> float:
        """Share of zeros over all pruned parameters by the current masks; 0 before the first update."""
        total = sum(math.prod(row.shape) for row in self._rows.values())
        return sum(self.place.zeros(name, mask) for name, mask in self.masks.items()) / total if total else 0.0

    def observe(self, weights: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Note weights and gradients for scores made of both; call it before the optimizer update.

        Args:
            weights: Canonical weights by name.
            gradients: Canonical gradients by name; a parameter without one is passed over.
        """
        score = SCORES[self.plan.recipe.score]
        for name in self._rows:
            if name in gradients:
                value = score.function(weights[name], gradients[name])
                known = self.observed.get(name) if score.accumulates else None
                self.observed[name] = value if known is None else known + value

    def step(self, weights: Mapping[str, Array]) -> Mapping[str, Array] | None:
        """Count one optimizer update; return the new masks where this step changes them, else None.

        Args:
            weights: Canonical weights by name, after the update; read only at steps that change masks.

        Raises:
            WeightError: If a weight is NaN or infinite.
            StateError: If the score needs gradients and none were observed.
        """
        self.steps += 1
        return self.update(weights)

    def update(self, weights: Mapping[str, Array]) -> Mapping[str, Array] | None:
        """Do the mask update that is due by the steps counted so far; return the new masks, None where none is due.

        For adapters whose graphs count the steps themselves, in `steps`; `step` is this and the counting.

        Args:
            weights: As for `step`.

        Raises:
            WeightError: If a weight is NaN or infinite.
            StateError: If the score needs gradients and none were observed.
        """
        update = self._due(self.steps)
        if update is None:
            return None
        self.masks = self._decide(weights, update)
        self._last_update = update  # only now: an update that failed is still due
        if not SCORES[self.plan.recipe.score].accumulates:
            self.observed = {}
        return self.masks

    def _due(self, step: int) -> int | None:
        if self.plan.recipe.fix_sparsity or not self._rows:
            return None
        update = self.plan.recipe.schedule.latest_update(self._last_update, step)
        return self._last_update if update is None and self._late else update

    @property
    def _late(self) -> bool:
        """Whether parameters joined after a mask update, so that it is to be done again for them."""
        return self._last_update >= 0 and not self._rows.keys() <= self.masks.keys()

    @property
    def _finished(self) -> bool:
        """Whether masks will not change any more."""
        recipe = self.plan.recipe
        return recipe.fix_sparsity or not self._rows or (self._last_update >= recipe.schedule.end and not self._late)

    def _decide(self, weights: Mapping[str, Array], update: int) -> dict[str, Array]:
        recipe = self.plan.recipe
        wanted = {
            name: self._ramped(update, self._initial.get(name, recipe.initial_sparsity), row.target)
            for name, row in self._rows.items()
            if row.target is not None
        }
        followers = self.plan.followers
        shared = {name: row for name, row in self._rows.items() if row.target is None and name not in followers}
        if shared:
            sizes = {name: math.prod(row.shape) for name, row in shared.items()}
            zeros = sum(self._initial.get(name, recipe.initial_sparsity) * size for name, size in sizes.items())
            target = recipe.sparsity or 0.0
            reached = self._ramped(update, zeros / max(1, sum(sizes.values())), target)
            # Layers are ranked against each other, so what is pruned in one must rank below what lives in any.
            floor = min(self._floor(name, self.observed.get(name)) for name in shared)
            wanted |= self.place.allocate(
                recipe.allocation,
                _Lazy(shared, lambda name: self._ranked(name, weights, floor)),
                {name: _granularity(row) for name, row in shared.items()},
                reached,
                recipe.min_sparsity * min(1.0, reached / target if target else 1.0),  # the bound rises with the ramp
                max(recipe.max_sparsity, reached),
            )
        coupled = coupled_masks(
            self.plan.groups,
            lambda name: self._ranked(name, weights),
            wanted,
            lambda name: weights[name],
            (lambda name: magnitude(weights[name])) if self._read_groups else None,
        )
        return {
            name: coupled[name]
            if name in coupled
            else self.place.mask(name, self._ranked(name, weights), _granularity(row), wanted[name])
            for name, row in self._rows.items()
        }

    def _ramped(self, update: int, initial: float, target: float) -> float:
        return self.plan.recipe.schedule.sparsity(update, initial, max(initial, target))

    def _score(self, name: str, weights: Mapping[str, Array]) -> Array:
        """Score one parameter."""
        kind = self.plan.recipe.score
        if SCORES[kind].gradients:
            if name not in self.observed:
                raise StateError(
                    f"score {kind!r} needs the gradient of {name}, and none was observed: run backward() before the "
                    "update, or use score='magnitude'"
                )
            return self.observed[name]
        if kind == "bn_scale":
            return bn_scale(weights[name], weights[self._scales[name]])
        if kind == "random":
            return self.place.random(name, weights[name], self.plan.recipe.seed)
        if kind == "fpgm":
            return fpgm(weights[name], name=name)
        return SCORES[kind].function(weights[name])

    def _ranked(self, name: str, weights: Mapping[str, Array], floor: float | None = None) -> Array:
        """Score one parameter; what is pruned already ranks below everything alive."""
        score = self._score(name, weights)
        if self.plan.recipe.score == "magnitude" or name not in self.masks or not math.prod(self._rows[name].shape):
            return score  # a pruned weight is 0, which is the least magnitude there is
        alive = self.masks[name]
        alive = like(alive, score) if isinstance(alive, np.ndarray) else alive
        return namespace(score).where(alive, score, self._floor(name, score) if floor is None else floor)

    def _floor(self, name: str, score: Array | None) -> float:
        """Return a number below all of a parameter's scores, of their magnitude, so that sums keep their precision."""
        if score is None or not SCORES[self.plan.recipe.score].accumulates:
            return -1.0  # all other scores are 0 or more
        return 2.0 * min(self.place.least(name, score), 0.0) - 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs: numbers, text and NumPy arrays only.

        Returns:
            "version", "steps", "last_update", "plan" (`Plan.to_dict`), "initial" (sparsity at the start by name),
            "masks" (bits by name, see `mopruning.packing`) and "observed" (accumulated scores by name).
        """
        return {
            "version": STATE_VERSION,
            "steps": self.steps,
            "last_update": self._last_update,
            "plan": self.plan.to_dict(),
            "initial": dict(self._initial),
            "masks": {name: pack(self.place.join(name, m)) for name, m in self.masks.items()},
            "observed": {name: on_host(score) for name, score in self.observed.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue in place where `state` was saved; masks come back as NumPy arrays.

        Raises:
            StateError: If the state is of another plan (the message lists what differs), damaged, or of a
                newer version; nothing is changed then.
        """
        self._load(self.checked(state))

    def checked(self, state: Mapping[str, Any]) -> _State:
        """Return what a saved state says, or raise StateError where it is not one of this plan; nothing is changed."""
        if not isinstance(state, Mapping):
            raise StateError(f"pruner state must be what Pruner.state_dict() returned, got {type(state).__name__}")
        missing = {"version", "steps", "last_update", "plan", "initial", "masks", "observed"} - set(state)
        if missing:
            raise StateError(f"pruner state lacks {', '.join(sorted(missing))}: was it saved by Pruner.state_dict()?")
        if state["version"] != STATE_VERSION:
            raise StateError(
                f"pruner state has version {state['version']}, this mopruning reads {STATE_VERSION}: upgrade it"
            )
        state = self._renamed(state)
        differences = self.plan.difference(state["plan"])
        if differences:
            shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
            raise StateError(f"pruner state belongs to another plan: {shown}")
        strange = [name for key in ("masks", "observed", "initial") for name in state[key] if name not in self._rows]
        if strange:
            raise StateError(f"pruner state is damaged: it holds {', '.join(strange)}, which its plan does not prune")
        return _State(
            steps=int(state["steps"]),
            last_update=int(state["last_update"]),
            initial={name: float(share) for name, share in state["initial"].items()},
            masks={name: unpack(bits, self._rows[name].shape, name) for name, bits in state["masks"].items()},
            observed=dict(state["observed"]),
        )

    def _renamed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return a state under this network's names: a wrapper's `module.` or `_orig_mod.` may differ from then."""
        here = Names(row.name for row in self.plan.rows)

        def own(name: Any) -> Any:
            found, _ = here.find(name) if isinstance(name, str) else ([], False)
            return found[0] if len(found) == 1 else name

        result = dict(state)
        for key in ("masks", "initial", "observed"):
            if isinstance(state[key], Mapping):
                result[key] = {own(name): value for name, value in state[key].items()}
        if isinstance(state["plan"], Mapping) and isinstance(state["plan"].get("rows"), list):
            rows = [{**row, "name": own(row.get("name"))} for row in state["plan"]["rows"] if isinstance(row, Mapping)]
            result["plan"] = {**state["plan"], "rows": rows}
        return result

    def _load(self, state: _State) -> None:
        self.steps, self._last_update, self._initial = state.steps, state.last_update, state.initial
        self.masks = {name: self.place.part(name, mask) for name, mask in state.masks.items()}
        self.observed = {name: self.place.part(name, score) for name, score in state.observed.items()}


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return version and plan (`Plan.to_dict`) of a pruner's state as JSON, where variables hold the rest of it."""
    return json.dumps({"version": STATE_VERSION, "plan": plan})


def read_plan_text(text: str | bytes) -> dict[str, Any]:
    """Return "version" and "plan" of what `plan_text` returned.

    Raises:
        ValueError: If it is no JSON.
        KeyError: If either is missing.
        TypeError: If the JSON is no object.

    >>> read_plan_text('{"version": 1, "plan": {}, "more": 2}')
    {'version': 1, 'plan': {}}
    """
    found = json.loads(text)
    return {"version": found["version"], "plan": found["plan"]}


@dataclass(frozen=True)
class _State:
    """A saved state that was found to fit."""

    steps: int
    last_update: int
    initial: dict[str, float]
    masks: dict[str, np.ndarray[Any, Any]]
    observed: dict[str, Array]


class _Lazy(Mapping[str, Array]):
    """Scores by name, computed each time one is looked up: a network's scores never stand in memory together."""

    def __init__(self, names: Mapping[str, Any], compute: Any) -> None:
        self._names, self._compute = names, compute

    def __getitem__(self, name: str) -> Array:
        return self._compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _granularity(row: PlanRow) -> Any:
    assert row.granularity is not None  # Plan.pruned holds no other
    return row.granularity
