"""Arithmetic on the errors of two estimators of ``|J|_F^2``, and on what they cost.

v stands for the relative variance of ``|J|_F^2`` from a single probe; a pair of them is that of
batches A and B. Draws are ``|J_i|^2`` from single probes, (probes, samples). A line is (seconds
without any probe, seconds per probe).
"""

from __future__ import annotations

import numpy as np


def shared_variance(draws):
    """v where all samples have the same probe, as they had in these draws."""
    totals = draws.sum(axis=1)
    return totals.var(ddof=1) / totals.mean() ** 2


def independent_variance(draws):
    """v where every sample has a probe of its own, whether or not they had in these draws."""
    return draws.var(axis=0, ddof=1).sum() / draws.sum(axis=1).mean() ** 2


def both(variance, draws):
    """A pair of v, from the draws for A and for B."""
    return [variance(rows) for rows in draws]


def network_error(variances, num_probes=1):
    """Relative standard error of ``chi_net = |J_A| |J_B|``, to first order in the variances."""
    return np.sqrt(sum(variances) / num_probes) / 2


def probes_for_error(variances, error):
    """How many probes bring chi_net to that relative error; any number, not only a whole one."""
    return sum(variances) / (2 * error) ** 2


def equal_probes(shared_draws, own_draws):
    """Shared probes for the error of one own probe per sample; draws of both, for A and B."""
    error = network_error(both(independent_variance, own_draws))
    return probes_for_error(both(shared_variance, shared_draws), error)


def fit_line(seconds):
    """The least-squares line through ``{probes: seconds}``."""
    slope, start = np.polyfit(list(seconds), list(seconds.values()), 1)
    return float(start), float(slope)


def at(line, num_probes):
    """Seconds for that many probes."""
    return line[0] + line[1] * num_probes


def probes_in(line, seconds):
    """How many probes fit into that time."""
    return (seconds - line[0]) / line[1]


def probes_interval(shared_draws, own_draws, *, resamples=500, seed=0):
    """The 5 % and 95 % points of `equal_probes` when probes are drawn again from those at hand."""
    rng = np.random.default_rng(seed)

    def again(draws):
        return [rows[rng.integers(len(rows), size=len(rows))] for rows in draws]

    found = [equal_probes(again(shared_draws), again(own_draws)) for _ in range(resamples)]
    return np.quantile(found, [0.05, 0.95]).tolist()
