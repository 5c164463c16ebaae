"""Streamed float32 covariances against two passes in float64, and the spectra made of them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnpjax
from lnpjax.lens import _covariance as covariance
from lnpjax.lens import (
    activation_spectra,
    covariance_finalize,
    covariance_float64,
    covariance_init,
    covariance_merge,
    covariance_spectrum,
    covariance_update,
    stream_covariances,
)
from lnpjax.status import Status

WIDTH = 8
update = jax.jit(covariance_update)
merge = jax.jit(covariance_merge)


@jax.jit
def row_by_row(state, rows):
    return jax.lax.scan(lambda s, row: (covariance_update(s, row[None]), None), state, rows)[0]


def badly_scaled(kind, num_rows=2100, width=WIDTH):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(num_rows, width)) @ (
        np.eye(width) + 0.3 * rng.normal(size=(width,) * 2)
    )
    data = {
        "far": lambda: 1e3 + 1e-2 * noise,
        "mixed": lambda: 10.0 ** np.linspace(-5, 5, width) * (noise + 100 * rng.normal(size=width)),
        "drift": lambda: np.linspace(0, 1e3, num_rows)[:, None] + 1e-2 * noise,
        "outlier": lambda: noise + 1e6 * (np.arange(num_rows) == 0)[:, None],
        "grid": lambda: 1e3 + np.round(5000 * noise) / 2**14,
    }
    return data[kind]().astype(np.float32)


every_kind = pytest.mark.parametrize("kind", ["far", "mixed", "drift", "outlier", "grid"])


def errors(matrix, rows):
    """Relative to sqrt(c_ii c_jj) in the worst entry, and in Frobenius norm; against numpy."""
    exact = np.cov(rows.astype(np.float64), rowvar=False)
    scale = np.sqrt(np.diag(exact))
    difference = np.asarray(matrix, np.float64) - exact
    worst = np.max(np.abs(difference) / np.outer(scale, scale))
    return max(worst, np.linalg.norm(difference) / np.linalg.norm(exact))


def of_parts(rows, cuts):
    state = covariance_init(rows.shape[-1])
    for part in np.split(rows, cuts):
        state = update(state, part) if len(part) else state
    return state


@every_kind
def test_streaming_is_two_passes_in_float64(kind):
    rows = badly_scaled(kind)
    whole = update(covariance_init(WIDTH), rows)
    assert errors(covariance_float64(whole).matrix, rows) < 1e-8
    assert errors(covariance_finalize(whole).matrix, rows) < 2e-7
    assert whole.count == len(rows)
    exact = rows.astype(np.float64)
    difference = covariance_float64(whole).mean - exact.mean(0)
    assert np.max(np.abs(difference) / exact.std(0)) < 1e-7


@every_kind
def test_any_split_and_any_tree_of_merges(kind):
    rows = badly_scaled(kind)
    assert errors(covariance_float64(row_by_row(covariance_init(WIDTH), rows)).matrix, rows) < 1e-6
    uneven = [of_parts(part, [1, 400]) for part in np.split(rows, [1, 700, 1400])]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        a, b, c, d = (uneven[i] for i in order)
        for tree in (merge(merge(merge(a, b), c), d), merge(merge(a, b), merge(c, d))):
            assert errors(covariance_float64(tree).matrix, rows) < 1e-6
            assert tree.count == len(rows)


@pytest.mark.parametrize("kind", ["far", "mixed"])
def test_the_textbook_formula_is_wrong_on_these_data(kind):
    """Negative control: the data are as bad as they are meant to be."""
    rows = jnp.asarray(badly_scaled(kind))
    n = len(rows)
    raw = jax.jit(lambda x: (x.T @ x - n * jnp.outer(x.mean(0), x.mean(0))) / (n - 1))
    assert errors(raw(rows), np.asarray(rows)) > 1e-5


@pytest.mark.compiled_as_by_users
def test_compensation_survives_the_compiler_and_is_needed(monkeypatch):
    """With the compiler's own flags; and a control that drops the low parts."""
    rows = 3 + np.random.default_rng(0).exponential(size=(20000, WIDTH)).astype(np.float32)
    good = row_by_row(covariance_init(WIDTH), rows)
    assert errors(covariance_float64(good).matrix, rows) < 1e-7
    assert np.any(good.scatter.low != 0)
    monkeypatch.setattr(covariance, "_exact_sum", lambda a, b: (a + b, jnp.zeros_like(a + b)))
    plain = jax.jit(
        lambda s, x: jax.lax.scan(lambda s, r: (covariance_update(s, r[None]), None), s, x)[0]
    )(covariance_init(WIDTH), rows)
    assert errors(covariance_float64(plain).matrix, rows) > 1e-6


