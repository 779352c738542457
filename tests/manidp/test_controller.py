"""Controller: which limit, learning rate and thresholds hold when; a resumed training goes on alike."""

import doctest
import json
import math
import sys

import numpy as np
import pytest

from mopruning.errors import StateError, WeightError
from mopruning.manidp import Controller, Settings, learning_rate, remain_rate, threshold

module = sys.modules[Controller.__module__]


def sums(epoch: int) -> list[np.ndarray]:
    """What two gates might have collected over 10 images."""
    rng = np.random.default_rng(epoch)
    return [10 * rng.random(16), 10 * rng.random(32).astype(np.float32)]


def run(control: Controller, epochs: range) -> list[tuple[float, list[float] | None]]:
    changes = []
    for epoch in epochs:
        assert control.epoch == epoch
        changes.append((control.limit, control.end_epoch(sums(epoch), images=10, mean_cross_entropy=1 / (epoch + 1))))
    return changes


def test_doctests():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_thresholds_change_after_every_epoch_but_the_first():
    control = Controller(Settings(epochs=4, target_remain_rate=0.4), updates=5)
    changes = [change for _, change in run(control, range(4))]
    assert changes[0] is None
    for epoch in (1, 2, 3):
        rate = remain_rate(epoch, 4, 0.4)
        assert changes[epoch] == [threshold(np.asarray(one, np.float64) / 10, rate) for one in sums(epoch)]
    last = [int((one / 10 >= thre - 1e-7).sum()) for one, thre in zip(sums(3), changes[3], strict=True)]
    assert last == [7, 13]  # ceil of 0.4 * 16 and of 0.4 * 32


@pytest.mark.parametrize(("ramp", "length"), [(1.0, 8), (0.5, 4), (0.3, 2), (0.01, 1)])
def test_the_rate_may_reach_its_target_early(ramp, length):
    control = Controller(Settings(epochs=8, target_remain_rate=0.4, remain_ramp=ramp), updates=1)
    changes = [change for _, change in run(control, range(8))]
    for epoch in range(1, 8):
        rate = remain_rate(epoch, length, 0.4) if epoch < length else 0.4
        assert changes[epoch] == [threshold(np.asarray(one, np.float64) / 10, rate) for one in sums(epoch)]


@pytest.mark.parametrize(("frequency", "changed"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (3, [3, 6]), (50, [])])
def test_frequency(frequency, changed):
    control = Controller(Settings(epochs=7, thre_freq=frequency), updates=1)
    assert [epoch for epoch, (_, change) in enumerate(run(control, range(7))) if change] == changed


def test_limit_follows_the_epoch_before():
    control = Controller(Settings(epochs=3, thre_cls=0.25), updates=1)
    control.start(mean_cross_entropy=2.0)
    assert [limit for limit, _ in run(control, range(3))] == [0.5, 0.25, 0.125]


def test_learning_rate_runs_over_all_epochs():
    control = Controller(Settings(epochs=3, lr=0.1), updates=4)
    rates = []
    for epoch in range(3):
        rates += [control.learning_rate(update) for update in range(4)]
        control.end_epoch(sums(epoch), 10, 1.0)
    assert rates == [learning_rate(update, 12, 0.1) for update in range(12)]


def test_resumed_training_goes_on_alike():
    settings = Settings(epochs=6, target_remain_rate=0.5)
    whole, first = Controller(settings, 3), Controller(settings, 3)
    whole.start(0.7)
    first.start(0.7)
    wanted = run(whole, range(6))
    found = run(first, range(4))
    second = Controller(settings, 3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.learning_rate(2) == first.learning_rate(2)
    assert found + run(second, range(4, 6)) == wanted


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "expected numbers 'epoch' and 'limit'"),
        ({"epoch": 1}, "expected numbers 'epoch' and 'limit'"),
        ({"epoch": "many", "limit": 0.1}, "expected numbers 'epoch' and 'limit'"),
        ({"epoch": None, "limit": 0.1}, "expected numbers 'epoch' and 'limit'"),
        ({"epoch": 5, "limit": 0.1}, "has completed 5 epochs, this one is to have 4"),
        ({"epoch": -1, "limit": 0.1}, "has completed -1 epochs"),
    ],
)
def test_states_that_do_not_fit(state, message):
    control = Controller(Settings(epochs=4), updates=1)
    with pytest.raises(StateError, match=message):
        control.load_state_dict(state)
    assert control.state_dict() == {"epoch": 0, "limit": 0.0}


def test_a_diverged_gate_is_told():
    control = Controller(Settings(epochs=4), updates=1)
    control.end_epoch(sums(0), 10, 1.0)
    with pytest.raises(WeightError, match="a gate has diverged"):
        control.end_epoch([np.array([1.0, math.nan])], 10, 1.0)


def test_a_training_that_had_diverged_does_not_go_on():
    with pytest.raises(StateError, match="'limit' is nan"):
        Controller(Settings(), 1).load_state_dict({"epoch": 1, "limit": float("nan")})
