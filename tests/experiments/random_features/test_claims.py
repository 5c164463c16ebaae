"""Every rule of random features on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_truth import mostly, verdicts

from lnpjax.experiments._harness.claims import Claim, Finding
from lnpjax.experiments._harness.estimates import MeanDraws, draws_of_log_means
from lnpjax.experiments.random_features.claims import (
    WITHIN_2,
    WITHIN_10,
    inherits_decay,
    is_one,
    mean_ratio,
    proportional,
)
from lnpjax.experiments.random_features.config import PRESETS
from lnpjax.experiments.random_features.results import log_law, population_law

CPU = PRESETS["cpu"]


def measured(rng, means, *, count=CPU.num_seeds, scatter=0.55):
    """Seeds of chi_pos scatter by half of it."""
    width = np.log1p(scatter**2) ** 0.5
    groups = [mean * np.exp(width * rng.standard_normal(count) - width**2 / 2) for mean in means]
    return draws_of_log_means(groups, seed=int(rng.integers(1000)))


@pytest.mark.parametrize(("mean", "verdict"), [(1.0, "holds"), (1.05, "does not hold")])
def test_a_component_that_is_one(mean, verdict):
    def claim(rng):
        seeds = {beta: mean + 0.03 * rng.standard_normal(CPU.num_seeds) for beta in CPU.betas}
        return is_one("chi_net", "(44)", seeds, WITHIN_2, [])

    assert mostly(verdicts(claim), verdict)


@pytest.mark.parametrize(
    ("power", "verdict"), [(1.0, "holds"), (2.0, "does not hold"), (0.5, "does not hold")]
)
def test_a_proportionality_is_judged_as_one(power, verdict):
    law = population_law(CPU)

    def claim(rng):
        # A constant other than one is no fault.
        return proportional("", "", measured(rng, 0.3 * law**power), log_law(CPU), [])

    assert mostly(verdicts(claim), verdict)


def test_a_prediction_that_is_known_only_with_an_error():
    law = population_law(CPU)

    def claim(rng):
        predicted = measured(rng, law, count=CPU.num_spectra, scatter=0.03)
        return proportional("", "", measured(rng, law), predicted, [])

    assert mostly(verdicts(claim), "holds")


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "holds"), (1.4, "does not hold")])
def test_a_prediction_without_a_free_constant(factor, verdict):
    law = population_law(CPU)

    def claim(rng):
        predicted = MeanDraws(np.log(law)[None], np.zeros(len(law)))
        estimate = mean_ratio(measured(rng, factor * law), predicted)
        finding = Finding("", estimate, WITHIN_10)
        return Claim(source="", statement="", quantity="", findings=[finding])

    assert mostly(verdicts(claim), verdict)


@pytest.mark.parametrize(
    ("share", "drift", "verdict"),
    [
        (1.0, 0.0, "holds"),
        (0.8, 0.0, "does not hold"),
        (0.8, 0.1, "set-up short of the paper"),  # on its way to somewhere
    ],
)
def test_a_decay_that_is_asymptotic_takes_a_run_in_d(share, drift, verdict):
    dimensions = (16, 32, 64, 128, 256)

    def claim(rng):
        return inherits_decay(
            {
                beta: {
                    d: beta
                    * (share + drift * np.log2(256 / d))
                    * (1 + 0.005 * rng.standard_normal(CPU.num_spectra))
                    for d in dimensions
                }
                for beta in CPU.betas_in_dimension
            }
        )

    assert mostly(verdicts(claim), verdict)


def test_without_a_run_in_d_the_set_up_falls_short():
    claim = inherits_decay({2.0: {128: np.array([1.9, 2.0, 2.1])}})
    assert claim.verdict == "set-up short of the paper"
    assert len(claim.missing) == 2
