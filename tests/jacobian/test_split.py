"""`SplitModel`: the same numbers as the model in one piece, by another way."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo

import lnpjax
from lnpjax import Exact, Hutchinson, SplitModel
from lnpjax.jacobian._split import ROOT_BLOCK, semidefinite_root

OUTER = ("table", "kernel")
LARGE = ROOT_BLOCK + 30


def split_case(positions=(5,)):
    """Two positions often share a token: the Gram matrix must see it."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "kernel": jax.random.normal(keys[0], (4, 7)),
        "mix": {"w": jax.random.normal(keys[1], (3, 4)), "b": jax.random.normal(keys[2], (4,))},
        "table": jax.random.normal(keys[3], (5, 3)),
    }

    def body(params, embedded):
        mixed = jnp.cumsum(embedded, axis=1) if positions else embedded
        return jnp.tanh(mixed @ params["mix"]["w"] + params["mix"]["b"])

    def batch(seed, n):
        k1, k2 = jax.random.split(jax.random.key(seed))
        shape = (n, *positions)
        return jax.random.randint(k1, shape, 0, 5), jax.random.randint(k2, shape, 0, 7)

    model = SplitModel(body, embedding="table", readout="kernel")
    return zoo.Case(model, zoo.cross_entropy, params, batch(1, 4), batch(2, 3))


def in_one_piece(case):
    return dataclasses.replace(case, apply_fn=lambda p, x: case.apply_fn(p, x))


def many(case, count, **options):
    measure = lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Hutchinson(2), wrt=case.wrt)
    keys = jax.random.split(jax.random.key(3), count)
    return jax.jit(
        jax.vmap(lambda key: measure(case.params, case.batch_a, case.batch_b, key=key, **options))
    )(keys)


def assert_mean(values, expected, scale=1.0):
    values = scale * np.asarray(values)
    noise = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - expected) < 4 * noise + 1e-12 * abs(expected)


@pytest.mark.parametrize("positions", [(5,), ()], ids=["sequence", "one token"])
@pytest.mark.parametrize("wrt", [None, "mix", OUTER, "table", ("kernel", "mix")], ids=str)
def test_split_model_has_the_same_gradient_and_norm(x64, wrt, positions):
    case = dataclasses.replace(split_case(positions), wrt=wrt)
    whole = lnpjax.lnp(in_one_piece(case).apply_fn, case.loss_fn, estimator=Exact(), wrt=wrt)
    exact = jax.jit(whole)(case.params, case.batch_a, case.batch_b)
    draws = many(case, 300)
    np.testing.assert_allclose(draws.delta_loss, exact.delta_loss, rtol=1e-10)
    np.testing.assert_allclose(draws.chi_loss, exact.chi_loss, rtol=1e-10)
    assert list(draws.groups) == list(exact.groups)
    for name, group in draws.groups.items():
        np.testing.assert_allclose(group.delta_loss, exact.groups[name].delta_loss, rtol=1e-10)

    norm = jax.jit(
        jax.vmap(
            lambda key: lnpjax.squared_jacobian_norm(
                case.apply_fn, case.params, case.batch_a[0], wrt=wrt, key=key
            )
        )
    )(jax.random.split(jax.random.key(4), 300))
    truth = jax.jit(
        lambda params: lnpjax.squared_jacobian_norm(
            in_one_piece(case).apply_fn, params, case.batch_a[0], wrt=wrt, estimator=Exact()
        )
    )(case.params)
    for name, value in truth.groups.items():
        assert_mean(norm.groups[name], value)
        with pytest.raises(AssertionError):
            assert_mean(norm.groups[name], value, scale=1.5)


def test_ids_that_count_from_the_end(x64):
    """Id -1 is the row of id 4; one sample that reads it by both names has one gradient for it."""
    case = split_case()
    ids, targets = case.batch_a
    renamed = jnp.where(jnp.arange(ids.size).reshape(ids.shape) % 2, ids, ids - 5)
    assert len(np.unique(renamed)) > len(np.unique(ids))
    np.testing.assert_array_equal(
        case.apply_fn(case.params, renamed), case.apply_fn(case.params, ids)
    )
    measure = jax.jit(lnpjax.lnp(case.apply_fn, case.loss_fn, estimator=Hutchinson(2)))
    arguments = {"key": jax.random.key(8)}
    expected = measure(case.params, (ids, targets), **arguments)
    found = measure(case.params, (renamed, targets), **arguments)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize("outside", [5, -6])
