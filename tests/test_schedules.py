"""Schedules: the updates fall where they should, and the last one lands on the target."""

import dataclasses
import doctest
import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mopruning import schedules
from mopruning.errors import RecipeError
from mopruning.schedules import OneShot, Polynomial, Schedule

counts = st.integers(0, 400)
shares = st.floats(0.0, 1.0)
ramps = st.builds(
    Polynomial,
    start=counts,
    length=counts,
    frequency=st.one_of(st.integers(0, 500), st.floats(0.0, 500.0)),
    exponent=st.floats(0.1, 8.0),
)
schedules_of_all_kinds = st.one_of(ramps, st.builds(OneShot, start=counts))


def updates(schedule: Schedule, steps: int) -> list[int]:
    """The updates done by a training run that asks after every step."""
    done, last = [], -1
    for step in range(steps + 1):
        update = schedule.latest_update(last, step)
        if update is not None:
            done.append(update)
            last = update
    return done


def test_doctests():
    result = doctest.testmod(schedules)
    assert result.attempted > 0
    assert result.failed == 0


def test_updates_of_a_ramp_by_hand():
    assert updates(Polynomial(start=10, length=25, frequency=10), 60) == [10, 20, 30, 35]
    assert updates(Polynomial(start=0, length=20, frequency=10), 60) == [0, 10, 20]
    assert updates(Polynomial(start=3, length=2, frequency=100), 60) == [3, 5]
    assert updates(Polynomial(start=7), 60) == updates(OneShot(7), 60) == [7]


@given(schedules_of_all_kinds)
def test_updates_are_those_of_a_run(schedule):
    assert list(schedule.updates) == updates(schedule, schedule.end + 3)


def test_published_formula():
    ramp = Polynomial(start=100, length=400, frequency=50)
    assert ramp.sparsity(100, 0.2, 0.8) == 0.2
    assert ramp.sparsity(200, 0.2, 0.8) == pytest.approx(0.8 + (0.2 - 0.8) * (1 - 100 / 400) ** 3)
    assert ramp.sparsity(500, 0.2, 0.8) == 0.8
    linear = dataclasses.replace(ramp, exponent=1)
    assert [linear.sparsity(u, 0.0, 0.8) for u in (200, 300, 400)] == pytest.approx([0.2, 0.4, 0.6])


@given(schedule=schedules_of_all_kinds, initial=shares, target=shares)
@example(schedule=Polynomial(0, 781, 156.25), initial=0.0, target=0.9)
def test_every_run_lands_exactly_on_the_target(schedule, initial, target):
    done = updates(schedule, schedule.end + 5)
    assert done[0] == schedule.start
    assert done[-1] == schedule.end
    assert schedule.sparsity(done[-1], initial, target) == target
    assert schedule.sparsity(schedule.end + 1000, initial, target) == target


@given(schedule=ramps)
def test_updates_keep_the_frequency(schedule):
    done = updates(schedule, schedule.end)
    gaps = [b - a for a, b in itertools.pairwise(done)]
    every = max(1, int(schedule.frequency))
    assert all(gap == every for gap in gaps[:-1])
    assert all(0 < gap <= every for gap in gaps[-1:])


@given(schedule=schedules_of_all_kinds, initial=shares, target=shares)
def test_ramp_is_monotone_and_between_its_ends(schedule, initial, target):
    reached = [schedule.sparsity(update, initial, target) for update in updates(schedule, schedule.end)]
    assert reached == sorted(reached, reverse=initial > target)
    assert all(min(initial, target) <= s <= max(initial, target) for s in reached)


@given(schedule=schedules_of_all_kinds, last=st.integers(-1, 900), step=st.integers(0, 900))
def test_latest_update_is_the_newest_scheduled_one_not_yet_done(schedule, last, step):
    due = [update for update in updates(schedule, schedule.end) if last < update <= step]
    assert schedule.latest_update(last, step) == (due[-1] if due else None)


def test_missed_updates_are_skipped():
    ramp = Polynomial(start=0, length=100, frequency=10)
    assert ramp.latest_update(10, 47) == 40
    assert ramp.latest_update(10, 5000) == 100
    assert ramp.latest_update(100, 5000) is None


def test_quotients_of_published_scripts_are_cut_off():
    assert Polynomial(10.0, 800.7, 156.25) == Polynomial(10, 800, 156)
    assert Polynomial(frequency=0).frequency == Polynomial(frequency=0.3).frequency == 1
    assert OneShot(2.9).end == 2


def test_equal_schedules_are_equal_hashable_and_round_trip():
    ramp = Polynomial(1, 2, 3, 4)
    assert Polynomial(**dataclasses.asdict(ramp)) == ramp
    assert len({ramp, Polynomial(1, 2, 3, 4.0), OneShot(), OneShot(0)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        ramp.start = 5


@pytest.mark.parametrize("kind", [OneShot, Polynomial])
@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "soon", None])
def test_a_bad_start_is_refused(kind, bad):
    with pytest.raises(RecipeError, match=f"start .*{bad!r}"):
        kind(start=bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": -1}, "length counts optimizer updates and must be 0 or more, got -1"),
        ({"frequency": -5}, "frequency counts optimizer updates"),
        ({"frequency": math.inf}, "frequency must be a finite number"),
        ({"exponent": 0}, "exponent must be more than 0"),
        ({"exponent": math.nan}, "exponent must be a finite number"),
        ({"exponent": "cubic"}, "exponent must be a finite number, got 'cubic'"),
    ],
)
def test_a_bad_argument_is_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Polynomial(**arguments)


@pytest.mark.parametrize("schedule", [OneShot(), Polynomial(0, 100)])
def test_a_bad_sparsity_is_refused(schedule):
    with pytest.raises(RecipeError, match="target sparsity must lie from 0 to 1, got 90"):
        schedule.sparsity(0, 0.0, 90)
    with pytest.raises(RecipeError, match="initial sparsity"):
        schedule.sparsity(0, -0.1, 0.9)
