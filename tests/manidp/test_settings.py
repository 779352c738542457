"""Settings: published defaults, and numbers that no training could use."""

import dataclasses
import math

import pytest

from mopruning.errors import RecipeError
from mopruning.manidp import Settings

PUBLISHED = {
    "target_remain_rate": 0.65,
    "remain_ramp": 1.0,  # the published rate falls until the last epoch
    "lambda_lasso": 0.1,
    "lambda_graph": 0.1,
    "thre_cls": 0.5,
    "gamma": 1.0,
    "thre_freq": 1,
    "thre_init": -10000,
    "clamp_max": 1000,
    "squeeze_rate": 2,
    "epochs": 400,
    "batch_size": 128,
    "lr": 0.05,
    "momentum": 0.9,
    "decay": 5e-4,
    "decay_branch": 0.0,
}


def test_published_defaults():
    found = dataclasses.asdict(Settings())
    assert {name: found[name] for name in PUBLISHED} == PUBLISHED
    assert not found["detach_weight"]  # as published: nothing is
    assert not found["detach_features"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target_remain_rate": 0}, "target_remain_rate must be above 0 and at most 1, got 0"),
        ({"target_remain_rate": 1.01}, "target_remain_rate must be above 0"),
        ({"remain_ramp": 0.0}, "remain_ramp must be above 0 and at most 1, got 0.0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"gamma": -1.0}, "gamma must be above 0"),
        ({"clamp_max": 0.0}, "clamp_max must be above 0"),
        ({"decay": -1e-9}, "decay must be 0 or more"),
        ({"lambda_graph": -0.1}, "lambda_graph must be 0 or more"),
        ({"epochs": 0}, "epochs must be a whole number from 1, got 0"),
        ({"thre_freq": 0}, "thre_freq must be a whole number from 1"),
        ({"batch_size": 12.5}, "batch_size must be a whole number from 1, got 12.5"),
        ({"thre_init": math.nan}, "thre_init must be a finite number, got nan"),
        ({"momentum": math.inf}, "momentum must be a finite number"),
        ({"lr": "x"}, "lr must be a finite number, got 'x'"),
        ({"epochs": True}, "epochs must be a finite number, got True"),
        ({"detach_weight": 1}, "detach_weight must be True or False, got 1"),
    ],
)
def test_numbers_out_of_range(wrong, message):
    with pytest.raises(RecipeError, match=message):
        Settings(**wrong)


def test_edges_are_allowed():
    edges = Settings(target_remain_rate=1.0, lambda_lasso=0.0, lambda_graph=0.0, thre_cls=0.0, epochs=1, decay=0.0)
    assert edges.target_remain_rate == 1.0


def test_settings_stay():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().lr = 1.0  # type: ignore[misc]
