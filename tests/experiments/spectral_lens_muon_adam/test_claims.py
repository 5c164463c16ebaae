"""Every rule of Muon against Adam on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments._harness.claims import Need
from lnpjax.experiments.spectral_lens_muon_adam import claims
from lnpjax.experiments.spectral_lens_muon_adam.config import PRESETS, TRAINED_BY
from lnpjax.experiments.spectral_lens_muon_adam.results import (
    Updates,
    critical_batch_size,
    log_slopes,
)
from lnpjax.experiments.spectral_lens_muon_adam.updates import RULES

CPU = PRESETS["cpu"]
SIZES = np.array(CPU.batch_sizes, float)
MATRICES = 4
SCATTER = 0.02


def updates(rng, *, critical=30.0, power=-0.5, rank=20.0, turn=0.5, reach=0.9, floor=0.05):
    """Updates whose noise falls with the batch size.

    Args:
        rng: draws seeds and matrices.
        critical: batch size at which there is as much noise as signal.
        power: of the batch size, that the noise's singular values fall with.
        rank: effective rank.
        turn: cosine of the smallest batch's mean update with the limit.
        reach: cosine of an update of the largest batch with it.
        floor: relative distance from the polar factor that is left at the largest batch.
    """
    shape = (len(CPU.seeds), len(SIZES), MATRICES)

    def drawn(by_size, scatter=SCATTER):
        return by_size[None, :, None] * (1 + scatter * rng.standard_normal(shape))

    place = np.log(SIZES / SIZES[0]) / np.log(SIZES[-1] / SIZES[0])
    return Updates(
        signal=drawn(np.ones(len(SIZES))),
        noise=drawn(critical / SIZES),
        largest_noise=drawn(SIZES**power),
        alignment=drawn(0.1 + (reach - 0.1) * place),
        along=drawn(turn + (1 - turn) * place),
        distance=drawn(2**0.5 * (floor / 2**0.5) ** place),
        rank=drawn(np.full(len(SIZES), rank)),
    )


def world(rng, **by_rule):
    """What all rules do; those that are not given are alike."""
    return {
        name: {rule: updates(rng, **by_rule.get(rule, {})) for rule in RULES} for name in TRAINED_BY
    }


def case(rule, verdict, **by_rule):
    def claim_of(rng):
        made = world(rng, **{name.replace("_", " "): how for name, how in by_rule.items()})
        sized = rule in (claims.noise_falls_as_root, claims.converges_to_the_polar_factor)
        return rule(made, CPU.batch_sizes, []) if sized else rule(made, [])

    return World(claim_of, verdict)


WORLDS = {
    "noise falls as the root": case(claims.noise_falls_as_root, "holds"),
    "noise falls as 1 / B": case(
        claims.noise_falls_as_root, "does not hold", gradient={"power": -1.0}
    ),
    "small batches are noisy": case(claims.small_batches_are_noisy, "holds"),
    "small batches are clean": case(
        claims.small_batches_are_noisy, "does not hold", gradient={"critical": 0.3}
    ),
    "Muon keeps noise": case(claims.muon_keeps_noise, "holds", Muon={"critical": 100.0}),
    "Muon weighs noise down": case(
        claims.muon_keeps_noise, "does not hold", Muon={"critical": 5.0}
    ),
    "noise alike": case(claims.muon_keeps_noise, "not holds"),
    "polar factors converge": case(claims.converges_to_the_polar_factor, "holds"),
    "polar factors stay apart": case(
        claims.converges_to_the_polar_factor, "does not hold", polar_factor={"floor": 1.3}
    ),
    "Adam keeps the spectrum": case(claims.adam_keeps_the_spectrum, "holds"),
    "Adam evens the spectrum": case(
        claims.adam_keeps_the_spectrum, "does not hold", Adam={"rank": 26.0}
    ),
    "Muon evens the spectrum": case(claims.muon_evens_the_spectrum, "holds", Muon={"rank": 30.0}),
    "Adam evens it more": case(
        claims.muon_evens_the_spectrum, "does not hold", Adam={"rank": 30.0}
    ),
    "Muon depends on B": case(claims.muon_depends_more_on_batch_size, "holds", Adam={"reach": 0.6}),
    "Adam depends on B": case(
        claims.muon_depends_more_on_batch_size, "does not hold", Muon={"reach": 0.6}
    ),
    "both depend alike": case(claims.muon_depends_more_on_batch_size, "not holds"),
    "Muon's mean turns": case(claims.mean_turns_more, "holds", Adam={"turn": 0.8}),
    "Adam's mean turns": case(claims.mean_turns_more, "does not hold", Muon={"turn": 0.8}),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rules_tell_what_is_true(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rules_tell_what_is_true_in_many_worlds(name):
    assert not WORLDS[name].fails(300)


def test_claims_need_seeds():
    made = world(np.random.default_rng(0))
    needs = [Need("seeds", met=False)]
    assert claims.adam_keeps_the_spectrum(made, needs).verdict == "set-up short of the paper"


def test_slopes_and_critical_sizes():
    values = np.array([[[8.0], [4.0], [2.0], [1.0], [0.5]]])
    np.testing.assert_allclose(log_slopes(CPU.batch_sizes, values), -0.5)
    made = updates(np.random.default_rng(0), critical=16.0)
    np.testing.assert_allclose(critical_batch_size(CPU.batch_sizes, made), 16.0, rtol=0.1)
