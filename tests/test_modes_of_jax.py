"""JAX's strict modes, `shard_map`, and floats of eight bits: the core gives what it gives without.

One program calls everything, so that each mode costs one compilation.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import lnpjax

Results = dict[str, Any]

INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
TARGETS = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2)), jnp.float32)
IDS = jnp.arange(8)[:, None] % 5 + jnp.arange(3)[None] % 2
PARAMS = {
    "first": jnp.asarray(np.random.default_rng(2).normal(size=(3, 4)), jnp.float32),
    "second": jnp.asarray(np.random.default_rng(3).normal(size=(4, 2)), jnp.float32),
    "unused": jnp.ones(2),  # its group has no Jacobian: chi_pos is 0/0 by design
}
SPLIT = {
    "table": jnp.asarray(np.random.default_rng(4).normal(size=(7, 3)), jnp.float32),
    "kernel": jnp.asarray(np.random.default_rng(5).normal(size=(3, 2)), jnp.float32),
    "body": jnp.asarray(np.random.default_rng(6).normal(size=(3, 3)), jnp.float32),
}


def network(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["first"].astype(x.dtype)) @ params["second"].astype(x.dtype)


def mean_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((outputs - targets) ** 2)


def hidden_states(params: Any, x: jax.Array) -> dict[str, jax.Array]:
    return {"hidden": jnp.tanh(x @ params["first"].astype(x.dtype))}


SPLIT_MODEL = lnpjax.SplitModel(
    lambda params, x: jnp.tanh(x @ params["body"]), embedding="table", readout="kernel"
)


def train_step(state: Any, batch: Any) -> tuple[Any, Any]:
    def loss(params: Any) -> jax.Array:
        return mean_squared_error(network(params, batch[0]), batch[1])

    value, gradient = jax.value_and_grad(loss)(state["params"])
    update = functools.partial(jax.tree.map, lambda p, g: p - 0.1 * g)
    return {"params": update(state["params"], gradient), "step": state["step"] + 1}, value


def components(params: Any, x: jax.Array, y: jax.Array) -> Results:
    """`lnpjax.lnp`, with each estimator, and all that it takes."""
    key, half = jax.random.key(0), len(x) // 2
    batch, others = (x[:half], y[:half]), (x[half:], y[half:])
    mask = jnp.arange(half) < half - 1

    def lnp(estimator: Any, **options: Any) -> lnpjax.decomposition.LNPMeasure:
        return lnpjax.lnp(network, mean_squared_error, estimator=estimator, axis_name=(), **options)

    after = jax.tree.map(lambda p: p * 2, params)
    ones = jax.tree.map(jnp.ones_like, params)
    return {
        "exact": lnp(lnpjax.Exact(chunk_size=1))(params, batch),
        "hutchinson": lnp(lnpjax.Hutchinson(2), groups=lambda path: path[:1])(
            params, batch, others, key=key, mask_a=mask, params_after=after
        ),
        "microbatches": lnp(lnpjax.Hutchinson(1, microbatch_size=3), normalization="token")(
            params, batch, others, key=key, preconditioner=ones
        ),
        "global": lnp(lnpjax.GlobalHutchinson(1), wrt="second")(params, batch, key=key),
        "split": lnpjax.lnp(SPLIT_MODEL, mean_squared_error, axis_name=())(
            SPLIT, (IDS[:half], jnp.broadcast_to(y[:half, None], (half, 3, 2))), key=key
        ),
    }


def operators(params: Any, x: jax.Array, y: jax.Array) -> Results:
    """The Jacobian, its norm and its kernel."""
    linear = lnpjax.linearize(network, params, x)
    gradient = linear.vjp(y)
    norm = functools.partial(lnpjax.squared_jacobian_norm, network, params, x, axis_name=())
    kernels = {
        method: lnpjax.entk(network, params, x, method=method, chunk_size=3)
        for method in ("structured", "contraction", "products", "batch")
    }
    modes = lnpjax.eigenmodes(kernels["contraction"], y)
    return {
        "linearize": (linear.outputs, gradient, linear.jvp(gradient), linear.ntk_vp(y)),
        "norm": norm(estimator=lnpjax.Exact()),
        "one draw": norm(estimator=lnpjax.GlobalHutchinson(1), key=jax.random.key(1)),
        "kernels": kernels,
        "groups": lnpjax.kernel.entk_groups(network, params, x, inputs2=x[:2], outputs=[0]),
        "modes": (modes.eigenvalues, modes.chi_pos, modes.status),
    }


def spectra(params: Any, x: jax.Array, y: jax.Array) -> Results:
    """Lanczos, the position, and what a lens measures."""
    position = lnpjax.spectra.position_distribution(network, mean_squared_error, num_matvecs=3)
    gradients = lnpjax.lens.gradient_spectra(
        network, mean_squared_error, weights="second", head=(1, 3), tail=(1, 3)
    )
    activations = lnpjax.lens.activation_spectra(hidden_states, head=(1, 3), tail=(1, 3))
    # From one output of one sample of a network with one parameter, Lanczos ends at once.
    ending = lnpjax.spectral_measure(
        lambda w, x: w * x[:, :1], params["first"][0, 0].astype(x.dtype), x, y[:, :1], num_matvecs=3
    )
    return {
        "lanczos": lnpjax.spectral_measure(network, params, x, y, num_matvecs=3),
        "ending": (ending.nodes, ending.weights, ending.status),
        "position": position(params, (x, y), key=jax.random.key(2)),
        "gradients": gradients(params, (x, y)),
        "activations": activations(params, (x, y)),
    }


def training(params: Any, x: jax.Array, y: jax.Array) -> Results:
    """A step that is measured, and one that is not."""
    step = lnpjax.instrument(
        train_step,
        lnpjax.lnp(network, mean_squared_error, estimator=lnpjax.Exact(), axis_name=()),
        lnpjax.log_windows(100, width=1),
        params_of=lambda state: state["params"],
        step_of=lambda state: state["step"],
    )

    def after(num_steps: int) -> Any:
        state = {"params": params, "step": jnp.int32(num_steps) + 0 * y[0, 0].astype(jnp.int32)}
        return step(state, (x, y), None, jax.random.key(3))

    return {"measured": after(1), "not measured": after(5)}


def measured_steps(params: Any, x: jax.Array, y: jax.Array) -> Results:
    """Of `training`, what does not depend on how a step makes its update."""
    records = {name: result[2] for name, result in training(params, x, y).items()}
    return {
        name: (record.measured, record.step, record.measurement.groups, record.measurement.status)
        for name, record in records.items()
    }


def readings(params: Any, x: jax.Array, y: jax.Array) -> Results:
    """What is read off kernels and spectra, with cases of 0/0."""
    del params
    kernel = x @ x.T + jnp.eye(len(x))
    modes, gradient = lnpjax.eigenmodes(kernel, y[:, 0]), y[:, 0]
    few = jnp.where(jnp.arange(len(x)) < 1, modes.eigenvalues, 0)
    return {
        "pairs": jnp.sum(lnpjax.kernel.mode_pairs(kernel, modes, modes)),
        "no gradient": lnpjax.eigenmodes(kernel, 0 * gradient).gamma2,
        "no kernel": lnpjax.eigenmodes(0 * kernel, gradient).p,
        "exponent": lnpjax.power_law(modes.eigenvalues, (1, 5)),
        "no exponent": lnpjax.power_law(few, (1, 5)),
        "summary": lnpjax.spectra.summarize_spectrum(modes.eigenvalues, head=(1, 3), tail=(2, 5)),
        "misalignment": lnpjax.kernel.eigenvector_misalignment(
            modes.eigenvalues, modes.eigenvectors, modes.eigenvalues, modes.eigenvectors
        ),
    }


PARTS: list[Callable[..., Results]] = [components, operators, spectra, training, readings]


@functools.cache
def plainly(part: Callable[..., Results]) -> Results:
    return jax.jit(part)(PARAMS, INPUTS, TARGETS)


def assert_same(results: Results, expected: Results, *, unknown: float = np.nan) -> None:
    paths = jax.tree_util.tree_leaves_with_path(expected)
    leaves = jax.tree.leaves(results)
    for (path, was), now in zip(paths, leaves, strict=True):
        if jnp.issubdtype(was.dtype, jnp.floating):
            was = jnp.where(jnp.isnan(was), unknown, was)
        np.testing.assert_allclose(
            now, was, rtol=2e-5, atol=2e-6, err_msg=jax.tree_util.keystr(path)
        )
        assert now.dtype == was.dtype, path


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "debug_nans": lambda: jax.debug_nans(True),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("mode", MODES)
def test_strict_modes_change_nothing(mode, part):
    expected = plainly(part)
    with MODES[mode]():
        # A new function: the flag for NaN is no part of what JAX keys its compiled programs by.
        results = jax.block_until_ready(jax.jit(lambda *args: part(*args))(PARAMS, INPUTS, TARGETS))
    assert_same(results, expected, unknown=np.inf if mode == "debug_nans" else np.nan)


@pytest.mark.parametrize("part", [components, operators, spectra, measured_steps])
def test_inside_shard_map_every_device_measures_its_own(part):
    num_devices = min(2, jax.device_count())
    mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shared, spread = PartitionSpec(), PartitionSpec("data")
    shards = [(INPUTS, TARGETS), (INPUTS[::-1] - 1, 2 * TARGETS)][:num_devices]

    def own(params: Any, x: jax.Array, y: jax.Array) -> Results:
        return jax.tree.map(lambda leaf: leaf[None], part(params, x, y))

    together = jax.jit(
        jax.shard_map(own, mesh=mesh, in_specs=(shared, spread, spread), out_specs=spread)
    )(PARAMS, *map(jnp.concatenate, zip(*shards, strict=True)))
    for device, shard in enumerate(shards):
        results = jax.tree.map(lambda leaf, device=device: leaf[device], together)
        assert_same(results, jax.jit(part)(PARAMS, *shard))


@pytest.mark.skipif(jax.device_count() > 1, reason="the test above has seen two devices")
def test_two_devices_do_not_add_up_their_gradients():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    test = f"{__file__}::test_inside_shard_map_every_device_measures_its_own[components]"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", test],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("part", [components, operators, spectra])
def test_floats_of_eight_bits_count_as_what_they_stand_for(part):
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float8_e4m3fn), PARAMS)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    # Gradients of 1e-4 would be zero in eight bits.
    expected = jax.jit(part)(wide, INPUTS, 1e-2 * TARGETS)  # compiled above
    assert_same(jax.jit(part)(narrow, INPUTS, 1e-2 * TARGETS), expected)


@pytest.mark.parametrize("name", ["exact", "one draw"])
def test_under_debug_nans_a_failure_is_still_one(name):
    """Outside of `jit` a call is one operation, whose results JAX looks at."""
    broken = {**PARAMS, "first": PARAMS["first"].at[0, 0].set(jnp.nan)}
    estimator = {"exact": lnpjax.Exact(), "one draw": lnpjax.GlobalHutchinson(1)}[name]
    measure = lnpjax.lnp(network, mean_squared_error, estimator=estimator)
    key = jax.random.key(0)
    with jax.debug_nans(True):
        out = measure(PARAMS, (INPUTS, TARGETS), key=key)
        assert (float(out.nu), out.groups["unused"].chi_pos) == (np.inf, np.inf)
        assert np.isfinite(out.chi_pos)
        assert (float(out.chi_pos_sem) == np.inf) == (name == "one draw")
        with pytest.raises(FloatingPointError, match=r"\(nan\) .* LNPMeasure.__call__.*loss_a"):
            measure(broken, (INPUTS, TARGETS), key=key)
    assert np.isnan(measure(PARAMS, (INPUTS, TARGETS), key=key).nu)


def test_infinity_is_refused_too_where_it_is_asked_for():
    with jax.debug_nans(True), jax.debug_infs(True):
        out = lnpjax.lnp(network, mean_squared_error)(
            PARAMS, (INPUTS, TARGETS), key=jax.random.key(0)
        )
    assert float(out.nu) == 2.0**127
