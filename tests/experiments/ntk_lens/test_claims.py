"""Every rule of NTK Lens on synthetic truth: what is true holds, and what is false does not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from synthetic_truth import family, law, mostly, paths, rarely, scattered, verdicts

from lnpjax.experiments.ntk_lens.claims import alignments, loss_law
from lnpjax.experiments.ntk_lens.data_scaling.claims import (
    adaptation_grows,
    rank_falls_with_data,
)
from lnpjax.experiments.ntk_lens.data_scaling.config import PRESETS as DATA
from lnpjax.experiments.ntk_lens.model_scaling.claims import (
    adaptation_is_constant,
    initial_trace,
    rank_falls,
    ratio_declines,
    trace_grows,
    transition,
)
from lnpjax.experiments.ntk_lens.model_scaling.config import PRESETS as MODEL
from lnpjax.experiments.ntk_lens.noise_scaling.claims import (
    falls_then_rises,
    performance_falls,
    rises_further,
)
from lnpjax.experiments.ntk_lens.noise_scaling.config import PRESETS as NOISE
from lnpjax.experiments.ntk_lens.noise_scaling.results import NoiseRuns

CPU, PAPER = MODEL["cpu"], MODEL["paper"]
SETS = [(images, depth) for depth in CPU.depths for images in CPU.image_sets]


def members_of(config):
    return lambda width: config.options_at(width).members


def wide(rng, columns=None, *, config=CPU, sets=SETS, **options):
    """Families over the widths of a preset, with its members."""
    return [
        family(rng, config.widths, columns, images=images, depth=depth,
               members=members_of(config), **options)
        for images, depth in sets
    ]  # fmt: skip


def larger(rng, columns=None, **options):
    """Families over the sizes of the training set, with a member's own level at all of them."""
    return [
        family(rng, DATA["cpu"].sizes, columns, images=images, depth=4, scaled="size", **options)
        for images in DATA["cpu"].image_sets
    ]


def loss(exponent, limit=0.75):
    return {"test_loss": law(lambda scale: limit + 1.4 * scale**-exponent, 0.03)}


@pytest.mark.parametrize("exponent", [0.5, 0.3])
def test_a_loss_exponent_is_read_as_it_is(exponent):
    read = [
        [finding.estimate.value
         for finding in loss_law(wide(np.random.default_rng(seed), loss(exponent))).findings[1:]]
        for seed in range(6)
    ]  # fmt: skip
    assert np.mean(read) == pytest.approx(exponent, abs=0.02)


def test_the_loss_law_is_told_from_another():
    def judged(exponent, trials=20):
        return verdicts(lambda rng: loss_law(wide(rng, loss(exponent))), trials)

    assert mostly(judged(0.5), "holds")
    assert mostly(judged(1.0, trials=8), "does not hold")
    assert rarely(judged(0.2, trials=8), "holds")


@pytest.mark.parametrize(("dip", "verdict"), [(0.0, "holds"), (0.3, "does not hold")])
def test_a_trace_that_grows_all_the_way_is_told_from_one_that_dips(dip, verdict):
    counts = verdicts(
        lambda rng: trace_grows(
            wide(rng, path_of=lambda rng, scale, count: paths(rng, count, dip=dip))
        ),
        trials=20,
    )
    assert mostly(counts, verdict)


@pytest.mark.parametrize(("slope", "verdict"), [(-0.1, "holds"), (0.1, "does not hold")])
def test_a_rank_that_falls_is_told_from_one_that_rises(slope, verdict):
    def spectra(rng, count):
        steps = slope * np.arange(8) + 0.02 * rng.standard_normal((4, 8))
        return {"ranks": 50 * np.exp(steps)}

    counts = verdicts(lambda rng: rank_falls(wide(rng, spectra=spectra)))
    assert mostly(counts, verdict)


# One network scatters by 42 % at a width of 8, and the closed form grows by 2 % to 16.
def scatter_of_networks(width):
    return 0.42 * (8 / width) ** 0.5


def closed_form(width, growth=1 / 392):
    return 3.1 * (1 + growth * width)


