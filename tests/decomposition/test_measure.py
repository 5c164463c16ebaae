"""The LNP decomposition against dense Jacobians, and its identities."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

import lnpjax
from lnpjax import Exact, GlobalHutchinson, Hutchinson, Status

TOLERANCE = 1e-10
both_batches = pytest.mark.parametrize("cross", [False, True], ids=["A=B", "A!=B"])
every_model = pytest.mark.parametrize("name", zoo.MODELS)


def measure_case(case, *, cross, estimator=Exact(), key=None, **options):  # noqa: B008
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=estimator, wrt=case.wrt, **options)
    batch_b = case.batch_b if cross else None
    return jax.jit(lambda key: measure(case.params, case.batch_a, batch_b, key=key))(key)


def gradient_of(case):
    inputs, targets = case.batch_a
    loss = lambda p: case.loss_fn(case.apply_fn(p, inputs), targets)  # noqa: E731
    return jax.jit(jax.grad(loss))(case.params)


def dense(case, *, cross, **options):
    batch_b = case.batch_b if cross else case.batch_a
    return oracles.dense_lnp(
        case.apply_fn,
        case.loss_fn,
        case.params,
        case.batch_a,
        batch_b,
        selected=case.selected,
        **options,
    )


@functools.cache
def exact_in_x64(name, *, cross):
    return measure_case(zoo.MODELS[name](), cross=cross)


@every_model
@both_batches
def test_exact_equals_the_dense_jacobian(x64, name, cross):
    expected = dense(zoo.MODELS[name](), cross=cross)
    out = exact_in_x64(name, cross=cross)
    for component in ("delta_loss", "chi_loss", "chi_net", "chi_pos"):
        np.testing.assert_allclose(
            getattr(out, component), getattr(expected, component), rtol=TOLERANCE, err_msg=component
        )
    assert out.status == Status.OK
    assert out.chi_net_sem == 0


@pytest.mark.parametrize("how", ["adapters alone", "None", "float0", "another container"])
def test_gradient_of_adapters_in_their_own_structure(x64, how):
    """What a training step of adapters has at hand, with the base and without."""
    case = zoo.adapters_on_integers()
    expected = dense(case, cross=True)
    apply_fn, loss_fn = case.apply_fn, case.loss_fn
    params = dataclasses.asdict(case.params)  # as a dictionary, so that it can lose an entry
    adapters = {name: params[name] for name in ("down", "up")}

    def loss(adapters):
        return loss_fn(apply_fn(zoo.Adapted(**params | adapters), case.batch_a[0]), case.batch_a[1])

    gradient = jax.grad(loss)(adapters)
    after = jax.tree.map(lambda p, g: p - 0.1 * g, adapters, gradient)
    float0 = np.zeros((5, 3), jax.dtypes.float0)
    gradient, after = {
        "adapters alone": lambda: (gradient, after),
        "None": lambda: ({"base": None} | gradient, {"base": None} | after),
        "float0": lambda: ({"base": float0} | gradient, params | after),
        "another container": lambda: (zoo.Adapted(None, **gradient), zoo.Adapted(None, **after)),
    }[how]()
    measure = lnpjax.lnp(
        lambda p, x: apply_fn(zoo.Adapted(**p), x), loss_fn, estimator=Exact(), wrt=("down", "up")
    )
    given = {"gradient_a": gradient, "params_after": after}
    out = jax.jit(lambda params: measure(params, case.batch_a, case.batch_b, **given))(params)
    np.testing.assert_allclose(out.delta_loss, expected.delta_loss, rtol=TOLERANCE)
    np.testing.assert_allclose(out.chi_net, expected.chi_net, rtol=TOLERANCE)
    np.testing.assert_allclose(out.linear_change, -0.1 * expected.delta_loss, rtol=TOLERANCE)
    wrong = {"down": jnp.ones((5, 2))}
    with pytest.raises(ValueError, match=r"^gradient_a: .*\(\['down', 'up'\]\), .*without 'up'$"):
        measure(params, case.batch_a, gradient_a=wrong)


@every_model
def test_full_batch_chi_pos_is_the_mean_normalised_eigenvalue(x64, name):
    """Equation 9: sum_k gamma_k^2 p_k, from the eigendecomposition of the dense kernel."""
    case = zoo.MODELS[name]()
    kernel = oracles.dense_kernel(case.apply_fn, case.params, case.batch_a[0], case.selected)
    gradient = oracles.output_gradient(case.apply_fn, case.loss_fn, case.params, *case.batch_a)
    eigenvalues, vectors = np.linalg.eigh(kernel)
    gamma_squared = (vectors.T @ gradient) ** 2 / np.sum(gradient**2)
    expected = np.sum(gamma_squared * eigenvalues / eigenvalues.sum())
    out = exact_in_x64(name, cross=False)
    np.testing.assert_allclose(out.chi_pos, expected, rtol=1e-9)
    assert 0 <= out.chi_pos <= 1


@every_model
@both_batches
def test_groups_add_up(x64, name, cross):
    out = exact_in_x64(name, cross=cross)
    parts = list(out.groups.values())
    np.testing.assert_allclose(sum(p.delta_loss for p in parts), out.delta_loss, rtol=1e-12)
    np.testing.assert_allclose(sum(p.chi_net for p in parts), out.chi_net, rtol=1e-12)
    weighted = sum(p.chi_pos * p.chi_net for p in parts) / out.chi_net
    np.testing.assert_allclose(weighted, out.chi_pos, rtol=1e-9)
    assert all(abs(p.chi_pos) <= 1 + 1e-12 for p in parts)


@both_batches
def test_groups_equal_the_dense_jacobian(x64, cross):
    case = zoo.mlp()
    out, expected = measure_case(case, cross=cross), dense(case, cross=cross)
    assert list(out.groups) == ["layer0", "layer1"]
    for index, group in enumerate(out.groups.values()):
        leaves = slice(2 * index, 2 * index + 2)
        share_a = expected.norms_a[leaves].sum() / expected.norms_a.sum()
        share_b = expected.norms_b[leaves].sum() / expected.norms_b.sum()
        chi_net = expected.chi_net * (share_a + share_b) / 2
        delta = expected.deltas[leaves].sum()
        np.testing.assert_allclose(group.delta_loss, delta, rtol=TOLERANCE)
        np.testing.assert_allclose(group.chi_net, chi_net, rtol=TOLERANCE)
        np.testing.assert_allclose(
            group.chi_pos, delta / (expected.chi_loss * chi_net), rtol=TOLERANCE
        )


@pytest.mark.parametrize("normalization", ["sample", "token", None])
@both_batches
def test_normalisations(x64, normalization, cross):
    """Equation 29, and the same with loss terms for samples (five positions each)."""
    case = zoo.tied_embeddings()
    sizes = (4, 3 if cross else 4)
    factor = {"sample": 1, "token": 5, None: 0}[normalization] * np.sqrt(sizes[0] * sizes[1]) or 1
    out = measure_case(case, cross=cross, normalization=normalization)
    expected = dense(case, cross=cross, factor=factor)
    for component in ("delta_loss", "chi_loss", "chi_net", "chi_pos"):
        np.testing.assert_allclose(
            getattr(out, component), getattr(expected, component), rtol=TOLERANCE
        )


@pytest.mark.parametrize("normalization", ["sample", "token", None])
@pytest.mark.parametrize("estimator", [Exact(), Hutchinson(), GlobalHutchinson(3)], ids=repr)
@both_batches
def test_product_identity_holds_to_rounding(normalization, estimator, cross):
    out = measure_case(
        zoo.tied_embeddings(),
        cross=cross,
        estimator=estimator,
        normalization=normalization,
        key=jax.random.key(0),
    )
    product = out.chi_loss * out.chi_net * out.chi_pos
    np.testing.assert_allclose(product, out.delta_loss, rtol=1e-6)


def test_normalised_components_do_not_depend_on_the_batch_size(x64):
    """A batch that is repeated is the same batch."""
    case = zoo.mlp()
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), case.batch_a)
    once = measure_case(case, cross=False)
    repeated = measure_case(dataclasses.replace(case, batch_a=twice), cross=False)
    for component in ("delta_loss", "chi_loss", "chi_net", "chi_pos"):
        np.testing.assert_allclose(
            getattr(repeated, component), getattr(once, component), rtol=TOLERANCE
        )


def test_chi_pos_can_be_negative_across_batches(x64):
    case = zoo.mlp()
    inputs, targets = case.batch_a
    outputs = case.apply_fn(case.params, inputs)
    opposed = (inputs, 2 * outputs - targets)  # the residual on B is minus that on A
    out = measure_case(dataclasses.replace(case, batch_b=opposed), cross=True)
    same = measure_case(case, cross=False)
    np.testing.assert_allclose(out.chi_pos, -same.chi_pos, rtol=TOLERANCE)


def test_kernel_target_alignment(x64):
    """Equations 32 to 37: chi_pos = Sim(g g^T, Theta) sqrt(IPR), and the bounds of the factor."""
    case = zoo.tied_embeddings()
    kernel = oracles.dense_kernel(case.apply_fn, case.params, case.batch_a[0])
    gradient = oracles.output_gradient(case.apply_fn, case.loss_fn, case.params, *case.batch_a)
    target = np.outer(gradient, gradient)
    overlap = np.trace(target @ kernel)
    chi_pos = measure_case(case, cross=False).chi_pos
    np.testing.assert_allclose(chi_pos, overlap / (np.trace(target) * np.trace(kernel)), rtol=1e-9)
    similarity = overlap / (np.linalg.norm(target) * np.linalg.norm(kernel))
    factor = np.linalg.norm(kernel) / np.trace(kernel)
    np.testing.assert_allclose(chi_pos, similarity * factor, rtol=1e-9)
    p = np.linalg.eigvalsh(kernel) / np.trace(kernel)
    np.testing.assert_allclose(factor, np.sqrt(np.sum(p**2)), rtol=1e-9)
    assert 1 / np.sqrt(len(kernel)) <= factor <= 1


def test_preconditioner(x64):
    """With P, the components are those of J P J^T: the same as scaling parameters by sqrt(P)."""
    case = zoo.mlp()
    preconditioner = jax.tree.map(
        lambda leaf: jnp.linspace(0.5, 2.0, leaf.size).reshape(leaf.shape), case.params
    )
    measure = jax.jit(lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact()))
    out = measure(case.params, case.batch_a, case.batch_b, preconditioner=preconditioner)

    scale = jax.tree.map(jnp.sqrt, preconditioner)
    scaled = dataclasses.replace(
        case,
        params=jax.tree.map(jnp.divide, case.params, scale),
        apply_fn=lambda p, x: case.apply_fn(jax.tree.map(jnp.multiply, p, scale), x),
    )
    expected = dense(scaled, cross=True)
    for component in ("delta_loss", "chi_net", "chi_pos"):
        np.testing.assert_allclose(
            getattr(out, component), getattr(expected, component), rtol=TOLERANCE
        )


@pytest.mark.parametrize("estimator", [Exact(), Hutchinson(2), GlobalHutchinson(2)], ids=repr)
@both_batches
def test_padding_changes_nothing(x64, estimator, cross):
    case, key = zoo.tied_embeddings(), jax.random.key(1)
    padding = 3

    def padded(batch):
        # Garbage that would show: other tokens than any in the batch, repeated.
        return jax.tree.map(
            lambda leaf: jnp.concatenate([leaf, jnp.full((padding, *leaf.shape[1:]), 10)]), batch
        )

    def mask(batch):
        n = len(batch[0])
        return jnp.arange(n + padding) < n

    measure = jax.jit(
        lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=estimator, normalization="token")
    )
    plain = measure(case.params, case.batch_a, case.batch_b if cross else None, key=key)
    masked = measure(
        case.params,
        padded(case.batch_a),
        padded(case.batch_b) if cross else None,
        key=key,
        mask_a=mask(case.batch_a),
        mask_b=mask(case.batch_b) if cross else None,
    )
    exact = ("loss_a", "loss_b", "delta_loss", "chi_loss")
    if not isinstance(estimator, GlobalHutchinson):  # its signs depend on the padded shape
        exact = (*exact, "chi_net", "chi_pos", "chi_net_sem", "chi_pos_sem")
    for component in exact:
        np.testing.assert_allclose(
            getattr(masked, component), getattr(plain, component), rtol=1e-9, err_msg=component
        )


def test_gradient_handed_over(x64):
    case = zoo.tied_embeddings()
    gradient = gradient_of(case)
    measure = jax.jit(lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact()))
    own = measure(case.params, case.batch_a, case.batch_b)
    handed = measure(case.params, case.batch_a, case.batch_b, gradient_a=gradient)
    for left, right in zip(jax.tree.leaves(own), jax.tree.leaves(handed), strict=True):
        np.testing.assert_allclose(left, right, rtol=TOLERANCE)


@both_batches
def test_nu_is_what_linearisation_misses(x64, cross):
    """nu is quadratic in the update; a gradient step's linear change is -eta delta_loss."""
    case = zoo.tied_embeddings()
    batch_b = case.batch_b if cross else None
    gradient = gradient_of(case)
    measure = jax.jit(lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Exact()))

    def after(eta):
        updated = jax.tree.map(lambda p, g: p - eta * g, case.params, gradient)
        return measure(case.params, case.batch_a, batch_b, params_after=updated)

    out, smaller = after(1e-3), after(0.5e-3)
    np.testing.assert_allclose(out.linear_change, -1e-3 * out.delta_loss, rtol=1e-9)
    inputs_b, targets_b = case.batch_b if cross else case.batch_a
    updated = jax.tree.map(lambda p, g: p - 1e-3 * g, case.params, gradient)
    loss_b = case.loss_fn(jax.jit(case.apply_fn)(updated, inputs_b), targets_b)
    actual = loss_b - out.loss_b
    np.testing.assert_allclose(out.loss_change, actual, rtol=1e-9)
    # Up to the rounding of the losses, of which nu is a small difference.
    np.testing.assert_allclose(
        out.nu, out.loss_change - out.linear_change, rtol=0, atol=1e-15 * out.loss_b
    )
    np.testing.assert_allclose(out.nu / smaller.nu, 4.0, rtol=0.05)


