"""Every rule on spectral position along a run on synthetic truth, at the size of `cpu`."""

from __future__ import annotations

import numpy as np
import pytest
import worlds_of_runs as worlds
from synthetic_truth import World

from lnpjax.experiments.spectral_reach.training_dynamics import claims, results
from lnpjax.experiments.spectral_reach.training_dynamics.config import PRESETS, DynamicsConfig
from lnpjax.experiments.spectral_reach.training_dynamics.measure import predicted

CPU = PRESETS["cpu"]


def family(rng, course):
    """The runs of all sizes; a course of a size gives ln loss and ln chi_pos at all steps."""
    sizes = []
    for number, parameters in enumerate(worlds.PARAMETERS):
        size = worlds.runs(rng, parameters, loss=worlds.power_law())
        steps = np.arange(size.train_loss.shape[1]) + 1.0
        loss, position = course(rng, size, steps, number)
        size.train_loss[:] = np.exp(loss + 0.02 * rng.standard_normal(loss.shape))
        size.test_loss[:] = np.exp(loss[:, np.maximum(size.test_steps - 1, 0)])
        measured = position[:, size.steps]
        noise = 1 + 0.5 * rng.standard_normal(measured.shape)
        size.components["chi_pos"] = np.exp(measured) * noise
        sizes.append(size)
    return {"bytes": sizes}


def with_events(own=0.0, shared=0.0, sign=1.0):
    """Falls that vary from window to window, in loss and chi_pos alike, of a run or of all."""

    def course(rng, size, steps, number):
        del number
        window = np.searchsorted(size.starts, steps - 1, side="right") - 1

        def wandering(rows):
            return np.cumsum(rng.standard_normal((rows, len(size.starts))), axis=1)[:, window]

        seeds = size.num_seeds
        common = own * wandering(seeds) + shared * wandering(1)
        loss = -0.1 * np.log(steps) + 0.1 * (common + 0.3 * wandering(seeds))
        position = -np.log(steps) + sign * common + 0.3 * wandering(seeds)
        return loss, position

    return course


def with_drops(share):
    """Courses that bend smoothly, and drop to a quarter at once in a share of runs."""

    def course(rng, size, steps, number):
        del number
        position = -1.0 * np.log1p(steps / 100) + np.zeros((size.num_seeds, 1))
        later = size.starts[np.searchsorted(size.starts, size.warmup_steps) + 2 : -1]
        for row in position:
            if rng.random() < share:
                row[steps > rng.choice(later)] += np.log(0.25)
        return -0.1 * np.log(steps) + 0 * position, position

    return course


def with_ends(known):
    """Sizes whose chi_pos flattens here and there, and their losses at the same place or never."""

    def course(rng, size, steps, number):
        end = (60, 100, 160, 900, 1100)[number] * np.exp(0.03 * rng.standard_normal((3, 1)))
        until = np.minimum(np.log(steps), np.log(end))
        loss = -0.1 * (until if known else np.log(steps) + 0 * until)
        return loss, -2.0 * until

    return course


class Rows:
    """A finished sweep of models whose kernel is known."""

    def __init__(self, rows):
        self._rows = rows

    def rows(self, **where):
        return [row for row in self._rows if where.items() <= row.items()]


def known(rng, *, deviation=1e-9, exponent=-0.5, share=0.6):
    rows = []
    for seed in range(CPU.num_seeds):
        for step in CPU.pair_moments:
            value = share + 0.02 * rng.standard_normal()
            rows.append({"kind": "pairs", "seed": seed, "step": step, "share": value})
        for beta in CPU.features.betas:
            for step in CPU.moments:
                off = 1 + deviation * rng.standard_normal()
                values = {"chi_pos": off / (1 + step), "exact_chi_pos": 1 / (1 + step)}
                rows.append({"kind": "moment", "beta": beta, "seed": seed, "step": step, **values})
    for beta in CPU.features.betas:
        for width in np.tile(CPU.widths, CPU.num_kernels):
            distance = 5.0 * float(width) ** exponent * np.exp(0.3 * rng.standard_normal())
            rows.append({"kind": "width", "beta": beta, "width": width, "distance": distance})
    return Rows(rows)


