"""Which steps are measured: the papers' counts, and one answer for every kind of step."""

from __future__ import annotations

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lnpjax import Windows, at_steps, every, log_windows
from lnpjax.training import Schedule


def starts_by_the_rule(max_steps, per_decade, width):
    """The rule in 60 digits, where a power that is an integer is seen to be one."""
    with decimal.localcontext(prec=60):
        top = decimal.Decimal(max_steps)
        num_points = int(per_decade * top.log10()) + 1
        powers = [top ** (decimal.Decimal(i) / max(num_points - 1, 1)) for i in range(num_points)]
        points = {0, *(int(power + decimal.Decimal("1e-40")) for power in powers)}
    return tuple(sorted(point for point in points if point + width <= max_steps))


@pytest.mark.parametrize(
    ("max_steps", "num_windows", "num_steps"), [(66_116, 24, 801), (42_207, 23, 752)]
)
def test_counts_of_the_paper(max_steps, num_windows, num_steps):
    windows = log_windows(max_steps)
    assert windows.width == 50
    assert len(windows.starts) == num_windows
    assert len(windows.steps) == num_steps


@pytest.mark.parametrize("max_steps", [7, 9, 10, 50, 99, 100, 1000, 66_116, 100_000, 10**9])
@pytest.mark.parametrize("per_decade", [1, 5, 20])
@pytest.mark.parametrize("width", [1, 7])
def test_starts_follow_the_rule(max_steps, per_decade, width):
    windows = log_windows(max_steps, per_decade=per_decade, width=width)
    assert windows.starts == starts_by_the_rule(max_steps, per_decade, width)
    assert windows.starts[0] == 0
    assert windows.starts[-1] + width <= max_steps


@pytest.mark.parametrize("power", range(1, 9))
def test_exact_powers_of_ten_are_points(power):
    windows = log_windows(10**power, per_decade=1, width=1)
    assert windows.starts == (0, *(10**k for k in range(power)))


@pytest.mark.parametrize("max_steps", [60, 1000, 66_116])
@pytest.mark.parametrize("width", [1, 3, 50])
def test_steps_are_sorted_unique_and_within_training(max_steps, width):
    windows = log_windows(max_steps, width=width)
    steps = windows.steps
    assert np.all(np.diff(steps) > 0)
    assert steps[0] == 0
    assert steps[-1] < max_steps
    expected = {start + offset for start in windows.starts for offset in range(width)}
    assert set(steps.tolist()) == expected


def test_windows_that_would_run_past_the_end_are_dropped():
    wide, narrow = log_windows(1000, width=50), log_windows(1000, width=1)
    assert set(wide.starts) == {start for start in narrow.starts if start <= 950} - {1000}
    assert log_windows(1000, width=250).starts[-1] <= 750


def test_one_step_of_training_is_one_window():
    assert log_windows(1, width=1).starts == (0,)


def test_a_window_as_wide_as_training():
    windows = log_windows(20, width=20)
    assert windows.starts == (0,)
    np.testing.assert_array_equal(windows.steps, np.arange(20))


def test_width_one_measures_the_starts():
    windows = log_windows(500, width=1)
    np.testing.assert_array_equal(windows.steps, windows.starts)


@pytest.mark.parametrize(
    "windows", [log_windows(300), log_windows(200, width=3), Windows((5, 7), 4)]
)
def test_all_kinds_of_steps_agree(windows):
    last = 310
    steps = np.arange(-1, last)
    owner = np.full(last, -1)
    for index, start in enumerate(windows.starts):  # the later window owns a shared step
        owner[start : start + windows.width] = index
    expected = np.concatenate([[-1], owner])
    assert [windows.window(int(step)) for step in steps] == expected.tolist()
    assert [windows.window(step) for step in steps] == expected.tolist()
    assert [windows.window(jnp.int32(step)) for step in steps[:80]] == expected[:80].tolist()
    traced = jax.jit(jax.vmap(lambda step: (windows.window(step), windows.active(step))))
    window, active = traced(jnp.asarray(steps))
    np.testing.assert_array_equal(window, expected)
    np.testing.assert_array_equal(active, expected >= 0)
    np.testing.assert_array_equal(np.flatnonzero(expected >= 0) - 1, windows.steps)
    assert [windows.active(int(step)) for step in steps] == (expected >= 0).tolist()


