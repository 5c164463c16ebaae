"""Runs side by side: tokens to target, gains, matches and families against closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from lens_runs import LAYERS, TARGET, WEIGHT, config, make_run

from lnpjax.comparison import (
    ComparisonOptions,
    compare,
    families,
    gains,
    incomparable,
    match,
    reachable_target,
    repeats,
    token_efficiency,
    tokens_to_target,
)
from lnpjax.comparison._matching import differences
from lnpjax.runs import Run, RunSummary, read_run


def summary(**changes):
    """A run without files: losses fall by 1/2 with every factor of ten in tokens."""
    tokens = 10.0 ** np.arange(2, 7)
    given = {
        "name": "run",
        "config": config(),
        "validation_tokens": tokens,
        "validation_losses": 5 - 0.5 * np.log10(tokens),
        "num_tokens": 1e6,
        "tokens_per_second": 1e4,
        "plain_tokens_per_second": math.nan,
        "spectra": (),
    }
    return RunSummary(**given | changes)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    return read_run(make_run(folder, tokens_to_target=10_000, end=40_000, alpha=1.0, drift=0.1))


@pytest.mark.parametrize("decade", [2.0, 2.3, 4.0, 5.999, 6.0])
def test_tokens_to_target_is_exact_where_the_loss_is_linear_in_log_tokens(decade):
    run = summary()
    found = tokens_to_target(run.validation_tokens, run.validation_losses, 5 - 0.5 * decade)
    assert found == pytest.approx(10**decade, rel=1e-9)
    found = tokens_to_target(
        run.validation_tokens, run.validation_losses, 5 - 0.5 * decade, crossing="checkpoint"
    )
    assert found == 10 ** math.ceil(decade)


@pytest.mark.parametrize("crossing", ["interpolated", "checkpoint"])
def test_the_first_crossing_counts_and_none_is_nan(crossing):
    tokens = np.array([0.0, 10.0, 20.0, 30.0, 40.0])
    losses = np.array([5.0, 3.0, 2.0, 4.0, 1.0])
    assert tokens_to_target(tokens, losses, 2.0, crossing=crossing) == 20.0
    assert math.isnan(tokens_to_target(tokens, losses, 0.5, crossing=crossing))
    assert tokens_to_target(tokens, losses, 6.0, crossing=crossing) == 0.0
    assert tokens_to_target(tokens, losses, 4.0, crossing=crossing) == 10.0  # no logarithm of 0
    assert math.isnan(tokens_to_target(tokens, np.full(5, math.nan), 2.0, crossing=crossing))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0, 2.0], [1.0], 1.0), {}, "losses: expected vectors of one length"),
        (([2.0, 1.0], [1.0, 1.0], 1.0), {}, "tokens: expected ascending"),
        (([1.0], [1.0], math.nan), {}, "target: expected a loss"),
        (([1.0], [1.0], 1.0), {"crossing": "last"}, "crossing: expected one of"),
    ],
)
def test_tokens_to_target_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        tokens_to_target(*arguments, **options)


def test_efficiency_and_gains():
    np.testing.assert_array_equal(
        token_efficiency(np.array([4.0, 2.0, math.nan, 3.0])), [2.0, 1.0, math.nan, 1.5]
    )
    assert np.all(np.isnan(token_efficiency(np.array([math.nan, math.nan]))))
    there, back = gains(3e6, 2e6, 100, 80), gains(2e6, 3e6, 80, 100)
    assert there.token == pytest.approx(0.5)
    assert there.throughput == pytest.approx(-0.2)
    assert there.log_token == pytest.approx(math.log(1.5))
    assert there.log_token + back.log_token == pytest.approx(0, abs=1e-15)
    assert there.log_throughput + back.log_throughput == pytest.approx(0, abs=1e-15)
    # The sum of both is the gain in time: 3e6 / 100 s before, 2e6 / 80 s after.
    assert there.log_token + there.log_throughput == pytest.approx(math.log(30_000 / 25_000))
    unknown = gains(3e6, math.nan, 100, math.nan)
    assert all(map(math.isnan, unknown))


def test_reading_a_run(one, tmp_path):
    assert one.name == "one"
    assert one.batch_size == 8
    assert one.tokens_per_second == pytest.approx(1e4)
    assert math.isnan(one.plain_tokens_per_second)
    assert one.num_tokens == 40_000
    assert one.final_loss == one.validation_losses[-1]
    assert one.loss_at(10_000) == pytest.approx(TARGET, abs=1e-4)
    assert math.isnan(one.loss_at(1e9))
    first = one.spectra[0]
    assert first.names("activations") == LAYERS
    assert first.number("activations", "rank_me") == 20
    assert first.number("activations", "rank_me", LAYERS[0]) == 10
    assert math.isnan(first.number("weights", "rank_me"))
    assert math.isnan(first.number("activations", "colour"))
    np.testing.assert_allclose(first.eigenvalues("gradients", WEIGHT)[:2], [3, 3 * 2**-1.5])
    assert first.eigenvalues("weights") is None
    assert first.probe("weights") is None


def test_gradients_are_read_at_the_last_attention_output_where_it_was_measured(one):
    names = ["layers/0/attention/output/kernel", WEIGHT, "layers/2/feed_forward/down/kernel"]
    given = {"gradients": {name: {"rank_me": float(i)} for i, name in enumerate(names)}}
    found = dataclasses.replace(one.spectra[0], summaries=given)
    assert found.probe("gradients") == WEIGHT
    assert found.number("gradients", "rank_me") == 1
    others = {"gradients": {name: given["gradients"][name] for name in names[2:]}}
    assert dataclasses.replace(found, summaries=others).probe("gradients") == names[2]


def test_throughput_is_that_of_all_sessions_together(tmp_path):
    with Run.create(tmp_path / "run", config()) as run:
        run.append({"kind": "train", "step": 0, "tokens": 3000, "loss": math.inf})
        run.append({"kind": "validation", "step": 0, "tokens": 3000, "loss": math.inf})
        for tokens, seconds, plain in ((1000, 2.0, 1000.0), (2000, 1.0, 4000.0)):
            session = {"kind": "session", "tokens": tokens, "seconds": seconds}
            run.append_session(session | {"plain_tokens_per_second": plain})
    found = read_run(Run.open(tmp_path / "run"))
    assert found.tokens_per_second == pytest.approx(3000 / 3)
    assert found.plain_tokens_per_second == pytest.approx(3000 / 1.5)
    assert found.spectra == ()
    assert math.isnan(found.final_loss)


def test_a_run_without_rows_is_refused(tmp_path):
    with (
        Run.create(tmp_path / "run", config()) as run,
        pytest.raises(ValueError, match="run: expected a run with training or validation rows"),
    ):
        read_run(run)


def test_matches_are_the_nearest_steps_and_say_how_near(one):
    steps = np.geomspace(512, 40_000, 9)
    nearest = steps[np.argmin(abs(np.log(steps / 10_000)))]
    for at, value in (("loss", TARGET), ("tokens", 10_000), ("fraction", 0.25)):
        found = match(one, at, value)
        assert found.spectra.tokens == int(nearest)
        assert found.wanted_tokens == pytest.approx(10_000, rel=1e-3)
        assert found.token_ratio == pytest.approx(nearest / 10_000, rel=1e-3)
        assert found.loss == pytest.approx(TARGET - 0.25 * math.log(nearest / 10_000), abs=1e-3)
    assert match(one, "loss", 0.1) is None
    assert match(one, "tokens", 50_000) is None
    assert match(summary(), "loss", 3.0) is None  # no spectra
    unvalidated = dataclasses.replace(
        one, validation_tokens=np.zeros(0), validation_losses=np.zeros(0)
    )
    assert match(unvalidated, "tokens", 512).loss == one.spectra[0].loss


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("step", 1.0, "at: expected one of"),
        ("fraction", 1.5, r"fraction: expected a number in \(0, 1\]"),
        ("tokens", 0.0, "tokens: expected"),
        ("loss", math.nan, "loss: expected"),
    ],
)
def test_match_refuses(at, value, message):
    with pytest.raises(ValueError, match=message):
        match(summary(), at, value)


def test_families_differ_in_more_than_the_regime():
    configs = [config(8), config(8, num_layers=4), config(16, learning_rate=0.1), config(8, seed=1)]
    configs[3] |= {"measurement": {"window_width": 10}, "lnpjax_version": "9"}
    runs = [summary(config=one) for one in configs]
    assert families(runs) == [[0, 2, 3], [1]]
    assert repeats(runs) == [[0, 3], [1], [2]]
    assert differences([runs[0], runs[3]]) == {"training/seed": [0, 1]}
    assert differences(runs[:2]) == {
        "num_parameters": [3000, 4000],
        "model/num_layers": [3, 4],
    }
    older = summary(config={key: configs[0][key] for key in configs[0] if key != "model"})
    assert differences([runs[0], older])["model/num_layers"] == [3, "absent"]
    assert incomparable(runs) == []
    assert incomparable([runs[0], summary(config=config(fingerprint="other"))]) == [
        "data/fingerprint"
    ]


def test_the_default_target_is_reached_by_all():
    slower = summary(validation_losses=6 - 0.5 * np.log10(summary().validation_tokens))
    never = summary(validation_tokens=np.zeros(0), validation_losses=np.zeros(0))
    assert reachable_target([summary(), slower, never]) == slower.final_loss
    found = compare([summary(), slower])
    np.testing.assert_allclose(found.tokens, [1e4, 1e6])
    np.testing.assert_allclose(found.efficiencies, [1, 100])
    assert found.correlations is None
    with pytest.raises(ValueError, match="runs: expected a run with a validation loss"):
        compare([never, never])


def named(*configs, **changes):
    return [summary(name=str(i), config=one, **changes) for i, one in enumerate(configs)]


def pairs(runs):
    return [(step.before, step.after) for step in compare(runs).transitions]


def test_changes_lead_between_families_at_equal_batch_size():
    single = named(config(4), config(8), config(16))
    assert pairs(single) == [(0, 1), (1, 2)]
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
    """Heads 1.0 and 1.2 with two seeds, 2.0 after the change: (2.0 - 1.0) / (0.2 / sqrt 2)."""
    runs = [
        read_run(make_run(tmp_path / str(index), tokens_to_target=target, end=40_000, alpha=alpha,
                          gradient=gradient, options=config(8, seed=seed, num_layers=layers)))
        for index, (target, alpha, gradient, seed, layers) in enumerate((
            (20_000, 1.0, 1.5, 0, 3), (25_000, 1.2, 1.6, 1, 3), (10_000, 2.0, 1.5, 0, 4)
        ))
    ]  # fmt: skip
    found = compare(runs, ComparisonOptions(target=TARGET))
    (step,) = found.transitions
    assert (step.before, step.after) == (0, 2)  # from the faster of the repeated runs
    assert step.gains.token == pytest.approx(1.0, rel=1e-3)
    assert step.moved["activations"].unit == "seeds"
    assert step.moved["activations"].size == pytest.approx(math.sqrt(2) / 0.2)
    assert step.moved["gradients"].size == pytest.approx(0, abs=1e-9)
    assert step.moved["gradients"].divergence == 0
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
        compare([summary(), summary()], ComparisonOptions(**options))
    with pytest.raises(ValueError, match="runs: expected at least two, got 1"):
        compare([summary()])
