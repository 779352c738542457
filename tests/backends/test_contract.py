"""The contract of a sparse optimizer, point by point, on every sparse class of every backend."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopruning import Pruner, Recipe
from mopruning.backends import BACKENDS
from tests.backends.harness import LAYERS, RECIPE, Array, Case, Harness, Trainer, gradients_at, initial_weights
from tests.backends.presence import REQUIRED, absence, require

ROOT = Path(__file__).resolve().parents[2]

STEPS = 10

# Each, with schedule and sparsity as below, on the layers that it fits.
GRANULARITIES = ("unstructured", "bank:64", "bank:16", "1:4", "2:4", "balanced:4x-1", "balanced:-1x4x-1x1", "filter")
GRANULARITIES += ("channel", "stripe", "pattern", "pattern:5", "block:4x4")
DECISIONS: tuple[Mapping[str, Any], ...] = (
    {"allocation": "erk"},
    {"allocation": "global"},
    {"allocation": "global", "granularity": "filter", "max_sparsity": 0.85, "min_sparsity": 0.25},
    {"allocation": "lamp"},
    {"score": "random", "seed": 7},
    {"score": "fpgm", "granularity": "filter"},
    {"score": "movement"},
    {"score": "movement", "allocation": "global", "granularity": "bank:16"},
    {"score": "taylor"},
)


def named(decision: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in decision.items())


def harness_module(name: str) -> Any:
    return importlib.import_module(f"tests.backends.{name}_harness")


def all_cases() -> list[Any]:
    """Every backend with each of its cases; with a single empty one where it is absent."""
    rows = []
    for name in BACKENDS:
        cases = [None] if absence(name) else harness_module(name).CASES
        rows += [pytest.param(name, case, id=f"{name}-{case or 'absent'}") for case in cases]
    return rows


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Harness:
    name = request.param
    require(name)
    return harness_module(name).HARNESS


every_case = pytest.mark.parametrize(("backend", "case"), all_cases(), indirect=["backend"])
every_backend = pytest.mark.parametrize("backend", BACKENDS, indirect=True)


def assert_same(actual: Any, expected: Any, where: str = "state") -> None:
    """Fail unless two nested structures hold the same values, arrays bit for bit."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected), where
        for key in expected:
            assert_same(actual[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype, where
        assert actual.shape == expected.shape, where
        np.testing.assert_array_equal(bits(actual), bits(expected), where)
    else:
        assert actual == expected, where


def bits(array: Array) -> Array:
    """The bytes of an array, in which -0.0 differs from 0.0 and NaN equals itself."""
    return np.atleast_1d(np.ascontiguousarray(array)).view(np.uint8)


def assert_pruned(trainer: Trainer) -> None:
    """Fail unless every weight and all optimizer state that the masks leave out is +0.0."""
    weights, state = trainer.weights(), trainer.state()
    for name, mask in trainer.masks().items():
        assert not bits(weights[name][~mask]).any(), f"{name} is not zero where it is pruned"
        for number, values in enumerate(state[name]):
            assert not values[~mask].any(), f"state {number} of {name} is not zero where it is pruned"


def test_required_backends_are_known() -> None:
    assert set(BACKENDS) >= REQUIRED


@every_case
@pytest.mark.parametrize("when", ["never", "later"])
def test_without_sparsity_is_native(backend: Harness, case: Case, when: str) -> None:
    """Point 1; a ramp that has not begun changes nothing either."""
    weights = initial_weights(case)
    recipe = {} if when == "never" else {**RECIPE, "schedule": {"start": 6}}
    native, sparse = backend.native(case, weights), backend.sparse(case, weights, recipe)
    for step in range(5):
        gradients = gradients_at(step, weights)
        native.step(gradients)
        sparse.step(gradients)
        assert_same(sparse.weights(), native.weights(), f"weights after step {step + 1}")
    assert not np.array_equal(native.weights()["out.weight"], weights["out.weight"])
    state = sparse.everything()
    if when == "later":
        del state["mopruning"]
    assert_same(state, native.everything())


@every_case
def test_pruned_weights_and_state_stay_zero(backend: Harness, case: Case) -> None:
    """Points 2 and 3, at every step of a ramp and after it."""
    weights = initial_weights(case)
    trainer = backend.sparse(case, weights, RECIPE)
    for step in range(STEPS):
        trainer.step(gradients_at(step, weights))
        assert bool(trainer.masks()) == (step + 1 >= 2)
        assert_pruned(trainer)
    final = trainer.weights()
    assert set(trainer.masks()) == {name for name, value in weights.items() if value.ndim > 1}
    for name, mask in trainer.masks().items():
        assert mask.mean() == 0.25
        assert np.isfinite(final[name]).all()
        assert final[name][mask].all()


@every_case
def test_momentum_revives_nothing(backend: Harness, case: Case) -> None:
    """Point 3: steep slopes before the masks, then none at all, leave momentum alone to move the weights."""
    weights = initial_weights(case)
    trainer = backend.sparse(case, weights, {**RECIPE, "schedule": {"start": 3}})
    for step in range(3):
        trainer.step({name: 1000.0 * value for name, value in gradients_at(step, weights).items()})
    masks = trainer.masks()
    assert set(masks) == {name for name, value in weights.items() if value.ndim > 1}
    for _ in range(4):
        trainer.step({name: np.zeros_like(value) for name, value in weights.items()})
        assert_pruned(trainer)
    assert_same(trainer.masks(), masks)


@every_case
@pytest.mark.parametrize("saved_at", [1, 5])
def test_resumed_run_is_the_uninterrupted_one(backend: Harness, case: Case, saved_at: int, tmp_path: Path) -> None:
    """Point 4, from before the first mask update and from between two."""
    weights = initial_weights(case)
    straight = backend.sparse(case, weights, RECIPE)
    for step in range(STEPS):
        straight.step(gradients_at(step, weights))
        if step + 1 == saved_at:
            straight.save(tmp_path)
    resumed = backend.sparse(case, initial_weights(case, seed=1), RECIPE)
    resumed.load(tmp_path)
    for step in range(saved_at, STEPS):
        resumed.step(gradients_at(step, weights))
    assert_same(resumed.masks(), straight.masks(), "masks")
    assert_same(resumed.weights(), straight.weights(), "weights")
    assert_same(resumed.everything(), straight.everything())


@every_backend
@pytest.mark.parametrize("decision", DECISIONS, ids=named)
def test_resumed_run_decides_as_the_uninterrupted_one(
    backend: Harness, decision: Mapping[str, Any], tmp_path: Path
) -> None:
    """Point 4, where masks hang on more than the weights at hand."""
    case = backend.plain_sgd
    weights = initial_weights(case)
    recipe = {**RECIPE, **decision}
    straight = backend.sparse(case, weights, recipe)
    for step in range(STEPS):
        straight.step(gradients_at(step, weights))
        if step == 4:
            straight.save(tmp_path)
    resumed = backend.sparse(case, initial_weights(case, seed=1), recipe)
    resumed.load(tmp_path)
    for step in range(5, STEPS):
        resumed.step(gradients_at(step, weights))
    assert_same(resumed.masks(), straight.masks(), "masks")
    assert_same(resumed.weights(), straight.weights(), "weights")
    assert_same(resumed.everything(), straight.everything())


@every_backend
def test_killed_run_resumes(backend: Harness, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Point 4, with a process that is killed while it trains."""
    name = request.node.callspec.params["backend"]
    command = [sys.executable, "-m", "tests.backends.killed", name, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "saved 4":
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    step = max(int(folder.name) for folder in tmp_path.iterdir() if folder.name.isdigit())
    assert 4 <= step < 1000

    case = backend.plain_sgd
    weights = initial_weights(case)
    straight = backend.sparse(case, weights, RECIPE)
    for done in range(step + 3):
        straight.step(gradients_at(done, weights))
    resumed = backend.sparse(case, initial_weights(case, seed=1), RECIPE)
    resumed.load(tmp_path / str(step))
    for done in range(step, step + 3):
        resumed.step(gradients_at(done, weights))
    assert_same(resumed.masks(), straight.masks(), "masks")
    assert_same(resumed.everything(), straight.everything())
    assert_same(resumed.weights(), straight.weights(), "weights")


@every_backend
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_masks_are_numpys(backend: Harness, granularity: str) -> None:
    """Point 5, for every granularity."""
    follow_with_numpy(backend, {"granularity": granularity})


@every_backend
@pytest.mark.parametrize("decision", DECISIONS, ids=named)
def test_decisions_are_numpys(backend: Harness, decision: Mapping[str, Any]) -> None:
    """Point 5, for every score and allocation."""
    follow_with_numpy(backend, decision)


def follow_with_numpy(backend: Harness, decision: Mapping[str, Any]) -> None:
    """Train through a schedule of 20 mask updates, and do the same with NumPy and a Pruner alone."""
    case, rate = backend.plain_sgd, np.float32(0.25)
    schedule = {"start": 1, "length": 19, "frequency": 1}
    recipe = {"sparsity": 0.8, "schedule": schedule, **decision}
    weights = initial_weights(case)
    trainer = backend.sparse(case, weights, recipe)
    pruner = Pruner(Recipe.load(recipe).plan({name: shape for name, (_, shape) in LAYERS.items()}))
    assert pruner.plan.pruned
    changes = 0
    for step in range(22):
        gradients = gradients_at(step, weights)
        trainer.step(gradients)
        if pruner.wants_gradients:
            pruner.observe(weights, gradients)
        alive = pruner.masks
        weights = {
            name: value - rate * np.where(alive.get(name, True), gradients[name], np.float32(0.0))
            for name, value in weights.items()
        }
        changes += pruner.step(weights) is not None
        weights = {
            name: np.where(pruner.masks.get(name, True), value, np.float32(0.0)) for name, value in weights.items()
        }
        assert_same(trainer.masks(), dict(pruner.masks), f"masks after step {step + 1}")
        assert_same(trainer.weights(), weights, f"weights after step {step + 1}")
    assert changes == 20
    assert pruner.sparsity > 0.3