def test_sums_of_squares_on_a_grid_have_no_bias(monkeypatch):
    """The leading bits of a chunk add up exactly; plain products in float32 do not (control)."""
    rows = np.repeat(np.random.default_rng(0).integers(0, 5000, size=(256, 2)), 40, axis=0)
    rows = rows.astype(np.float32)
    assert errors(covariance_float64(update(covariance_init(2), rows)).matrix, rows) < 3e-9
    monkeypatch.setattr(
        covariance, "_scatter", lambda x: covariance.TwoFloat(x.T @ x, jnp.zeros((2, 2)))
    )
    plain = jax.jit(lambda s, x: covariance_update(s, x))(covariance_init(2), rows)
    assert errors(covariance_float64(plain).matrix, rows) > 1e-8


SHARDED = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from test_activations import badly_scaled, errors
    from lnpjax.lens import *

    assert len(jax.devices()) == 8
    mesh = Mesh(np.array(jax.devices()), ("data",))
    put = lambda x: jax.device_put(x, NamedSharding(mesh, P("data")))
    update, parts = jax.jit(covariance_update), jax.jit(jax.vmap(covariance_update, (None, 0)))
    merge = jax.jit(lambda states: jax.lax.scan(
        lambda a, b: (covariance_merge(a, b), None), covariance_init(8), states)[0])
    for kind in ("far", "drift", "mixed"):
        rows = badly_scaled(kind, num_rows=1600)
        whole = update(covariance_init(8), put(rows.reshape(16, 100, 8)))
        merged = merge(parts(covariance_init(8), put(rows.reshape(8, 200, 8))))
        for state in (whole, merged):
            assert state.count == 1600
            assert errors(covariance_float64(state).matrix, rows) < 1e-6
    print("eight devices agree")