def test_ids_outside_of_the_table_are_flagged_under_jit(outside):
    case = split_case()
    ids = case.batch_a[0].at[0, 0].set(outside)
    found = jax.jit(
        lambda ids: lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, ids, key=jax.random.key(0)
        )
    )(ids)
    assert lnpjax.Status.NON_FINITE in lnpjax.Status(int(found.status))
    with pytest.raises(ValueError, match=r"^inputs: expected ids from -5 to 4"):
        case.apply_fn(case.params, ids)


def test_read_out_is_exact(x64):
    """V |h|^2 needs no probe: every draw is the truth."""
    case = split_case()
    draws = many(case, 5)
    blocks = oracles.dense_jacobian(case.apply_fn, case.params, case.batch_a[0])
    norm = jax.jit(
        lambda key: lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, case.batch_a[0], key=key
        )
    )(jax.random.key(5))
    np.testing.assert_allclose(norm.groups["kernel"], np.sum(blocks[0] ** 2), rtol=1e-10)
    assert np.ptp(draws.groups["kernel"].delta_loss) == 0


def test_less_noise_than_in_one_piece(x64):
    case = split_case()
    spread = [np.std(many(c, 400).chi_net) for c in (case, in_one_piece(case))]
    assert spread[0] < spread[1]


def test_preconditioner_reaches_the_closed_forms(x64):
    case = split_case()
    preconditioner = jax.tree.map(
        lambda leaf: jnp.linspace(0.5, 2.0, leaf.size).reshape(leaf.shape), case.params
    )
    exact = lnpjax.squared_jacobian_norm(
        in_one_piece(case).apply_fn,
        case.params,
        case.batch_a[0],
        estimator=Exact(),
        preconditioner=preconditioner,
    )
    draws = jax.vmap(
        lambda key: lnpjax.squared_jacobian_norm(
            case.apply_fn, case.params, case.batch_a[0], key=key, preconditioner=preconditioner
        )
    )(jax.random.split(jax.random.key(6), 300))
    for name, value in exact.groups.items():
        assert_mean(draws.groups[name], value)


def test_microbatches_fall_back_to_probes_everywhere(x64):
    case = split_case()
    sliced = Hutchinson(2, microbatch_size=2)

    @jax.jit
    def both(params, inputs, key):
        whole = in_one_piece(case).apply_fn
        return [
            lnpjax.squared_jacobian_norm(network, params, inputs, estimator=estimator, key=key)
            for network, estimator in ((case.apply_fn, sliced), (whole, Hutchinson(2)))
        ]

    left, right = both(case.params, case.batch_a[0], jax.random.key(7))
    np.testing.assert_allclose(left.value, right.value, rtol=1e-12)


def test_llama_splits_itself(x64):
    from flax import nnx

    from lnpjax.models import Llama, LlamaConfig, split_llama

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_layers=1,
        num_heads=2,
        max_seq_len=8,
        dtype="float64",
        param_dtype="float64",
    )
    model = nnx.jit(lambda: Llama(config, rngs=nnx.Rngs(0)))()
    split, params = split_llama(model)
    whole, whole_params = lnpjax.from_nnx(model)
    tokens = zoo._tokens(8, 3, 5, 11)[0]
    assert isinstance(split, SplitModel)
    np.testing.assert_array_equal(split(params, tokens), whole(whole_params, tokens))
    tied_config = dataclasses.replace(config, tie_embeddings=True)
    tied = nnx.jit(lambda: Llama(tied_config, rngs=nnx.Rngs(0)))()
    assert not isinstance(split_llama(tied)[0], SplitModel)


@pytest.mark.parametrize(("size", "rank"), [(6, 6), (6, 3), (6, 0), (LARGE, LARGE), (LARGE, 50)])
def test_semidefinite_root(x64, size, rank):
    half = jax.random.normal(jax.random.key(9), (size, rank))
    matrix = half @ half.T
    root = semidefinite_root(matrix)
    np.testing.assert_allclose(root @ root.T, matrix, atol=1e-12)
    np.testing.assert_array_equal(root, np.tril(root))
    if rank == size:
        np.testing.assert_allclose(root, np.linalg.cholesky(matrix), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": "tabel"}, r"embedding: expected the path of a matrix .* got 'tabel'"),
        ({"readout": "mix/b"}, r"readout: expected the path of a matrix .* got 'mix/b'"),
        (
            {"body": lambda p, x: x @ p["table"].T[:, :4]},
            r"body: expected a function that reads neither .* tied.* got one that reads 'table'",
        ),
    ],
)
def test_bad_splits_are_refused(change, message):
    case = split_case()
    model = dataclasses.replace(case.apply_fn, **change)
    with pytest.raises(ValueError, match=message):
        lnpjax.squared_jacobian_norm(model, case.params, case.batch_a[0], key=jax.random.key(0))
