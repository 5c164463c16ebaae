"""Fluxes between shells against finite differences of energies, closed forms and antisymmetry."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from lnpjax import Status, eigenmodes, entk
from lnpjax.jacobian import observable, residual, token_surprisal
from lnpjax.shells import (
    log_shells,
    mode_couplings,
    shell_dissipation,
    shell_energies,
    shell_fluxes,
)
from lnpjax.shells._fluxes import fluxes_of_kernel

ROOM = 1e-3


def edges_between(eigenvalues, num_edges=3):
    """Edges in the widest gaps of a spectrum, in logarithms, away from every eigenvalue."""
    values = np.sort(np.asarray(eigenvalues))
    values = values[values > 1e-6 * values[-1]]
    gaps = np.diff(np.log(values))
    chosen = np.sort(np.argsort(gaps)[-num_edges:])
    assert gaps[chosen].min() > ROOM
    return jnp.asarray(np.sqrt(values[chosen] * values[chosen + 1]))


def twins():
    """Two equal neurons with different targets: every eigenvalue twice, and a kernel that turns."""
    case = zoo.build("mlp")
    weights = {
        "hidden": case.params["layer0"],
        "out": jnp.stack([case.params["layer1"]["kernel"][:, 0]] * 2),
    }

    def apply_one(weights, out, x):
        return jnp.tanh(x @ weights["kernel"] + weights["bias"]) @ out

    def apply_fn(params, x):
        both = [apply_one(p, o, x) for p, o in zip(params["hidden"], params["out"], strict=True)]
        return jnp.stack(both, axis=1)

    params = {"hidden": [weights["hidden"]] * 2, "out": weights["out"]}
    x, y = case.batch_a
    return observable(apply_fn, residual), params, (x, y[:, :2])


@functools.cache
def problem(name):
    """An error as a network, its parameters and its batch."""
    if name == "twins":
        return twins()
    if name == "classifier":
        case = zoo.build("mlp")
        labels = jnp.array([0, 1, 2, 1])
        return observable(case.apply_fn, token_surprisal), case.params, (case.batch_a[0], labels)
    case = zoo.build(name)
    return observable(case.apply_fn, residual), case.params, case.batch_a


def flow(error_fn, batch, num_points):
    """``d theta / dt`` of gradient flow on the mean square over 2."""

    def energy(params):
        return jnp.sum(error_fn(params, batch) ** 2) / (2 * num_points)

    gradient = jax.grad(energy)
    return lambda params: jax.tree.map(jnp.negative, gradient(params))


def runge_kutta(velocity, params, step):
    def moved(rate, by):
        return jax.tree.map(lambda p, r: p + by * r, params, rate)

    k1 = velocity(params)
    k2 = velocity(moved(k1, step / 2))
    k3 = velocity(moved(k2, step / 2))
    k4 = velocity(moved(k3, step))
    mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
    return moved(mean, step)


@functools.cache
def measured(name, num_points=1):
    """Nodes and weights as a function of the parameters."""
    error_fn, _, batch = problem(name)

    @jax.jit
    def measure(params):
        error = error_fn(params, batch) / np.sqrt(num_points)
        modes = eigenmodes(entk(error_fn, params, batch, method="batch") / num_points, error)
        return modes.eigenvalues, modes.projections**2

    return measure


@functools.cache
def balanced(name, num_points=1):
    """`shell_fluxes` as a function of the parameters and edges."""
    error_fn, _, batch = problem(name)
    return jax.jit(
        lambda params, edges: shell_fluxes(error_fn, params, batch, edges, num_points=num_points)
    )


@functools.cache
def edges_of(name, num_points=1):
    return edges_between(measured(name, num_points)(problem(name)[1])[0])


def derivative(function, step):
    after, before = function(step), function(-step)
    return jax.tree.map(lambda a, b: (a - b) / (2 * step), after, before)


@pytest.mark.parametrize(
    ("name", "num_points"),
    [("mlp", 1), ("twins", 4), ("custom_vjp", 3)],
)
def test_balance_is_the_derivative_of_energies_along_gradient_flow(x64, name, num_points):
    """Equation 3, to the order of the step: central differences over Runge-Kutta steps."""
    error_fn, params, batch = problem(name)
    measure, edges = measured(name, num_points), edges_of(name, num_points)
    nodes, weights = measure(params)
    balance = balanced(name, num_points)(params, edges)
    assert int(balance.status) == 0
    np.testing.assert_allclose(balance.energies, shell_energies(nodes, weights, edges), rtol=1e-9)
    np.testing.assert_allclose(
        balance.dissipation, shell_dissipation(nodes, weights, edges), rtol=1e-8, atol=1e-12
    )

    move = jax.jit(runge_kutta, static_argnums=0)
    velocity = flow(error_fn, batch, num_points)

    def moved(by):
        nodes, weights = measure(move(velocity, params, by))
        return nodes, shell_energies(nodes, weights, edges)

    eigenvalue_rates, rates = derivative(moved, 1e-4 / float(nodes[0]))
    scale = float(jnp.max(jnp.abs(rates)))
    np.testing.assert_allclose(balance.energy_rates, rates, atol=1e-6 * scale)
    if name != "twins":  # where eigenvalues coincide, so that each one's own rate means nothing
        largest = float(jnp.max(jnp.abs(eigenvalue_rates)))
        np.testing.assert_allclose(balance.eigenvalue_rates, eigenvalue_rates, atol=1e-6 * largest)
    # Fluxes are no small part of it, so that a wrong sign would show.
    assert float(jnp.max(jnp.abs(balance.net))) > 1e-3 * scale


def test_any_velocity_of_the_parameters_will_do(x64):
    """Training on mean surprisal, with momentum: nothing of it is gradient flow on ``e^2 / 2``."""
    error_fn, params, batch = problem("classifier")
    keys = iter(jax.random.split(jax.random.key(0), 9))
    momentum = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params)
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(error_fn(params, batch))))(params)
    velocity = jax.tree.map(lambda g, m: -g + 0.05 * m, gradient, momentum)
    measure, edges = measured("classifier"), edges_of("classifier")
    balance = jax.jit(lambda v: shell_fluxes(error_fn, params, batch, edges, velocity=v))(velocity)

    def energies(by):
        moved = jax.tree.map(lambda p, v: p + by * v, params, velocity)
        return shell_energies(*measure(moved), edges)

    rates = derivative(energies, 1e-5)
    scale = float(jnp.max(jnp.abs(rates)))
    np.testing.assert_allclose(balance.energy_rates, rates, atol=1e-6 * scale)


def test_a_frozen_part_neither_moves_nor_turns(x64):
    """With all but the read-out frozen, the network is linear in what is left."""
    error_fn, params, batch = problem("mlp")
    frozen = jax.jit(
        lambda p: shell_fluxes(error_fn, p, batch, jnp.array([0.5, 3.0, 9.0]), wrt="layer1")
    )(params)
    assert float(jnp.max(jnp.abs(frozen.fluxes))) < 1e-10
    assert float(jnp.max(frozen.dissipation)) > 1


def test_fluxes_conserve_energy(x64):
    """Section 3.5: antisymmetry, the sum of all, and definition 4.1 as a double sum."""
    balance = balanced("mlp")(problem("mlp")[1], edges_of("mlp"))
    fluxes = np.asarray(balance.fluxes)
    np.testing.assert_array_equal(fluxes, -fluxes.T)
    scale = np.abs(fluxes).max()
    assert abs(float(jnp.sum(balance.net))) < 1e-12 * scale
    for upper in range(len(fluxes)):
        from_above = fluxes[upper + 1 :, : upper + 1].sum()
        np.testing.assert_allclose(balance.boundary[upper], from_above, atol=1e-12 * scale)


def test_a_linear_model_has_no_flux(x64):
    """Lazy limit, section 4.6, exactly; its eigenvalues coincide in threes on top."""
    _, _, batch = problem("mlp")
    error_fn = observable(lambda w, x: x @ w, residual)
    edges = log_shells(0.1, 100.0)
    balance = jax.jit(lambda w: shell_fluxes(error_fn, w, batch, edges))(jnp.ones((5, 3)))
    assert not np.any(np.asarray(balance.fluxes))
    assert int(balance.status) == 0
    assert float(jnp.sum(balance.dissipation)) > 1


def turning_kernel(angle, values):
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s], [s, c]])
    return rotation, rotation @ np.diag(values) @ rotation.T


@pytest.mark.parametrize("speed", [0.7, -2.0])
def test_couplings_of_a_turning_basis(x64, speed):
    """``phi_0`` turns into ``phi_1`` at the speed of rotation, whatever the eigenvalues."""
    values = np.array([3.0, 1.0])
    rotation, kernel = turning_kernel(0.4, values)
    generator = speed * np.array([[0.0, -1.0], [1.0, 0.0]])
    kernel_rate = jnp.asarray(generator @ kernel - kernel @ generator)
    couplings = mode_couplings(jnp.asarray(values), jnp.asarray(rotation), kernel_rate)
    np.testing.assert_allclose(couplings, [[0, speed], [-speed, 0]], atol=1e-14)

    error = np.array([2.0, -1.0])
    g = rotation.T @ error
    balance = jax.jit(fluxes_of_kernel)(
        jnp.asarray(kernel),
        kernel_rate,
        jnp.asarray(error),
        jnp.asarray(-kernel @ error),
        jnp.array([0.5, 2.0, 8.0]),
    )
    # phi_0, the mode of the highest shell, gains g_0 g_1 speed as it turns towards phi_1.
    np.testing.assert_allclose(balance.fluxes[1, 2], g[0] * g[1] * speed, rtol=1e-12)
    np.testing.assert_allclose(balance.dissipation, [0, g[1] ** 2, 3 * g[0] ** 2], rtol=1e-12)
    np.testing.assert_allclose(balance.eigenvalue_rates, 0, atol=1e-14)


def test_shell_internal_coupling_cancels(x64):
    """Proposition 1: with one shell around everything, dissipation is all there is."""
    _, params, _ = problem("mlp")
    around = balanced("mlp")(params, jnp.array([1e-9, 1e9]))
    assert float(around.energies[0]) < 1e-12
    assert not np.any(np.asarray(around.fluxes))
    # The couplings themselves do not vanish: they move energy as soon as an edge separates them.
    assert np.any(np.asarray(balanced("mlp")(params, jnp.array([5.0, 1e9])).fluxes))


def test_an_edge_through_coinciding_modes_is_flagged(x64):
    """Modes that coincide to rounding, on both sides of an edge, and turn into one another."""
    values = jnp.array([1 - 1e-16, 1.0, 3.0])
    rate = jnp.ones((3, 3))
    error = jnp.array([1.0, 2.0, 3.0])
    inputs = (jnp.diag(values), rate, error, -values * error)
    balance = jax.jit(fluxes_of_kernel)
    split = balance(*inputs, jnp.array([1.0, 2.0, 4.0]))
    assert Status(int(split.status)) == Status.DEGENERATE_SPECTRUM
    assert bool(jnp.all(jnp.isfinite(split.fluxes)))
    assert int(balance(*inputs, jnp.array([0.5, 2.0, 4.0])).status) == 0
    still = (inputs[0], 0 * rate, *inputs[2:])
    assert int(balance(*still, jnp.array([1.0, 2.0, 4.0])).status) == 0


def test_float32_agrees_with_float64(x64):
    error_fn, params, batch = problem("mlp")
    edges = edges_of("mlp")
    exact = balanced("mlp")(params, edges)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (params, batch, edges))
    jax.config.update("jax_enable_x64", False)
    rough = jax.jit(lambda p, b, e: shell_fluxes(error_fn, p, b, e))(*single)
    assert rough.fluxes.dtype == jnp.float32
    scale = float(np.max(np.abs(np.asarray(exact.fluxes))))
    np.testing.assert_allclose(rough.fluxes, np.asarray(exact.fluxes), atol=1e-3 * scale)


def test_vmap_over_parameters_equals_a_loop(x64):
    _, params, _ = problem("mlp")
    edges = edges_of("mlp")
    scales = jnp.array([1.0, 0.8])
    ensemble = jax.tree.map(lambda p: jnp.tensordot(scales, p, 0), params)
    balance = balanced("mlp")
    together = jax.vmap(balance, (0, None))(ensemble, edges)
    assert bool(jnp.any(together.fluxes != 0))
    for i in range(2):
        alone = balance(jax.tree.map(lambda leaf, i=i: leaf[i], ensemble), edges)
        np.testing.assert_allclose(together.fluxes[i], alone.fluxes, rtol=1e-7, atol=1e-9)


def test_nan_is_flagged_under_jit(x64):
    _, params, _ = problem("mlp")
    broken = jax.tree.map(lambda p: p * jnp.nan, params)
    balance = balanced("mlp")(broken, edges_of("mlp"))
    assert Status.NON_FINITE in Status(int(balance.status))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"edges": jnp.array([2.0, 1.0])}, ValueError, "edges: .*ascending"),
        ({"num_points": 0}, ValueError, "num_points: "),
        ({"velocity": {"layer0": 1.0}}, ValueError, "velocity"),
        ({"wrt": "nothing"}, ValueError, "wrt"),
    ],
)
def test_bad_input_of_networks_is_refused(x64, changes, error, message):
    error_fn, params, batch = problem("mlp")
    with pytest.raises(error, match=message):
        shell_fluxes(error_fn, params, batch, **({"edges": jnp.array([1.0, 2.0])} | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kernel_rate": jnp.eye(3)}, ValueError, r"kernel_rate: .*shape of what .*\(2, 2\)"),
        (
            {"kernel_rate": jnp.array([[0.0, 1.0], [0.0, 0.0]])},
            ValueError,
            "kernel_rate: expected a symmetric matrix",
        ),
        ({"error_rate": jnp.ones(3)}, ValueError, "error_rate: .*got shape"),
        ({"error": jnp.ones(3), "error_rate": jnp.ones(3)}, ValueError, "loss_grad|error"),
        ({"kernel": jnp.ones((2, 3)), "kernel_rate": jnp.ones((2, 3))}, ValueError, "kernel"),
    ],
)
def test_bad_kernels_are_refused(changes, error, message):
    good = {
        "kernel": jnp.eye(2),
        "kernel_rate": jnp.eye(2),
        "error": jnp.ones(2),
        "error_rate": jnp.ones(2),
        "edges": jnp.array([1.0, 2.0]),
    }
    with pytest.raises(error, match=message):
        fluxes_of_kernel(**(good | changes))


def test_bad_couplings_are_refused():
    with pytest.raises(ValueError, match="eigenvectors: expected a column of 2"):
        mode_couplings(jnp.ones(3), jnp.eye(2), jnp.eye(2))
