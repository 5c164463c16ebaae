"""One contract for every measurement: a pure, hashable function that works wherever JAX does.

What holds on eight devices is in `test_many_devices`, over the same measurements.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import measures
import numpy as np
import pytest

import lnpjax
from lnpjax import Status

CASE = measures.CASE
every_measure = pytest.mark.parametrize("name", measures.FACTORIES)


def keys(num: int) -> jax.Array:
    return jax.random.split(jax.random.key(1), num)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def row(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


@every_measure
def test_is_an_argument_that_jit_takes_as_static(name):
    """Hashable, so that one program serves one measurement, and equal to itself alone."""
    measure = measures.measure_of(name)
    assert len({measure, measure, measures.measure_of(name)}) == 2


@every_measure
def test_under_jit_vmap_and_scan_gives_what_it_gives_alone(x64, name):
    """Over parameters and keys; with one structure, and the same numbers when called again."""
    measure = measures.measure_of(name)
    members = jax.tree.map(lambda leaf: jnp.tensordot(jnp.array([1, 0.5]), leaf, 0), CASE.params)
    before = jax.tree.map(np.array, members)

    def of(params, key):
        return measure(params, CASE.batch_a, CASE.batch_b, key=key)

    jitted = jax.jit(of)
    alone = [jitted(row(members, i), keys(2)[i]) for i in range(2)]
    assert_same(jitted(row(members, 0), keys(2)[0]), alone[0])

    @jax.jit
    def together(members, keys):
        _, scanned = jax.lax.scan(lambda _, x: (None, of(*x)), None, (members, keys))
        return jax.vmap(of)(members, keys), scanned

    mapped, scanned = together(members, keys(2))
    for i in range(2):
        assert_same(row(mapped, i), alone[i])
        assert_same(row(scanned, i), alone[i])
    assert_same(members, before)


@every_measure
def test_flags_numbers_that_are_not_finite(name):
    jitted = jax.jit(measures.measure_of(name))
    inputs, targets = CASE.batch_a
    good = jitted(CASE.params, (inputs, targets), key=keys(1)[0])
    bad = jitted(CASE.params, (inputs.at[3, 2].set(jnp.nan), targets), key=keys(1)[0])
    assert jax.tree.structure(good) == jax.tree.structure(bad)
    assert set(measures.statuses(good)) == {Status.OK}
    flags = measures.statuses(bad)  # of the fits within a spectrum too: they lack points
    assert all(flags)
    assert any(Status.NON_FINITE in flag for flag in flags)


@every_measure
def test_results_are_float32_unless_float64_is_enabled(request, name):
    def dtypes():
        shapes = jax.eval_shape(
            measures.measure_of(name), CASE.params, CASE.batch_a, key=jax.random.key(0)
        )
        return {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} - {"int32", "bool"}

    assert dtypes() == {"float32"}
    request.getfixturevalue("x64")
    assert dtypes() == {"float64"}


INPUTS, TARGETS = CASE.batch_a
BAD = {
    "a batch that is no pair": ({"batch_a": INPUTS}, "^batch_a: expected a pair"),
    "a seed for a key": ({"key": 0}, "^key: expected a jax.random key"),
    "targets of fewer samples": ({"batch_a": (INPUTS, TARGETS[:3])}, "^batch_a/targets: expected"),
    "no parameters": ({"params": {}}, "params|layer0"),
}


@every_measure
@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_refuses_bad_input(name, arguments, message):
    if name == "activation_spectra" and "targets" in message:
        pytest.skip("it does not look at targets")
    given = {"params": CASE.params, "batch_a": CASE.batch_a, "key": jax.random.key(0)} | arguments
    with pytest.raises((TypeError, ValueError, KeyError), match=message):
        measures.measure_of(name)(given.pop("params"), given.pop("batch_a"), **given)


@pytest.mark.parametrize("name", sorted(set(measures.FACTORIES) - {"activation_spectra"}))
@pytest.mark.parametrize("argument", ["apply_fn", "loss_fn"])
def test_refuses_what_is_not_a_function(name, argument):
    functions = {"apply_fn": CASE.apply_fn, "loss_fn": CASE.loss_fn, argument: 3}
    with pytest.raises(TypeError, match=f"^{argument}"):
        measures.FACTORIES[name](*functions.values())(
            CASE.params, CASE.batch_a, key=jax.random.key(0)
        )


def test_the_measurements_of_the_library_are_all_here():
    """A new one joins the contract, whatever namespace it stands in."""
    made = {type(measures.measure_of(name)) for name in measures.FACTORIES}
    namespaces = (lnpjax.decomposition, lnpjax.spectra, lnpjax.lens, lnpjax.kernel, lnpjax.shells)
    public = {
        value
        for namespace in namespaces
        for value in vars(namespace).values()
        if isinstance(value, type) and "batch_a" in getattr(value.__call__, "__annotations__", {})
    }
    assert public <= made
