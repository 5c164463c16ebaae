"""J, its transpose and the kernel against the dense Jacobian; samples kept apart."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

import lnpjax
from lnpjax import parameters
from lnpjax.jacobian._linearize import linearize_samples

TOLERANCE = 1e-10
every_model = pytest.mark.parametrize("name", zoo.MODELS)


def dense_of(name):
    blocks = [block.reshape(-1, block.shape[2]) for block in oracles.dense_blocks(name)]
    return np.concatenate(blocks, axis=1)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def random_like(seed, tree):
    leaves, treedef = jax.tree.flatten(tree)
    generator = np.random.default_rng(seed)
    return treedef.unflatten([jnp.asarray(generator.normal(size=leaf.shape)) for leaf in leaves])


def close(actual, expected, **options):
    """Equal up to rounding of the largest entry."""
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(
        np.ravel(actual), np.ravel(expected), rtol=0, atol=TOLERANCE * scale, **options
    )


@every_model
def test_products_equal_the_dense_jacobian(x64, name):
    case, dense = zoo.build(name), dense_of(name)
    trainable, _ = parameters.partition(case.params, case.wrt)
    tangents = random_like(0, trainable)
    preconditioner = jax.tree.map(lambda leaf: 0.1 + leaf**2, random_like(1, trainable))

    @jax.jit
    def products(params, inputs, preconditioner):
        J = lnpjax.linearize(
            case.apply_fn, params, inputs, wrt=case.wrt, preconditioner=preconditioner
        )
        v = random_like(2, J.outputs)
        # The product with the kernel is made of the other two, so that they need no second look.
        return J.outputs, case.apply_fn(params, inputs), v, J.vjp(v), J.jvp(tangents), J.ntk_vp(v)

    outputs, direct, cotangents, vjp, jvp, product = products(
        case.params, case.batch_a[0], preconditioner
    )
    close(outputs, direct)
    close(flat(vjp), dense.T @ flat(cotangents))
    close(jvp, dense @ flat(tangents))
    close(product, dense @ (flat(preconditioner) * (dense.T @ flat(cotangents))))
    assert jax.tree.structure(vjp) == jax.tree.structure(trainable)
    assert jvp.shape == product.shape == outputs.shape
    np.testing.assert_allclose(np.vdot(cotangents, jvp), flat(vjp) @ flat(tangents), rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["mlp", "frozen_subset", "custom_vjp", "rematerialised_scan"])
def test_a_linearization_leaves_jit(x64, name):
    """It is a pytree with its pullback; and without a preconditioner the kernel is J J^T."""
    case, dense = zoo.build(name), dense_of(name)
    J = jax.jit(lambda params, x: lnpjax.linearize(case.apply_fn, params, x, wrt=case.wrt))(
        case.params, case.batch_a[0]
    )
    vector = random_like(3, J.outputs)
    close(jax.jit(lambda J, v: J.ntk_vp(v))(J, vector), dense @ dense.T @ flat(vector))


def test_without_a_forward_rule_forward_mode_would_fail():
    """The control of `custom_vjp`: plain forward mode does not get through this model."""
    case = zoo.custom_vjp()
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda p: case.apply_fn(p, case.batch_a[0]), (case.params,), (case.params,))


@pytest.mark.parametrize(
    ("wrt", "selected"),
    [
        (None, [True] * 4),
        ("layer1", [False, False, True, True]),
        (("layer1", "layer0/bias"), [True, False, True, True]),
        (lambda path: path.endswith("kernel"), [False, True, False, True]),
        ({"layer0": False, "layer1": {"kernel": True, "bias": False}}, [False, False, False, True]),
    ],
    ids=["all", "prefix", "prefixes", "function", "mask"],
)
def test_subsets(x64, wrt, selected):
    case = zoo.mlp()
    blocks = oracles.dense_jacobian(case.apply_fn, case.params, case.batch_a[0], selected)
    J = lnpjax.linearize(case.apply_fn, case.params, case.batch_a[0], wrt=wrt)
    cotangents = random_like(4, J.outputs)
    gradient = J.vjp(cotangents)
    close(flat(gradient), np.concatenate(blocks, axis=1).T @ flat(cotangents))
    shapes = [leaf.shape for leaf in jax.tree.leaves(case.params)]
    expected = [shape for shape, chosen in zip(shapes, selected, strict=True) if chosen]
    assert [leaf.shape for leaf in jax.tree.leaves(gradient)] == expected


@every_model
def test_samples_equal_rows_of_the_dense_jacobian(x64, name):
    case, dense = zoo.build(name), dense_of(name)

    @jax.jit
    def products(params, inputs):
        rows = linearize_samples(case.apply_fn, params, inputs, wrt=case.wrt)
        v = random_like(5, rows.outputs)
        each = rows.map_vjp(lambda vjp, cotangent: vjp(cotangent), v)
        return rows.outputs, case.apply_fn(params, inputs), v, rows.vjp(v), each

    outputs, direct, cotangents, summed, each = products(case.params, case.batch_a[0])
    num_samples = len(cotangents)
    weights = np.asarray(cotangents).reshape(num_samples, -1)
    expected = np.einsum("im,imp->ip", weights, dense.reshape(*weights.shape, -1))
    close(outputs, direct)
    close(flat(summed), expected.sum(axis=0))
    stacked = [np.reshape(leaf, (num_samples, -1)) for leaf in jax.tree.leaves(each)]
    close(np.concatenate(stacked, axis=1), expected)


@pytest.mark.parametrize("microbatch_size", [1, 2, 3, 4, 5, 6, 100])
def test_microbatches_change_nothing(x64, microbatch_size):
    case = zoo.mlp(batch_sizes=(5, 2))

    @jax.jit
    def products(params, inputs):
        return [
            (
                rows.outputs,
                rows.vjp(case.batch_a[1]),
                rows.map_vjp(lambda vjp, c, k: (vjp(c), k), case.batch_a[1], jnp.arange(5)),
            )
            for rows in (
                linearize_samples(case.apply_fn, params, inputs),
                linearize_samples(case.apply_fn, params, inputs, microbatch_size=microbatch_size),
            )
        ]

    whole, sliced = products(case.params, case.batch_a[0])
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(sliced), strict=True):
        np.testing.assert_allclose(right, left, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["mlp", "custom_vjp", "scan_over_layers", "llama", "frozen_subset"]
)
def test_no_copy_of_the_weights_per_sample(name):
    """Only activations carry a batch axis; the weights are stored once."""
    wide = {
        "mlp": lambda: zoo.mlp(sizes=(64, 96, 48)),
        "llama": lambda: zoo.llama(hidden_size=64, intermediate_size=96, num_layers=1),
    }
    case = wide.get(name, zoo.MODELS[name])()
    found = []

    def note(params, inputs):
        found.append(linearize_samples(case.apply_fn, params, inputs, wrt=case.wrt))

    jax.eval_shape(note, case.params, case.batch_a[0])  # shapes are enough
    (rows,) = found
    weights = {leaf.shape for leaf in jax.tree.leaves(case.params) if leaf.ndim > 1}
    stored = list(zip(rows.pullbacks.residuals, rows.pullbacks.axes, strict=True))
    for residual, axis in stored:
        if axis is not None:
            assert axis == 0
            assert residual.shape[0] == len(rows.outputs)
            assert residual.shape[1:] not in weights, "a copy of the weights for every sample"
    assert any(axis == 0 for _, axis in stored)
    if name in ("mlp", "llama"):
        largest = max(leaf.size for leaf in jax.tree.leaves(case.params))
        per_sample = [math.prod(residual.shape[1:]) for residual, axis in stored if axis == 0]
        assert max(per_sample) < largest / 4
        assert any(axis is None for _, axis in stored)


def test_weights_that_depend_on_the_sample_are_kept_per_sample(x64):
    """The control: a matrix made from the input must carry the batch axis, and still be right."""
    params = {"w": jnp.arange(6.0).reshape(3, 2) / 7}
    inputs = random_like(6, np.empty((4, 3)))

    def apply_fn(params, x):
        gated = params["w"][None] * jnp.tanh(x)[:, :, None]
        return jnp.einsum("bi,bio->bo", x, jnp.sin(gated @ params["w"].T @ params["w"]))

    rows = linearize_samples(apply_fn, params, inputs)
    cotangents = jnp.ones_like(rows.outputs)
    dense = np.concatenate(oracles.dense_jacobian(apply_fn, params, inputs), axis=1)
    close(flat(rows.vjp(cotangents)), dense.sum(axis=0))


@pytest.mark.parametrize("shape", [(4, 4), (4,), (3, 4), ()])
def test_cotangents_of_another_shape_are_refused(shape):
    case = zoo.mlp()
    J = lnpjax.linearize(case.apply_fn, case.params, case.batch_a[0])
    for product in (J.vjp, J.ntk_vp):
        with pytest.raises(
            ValueError, match=r"cotangents: expected the shape of the outputs, \(4, 3\)"
        ):
            product(jnp.ones(shape))


@pytest.mark.parametrize(
    "tangents",
    [
        lambda params: {"layer0": params["layer0"]},
        lambda params: jax.tree.map(jnp.transpose, params),
    ],
    ids=["structure", "shape"],
)
def test_tangents_unlike_the_parameters_are_refused(tangents):
    case = zoo.mlp()
    J = lnpjax.linearize(case.apply_fn, case.params, case.batch_a[0])
    with pytest.raises(ValueError, match="tangents"):
        J.jvp(tangents(case.params))


def test_a_model_that_squeezes_a_batch_of_one_is_refused():
    """`linearize_samples` promises an error where a batch of one gives another kind of row."""
    params, inputs = jnp.ones((3, 1)), jnp.ones((4, 3))
    with pytest.raises((TypeError, ValueError), match="outputs"):
        linearize_samples(lambda w, x: jnp.squeeze(x @ w), params, inputs)