def test_an_initial_trace_that_grows_as_in_closed_form_is_seen_to_grow():
    def claims(rng, growth=1 / 392, factor=1.0):
        columns = {
            "trace_start": law(
                lambda width: factor * closed_form(width, growth), scatter_of_networks
            )
        }
        return initial_trace(wide(rng, columns, expected_trace=closed_form))

    assert mostly(verdicts(lambda rng: claims(rng)[0]), "holds")
    assert mostly(verdicts(lambda rng: claims(rng)[1]), "holds")
    assert rarely(verdicts(lambda rng: claims(rng, growth=0.0)[0]), "holds")
    assert mostly(verdicts(lambda rng: claims(rng, factor=1.4)[1]), "does not hold")


@pytest.mark.parametrize(
    ("exponent", "verdict"), [(0.0, "holds"), (0.25, "does not hold"), (-0.25, "does not hold")]
)
def test_a_constant_adaptation_rate_is_told_from_one_that_moves_like_the_trace(exponent, verdict):
    def claim(rng):
        columns = {"trace_start": law(lambda width: 100 * width**0.25, 0.1)}

        def path_of(rng, width, count):
            return paths(rng, count, growth=50 * width**exponent)

        return adaptation_is_constant(wide(rng, columns, path_of=path_of))

    assert mostly(verdicts(claim, trials=20), verdict)


def turned(width, turn, below, above):
    return (width / turn) ** (below if width < turn else above)


@pytest.mark.parametrize(("above", "verdict"), [(-0.7, "holds"), (0.1, "does not hold")])
def test_a_trace_ratio_that_declines_is_told_from_one_that_does_not(above, verdict):
    columns = {"trace_ratio": law(lambda width: 20 * turned(width, 100, 0.1, above), 0.15)}
    assert mostly(verdicts(lambda rng: ratio_declines(wide(rng, columns))), verdict)


def transitions(rng, *, turn=500.0, rank_above=0.0, beta=None, beta_turn=500.0, config=PAPER):
    exponents = {3: -0.8, 4: -0.7}
    families = []
    for images, depth in SETS:
        above = exponents[depth] if beta is None else beta
        columns = {
            "rank_at_minimum": law(lambda width: 100 * turned(width, turn, 0.2, rank_above), 0.06),
            "trace_ratio": law(
                lambda width, above=above: 20 * turned(width, beta_turn, 0.0, above), 0.15
            ),
        }
        families += wide(rng, columns, config=config, sets=[(images, depth)])
    return transition(families)


def test_the_transition_at_the_papers_size():
    worlds = [transitions(np.random.default_rng(seed)) for seed in range(20)]
    for claims in zip(*worlds, strict=True):
        counts = Counter(claim.verdict for claim in claims)
        assert mostly(counts, "holds"), claims[0].statement


@pytest.mark.parametrize(
    ("place", "false"),
    [
        (0, {"rank_above": 0.2}),
        (1, {"beta": -0.4}),
        (2, {"turn": 60.0}),
        (3, {"turn": 1500.0, "beta_turn": 100.0}),
    ],
)
def test_a_transition_elsewhere_is_none(place, false):
    counts = verdicts(lambda rng: transitions(rng, **false)[place], trials=10)
    assert mostly(counts, "does not hold")


def test_widths_that_end_at_the_turn_tell_nothing_about_it():
    claims = transitions(np.random.default_rng(0), config=CPU)
    assert {claim.verdict for claim in claims} == {"set-up short of the paper"}


@pytest.mark.parametrize(
    ("change", "turn", "expected"),
    [
        (0.03, (0.5, 0.02), ["holds", "holds"]),
        (0.25, (0.1, 0.3), ["does not hold", "does not hold"]),
    ],
)
def test_alignments_that_stay_and_eigenvectors_that_slow_down(change, turn, expected):
    columns = {
        "alignment_start": scattered(0.4, 0.03),
        "alignment_at_minimum": scattered(0.4 + change, 0.03),
    }

    def spectra(rng, count):
        means = np.geomspace(*turn, 8)
        return {"misalignments": means * (1 + 0.2 * rng.standard_normal((count, 8)))}

    for place, verdict in enumerate(expected):
        counts = verdicts(
            lambda rng, i=place: alignments(wide(rng, columns, spectra=spectra))[i], trials=20
        )
        assert mostly(counts, verdict)


