"""Intervals hold the truth as often as they say: alike samples, heavy tails, groups, two batches.

The network is linear, ``f_i = J_i theta``, so that the Jacobian of every sample is what is chosen
here, and thousands of keys are cheap.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax import GlobalHutchinson, Hutchinson

NUM_KEYS = 2000
NUM_OUTPUTS, NUM_PARAMETERS = 10, 40


def apply_fn(params, inputs):
    joined = jnp.concatenate([params["first"], params["second"]])
    return jnp.einsum("iop,p->io", inputs, joined)


def loss_fn(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


PARAMS = {"first": jnp.zeros(NUM_PARAMETERS // 2), "second": jnp.zeros(NUM_PARAMETERS // 2)}


def jacobians(kind, seed=0):
    """The Jacobian of each sample."""
    rng = np.random.default_rng(seed)
    num_samples = 2 if kind == "two samples" else 16
    found = rng.normal(size=(num_samples, NUM_OUTPUTS, NUM_PARAMETERS))
    if kind in ("alike", "two samples"):
        found = np.broadcast_to(found[:1], found.shape)
    elif kind == "heavy tails":
        found = found * np.sqrt(rng.pareto(1.0, size=(num_samples, 1, 1)))
    elif kind == "one dominates":
        found = found * np.where(np.arange(num_samples) == 5, 30, 1)[:, None, None]
    elif kind == "one mode each":
        found = found[:, :, :1] * np.linspace(1, 2, NUM_PARAMETERS)
    return jnp.asarray(found, jnp.float32)


def squared_norms(inputs):
    """What is estimated, by hand: of each group, and in all."""
    groups = np.sum(np.asarray(inputs, np.float64) ** 2, axis=(0, 1)).reshape(2, -1).sum(axis=1)
    return dict(zip(PARAMS, groups, strict=True)), groups.sum()


@functools.cache
def many_norms(estimator):
    """From many keys; compiled once for each estimator and number of samples."""

    def measure(inputs, key):
        return lnpjax.squared_jacobian_norm(apply_fn, PARAMS, inputs, estimator=estimator, key=key)

    keys = jax.random.split(jax.random.key(1), NUM_KEYS)
    compiled = jax.jit(jax.vmap(measure, in_axes=(None, 0)))
    return lambda inputs: compiled(inputs, keys)


@functools.cache
def many_decompositions(estimator):
    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=estimator)
    keys = jax.random.split(jax.random.key(2), NUM_KEYS)
    compiled = jax.jit(jax.vmap(lambda a, b, key: measure(PARAMS, a, b, key=key), (None, None, 0)))
    return lambda batch_a, batch_b: compiled(batch_a, batch_b, keys)


def held(interval, truth):
    """How often."""
    inside = (interval.low <= truth * (1 + 1e-5)) & (truth * (1 - 1e-5) <= interval.high)
    return float(jnp.mean(inside))


def check_coverage(intervals_at, truth, *, at_68=1.0):
    """As often as stated, or three percent less at most; and no more often than `at_68`."""
    for coverage, most in ((0.68, at_68), (0.95, 1.0)):
        share = held(intervals_at(coverage), truth)
        assert coverage - 0.03 <= share <= most, f"{share:.3f} at {coverage}"


def check_negative_control(result, narrower, method, truth):
    """Intervals from standard errors that are 1.5 times too small are caught."""
    changed = {name: getattr(result, name) / 1.5 for name in narrower}
    with pytest.raises(AssertionError):
        check_coverage(getattr(dataclasses.replace(result, **changed), method), truth)


TRUTHFUL = [
    ("alike", Hutchinson(1)),
    ("alike", Hutchinson(2)),
    ("alike", GlobalHutchinson(2)),
    ("heavy tails", Hutchinson(2)),
    ("heavy tails", Hutchinson(3)),
    ("heavy tails", GlobalHutchinson(2)),
    ("one dominates", Hutchinson(2)),
    ("one dominates", Hutchinson(3)),
    ("one mode each", Hutchinson(2)),
    ("two samples", Hutchinson(1)),
    ("two samples", Hutchinson(2)),
    ("two samples", GlobalHutchinson(2)),
]


@pytest.mark.parametrize(("kind", "estimator"), TRUTHFUL, ids=str)
def test_intervals_of_a_norm_hold_it_as_often_as_stated(kind, estimator):
    inputs = jacobians(kind)
    estimates, (groups, whole) = many_norms(estimator)(inputs), squared_norms(inputs)
    check_coverage(estimates.interval, whole, at_68=0.76)
    for name, truth in groups.items():
        check_coverage(lambda c, name=name: estimates.groups_interval(c)[name], truth, at_68=0.76)
    check_negative_control(estimates, ["sem"], "interval", whole)


@pytest.mark.parametrize("kind", ["heavy tails", "one dominates"])
def test_one_probe_holds_the_norm_more_often_than_stated_where_samples_differ(kind):
    inputs = jacobians(kind)
    estimates, (groups, whole) = many_norms(Hutchinson(1))(inputs), squared_norms(inputs)
    check_coverage(estimates.interval, whole)
    for name, truth in groups.items():
        check_coverage(lambda c, name=name: estimates.groups_interval(c)[name], truth)


@pytest.mark.parametrize("estimator", [Hutchinson(1), Hutchinson(2), GlobalHutchinson(2)], ids=repr)
def test_intervals_of_components_hold_them_across_two_batches(estimator):
    inputs_a, inputs_b = jacobians("heavy tails", seed=3), jacobians("one dominates", seed=4)[:8]
    batches = [(x, jnp.sum(x, axis=2)) for x in (inputs_a, inputs_b)]
    result = many_decompositions(estimator)(*batches)
    (groups_a, norm_a), (groups_b, norm_b) = squared_norms(inputs_a), squared_norms(inputs_b)
    factor, ratio = np.sqrt(16 * 8), np.sqrt(norm_b / norm_a)
    chi_net = np.sqrt(norm_a * norm_b) / factor
    at_68 = 1.0 if estimator == Hutchinson(1) else 0.76
    for part, name in [(result, None), *((result.groups[name], name) for name in PARAMS)]:
        if name is not None:
            chi_net = (groups_a[name] * ratio + groups_b[name] / ratio) / (2 * factor)
        chi_pos = float(part.delta_loss[0] / result.chi_loss[0] / chi_net)
        assert chi_pos > 0
        check_coverage(part.chi_net_interval, chi_net, at_68=at_68)
        check_coverage(part.chi_pos_interval, chi_pos, at_68=at_68)
        if at_68 < 1:
            sems = ["chi_net_sem", "chi_pos_sem"]
            check_negative_control(part, sems, "chi_net_interval", chi_net)
            check_negative_control(part, sems, "chi_pos_interval", chi_pos)


def test_the_normal_distribution_would_not_do():
    """Two draws in all: what two standard errors were once taken for."""
    inputs = jacobians("alike")
    estimates = many_norms(GlobalHutchinson(2))(inputs)
    normal = dataclasses.replace(estimates, df=jnp.full_like(estimates.df, jnp.inf))
    with pytest.raises(AssertionError):
        check_coverage(normal.interval, squared_norms(inputs)[1])