def test_nu_is_unknown_without_the_update():
    case = zoo.mlp()
    out = measure_case(case, cross=False)
    assert np.isnan(out.nu)
    assert np.isnan(out.loss_change)
    assert np.isnan(out.linear_change)


def test_standard_errors_follow_those_of_the_norms(x64):
    """To first order, d chi_net / chi_net = (d N_A / N_A + d N_B / N_B) / 2; so too chi_pos."""
    case, key = zoo.mlp(), jax.random.key(2)
    out = measure_case(case, cross=True, estimator=Hutchinson(4), key=key)
    relative = 0.0
    norm_of = jax.jit(
        lambda inputs, key: lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, inputs, estimator=Hutchinson(4), key=key
        )
    )
    for batch, side_key in zip((case.batch_a, case.batch_b), jax.random.split(key), strict=True):
        norm = norm_of(batch[0], side_key)
        relative += (norm.sem / norm.value) ** 2 / 4
    np.testing.assert_allclose(out.chi_net_sem / out.chi_net, np.sqrt(relative), rtol=1e-9)
    np.testing.assert_allclose(out.chi_pos_sem / out.chi_pos, np.sqrt(relative), rtol=1e-9)


def test_standard_errors_are_truthful_across_batches(x64):
    """Over many keys the spread of chi_net, chi_pos and each group's is what they claim."""
    case = zoo.mlp(batch_sizes=(8, 12))
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Hutchinson(2))
    keys = jax.random.split(jax.random.key(3), 400)
    outs = jax.jit(jax.vmap(lambda key: measure(case.params, case.batch_a, case.batch_b, key=key)))(
        keys
    )
    parts = [(outs.chi_net, outs.chi_net_sem), (outs.chi_pos, outs.chi_pos_sem)]
    parts += [(g.chi_net, g.chi_net_sem) for g in outs.groups.values()]
    parts += [(g.chi_pos, g.chi_pos_sem) for g in outs.groups.values()]
    for values, sems in parts:
        claimed = np.sqrt(np.mean(np.square(sems)))
        # The standard deviation of 400 draws is itself known to 3.5 %: four of those.
        assert 0.86 < np.std(values, ddof=1) / claimed < 1.16


def test_bias_of_the_ratio_is_as_documented(x64):
    """chi_pos errs by 3 (a + b)/8 and chi_net by -(a + b)/8 of itself, far below one sem."""
    case = zoo.mlp(batch_sizes=(16, 16))
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Hutchinson(1))
    keys = jax.random.split(jax.random.key(4), 20_000)
    run = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: measure(case.params, case.batch_a, case.batch_b, key=key),
            keys,
            batch_size=5000,
        )
    )
    outs, truth = run(keys), measure_case(case, cross=True)
    squared_errors = 0.0
    for batch in (case.batch_a, case.batch_b):
        variance, traces = oracles.hutchinson_variance(case.apply_fn, case.params, batch[0], 1)
        squared_errors += variance / traces.sum() ** 2
    for values, true, factor in (
        (outs.chi_pos, truth.chi_pos, 3 / 8),
        (outs.chi_net, truth.chi_net, -1 / 8),
    ):
        ratio = np.asarray(values) / true
        noise = np.std(ratio) / np.sqrt(len(keys))
        bias = np.mean(ratio) - 1
        assert abs(bias - factor * squared_errors) < 4 * noise + 0.2 * abs(factor) * squared_errors