@pytest.mark.parametrize(("exponent", "verdict"), [(-0.04, "holds"), (0.04, "does not hold")])
def test_a_rank_that_falls_with_data_is_seen_in_pairs(exponent, verdict):
    # Members differ by a quarter, and the rank by a fifth between the ends.
    def claim(rng):
        levels = np.exp(0.25 * rng.standard_normal(20))

        def ranks(rng, size, count):
            return 40 * levels * size**exponent * (1 + 0.05 * rng.standard_normal(count))

        return rank_falls_with_data(larger(rng, {"rank_at_minimum": ranks}))

    assert mostly(verdicts(claim), verdict)


def test_a_rank_that_is_flat_in_the_data_does_not_fall():
    columns = {"rank_at_minimum": scattered(40, 0.2)}
    counts = verdicts(lambda rng: rank_falls_with_data(larger(rng, columns)))
    assert rarely(counts, "holds")


def test_ensembles_whose_minimum_missed_its_window_do_not_enter():
    def ranks(rng, size, count):
        wrong = 4.0 if size in (50, 6400) else 1.0
        return 40 * wrong * size**-0.1 * (1 + 0.05 * rng.standard_normal(count))

    def claim(rng, outside=(50, 6400)):
        families = larger(rng, {"rank_at_minimum": ranks}, inside=lambda size: size not in outside)
        return rank_falls_with_data(families)

    assert mostly(verdicts(claim, trials=20), "holds")
    few = claim(np.random.default_rng(0), outside=(50, 100, 200, 6400))
    assert few.verdict == "set-up short of the paper"
    assert "not in MNIST, 4 layers, size 50" in few.missing[0].here


@pytest.mark.parametrize(("exponent", "verdict"), [(0.2, "holds"), (-0.2, "does not hold")])
def test_an_adaptation_rate_that_grows_with_data(exponent, verdict):
    def path_of(rng, size, count):
        return paths(rng, count, growth=50 * size**exponent)

    counts = verdicts(lambda rng: adaptation_grows(larger(rng, path_of=path_of)), trials=20)
    assert mostly(counts, verdict)


def noisy(rng, *, fall=-0.3, rises=(1.0, 0.8, 0.6, 0.4, 0.2), accuracy=0.03, left=0.05):
    """Both networks of the noise experiment, with three members that scatter by 5 %."""
    config = NOISE["cpu"]
    kept = 1 - np.array(config.replaced)
    epochs = np.array(config.measured_epochs, float)
    shape = (len(kept), config.members, len(epochs))
    ranks = np.zeros(shape)
    ranks[..., 3] = fall
    ranks[..., 4:] = fall + np.array(rises)[:, None, None] * np.linspace(0.25, 1, len(epochs) - 4)
    losses = np.broadcast_to(np.geomspace(1, left, len(epochs)), shape)
    runs = []
    for name in ("dense", "convolutional"):
        scatter = 0.05 * rng.standard_normal(shape)
        test = 0.9 + accuracy * np.log(kept)[:, None, None] + 0.01 * rng.standard_normal(shape)
        values = {"rank": 20 * np.exp(ranks + scatter), "test_accuracy": test, "train_loss": losses}
        runs.append(NoiseRuns("fashion_mnist", name, kept, epochs, values))
    return runs


@pytest.mark.parametrize(
    ("claim", "false"),
    [
        (falls_then_rises, {"fall": 0.4}),
        (rises_further, {"rises": (0.2, 0.4, 0.6, 0.8, 1.0)}),
        (performance_falls, {"accuracy": -0.03}),
    ],
)
def test_the_claims_of_noise(claim, false):
    assert mostly(verdicts(lambda rng: claim(noisy(rng))), "holds")
    assert rarely(verdicts(lambda rng: claim(noisy(rng, **false))), "holds")


def test_training_that_has_not_converged_is_a_precondition():
    runs = noisy(np.random.default_rng(0), left=0.3)
    for claim in (rises_further, performance_falls):
        assert claim(runs).verdict == "set-up short of the paper"
    assert falls_then_rises(runs).verdict == "holds"
