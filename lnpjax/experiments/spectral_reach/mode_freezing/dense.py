"""Dense networks under gradient descent, some modes of whose exact kernel are frozen."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from lnpjax.data.image_classes import load_image_classes
from lnpjax.experiments.spectral_reach.mode_freezing.arms import frozen_modes
from lnpjax.experiments.spectral_reach.mode_freezing.config import FreezingConfig
from lnpjax.jacobian import linearize
from lnpjax.kernel import eigenmodes, entk, project_update
from lnpjax.models.vision import MLP


class Problem(NamedTuple):
    """Images with a sign each: whether a digit is even."""

    inputs: Float[Array, "n pixels"]
    targets: Float[Array, "n 1"]
    test_inputs: Float[Array, "k pixels"]
    test_targets: Float[Array, "k 1"]


class Record(NamedTuple):
    """What is measured whenever modes are renewed; every field leads with the round.

    Attributes:
        loss: on what is learned.
        test_loss: on other samples of the kind.
        chi_pos: the spectral position.
        num_frozen: modes that are frozen.
    """

    loss: Float[Array, "*round"]
    test_loss: Float[Array, "*round"]
    chi_pos: Float[Array, "*round"]
    num_frozen: Int[Array, "*round"]


def make_problem(config: FreezingConfig, seed: int) -> Problem:
    """Return the digits of a seed, less the mean image, with +1 for even and -1 for odd ones."""
    images = load_image_classes("digits")
    rng = np.random.default_rng((config.seed, seed))
    rows = rng.choice(len(images.train), config.num_samples, replace=False)
    parts = []
    for pictures, labels in (images.train.take(rows), images.test.take(slice(0, config.num_test))):
        flat = shrunk(pictures, config.side).reshape(len(pictures), -1)
        parts += [flat, np.where(labels % 2 == 0, 1.0, -1.0)[:, None]]
    mean = parts[0].mean(axis=0)
    return Problem(*map(jnp.asarray, (parts[0] - mean, parts[1], parts[2] - mean, parts[3])))


def shrunk(
    pictures: Float[np.ndarray, "n height width 1"], side: int
) -> Float[np.ndarray, "n side side"]:
    """Return pictures of fewer pixels, each the mean of a square of those that it replaces.

    Example:
        >>> shrunk(np.arange(4.0).reshape(1, 2, 2, 1), 1)
        array([[[1.5]]])
    """
    count, block = len(pictures), pictures.shape[1] // side
    blocks = pictures.astype(float).reshape(count, side, block, side, block)
    return blocks.mean(axis=(2, 4))


def network(config: FreezingConfig, width: int, seed: int) -> tuple[nnx.GraphDef, PyTree]:
    """Return the structure of a tanh network with one output, and where it starts."""
    sizes = (config.side**2, *(width,) * config.hidden_layers, 1)
    rngs = nnx.Rngs(1000 * config.seed + seed)
    model = MLP(sizes, activation=jnp.tanh, param_dtype=jnp.float64, rngs=rngs)
    return nnx.split(model)


@functools.partial(jax.jit, static_argnums=(0, 1))
def descend(
    config: FreezingConfig,
    graphdef: nnx.GraphDef,
    params: PyTree,
    problem: Problem,
    arm: Int[Array, ""],
    positions: tuple[Array, Array],
    order: Int[Array, " mode"],
) -> Record:
    """Train a network by gradient descent on ``|f - y|^2 / 2n`` with some modes frozen.

    The update loses its part along the frozen modes (`lnpjax.kernel.project_update`), which are
    those of the kernel as it was when modes were last renewed.

    Args:
        config: the size.
        graphdef: of the network.
        params: where it starts.
        problem: what it learns.
        arm: its number in `ARMS`.
        positions: that this network reached, and the smallest one.
        order: of ranks, for the arm "random".

    Returns:
        The `Record`.
    """
    count = config.num_samples

    def apply_fn(params: PyTree, inputs: Array) -> Array:
        return nnx.merge(graphdef, params)(inputs)

    def half_mean_square(error: Array) -> Array:
        return jnp.mean(error**2) / 2

    def one_round(params: PyTree, _: None) -> tuple[PyTree, Record]:
        error = apply_fn(params, problem.inputs) - problem.targets
        kernel = entk(apply_fn, params, problem.inputs, method="batch")
        modes = eigenmodes(kernel, error / count)
        frozen = frozen_modes(arm, modes.p, positions, order)
        rate = config.step * count / modes.eigenvalues[0]
        test_error = apply_fn(params, problem.test_inputs) - problem.test_targets
        losses = half_mean_square(error), half_mean_square(test_error)
        record = Record(*losses, modes.chi_pos, jnp.sum(frozen))

        def step(_: Array, params: PyTree) -> PyTree:
            here = linearize(apply_fn, params, problem.inputs)
            gradient = here.vjp((here.outputs - problem.targets) / count)
            lost = project_update(apply_fn, params, problem.inputs, gradient, modes, frozen)
            return jax.tree.map(lambda p, g, f: p - rate * (g - f), params, gradient, lost)

        return jax.lax.fori_loop(0, config.steps_per_round, step, params), record

    return jax.lax.scan(one_round, params, None, length=config.num_rounds)[1]
