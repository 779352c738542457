"""A small network whose filters are coupled, for the tests of coupled filters."""

from __future__ import annotations

import numpy as np

from mopruning import Recipe
from mopruning.coupling import Coupled, FilterGroup

# Two convolutions whose results are added, the second in another order; one with a depthwise one after it; one alone; a
# classifier.
SHAPES = {
    "stem.weight": (8, 3, 3, 3),
    "stem.bias": (8,),
    "block.weight": (8, 8, 3, 3),
    "wide.weight": (12, 8, 1, 1),
    "deep.weight": (12, 1, 3, 3),
    "free.weight": (6, 12),
    "head.weight": (10, 6),
}
TURNED = (7, 0, 6, 1, 5, 2, 4, 3)
GROUPS = (
    FilterGroup(8, (2,), (Coupled("stem.weight", range(8)), Coupled("block.weight", TURNED))),
    FilterGroup(12, (), (Coupled("wide.weight", range(12)), Coupled("deep.weight", range(12)))),
    FilterGroup(10, range(10), (Coupled("head.weight", range(10)),)),
)
RAMP = {"start": 1, "length": 4, "frequency": 2, "exponent": 1.0}


def draw(seed=0, shapes=SHAPES):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def planned(**recipe):
    groups = recipe.pop("groups", GROUPS)
    return Recipe(**{"sparsity": 0.5, "granularity": "filter:group", **recipe}).plan(SHAPES, groups=groups)


def reasons(plan):
    return {row.name: ("dense" if row.granularity is None else row.target, row.reason) for row in plan.rows}


def dead(mask):
    """Indices of the filters that go, once it is clear that filters go whole."""
    rows = np.asarray(mask).reshape(len(mask), -1)
    assert (rows.all(axis=1) | ~rows.any(axis=1)).all()
    return np.flatnonzero(~rows[:, 0]).tolist()
