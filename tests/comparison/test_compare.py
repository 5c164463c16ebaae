"""Several runs compared: targets, transitions, speeds and displacements against closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from lens_runs import TARGET, config, make_run, run_summary

from lnpjax.comparison import ComparisonOptions, compare, reachable_target
from lnpjax.runs import read_run


def test_the_default_target_is_reached_by_all():
    slower = run_summary(validation_losses=6 - 0.5 * np.log10(run_summary().validation_tokens))
    never = run_summary(validation_tokens=np.zeros(0), validation_losses=np.zeros(0))
    assert reachable_target([run_summary(), slower, never]) == slower.final_loss
    found = compare([run_summary(), slower])
    np.testing.assert_allclose(found.tokens, [1e4, 1e6])
    np.testing.assert_allclose(found.efficiencies, [1, 100])
    assert found.correlations is None
    with pytest.raises(ValueError, match="runs: expected a run with a validation loss"):
        compare([never, never])


def named(*configs, **changes):
    return [run_summary(name=str(i), config=one, **changes) for i, one in enumerate(configs)]


def pairs(runs):
    return [(*step.before, *step.after) for step in compare(runs).transitions]


def test_changes_lead_between_families_at_equal_batch_size():
    single = named(config(4), config(8), config(16))
    assert pairs(single) == [(0, 1), (1, 2)]
    assert {step.verdict.label for step in compare(single).transitions} == {"undecided"}
    double = named(config(4), config(8), config(8, num_layers=4), config(4, num_layers=4))
    assert pairs(double) == [(0, 3), (1, 2)]
    apart = named(config(4), config(8), config(16, num_layers=4))
    apart[0] = dataclasses.replace(
        apart[0], validation_losses=apart[0].validation_losses + 0.1
    )  # the slower of its family
    assert pairs(apart) == [(1, 2)]


def test_speeds_are_compared_without_measurements_or_with_them_never_mixed():
    runs = named(config(8), config(8, num_layers=4))
    fast = [dataclasses.replace(run, plain_tokens_per_second=2e4) for run in runs]
    mixed = compare([fast[0], runs[1]])
    assert not mixed.throughput_is_plain
    np.testing.assert_array_equal(mixed.throughput, [1e4, 1e4])
    plain = compare(fast)
    assert plain.throughput_is_plain
    np.testing.assert_array_equal(plain.throughput, [2e4, 2e4])
    unknown = compare([dataclasses.replace(run, tokens_per_second=math.nan) for run in runs])
    assert unknown.transitions[0].verdict.label == "undecided"


def test_seeds_set_the_unit_of_displacements(tmp_path):
    """Heads 1.0 and 1.2 with two seeds, 2.0 after the change, in units of a single run's spread.

    The mean of two runs less one run scatters by sqrt(1/2 + 1), two single runs by sqrt(2).
    """
    runs = [
        read_run(make_run(tmp_path / str(index), tokens_to_target=target, end=40_000, alpha=alpha,
                          gradient=gradient, options=config(8, seed=seed, num_layers=layers)))
        for index, (target, alpha, gradient, seed, layers) in enumerate((
            (20_000, 1.0, 1.5, 0, 3), (25_000, 1.2, 1.6, 1, 3), (10_000, 2.0, 1.5, 0, 4)
        ))
    ]  # fmt: skip
    found = compare(runs, ComparisonOptions(target=TARGET))
    (step,) = found.transitions
    assert (step.before, step.after) == ((0, 1), (2,))  # both of the repeated runs
    assert step.gains.token == pytest.approx(math.sqrt(2.0 * 2.5) - 1, rel=1e-3)
    assert step.moved["activations"].unit == "seeds"
    fewer = math.sqrt((1 / 2 + 1) / 2)
    unit = 0.2 / math.sqrt(2) * fewer
    assert step.moved["activations"].size == pytest.approx(0.9 / unit)
    assert step.moved["gradients"].size == pytest.approx(0.05 / (unit / 2))
    assert 0 < step.moved["gradients"].divergence < 0.01
    assert step.moved["activations"].divergence > 0.01
    assert step.verdict.label == "activation-led"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction: expected"),
        ({"target": math.inf}, "target: expected a finite number > 0"),
        ({"tokens": -1.0}, "tokens: expected a finite number > 0"),
        ({"at": "step"}, "at: expected one of"),
    ],
)
def test_compare_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        compare([run_summary(), run_summary()], ComparisonOptions(**options))
    with pytest.raises(ValueError, match="runs: expected at least two, got 1"):
        compare([run_summary()])
