"""Transformers, which have no exact kernel: their modes are Ritz vectors from Lanczos."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from lnpjax.data import load_dataset
from lnpjax.data.batches import random_order
from lnpjax.decomposition import squared_jacobian_norm
from lnpjax.experiments.spectral_reach.mode_freezing.arms import frozen_modes
from lnpjax.experiments.spectral_reach.mode_freezing.config import FreezingConfig
from lnpjax.experiments.spectral_reach.mode_freezing.dense import Record
from lnpjax.jacobian import ApplyFn, linearize
from lnpjax.models import LlamaConfig
from lnpjax.pretraining.loss import cross_entropy
from lnpjax.spectra import ritz_modes

TAIL_ARMS = (1, 2)
"""Arms that freeze the lowest modes, and so what Ritz vectors do not resolve."""


def shape(config: FreezingConfig, hidden_size: int) -> LlamaConfig:
    """Return the shape of the Llama of a size."""
    return LlamaConfig(
        vocab_size=256,
        max_seq_len=config.context_length,
        num_layers=config.num_layers,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_heads=1,
        head_dim=hidden_size,
    )


def make_problem(config: FreezingConfig, seed: int) -> tuple[Array, Array, Array, Array]:
    """Return digits as sequences of pixels, with the pixel that follows each; then others."""
    dataset = load_dataset("digits")
    rows = random_order(dataset.num_train, seed=config.seed, stream=(seed,))
    count = config.num_sequences
    learned, others = (dataset.train(rows[i * count : (i + 1) * count]) for i in (0, 1))
    length = config.context_length
    inputs, targets, *rest = (jnp.asarray(array[:, :length]) for array in (*learned, *others))
    return inputs, targets, rest[0], rest[1]


@functools.partial(jax.jit, static_argnums=(0, 1))
def descend(
    config: FreezingConfig,
    apply_fn: ApplyFn,
    params: PyTree,
    problem: tuple[Array, Array, Array, Array],
    arm: Int[Array, ""],
    positions: tuple[Array, Array],
    order: Int[Array, " mode"],
) -> Record:
    """Train a Llama by gradient descent on the mean cross-entropy with some modes frozen.

    Modes are Ritz vectors in the Krylov space of the loss gradient, which lies in it as a whole:
    where few of them stand for many eigenmodes each, these are frozen together or not at all. The
    gradient in the outputs loses its part along frozen ones, and so does what of it, until modes
    are renewed, leaves the Krylov space, where the tail is frozen: it has no resolved mode.

    Args:
        config: the size.
        apply_fn: the network.
        params: where it starts.
        problem: inputs and targets that it learns, and others.
        arm: its number in `ARMS`.
        positions: that this network reached, and the smallest one.
        order: of ranks, for the arm "random".

    Returns:
        The `Record`.
    """
    inputs, targets, *others = problem

    def one_round(params: PyTree, key: Array) -> tuple[PyTree, Record]:
        here = linearize(apply_fn, params, inputs)
        loss, gradient = jax.value_and_grad(cross_entropy)(here.outputs, targets)
        modes = ritz_modes(here.ntk_vp, gradient, num_matvecs=config.num_matvecs)
        trace = squared_jacobian_norm(apply_fn, params, inputs, key=key).value
        frozen = frozen_modes(arm, modes.values / trace, positions, order)
        rate = config.ritz_step * targets.size / modes.values[0]
        change = jnp.vdot(gradient, here.ntk_vp(gradient)) / jnp.vdot(gradient, gradient)
        others_loss = cross_entropy(apply_fn(params, others[0]), others[1])
        record = Record(loss, others_loss, change / trace, jnp.sum(frozen))
        keeps_rest = ~jnp.isin(arm, jnp.asarray(TAIL_ARMS))

        def step(_: Array, params: PyTree) -> PyTree:
            here = linearize(apply_fn, params, inputs)
            gradient = jax.grad(cross_entropy)(here.outputs, targets)
            rest = gradient - modes.part(gradient, jnp.ones_like(frozen))
            kept = modes.part(gradient, ~frozen) + keeps_rest * rest
            return jax.tree.map(lambda p, g: p - rate * g, params, here.vjp(kept))

        return jax.lax.fori_loop(0, config.ritz_steps_per_round, step, params), record

    keys = jax.random.split(jax.random.key(config.seed), config.ritz_rounds)
    return jax.lax.scan(one_round, params, keys)[1]