def test_a_concrete_step_gives_a_python_bool():
    """So that an unmeasured step can be skipped without tracing."""
    windows = log_windows(100, width=2)
    for step in (3, np.int64(3), jnp.int32(3)):
        assert isinstance(windows.active(step), bool)
        assert isinstance(windows.window(step), int)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
def test_integer_types_of_traced_steps(x64, dtype):
    windows = log_windows(66_116)
    active = jax.jit(windows.active)
    for step in (0, 49, 50, 66_000, 66_115, 2**31 - 1):
        assert bool(active(jnp.asarray(step, dtype))) == windows.active(step)


def test_no_windows_measure_nothing():
    windows = Windows((), 5)
    assert len(windows.steps) == 0
    assert not windows.active(0)
    assert not jax.jit(windows.active)(jnp.int32(0))


def test_windows_compare_and_hash():
    assert log_windows(500) == log_windows(500) != log_windows(501, width=49)
    assert len({log_windows(500), log_windows(500)}) == 1


def test_a_step_may_be_held_in_a_variable():
    windows = Windows([3, 10], 2)  # a list, as a config file has it
    assert windows == Windows((3, 10), 2)
    variable = nnx.Variable(jnp.uint32(4))
    assert windows.active(variable) is True
    assert windows.window(nnx.Variable(jnp.uint32(5))) == -1
    assert int(jax.jit(windows.window)(variable)) == 0
    for step in (1.5, jnp.arange(2), None):
        with pytest.raises(TypeError, match=r"^step: expected one integer"):
            windows.active(step)


SCHEDULES = {
    "every": (every(7, start=3), list(range(3, 100, 7))),
    "every, from later on": (every(4, start=9), list(range(9, 100, 4))),
    "every step": (every(1), list(range(100))),
    "at steps": (at_steps(np.array([40, 3, 3, 41])), [3, 40, 41]),
    "growing": (Windows((0, 10, 50), (2, 5, 30)), [0, 1, *range(10, 15), *range(50, 80)]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_say_the_same_of_every_kind_of_step(name):
    schedule, steps = SCHEDULES[name]
    assert isinstance(schedule, Schedule)
    assert [step for step in range(100) if schedule.active(step)] == steps
    windows = [schedule.window(step) for step in range(100)]
    traced = jax.jit(jax.vmap(lambda step: (schedule.active(step), schedule.window(step))))
    active, numbers = traced(jnp.arange(100))
    assert np.flatnonzero(active).tolist() == steps
    assert numbers.tolist() == windows
    seen = [window for window in windows if window >= 0]
    assert seen == sorted(seen)
    assert set(seen) == set(range(max(seen) + 1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_unsigned_steps_count_like_others(name):
    """As the optimizers of Flax NNX count; a difference of them has no sign."""
    schedule, _ = SCHEDULES[name]
    expected = [schedule.window(step) for step in range(20)]
    steps = jnp.arange(20, dtype=jnp.uint32)
    found = jax.jit(jax.vmap(schedule.window))(steps)
    assert found.astype(jnp.int32).tolist() == expected


def test_windows_grow_with_the_step():
    windows = log_windows(10_000, per_decade=2, width=3, growth=0.2)
    assert (
        windows.starts == log_windows(10_000, per_decade=2, width=3).starts[: len(windows.starts)]
    )
    assert windows.widths == tuple(max(3, int(0.2 * start)) for start in windows.starts)
    assert windows.steps[-1] < 10_000
    assert log_windows(10_000, growth=0.0) == log_windows(10_000)


def test_schedules_refuse_bad_numbers():
    with pytest.raises(ValueError, match="interval: expected an integer >= 1, got 0"):
        every(0)
    with pytest.raises(ValueError, match="start: expected an integer >= 0, got -1"):
        every(2, start=-1)
    with pytest.raises(TypeError, match=r"starts: expected integers, got 1\.5"):
        at_steps([1.5])
    with pytest.raises(TypeError, match="steps: expected integers, got 5"):
        at_steps(5)
    with pytest.raises(ValueError, match="starts: expected strictly increasing steps >= 0"):
        at_steps([-1, 2])
    with pytest.raises(ValueError, match="growth: expected a number >= 0, got -1"):
        log_windows(100, growth=-1)
    with pytest.raises(ValueError, match="width: expected one number, or one for each of 2 starts"):
        Windows((0, 5), (1, 2, 3))
    with pytest.raises(ValueError, match="width: expected windows that end in the order in which"):
        Windows((0, 2), (10, 1))
