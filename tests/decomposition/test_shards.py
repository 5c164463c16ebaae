"""Inside `jax.shard_map` and `jax.pmap`: one measurement of what all devices hold, or an error."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import lnpjax
from lnpjax._base.shards import shards_over
from lnpjax.kernel._costs import matmul_flops

NUM_DEVICES = min(4, jax.device_count())
several = pytest.mark.skipif(NUM_DEVICES < 4, reason="test_on_four_devices runs it on four")
ROWS = 4 * NUM_DEVICES
SHARED, SPREAD = PartitionSpec(), PartitionSpec("data")


def apply_fn(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def loss_fn(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def setting(seed=0):
    keys = jax.random.split(jax.random.key(seed), 6)
    params = {
        "first": jax.random.normal(keys[0], (3, 5)),
        "second": jax.random.normal(keys[1], (5, 2)),
    }
    a, b = (
        (jax.random.normal(k, (ROWS, 3)), jax.random.normal(jax.random.fold_in(k, 1), (ROWS, 2)))
        for k in keys[2:4]
    )
    # Devices hold parts that differ in size as much as in kind.
    scale = jnp.repeat(2.0 ** jnp.arange(NUM_DEVICES), 4)[:, None]
    rows = jnp.where(jnp.arange(ROWS) // 4 % 2 == 0, 1.0, 3.0)[:, None]
    return params, (rows * a[0], scale * a[1]), b


def mesh():
    return jax.make_mesh((NUM_DEVICES,), ("data",), axis_types=(AxisType.Auto,))


def sharded(function, **options):
    """Run on parts of the last two arguments; results must be the same on all devices."""
    return jax.jit(
        jax.shard_map(
            function, mesh=mesh(), in_specs=(SHARED, SPREAD, SPREAD), out_specs=SHARED, **options
        )
    )


def assert_close(results, expected, tolerance):
    for (path, leaf), like in zip(
        jax.tree_util.tree_leaves_with_path(results), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(
            leaf, like, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path)
        )


@several
@pytest.mark.parametrize("checked", [True, False], ids=["vma", "no vma"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_parts_together_are_what_the_whole_batch_is(x64, checked, masked):
    params, batch_a, batch_b = setting()
    after = jax.tree.map(lambda leaf: 0.9 * leaf, params)
    mask = jnp.arange(ROWS) % 3 > 0 if masked else jnp.ones(ROWS, bool)

    def measured(params, batch_a, batch_b, axis_name=None):
        measure = lnpjax.lnp(apply_fn, loss_fn, estimator=lnpjax.Exact(), axis_name=axis_name)
        (inputs, targets, keep) = batch_a
        masks = {"mask_a": keep} if masked else {}
        return measure(params, (inputs, targets), batch_b, params_after=after, **masks)

    whole = jax.jit(measured)(params, (*batch_a, mask), batch_b)
    parts = sharded(functools.partial(measured, axis_name="data"), check_vma=checked)(
        params, (*batch_a, mask), batch_b
    )
    assert_close(parts, whole, 1e-10)
    assert int(parts.status) == 0


@several
def test_the_gradient_of_all_parts_is_that_of_the_whole_batch(x64):
    params, batch_a, batch_b = setting()

    def gradient(params, a, b):
        measure = lnpjax.lnp(apply_fn, loss_fn, estimator=lnpjax.Exact(), axis_name="data")
        return measure.value_and_gradient(params, a, b)[1]

    whole = jax.grad(lambda params: loss_fn(apply_fn(params, batch_a[0]), batch_a[1]))(params)
    assert_close(sharded(gradient)(params, batch_a, batch_b), whole, 1e-10)


@several
def test_a_gradient_that_is_handed_over_is_checked_where_that_is_asked_for(x64):
    """As `instrument` asks: the condition is known to the compiled program alone."""
    params, batch_a, batch_b = setting()
    own = jax.grad(lambda params: loss_fn(apply_fn(params, batch_a[0]), batch_a[1]))(params)
    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=lnpjax.Exact(), axis_name="data")

    def status(scale, check):
        def measured(given, batch_a, batch_b):
            params, gradient, check = given
            return measure(
                params, batch_a, batch_b, gradient_a=gradient, check_gradient_a=check
            ).status

        gradient = jax.tree.map(lambda leaf: scale * leaf, own)
        return int(sharded(measured)((params, gradient, jnp.array(check)), batch_a, batch_b))

    misfit = int(lnpjax.Status.GRADIENT_MISFIT)
    assert [status(1.0, True), status(1.0, False), status(1.2, True)] == [0, 0, misfit]


@several
def test_under_pmap(x64):
    params, batch_a, batch_b = setting()
    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=lnpjax.Exact(), axis_name="data")
    split = jax.tree.map(
        lambda leaf: leaf.reshape(NUM_DEVICES, -1, *leaf.shape[1:]), (batch_a, batch_b)
    )
    parts = jax.pmap(measure, axis_name="data", in_axes=(None, 0, 0))(params, *split)
    whole = jax.jit(lnpjax.lnp(apply_fn, loss_fn, estimator=lnpjax.Exact()))(
        params, batch_a, batch_b
    )
    everywhere = jax.tree.map(lambda leaf: jnp.stack([leaf] * NUM_DEVICES), whole)
    assert_close(parts, everywhere, 1e-10)


def distribution_of(axis_name=None):
    return lnpjax.spectra.position_distribution(
        apply_fn, loss_fn, num_matvecs=3, estimator=lnpjax.Exact(), axis_name=axis_name
    )


def activations_of(axis_name=None, pool=None):
    def hidden_states(params, x):
        return {"hidden": jnp.tanh(x @ params["first"])}

    return lnpjax.lens.activation_spectra(
        hidden_states, head=(1, 3), tail=(1, 3), pool=pool, axis_name=axis_name
    )


def gradients_of(axis_name=None, pool=None):
    return lnpjax.lens.gradient_spectra(
        apply_fn, loss_fn, weights="first", head=(1, 4), tail=(1, 4), pool=pool, axis_name=axis_name
    )


@several
@pytest.mark.parametrize("make", [distribution_of, activations_of, gradients_of])
def test_other_measurements_put_the_batch_together(x64, make):
    params, batch_a, _ = setting()
    parts = sharded(lambda params, a, _: make("data")(params, a))(params, batch_a, batch_a)
    whole = jax.jit(make())(params, batch_a)
    assert_close(parts, whole, 1e-8)
    own = sharded(lambda params, a, _: make(())(params, a), check_vma=False)
    with pytest.raises(AssertionError):
        assert_close(own(params, batch_a, batch_a), whole, 1e-8)


def kernel_of(axis_name=None, kernel=lnpjax.entk, **options):
    def of_samples(params, inputs, inputs2=None):
        return kernel(
            apply_fn, params, inputs, inputs2=inputs2, axis_name=axis_name, chunk_size=4, **options
        )

    return of_samples


def by_rows(function):
    """Run on parts of two batches, of which each gives rows of the result."""
    specs = (SHARED, SPREAD, SPREAD)
    return jax.jit(jax.shard_map(function, mesh=mesh(), in_specs=specs, out_specs=SPREAD))


KERNELS = {
    "structured": {"method": "structured"},
    "contraction": {"method": "contraction"},
    "products": {"method": "products"},
    "summed over outputs": {"sum_outputs": True},
}


@several
@pytest.mark.parametrize("options", KERNELS.values(), ids=KERNELS)
def test_each_device_computes_the_rows_of_its_samples(x64, options):
    params, (inputs, _), (inputs2, _) = setting()
    whole, rows = kernel_of(**options), kernel_of("data", **options)
    np.testing.assert_allclose(
        by_rows(lambda params, x, _: rows(params, x))(params, inputs, inputs2),
        whole(params, inputs),
        rtol=1e-11,
        atol=1e-11,
    )
    np.testing.assert_allclose(
        by_rows(rows)(params, inputs, inputs2),
        whole(params, inputs, inputs2),
        rtol=1e-11,
        atol=1e-11,
    )


@several
def test_each_device_computes_the_blocks_of_its_samples(x64):
    params, (inputs, _), _ = setting()
    for over, spec in (("samples", SPREAD), ("outputs", PartitionSpec(None, "data"))):
        options = {"kernel": lnpjax.kernel.entk_diagonal, "over": over}
        part = jax.shard_map(
            kernel_of("data", **options),
            mesh=mesh(),
            in_specs=(SHARED, SPREAD),
            out_specs=spec,
        )
        whole = kernel_of(**options)(params, inputs)
        np.testing.assert_allclose(jax.jit(part)(params, inputs), whole, rtol=1e-11, atol=1e-11)


@several
@pytest.mark.parametrize("options", KERNELS.values(), ids=KERNELS)
def test_rows_under_pmap(x64, options):
    """Where JAX does not keep track of what differs between devices."""
    params, (inputs, _), (inputs2, _) = setting()
    parts = inputs.reshape(NUM_DEVICES, -1, *inputs.shape[1:])
    parts2 = inputs2.reshape(NUM_DEVICES, -1, *inputs2.shape[1:])
    rows, whole = kernel_of("data", **options), kernel_of(**options)
    of_parts = jax.pmap(rows, axis_name="data", in_axes=(None, 0))(params, parts)
    np.testing.assert_allclose(np.concatenate(of_parts), whole(params, inputs), rtol=1e-11)
    of_parts = jax.pmap(rows, axis_name="data", in_axes=(None, 0, 0))(params, parts, parts2)
    np.testing.assert_allclose(np.concatenate(of_parts), whole(params, inputs, inputs2), rtol=1e-11)


@several
@pytest.mark.parametrize("method", ["structured", "contraction"])
def test_no_device_fills_in_the_rows_of_another(method):
    """Pairs of rows cost most here; the other factors are made on every device."""
    params, (inputs, _), _ = setting()
    inputs = jnp.tile(inputs, (16, 1))

    def whole(params, inputs):
        return lnpjax.entk(apply_fn, params, inputs, inputs2=inputs, method=method)

    def rows(params, inputs):
        return lnpjax.entk(apply_fn, params, inputs, method=method, axis_name="data")

    part = jax.shard_map(rows, mesh=mesh(), in_specs=(SHARED, SPREAD), out_specs=SPREAD)
    share = matmul_flops(part, params, inputs) / matmul_flops(whole, params, inputs)
    assert 1 / NUM_DEVICES < share < 1.2 / NUM_DEVICES


@several
@pytest.mark.parametrize("make", [activations_of, gradients_of])
def test_a_pool_is_there_on_every_device(x64, make):
    params, pool, batch = setting()
    parts = sharded(lambda params, a, _: make(pool=pool)(params, a))(params, batch, batch)
    assert_close(parts, jax.jit(make(pool=pool))(params, batch), 1e-10)


@pytest.mark.parametrize("make", [distribution_of, activations_of, gradients_of, kernel_of])
def test_other_measurements_refuse_an_axis_that_is_not_named(make):
    params, batch, _ = setting()
    with pytest.raises(ValueError, match=r"axis_name: expected 'data', .* got None inside"):
        sharded(lambda params, a, _: make()(params, a[0] if make is kernel_of else a))(
            params, batch, batch
        )


@several
@pytest.mark.parametrize(
    "estimator", [lnpjax.Hutchinson(2), lnpjax.GlobalHutchinson(2)], ids=["samples", "batch"]
)
def test_draws_of_all_devices_are_unbiased_and_know_their_error(estimator):
    params, (inputs, _), _ = setting()
    exact = float(
        lnpjax.squared_jacobian_norm(apply_fn, params, inputs, estimator=lnpjax.Exact()).value
    )

    def draw(params, x, keys):
        def one(data):
            key = jax.random.wrap_key_data(data)
            estimate = lnpjax.squared_jacobian_norm(
                apply_fn, params, x, estimator=estimator, key=key, axis_name="data"
            )
            return estimate.value, estimate.sem

        return jax.lax.map(one, keys)

    keys = jax.random.key_data(jax.random.split(jax.random.key(1), 200))
    spec = (SHARED, SPREAD, SHARED)
    run = jax.shard_map(draw, mesh=mesh(), in_specs=spec, out_specs=SHARED)
    values, sems = jax.jit(run)(params, inputs, keys)
    spread = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - exact) < 4 * spread
    assert abs(1.5 * np.mean(values) - exact) > 4 * spread  # the control
    # Devices that drew alike would know less than they say.
    assert np.sqrt(np.mean(np.square(sems))) == pytest.approx(float(np.std(values)), rel=0.25)


@pytest.mark.skipif(NUM_DEVICES == 4, reason="the tests of this file have seen four")
@pytest.mark.parametrize("which", ["not exhaustive", "exhaustive"])
def test_on_four_devices(which):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, __file__],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_axis_that_is_not_named_is_an_error():
    params, batch_a, batch_b = setting()
    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=lnpjax.Exact())
    message = "axis_name: expected 'data', .* got None inside jax.shard_map or jax.pmap over 'data'"
    with pytest.raises(ValueError, match=message):
        sharded(measure)(params, batch_a, batch_b)
    with pytest.raises(ValueError, match=r"axis_name: expected among the axes .*, got 'model'"):
        sharded(lnpjax.lnp(apply_fn, loss_fn, axis_name="model"))(params, batch_a, batch_b)
    with pytest.raises(ValueError, match=r"axis_name: expected None outside of .*, got 'data'"):
        lnpjax.lnp(apply_fn, loss_fn, axis_name="data")(params, batch_a, batch_b)


@several
@pytest.mark.parametrize("make", [lnpjax.lnp, lnpjax.spectra.position_distribution])
def test_batches_that_all_devices_have_are_an_error(make):
    """A sum of losses would count them once for each."""
    measure = make(apply_fn, loss_fn, estimator=lnpjax.Exact(), axis_name="data")
    run = jax.shard_map(measure, mesh=mesh(), in_specs=(SHARED,) * 3, out_specs=SHARED)
    with pytest.raises(ValueError, match="batch_a: expected other samples on every device"):
        run(*setting())


@several
def test_one_device_of_all_is_enough_to_flag():
    """Samples that are not finite, on the last device alone."""
    params, (inputs, targets), batch_b = setting()
    broken = (inputs.at[-1].set(jnp.inf), targets)
    measure = lnpjax.lnp(apply_fn, loss_fn, estimator=lnpjax.Exact(), axis_name="data")
    status = int(sharded(measure)(params, broken, batch_b).status)
    assert status & lnpjax.Status.NON_FINITE


@several
def test_flags_of_parts_are_joined():
    def joined(params, x, y):
        del params, y
        status = jnp.where(jax.lax.axis_index("data") == 0, 5, 1024).astype(jnp.int32)
        return shards_over("data").flags(status + 0 * x[0, 0].astype(jnp.int32))

    rows = jnp.zeros((ROWS, 1))
    assert int(sharded(joined)(0.0, rows, rows)) == (5 | 1024)
