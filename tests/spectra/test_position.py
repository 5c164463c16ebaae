"""The distribution whose mean is chi_pos: values, and its place in training and in runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import lnpjax
from lnpjax import Exact, Status, eigenmodes, entk
from lnpjax.plotting import plot_positions
from lnpjax.plotting._position import positions_of
from lnpjax.runs import Run
from lnpjax.spectra import position_distribution
from lnpjax.spectra._lanczos import quantiles


def measure_of(case, **options):
    return position_distribution(
        case.apply_fn, case.loss_fn, wrt=case.wrt, estimator=Exact(), **options
    )


@pytest.mark.parametrize("name", ["frozen_subset", "tied_embeddings"])
def test_it_is_gamma2_over_p(x64, name):
    case = zoo.build(name)
    inputs, targets = case.batch_a

    @jax.jit
    def modes_of(params):
        gradient = jax.grad(case.loss_fn)(case.apply_fn(params, inputs), targets)
        return eigenmodes(entk(case.apply_fn, params, inputs, wrt=case.wrt), gradient)

    modes = modes_of(case.params)
    measure = jax.jit(measure_of(case, num_matvecs=8))
    out = measure(case.params, case.batch_a)
    np.testing.assert_allclose(out.chi_pos, modes.chi_pos, rtol=1e-9)
    np.testing.assert_allclose(out.trace, modes.trace, rtol=1e-9)
    np.testing.assert_allclose(jnp.sum(out.weights), 1, rtol=1e-12)
    for degree in (2, 5):
        exact = jnp.sum(modes.gamma2 * modes.p**degree)
        np.testing.assert_allclose(jnp.sum(out.weights * out.p**degree), exact, rtol=1e-8)
    levels = jnp.array([0.1, 0.5, 0.9])
    found = jnp.stack([out.tenth, out.median, out.ninetieth])
    np.testing.assert_allclose(found, quantiles(out.p, out.weights, levels), rtol=1e-12)
    assert out.chi_pos_sem == 0
    assert out.tenth < out.median < out.ninetieth


def test_random_probes_give_the_mean_an_error(x64):
    case = zoo.build("mlp")
    measure = position_distribution(
        case.apply_fn, case.loss_fn, num_matvecs=4, estimator=lnpjax.Hutchinson(4)
    )
    out = jax.jit(measure)(case.params, case.batch_a, key=jax.random.key(0))
    exact = jax.jit(measure_of(case, num_matvecs=4))(case.params, case.batch_a)
    assert out.chi_pos_sem > 0
    assert abs(out.chi_pos - exact.chi_pos) < 4 * out.chi_pos_sem


def test_beside_chi_pos_in_an_instrumented_step(x64):
    """Two measurements at once: what `instrument` takes may return any pytree."""
    case = zoo.build("mlp")
    lnp = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact())
    position = measure_of(case, num_matvecs=3)

    def measure(params, batch_a, batch_b, *, key):
        return {
            "lnp": lnp(params, batch_a, key=key),
            "position": position(params, batch_a, key=key),
        }

    def train_step(state, batch):
        params, step = state
        gradient = jax.grad(lambda p: case.loss_fn(case.apply_fn(p, batch[0]), batch[1]))(params)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), step + 1), None

    step = lnpjax.instrument(
        train_step,
        measure,
        lnpjax.Windows((0, 2), 1),
        params_of=lambda state: state[0],
        step_of=lambda state: state[1],
        real_update=False,
    )

    def body(state, key):
        state, _, record = step(state, case.batch_a, None, key)
        return state, record

    run = jax.jit(lambda state: jax.lax.scan(body, state, jax.random.split(jax.random.key(0), 4)))
    _, records = run((case.params, jnp.int32(0)))
    assert records.measured.tolist() == [True, False, True, False]
    both = records.measurement
    chi_pos = both["position"].chi_pos
    np.testing.assert_allclose(chi_pos[records.measured], both["lnp"].chi_pos[records.measured])
    assert np.all(np.isnan(chi_pos[~records.measured]))
    for status in (both["position"].status, both["position"].measure.status, both["lnp"].status):
        assert status.tolist() == [0, Status.NOT_MEASURED, 0, Status.NOT_MEASURED]


def test_a_run_keeps_and_draws_them(tiny_run):
    run = Run.open(tiny_run)
    starts = {row["step"] for row in run.rows("lnp")} - {
        row["step"] + 1 for row in run.rows("lnp") if row["step"] + 1 not in (1, 2)
    }
    found = positions_of(run)
    steps = [int(one["step"]) for one in found]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert starts <= set(steps)
    assert all(one["p"].shape == (5,) for one in found)
    np.testing.assert_allclose([one["weights"].sum() for one in found], 1, rtol=1e-5)
    assert (tiny_run / "figures" / "position.png").stat().st_size > 10_000


def test_figure_says_what_it_shows():
    one = {"p": np.array([0.5, 0.1, 0.0]), "weights": np.array([0.25, 0.75, 0.0])}
    one |= {"tenth": 0.1, "median": 0.1, "ninetieth": 0.5, "chi_pos": 0.2}
    figure = plot_positions([one | {"step": 0}, one | {"step": 9}], title="a run")
    ax = figure.axes[0]
    assert "a run" in figure.get_suptitle()
    assert "step" in ax.get_xlabel()
    assert "eigenvalue" in ax.get_ylabel()
    labels = [line.get_label() for line in ax.lines]
    assert "median" in labels
    shares = ax.collections[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=0.4)
    with pytest.raises(ValueError, match="distributions: expected at least two measured steps"):
        plot_positions([one])
