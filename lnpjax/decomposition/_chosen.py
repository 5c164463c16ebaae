"""A few samples of a batch, chosen at random, whose Jacobians stand for those of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class ChosenSamples:
    """A linearised batch of which few samples are linearised one by one, once they are chosen.

    Attributes:
        whole: the batch.
        inputs: its inputs.
        linearize: of inputs of some samples.
        count: how many samples are chosen.
    """

    whole: Any
    inputs: PyTree
    linearize: Callable[[PyTree], Any]
    count: int

    @property
    def outputs(self) -> Float[Array, "batch ..."]:
        """Of the whole batch."""
        return self.whole.outputs

    def vjp(self, cotangents: Float[Array, "batch ..."]) -> PyTree:
        """Return the gradient, summed over the whole batch."""
        return self.whole.vjp(cotangents)

    def of(self, rows: Int[Array, " chosen"]) -> Any:
        """Linearise some samples one by one."""
        return self.linearize(jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], self.inputs))


def choose(key: Key[Array, ""], mask: Bool[Array, " batch"], count: int) -> Int[Array, " chosen"]:
    """Choose samples without replacement, valid ones first.

    Args:
        key: a `jax.random` key.
        mask: False for samples that only pad the batch.
        count: how many.

    Example:
        >>> mask = jnp.array([False, True, True])
        >>> sorted(choose(jax.random.key(0), mask, 2).tolist())
        [1, 2]
    """
    places = jnp.where(mask, jax.random.uniform(key, mask.shape), 2.0)
    return jnp.argsort(places)[:count]


def chosen_rows(
    key: Key[Array, ""], mask: Bool[Array, " batch"], count: int
) -> Bool[Array, " batch"]:
    """Return which samples `choose` takes, without those that only pad."""
    taken = jnp.zeros_like(mask).at[choose(key, mask, count)].set(True)
    return taken & mask
