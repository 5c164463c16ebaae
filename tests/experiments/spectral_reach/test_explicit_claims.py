"""Every rule on explicit spectra on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments.spectral_reach.explicit_spectrum import claims
from lnpjax.experiments.spectral_reach.explicit_spectrum.config import PRESETS
from lnpjax.experiments.spectral_reach.explicit_spectrum.measure import STATES
from lnpjax.experiments.spectral_reach.explicit_spectrum.results import Spectra, by_rank

CPU = PRESETS["cpu"]


def spectra(rng, bias):
    """Kernels with a power-law spectrum, and a gradient that prefers the head by some power."""
    ranks = np.arange(1, 1 + CPU.num_vocabulary * CPU.context_length)
    p = ranks**-1.0 / np.sum(ranks**-1.0)
    shape = (CPU.num_models, CPU.num_samples, len(ranks))
    powers = bias + 0.05 * rng.standard_normal((CPU.num_models, 1, 1))
    gamma2 = ranks**-powers * rng.standard_normal(shape) ** 2
    return Spectra(np.broadcast_to(p, shape), gamma2 / gamma2.sum(axis=-1, keepdims=True))


def pairs(rng, share):
    """Shares of positive pairs, which scatter between models."""
    shares = {state: share + 0.02 * rng.standard_normal(CPU.num_models) for state in STATES}
    return claims.pairs_are_positive(shares, claims.needs(CPU))


def judged(rng, rule, before, after):
    return rule(spectra(rng, before), spectra(rng, after), claims.needs(CPU))


def world(rule, verdict, before, after):
    return World(functools.partial(judged, rule=rule, before=before, after=after), verdict)


WORLDS = {
    "to the tail": world(claims.reweighted, "holds", 1.0, 0.5),
    "nowhere": world(claims.reweighted, "not holds", 1.0, 1.0),
    "to the head": world(claims.reweighted, "does not hold", 0.5, 1.0),
    "falls": world(claims.position_falls, "holds", 1.2, 0.5),
    "stays": world(claims.position_falls, "not holds", 1.0, 1.0),
    "positive pairs": World(functools.partial(pairs, share=0.57), "holds"),
    "pairs by chance": World(functools.partial(pairs, share=0.5), "not holds"),
    "negative pairs": World(functools.partial(pairs, share=0.43), "does not hold"),
    "moderate": world(claims.moderate, "holds", 1.2, 0.7),
    "not moderate": world(claims.moderate, "does not hold", 1.5, -1.0),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(10)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(300)


def test_position_and_smoothing():
    one = Spectra(np.array([[[0.75, 0.25]]]), np.array([[[0.5, 0.5]]]))
    assert one.chi_pos.item() == 0.5
    assert one.share_in_tail.item() == 1.0
    flat = by_rank(np.ones((2, 2, 100)))
    np.testing.assert_allclose(flat, 1.0)