"""


def test_eight_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED)],
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "agree" in done.stdout


@pytest.mark.parametrize("pad", [jnp.nan, jnp.inf, 1e30])
def test_masked_samples_do_not_count(pad):
    rows = badly_scaled("far", 300)
    keep = np.random.default_rng(1).uniform(size=300) < 0.5
    keep[0] = False
    padded = np.where(keep[:, None], rows, pad).astype(np.float32)
    state = update(covariance_init(WIDTH), padded, mask=keep)
    assert (state.count, state.status) == (keep.sum(), Status.OK)
    assert errors(covariance_float64(state).matrix, rows[keep]) < 1e-8
    same = update(state, padded, mask=np.zeros(300, bool))
    for left, right in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_mask_of_sequences_masks_their_positions():
    hidden = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    state = update(covariance_init(3), hidden, mask=np.array([True, False, True, False]))
    assert state.count == 10
    assert errors(covariance_float64(state).matrix, hidden[[0, 2]].reshape(-1, 3)) < 1e-7


def test_a_constant_feature_has_no_variance():
    rows = badly_scaled("far", 600)
    rows[:, 2] = 1000.1
    matrix = covariance_finalize(update(covariance_init(WIDTH), rows)).matrix
    np.testing.assert_array_equal(matrix[2], 0)


def test_half_precision_is_widened_exactly():
    half = jnp.asarray(badly_scaled("drift", 300), jnp.bfloat16)
    state = update(covariance_init(WIDTH), half)
    assert state.mean.high.dtype == jnp.float32
    assert errors(covariance_float64(state).matrix, np.asarray(half, np.float32)) < 1e-8


def test_float64_stays_float64(x64):
    rows = 1e7 + 1e-3 * np.random.default_rng(0).normal(size=(600, 3))
    state = jax.jit(covariance_update)(covariance_init(3), rows)
    assert {leaf.dtype for leaf in (state.mean.low, state.scatter.high)} == {jnp.dtype("float64")}
    exact = np.cov((rows - 1e7), rowvar=False)
    np.testing.assert_allclose(covariance_finalize(state).matrix, exact, rtol=1e-11, atol=1e-18)
    with pytest.raises(TypeError, match=r"^hidden: expected at most float32.* got float64"):
        covariance_update(covariance_init(3, dtype="float32"), rows)


def test_counts_do_not_stop_at_the_digits_of_float32():
    """2^24 + 1 is no float32."""
    state = update(covariance_init(1), np.array([[0.0], [2.0]], np.float32))
    for _ in range(24):
        state = merge(state, state)
    more = update(state, np.array([[1.0]], np.float32))
    assert more.count == 2**25 + 1
    assert covariance_finalize(more).matrix == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("mean", "dtype"), [(100, "bfloat16"), (1e7, "float32")])
def test_the_floor_that_rounding_of_hidden_states_makes_is_not_fitted(mean, dtype):
    """The mean is that many standard deviations: 1.36 came out for 2, with status 0."""
    width = 48
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(width, width)))
    hidden = (rng.normal(size=(1000, width)) * np.arange(1.0, width + 1) ** -1.0) @ basis.T

    @jax.jit
    def tail(rows):
        return covariance_spectrum(covariance_update(covariance_init(width), rows)).tail

    exact = tail(jnp.asarray(hidden, jnp.float32))
    near = tail(jnp.asarray(hidden + 3 * hidden.std(), dtype))
    far = tail(jnp.asarray(hidden + mean * hidden.std(), dtype))
    assert near.status == exact.status == Status.OK
    assert float(near.exponent) == pytest.approx(float(exact.exponent), abs=0.05)
    assert int(far.status) & Status.VANISHING_EIGENVALUES


def test_the_coarsest_dtype_is_remembered():
    half = update(covariance_init(2), jnp.ones((3, 2), jnp.bfloat16))
    state = merge(update(covariance_init(2), jnp.ones((3, 2))), half)
    assert state.rounding == 2.0**-7
    assert update(half, jnp.ones((3, 2))).rounding == 2.0**-7


def test_counts_do_not_overflow():
    state = update(covariance_init(1), np.array([[0.0], [2.0]], np.float32))
    many = dataclasses.replace(state, count=jnp.int32(3 * 2**29 + 1))
    assert covariance_finalize(many).matrix == pytest.approx(2 / (3 * 2**29), rel=1e-6)


def test_squares_that_underflow_are_flagged():
    vanishing = Status.VANISHING_EIGENVALUES
    rows = np.array([[0.0], [1e-20], [2e-20]], np.float32)
    assert covariance_finalize(update(covariance_init(1), rows)).status == vanishing
    one_by_one = row_by_row(covariance_init(1), rows)
    assert covariance_finalize(one_by_one).status == vanishing
    with_large = covariance_finalize(update(one_by_one, rows + 1))
    assert with_large.status == Status.OK
    constant = covariance_finalize(update(covariance_init(1), 0 * rows + 1e-20))
    assert constant.status == Status.OK


def test_undefined_covariances_are_flagged():
    empty = covariance_init(3)
    for state in (empty, update(empty, np.ones((1, 3), np.float32))):
        out = covariance_finalize(state)
        assert out.status == Status.TOO_FEW_POINTS
        assert np.all(np.isnan(out.matrix))
        assert covariance_spectrum(state).status == Status.TOO_FEW_POINTS
        with pytest.raises(ValueError, match=r"^state: expected at least two samples, got [01]"):
            covariance_float64(state)
    bad = update(update(empty, np.full((2, 3), np.nan, np.float32)), np.eye(3, dtype=np.float32))
    assert covariance_finalize(bad).status == Status.NON_FINITE
    huge = update(empty, np.array([[1e25] * 3, [-1e25] * 3], np.float32))
    assert covariance_finalize(huge).status == Status.NON_FINITE
    summary = jax.jit(covariance_spectrum)(bad)
    assert int(summary.status) & Status.NON_FINITE
    assert np.isnan(summary.rank_me)
    with pytest.raises(ValueError, match=r"^state: expected finite samples"):
        covariance_float64(bad)


@pytest.mark.parametrize(
    ("hidden", "mask", "error", "message"),
    [
        (np.ones((2, 4), np.float32), None, ValueError, r"^hidden: .* 3 features.*\(2, 4\)"),
        (np.ones((2, 3), np.int32), None, TypeError, r"^hidden: .* int32"),
        (np.ones((0, 3), np.float32), None, ValueError, r"^hidden: .* at least one sample"),
        (np.full((2, 3), np.inf, np.float32), None, ValueError, r"^hidden: .* finite .* got 6"),
        (np.ones((2, 3), np.float32), np.ones(2), TypeError, r"^mask: .* boolean"),
        (np.ones((2, 3), np.float32), np.ones(3, bool), ValueError, r"^mask: .* shape \(2,\)"),
    ],
)
def test_bad_samples(hidden, mask, error, message):
    with pytest.raises(error, match=message):
        covariance_update(covariance_init(3), hidden, mask=mask)


def test_bad_states():
    with pytest.raises(ValueError, match=r"^dimension: expected an integer >= 1, got 0"):
        covariance_init(0)
    with pytest.raises(ValueError, match=r"^dtype: expected float32.* got bfloat16"):
        covariance_init(3, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"^b: expected a state of "):
        covariance_merge(covariance_init(3), covariance_init(4))


def hidden_states(params, inputs):
    first = jnp.tanh(inputs @ params)
    return {"second": first @ params, "first": first}


PARAMS = jnp.asarray(np.random.default_rng(3).normal(size=(WIDTH, WIDTH)), jnp.float32)
POOL = jnp.asarray(np.random.default_rng(4).normal(size=(30, 5, WIDTH)), jnp.float32)


@pytest.mark.parametrize("microbatch_size", [None, 7])
def test_spectra_of_a_pool(microbatch_size):
    measure = activation_spectra(
        hidden_states, pool=(POOL, None), microbatch_size=microbatch_size, head=(1, 5), tail=(3, 8)
    )
    batch = (2 * POOL[:4], None)
    out = jax.jit(measure)(PARAMS, batch)
    for layer, states in hidden_states(PARAMS, POOL).items():
        exact = np.linalg.eigvalsh(np.cov(np.asarray(states, float).reshape(-1, WIDTH).T))[::-1]
        np.testing.assert_allclose(out[layer].eigenvalues, exact, rtol=1e-5, atol=1e-6 * exact[0])
        assert out[layer].head.num_points == 5
        assert out[layer].status == Status.OK


def test_without_a_pool_it_is_b_and_without_b_it_is_a():
    measure = jax.jit(activation_spectra(hidden_states, layers=["first"], head=None))
    a, b = (POOL, None), (3 * POOL, None)
    of_a, of_b = measure(PARAMS, a), measure(PARAMS, a, b, key=jax.random.key(0))
    assert list(of_a) == ["first"]
    traces = [float(out["first"].trace) for out in (of_a, of_b, measure(PARAMS, b))]
    assert traces[1] == pytest.approx(traces[2], rel=1e-6)
    assert traces[1] > 1.1 * traces[0]


def test_positions_that_pad_do_not_count():
    inputs = POOL.at[:, 3:].set(0)
    measure = activation_spectra(
        lambda params, x: {"h": x + 1},
        mask=lambda x: jnp.any(x != 0, axis=-1),
        head=None,
    )
    out = jax.jit(measure)(None, (inputs, None))["h"]
    exact = np.cov(np.asarray(POOL[:, :3]).reshape(-1, WIDTH), rowvar=False)
    assert out.trace == pytest.approx(np.trace(exact), rel=1e-5)


def test_in_an_instrumented_step():
    measure = activation_spectra(hidden_states, pool=(POOL, None), layers=["first"], head=None)
    step = lnpjax.instrument(
        lambda state, batch: ({**state, "step": state["step"] + 1}, 0.0),
        measure,
        lnpjax.log_windows(4, width=1),
        params_of=lambda state: state["params"],
        step_of=lambda state: state["step"],
    )

    def body(state, _):
        state, _, record = step(state, (POOL, None), None, jax.random.key(0))
        return state, record

    state = {"params": PARAMS, "step": jnp.int32(0)}
    _, records = jax.jit(lambda s: jax.lax.scan(body, s, None, length=4))(state)
    first = records.measurement["first"]
    expected = jax.jit(measure)(PARAMS, (POOL, None))["first"].rank_me
    np.testing.assert_allclose(first.rank_me[records.measured], expected, rtol=1e-5)
    assert 0 < records.measured.sum() < 4
    assert np.all(first.tail.status[~records.measured] == Status.NOT_MEASURED)


def test_streams_of_batches():
    notes = []

    class Notes(lnpjax._base.reporting.Reporter):
        def note(self, text):
            notes.append(text)

    batches = iter([POOL[:8], POOL[8:16], POOL[16:24], POOL[24:]])
    states = stream_covariances(hidden_states, PARAMS, batches, reporter=Notes())
    assert list(states) == ["second", "first"]
    for layer, hidden in hidden_states(PARAMS, POOL).items():
        rows = np.asarray(hidden).reshape(-1, WIDTH)
        assert errors(covariance_float64(states[layer]).matrix, rows) < 1e-6
    assert len(notes) == 3
    with pytest.raises(ValueError, match=r"^batches: expected at least one batch"):
        stream_covariances(hidden_states, PARAMS, [])


@pytest.mark.parametrize(
    ("options", "batch", "error", "message"),
    [
        ({"layers": ["third"]}, POOL, ValueError, r"^layers: .*'second', 'first'.*'third'"),
        ({"layers": "first"}, POOL, ValueError, r"^layers: expected a sequence .* got 'first'"),
        ({"layers": []}, POOL, ValueError, r"^layers: .*'second', 'first'.* got none"),
        ({"tail": (4, 9)}, POOL, ValueError, r"^tail: .* <= 8, .*150 samples of 8.* \(4, 9\)"),
        ({"head": (1, 10)}, POOL, ValueError, r"^head: .* <= 8, .* \(1, 10\)"),
        ({"tail": (3, 8)}, POOL[:1], ValueError, r"^tail: .* <= 4, .* that 5 samples"),
        ({}, POOL[:1, :1], ValueError, r"^(batch_a|pool): expected at least two samples"),
        ({"microbatch_size": 0}, POOL, ValueError, r"^microbatch_size: .* got 0"),
        ({"pool": POOL}, POOL, ValueError, r"^pool: expected a pair"),
        ({"tail": (3, 1)}, POOL, ValueError, r"^tail: .* got \(3, 1\)"),
    ],
)
def test_bad_measurements(options, batch, error, message):
    with pytest.raises(error, match=message):
        activation_spectra(hidden_states, **{"head": None, **options})(PARAMS, (batch, None))


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_hidden_states_that_are_not_finite_are_named(microbatch_size):
    measure = activation_spectra(
        lambda p, x: {"h": x}, microbatch_size=microbatch_size, tail=(1, 2)
    )
    inputs = POOL[:6, 0].at[3, 1].set(jnp.nan)
    with pytest.raises(ValueError, match=r"^hidden_states/h: expected finite samples"):
        measure(None, (inputs, None))


def test_samples_that_interact():
    def both(params, x):
        return {"centred": x - x.mean(0), "plain": x}

    measure = activation_spectra(both, head=(1, 5), tail=(1, 3))
    batch = (POOL[:, 0], None)
    out = jax.jit(measure)(None, batch)
    assert out["centred"].status == Status.SAMPLES_INTERACT
    assert out["plain"].status == Status.OK
    message = r"^hidden_states/centred: a sample's output depends on the rest"
    with pytest.raises(ValueError, match=message):
        measure(None, batch)
    with pytest.raises(ValueError, match=message):
        stream_covariances(both, None, [batch[0]])


def test_a_mask_that_does_not_fit_every_layer():
    measure = activation_spectra(
        lambda p, x: {"h": x, "pooled": x.mean(1)}, mask=lambda x: jnp.ones(x.shape[:2], bool)
    )
    with pytest.raises(ValueError, match=r"^mask: .*\(30,\) .* 'pooled' .*layers=.*\(30, 5\)"):
        jax.eval_shape(measure, None, (POOL, None))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, x: x, r"^hidden_states: expected a function that returns a dict"),
        (lambda p, x: {"h": jnp.zeros((30, 2), int)}, r"^hidden_states/h: .* int32"),
    ],
)
def test_bad_hidden_states(function, message):
    with pytest.raises(TypeError, match=message):
        activation_spectra(function)(PARAMS, (POOL, None))
