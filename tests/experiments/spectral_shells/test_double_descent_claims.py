"""Every rule on double descent on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments.spectral_shells.double_descent import claims
from lnpjax.experiments.spectral_shells.double_descent.config import PRESETS

CONFIG = PRESETS["cpu"]
WIDE = [width for width in CONFIG.widths if width > CONFIG.threshold]
SHAPE = (len(WIDE), CONFIG.num_seeds, len(CONFIG.steps))
TIME = np.linspace(0, 1, SHAPE[2])


def noisy(rng, mean, scatter, shape=SHAPE[:2]):
    """Numbers about a mean; half of the variance is that of seeds, which all widths share."""
    shared, own = rng.standard_normal((1, shape[1])), rng.standard_normal(shape)
    return mean + scatter * (shared + own) / 2**0.5


def falling(rng, rise):
    losses = np.exp(-6 * TIME) * np.exp(noisy(rng, 0.0, 0.2))[..., None]
    losses[..., 20:] += rise * losses[..., :1]
    return claims.training_falls(losses, [])


def where(rng, mean):
    return claims.at_small_eigenvalues(np.exp(noisy(rng, mean, 0.6)), np.ones(SHAPE[:2]), [])


def flows(rng, mean):
    return claims.flows_down(noisy(rng, mean, 0.02), [])


def diagonal(rng, share):
    """A test loss with a minimum, and a share in the gap that scatters by 0.3 of it."""
    train = 0.5 * np.exp(-6 * TIME) * np.ones(SHAPE)
    gap = (0.1 + 0.8 * (TIME - 0.3) ** 2) * np.exp(noisy(rng, 0.0, 0.3))[..., None]
    part = noisy(rng, share, 0.3 * share)[..., None] * gap
    return claims.diagonal_leads(WIDE, claims.Parts(part, train, train + gap), [])


def rises(rng, rise):
    return claims.test_rises(np.abs(noisy(rng, rise, 0.2 * rise + 0.01)), [])


def frozen(rng, share):
    """As in the rows: both rise by about a half, with a scatter of a fifth of it."""
    common = noisy(rng, 0.0, 0.05)
    return claims.frozen_does_not(noisy(rng, 0.5 * share, 0.08) + common, common + 0.5, [])


def peak(rng, bump, slope=0.0):
    """A last test loss with a peak at the threshold, on top of a power of the width."""
    widths = np.array(CONFIG.widths, float)
    mean = bump * (widths == CONFIG.threshold) + slope * np.log(widths)
    last = 0.3 * np.exp(mean[:, None] + noisy(rng, 0.0, 0.3, (len(widths), SHAPE[1])))
    return claims.peak_over_width(CONFIG, last[..., None], [])


WORLDS = {
    "training falls": World(functools.partial(falling, rise=0.0), "holds"),
    "training rises": World(functools.partial(falling, rise=0.1), "does not hold"),
    "mismatch at small": World(functools.partial(where, mean=1.0), "holds"),
    "mismatch anywhere": World(functools.partial(where, mean=0.0), "not holds"),
    "mismatch at large": World(functools.partial(where, mean=-1.0), "does not hold"),
    "flows down": World(functools.partial(flows, mean=0.04), "holds"),
    "flows nowhere": World(functools.partial(flows, mean=0.0), "not holds"),
    "flows up": World(functools.partial(flows, mean=-0.04), "does not hold"),
    "diagonal leads": World(functools.partial(diagonal, share=1.0), "holds"),
    "diagonal does not": World(functools.partial(diagonal, share=0.2), "does not hold"),
    "diagonal is too large": World(functools.partial(diagonal, share=4.0), "does not hold"),
    "test rises": World(functools.partial(rises, rise=0.5), "holds"),
    "test falls": World(functools.partial(rises, rise=0.0), "does not hold"),
    "frozen does not rise": World(functools.partial(frozen, share=0.04), "holds"),
    "frozen rises half": World(functools.partial(frozen, share=0.5), "not holds"),
    "frozen rises as much": World(functools.partial(frozen, share=1.0), "does not hold"),
    "peak": World(functools.partial(peak, bump=0.9), "holds"),
    "dip": World(functools.partial(peak, bump=-0.9), "does not hold"),
    "no peak but a slope": World(functools.partial(peak, bump=0.0, slope=-0.3), "does not hold"),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(1000)


@pytest.mark.parametrize(("last", "met"), [(0.005, True), (0.05, False)])
def test_noise_must_be_fitted_at_every_width(last, met):
    losses = np.full(SHAPE, 0.5)
    losses[..., -1] = 1e-4
    losses[1, :, -1] = last
    assert claims.fits_noise(CONFIG, losses).met == met
