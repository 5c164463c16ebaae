"""Paths, subsets, groups and inner products of parameter pytrees."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lnpjax
from lnpjax import parameters
from lnpjax._base import numerics

PARAMS = {
    "body": [{"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, {"kernel": jnp.ones((3, 3))}],
    "bodyguard": jnp.ones(4),
    "head": jnp.ones((3, 1)),
}
PATHS = ["body/0/bias", "body/0/kernel", "body/1/kernel", "bodyguard", "head"]


class Pair(NamedTuple):
    weight: float
    scale: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Projections:
    query: float
    key: float
    value: float


def test_paths():
    assert parameters.paths(PARAMS) == PATHS
    assert parameters.paths((1.0, {"x": 2.0}, Pair(3.0, 4.0))) == [
        "0",
        "1/x",
        "2/weight",
        "2/scale",
    ]
    assert parameters.paths(1.0) == [""]


def test_paths_of_an_nnx_state():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(2)])
            self.value = nnx.Linear(2, 2, use_bias=False, rngs=rngs)

    _, params = lnpjax.from_nnx(Block(nnx.Rngs(0)))
    assert set(parameters.paths(params)) == {
        "layers/0/bias",
        "layers/0/kernel",
        "layers/1/bias",
        "layers/1/kernel",
        "value/kernel",
    }


def test_a_field_called_value_is_part_of_the_path():
    assert parameters.paths({"attention": Projections(1.0, 2.0, 3.0)}) == [
        "attention/query",
        "attention/key",
        "attention/value",
    ]


@pytest.mark.parametrize(
    ("wrt", "expected"),
    [
        (None, PATHS),
        ("body", PATHS[:3]),
        ("body/1", ["body/1/kernel"]),
        (["head", "body/0/bias"], ["body/0/bias", "head"]),
        (("bodyguard",), ["bodyguard"]),
        (lambda path: path.endswith("kernel"), ["body/0/kernel", "body/1/kernel"]),
        (True, PATHS),
        ({"body": [False, True], "bodyguard": False, "head": True}, ["body/1/kernel", "head"]),
    ],
)
def test_partition_and_combine(wrt, expected):
    trainable, frozen = parameters.partition(PARAMS, wrt)
    assert parameters.paths(trainable) == expected
    assert sorted(parameters.paths(trainable) + parameters.paths(frozen)) == sorted(PATHS)
    merged = parameters.combine(trainable, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    for left, right in zip(jax.tree.leaves(merged), jax.tree.leaves(PARAMS), strict=True):
        assert left is right


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    """A pytree that can be called, as the modules of Equinox can."""

    weight: object
    bias: object

    def __call__(self, x):
        raise AssertionError("a pytree of booleans is not a function of paths")


@pytest.mark.parametrize("true", [True, np.True_])
def test_a_pytree_of_booleans_may_be_callable(true):
    params = Module(jnp.ones((2, 2)), jnp.ones(2))
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    assert callable(mask)
    mask = Module(true & mask.weight, mask.bias)
    assert parameters.paths(parameters.partition(params, mask)[0]) == ["weight"]
    with pytest.raises(TypeError, match=r"^wrt: expected Python booleans .*'float'"):
        parameters.partition(params, Module(1.0, 0.0))


def test_a_function_of_paths_may_be_a_pytree():
    ends_with = jax.tree_util.Partial(lambda end, path: path.endswith(end), "t")
    params = Module(jnp.ones((2, 2)), jnp.ones(2))
    assert parameters.paths(parameters.partition(params, ends_with)[0]) == ["weight"]


def test_fit_tells_leaves_by_their_paths():
    like = {"a": {"x": jnp.zeros(2), "y": None}, "b": [jnp.zeros(()), jnp.zeros(3)]}
    tree = {"b": (1.0, jnp.ones(3)), "a": Part(x=np.full(2, 2.0))}
    found = parameters.fit("tree", tree, like)
    assert jax.tree.structure(found) == jax.tree.structure(like)
    np.testing.assert_array_equal(found["a"]["x"], 2)
    np.testing.assert_array_equal(found["b"][1], 1)
    message = r"^tree: expected .*, got \['a/x', 'c'\], without 'b/0', 'b/1', with 'c'"
    with pytest.raises(ValueError, match=message):
        parameters.fit("tree", {"a": {"x": np.ones(2)}, "c": 1.0}, like)
    with pytest.raises(ValueError, match=r"^tree/a/x: expected shape \(2,\), got shape \(3,\)"):
        parameters.fit("tree", tree | {"a": {"x": np.ones(3)}}, like)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Part:
    x: object


def test_partition_keeps_none_and_frozen_integers():
    params = {"w": jnp.ones(2), "table": jnp.arange(3), "nothing": None}
    trainable, frozen = parameters.partition(params, "w")
    merged = parameters.combine(trainable, frozen)
    assert merged["nothing"] is None
    assert merged["table"] is params["table"]


def test_gradients_see_only_the_trainable_part():
    trainable, frozen = parameters.partition(PARAMS, "head")
    gradient = jax.grad(lambda t: jnp.sum(parameters.combine(t, frozen)["head"] ** 2))(trainable)
    assert parameters.paths(gradient) == ["head"]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (None, {"body": (0, 1, 2), "bodyguard": (3,), "head": (4,)}),
        (lnpjax.by_depth(2), {"body/0": (0, 1), "body/1": (2,), "bodyguard": (3,), "head": (4,)}),
        (
            lambda path: path.split("/")[-1],
            {"bias": (0,), "kernel": (1, 2), "bodyguard": (3,), "head": (4,)},
        ),
        ("head", {"other": (0, 1, 2, 3), "head": (4,)}),
        (["body/1", "body"], {"body": (0, 1), "body/1": (2,), "other": (3, 4)}),
        (lambda path: 7, {"7": (0, 1, 2, 3, 4)}),
    ],
)
def test_groups(groups, expected):
    members = parameters.group_leaves(PARAMS, groups)
    assert members == expected
    assert sorted(index for indices in members.values() for index in indices) == list(range(5))


def test_frozen_leaves_belong_to_no_group():
    trainable, _ = parameters.partition(PARAMS, ("head", "body/0"))
    assert parameters.group_leaves(trainable, None) == {"body": (0, 1), "head": (2,)}


def test_inner_products_per_leaf_and_group(x64):
    generator = np.random.default_rng(0)
    left, right, weights = (
        {
            "a": {"x": generator.normal(size=(3, 2)), "y": generator.normal(size=4)},
            "b": generator.normal(size=5),
        }
        for _ in range(3)
    )
    arrays = [jax.tree.map(jnp.asarray, tree) for tree in (left, right, weights)]
    leaves = list(zip(*(jax.tree.leaves(tree) for tree in (left, right, weights)), strict=True))
    plain = numerics.leaf_inner_products(*arrays[:2])
    np.testing.assert_allclose(plain, [np.sum(a * b) for a, b, _ in leaves], rtol=1e-13)
    weighted = numerics.leaf_inner_products(*arrays[:2], weights=arrays[2])
    expected = np.array([np.sum(a * b * w) for a, b, w in leaves])
    np.testing.assert_allclose(weighted, expected, rtol=1e-13)
    grouped = numerics.sum_groups(weighted, parameters.group_leaves(left, None))
    np.testing.assert_allclose(grouped, [expected[:2].sum(), expected[2]], rtol=1e-13)


def test_groups_are_summed_along_the_last_axis():
    values = jnp.arange(12.0).reshape(2, 2, 3)
    sums = numerics.sum_groups(values, {"z": (2,), "a": (1, 0)})
    np.testing.assert_array_equal(sums[..., 0], values[..., 2])
    np.testing.assert_array_equal(sums[..., 1], values[..., 0] + values[..., 1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_accumulates_in_float32(dtype):
    """In float16 the sum overflows beyond 65504; in bfloat16 it would stop growing at 256."""
    tree = {"a": jnp.full(100_000, 1.0, dtype)}
    total = numerics.leaf_inner_products(tree, tree)
    assert total.dtype == jnp.float32
    assert total[0] == 100_000


def test_accumulation_dtype():
    assert numerics.accumulation_dtype() == jnp.float32


def test_accumulation_dtype_under_x64(x64):
    assert numerics.accumulation_dtype() == jnp.float64
    tree = {"a": jnp.ones(3, jnp.float32)}
    total = numerics.leaf_inner_products(tree, tree)
    assert total.dtype == jnp.float64


@pytest.mark.compiled_as_by_users
def test_sums_of_many_squares_keep_their_digits():
    leaf = np.random.default_rng(0).normal(size=(8, 64, 4096)).astype(np.float32)
    exact = np.sum(leaf.astype(np.float64) ** 2)
    for found in (
        jax.jit(lambda x: numerics.accurate_sum(x**2))(leaf),
        jax.jit(numerics.leaf_inner_products)(leaf, leaf)[0],
        jnp.sum(jax.jit(jax.vmap(numerics.leaf_inner_products))(leaf, leaf)),
    ):
        np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_groups_of_what_linen_calls_variables_are_modules():
    variables = {"params": {"Dense_0": {"bias": 2.0, "kernel": 1.0}, "Dense_1": {"kernel": 3.0}}}
    groups = parameters.group_leaves(variables, None)
    assert groups == {"params/Dense_0": (0, 1), "params/Dense_1": (2,)}
    assert parameters.group_leaves(variables | {"scale": 1.0}, None) == {
        "params": (0, 1, 2),
        "scale": (3,),
    }