def of_runs(rule, verdict, course):
    return World(lambda rng: rule(family(rng, course), []), verdict)


def of_known(rule, verdict, *arguments, **truth):
    return World(lambda rng: rule(CPU, known(rng, **truth), *arguments), verdict)


WORLDS = {
    "together": of_runs(claims.falls_together, "holds", with_events(own=0.5)),
    "not together": of_runs(claims.falls_together, "not holds", with_events()),
    "opposed": of_runs(claims.falls_together, "does not hold", with_events(own=0.5, sign=-1.0)),
    "of its own": of_runs(claims.falls_of_its_own, "holds", with_events(own=0.5)),
    "of all": of_runs(claims.falls_of_its_own, "not holds", with_events(shared=0.5)),
    "drops": of_runs(claims.drops, "holds", with_drops(0.7)),
    "no drops": of_runs(claims.drops, "not holds", with_drops(0.0)),
    "cheap": of_runs(claims.cheap, "holds", with_ends(known=True)),
    "not cheap": of_runs(claims.cheap, "does not hold", with_ends(known=False)),
    "chi_pos knows": of_runs(claims.better_than_control, "holds", with_ends(known=True)),
    "chi_pos does not": of_runs(claims.better_than_control, "not holds", with_ends(known=False)),
    "most pairs": of_known(claims.most_pairs, "holds", "share"),
    "half of the pairs": of_known(claims.most_pairs, "not holds", "share", share=0.5),
    "few pairs": of_known(claims.most_pairs, "does not hold", "share", share=0.4),
    "exact": of_known(claims.closed_form, "holds", "chi_pos"),
    "not exact": of_known(claims.closed_form, "does not hold", "chi_pos", deviation=1e-4),
    "a root": of_known(claims.limit, "holds"),
    "no root": of_known(claims.limit, "does not hold", exponent=-0.25),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(300)


def test_false_alarms_are_rare():
    """Of smooth courses of any bend, floor and noise, at the windows of the preset."""
    size = worlds.runs(np.random.default_rng(0), 1e5, loss=worlds.power_law())
    assert results.false_alarms(size) < 0.02


def test_a_drop_is_found_where_it_is():
    steps = np.geomspace(50, 1000, 8)
    values = -np.log(steps) - 1.0 * (np.arange(8) >= 4)
    path = results.Path(steps, values[None], np.full((1, 8), 0.05))
    assert np.flatnonzero(results.sudden_drops(path)[0]).tolist() == [2]  # of changes 1 to 5
    noisy = path._replace(errors=np.full((1, 8), 0.2))
    assert not results.sudden_drops(noisy).any()


def test_steps_of_a_read_out_by_hand():
    """Equation 40 is the exact change, with the residual after each step in place of y."""
    rng = np.random.default_rng(0)
    features, y = rng.standard_normal((5, 3)), rng.standard_normal(5)
    kernel = features @ features.T
    rate = 0.7 * 5 / np.linalg.eigvalsh(kernel)[-1]
    residuals = [y]
    for _ in range(3):
        residuals.append(residuals[-1] - rate / 5 * kernel @ residuals[-1])
    losses = [residual @ residual / 10 for residual in residuals]
    found = predicted(kernel, y, 0.7, (0, 2))
    np.testing.assert_allclose(found.change, [losses[1] - losses[0], losses[3] - losses[2]])
    residual = residuals[2]
    position = residual @ kernel @ residual / (residual @ residual * np.trace(kernel))
    np.testing.assert_allclose(found.chi_pos[1], position)


@pytest.mark.parametrize(
    ("field", "value"),
    [("step", 2.0), ("moments", (0,)), ("widths", (4, 8, 16)), ("num_seeds", 1)],
)
def test_sizes_that_cannot_be(field, value):
    options = {"runs": CPU.runs, "features": CPU.features, field: value}
    with pytest.raises(ValueError, match=field):
        DynamicsConfig(**options)
