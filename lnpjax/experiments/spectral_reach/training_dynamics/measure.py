"""Take over the runs of all sizes, and train small models whose kernel is known.

The runs are those of the experiment `scaling-laws`: where a folder next to the sweep's own holds
finished ones with the same config, they are taken over, and else they are computed.

Two small models are trained besides, in double precision:

- A random feature model (Spectral Reach, A.4) by gradient descent on its whole batch. Its kernel
  ``K = Phi Phi^T`` stays, so that with the step eta the residual is ``(1 - eta K / n)^t y``. At
  every moment the components are measured by `lnpjax.lnp`, and a step is taken whose change of the
  loss equation 40 gives, with the residual in place of y: the paper states it at the start only,
  where both are the same. The kernel of several widths is compared with equation 38.
- A dense network that classifies digits, and the signs of its mode pairs across two batches
  (equation 25): the one that it learns next, and one of digits that it does not learn.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from lnpjax.data.image_classes import load_image_classes
from lnpjax.decomposition import Exact, lnp
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.random_features.config import RandomFeatureConfig
from lnpjax.experiments.random_features.measure import (
    half_mean_square,
    make_member,
    read_out,
    standardised,
)
from lnpjax.experiments.spectral_reach import units
from lnpjax.experiments.spectral_reach.training_dynamics.config import DynamicsConfig
from lnpjax.jacobian import linearize
from lnpjax.kernel import eigenmodes, entk, mode_pairs
from lnpjax.models import MLP
from lnpjax.pretraining.loss import cross_entropy
from lnpjax.theory.random_features import power_law_variances, relu_kernel

PAIRS = "pairs"
CLASSES = 10


def measure(config: DynamicsConfig, sweep: Sweep, data: Path | None) -> None:
    """Take over or compute what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of data, or None for digits.
    """
    for beta in config.features.betas:
        sweep.unit(f"features-beta{beta:g}", functools.partial(features_unit, config, beta))
    sweep.unit(PAIRS, functools.partial(pairs_unit, config))
    units.take_over_runs(config.runs, sweep, data)


def num_units(config: DynamicsConfig, data: Path | None = None) -> int:
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.training_dynamics.config import PRESETS
        >>> num_units(PRESETS["smoke"])
        10
    """
    return len(config.features.betas) + 1 + units.num_units(config.runs.tasks, data)


class Descent(NamedTuple):
    """A read-out along its training; every field leads with the moment.

    Attributes:
        chi_net: measured.
        chi_pos: measured.
        change: of the loss by one more step.
        kernel: ``Phi Phi^T``, at all moments the same.
        targets: y.
    """

    chi_net: Float[Array, " moment"]
    chi_pos: Float[Array, " moment"]
    change: Float[Array, " moment"]
    kernel: Float[Array, "n n"]
    targets: Float[Array, " n"]


_components = lnp(read_out, half_mean_square, estimator=Exact())


@functools.partial(jax.jit, static_argnums=(0, 1))
def descend(
    config: RandomFeatureConfig,
    moments: tuple[int, ...],
    step: float,
    normals: Float[Array, " number"],
    variances: Float[Array, " d"],
) -> Descent:
    """Train the read-out of a random feature model by gradient descent.

    Args:
        config: the sizes.
        moments: after how many steps it is looked at.
        step: times the largest eigenvalue of ``K / n``.
        normals: what the model is made of.
        variances: of the inputs.
    """
    member = make_member(config, normals, variances)
    targets = standardised(member.labels, centred=True)
    kernel = member.features @ member.features.T
    rate = step * len(targets) / jnp.linalg.eigvalsh(kernel)[-1]

    def moved(coefficients: Array) -> Array:
        here = linearize(read_out, coefficients, member.features)
        cotangent = jax.grad(half_mean_square)(here.outputs, targets)
        return coefficients - rate * here.vjp(cotangent)

    def look(coefficients: Array) -> tuple[Array, Array, Array]:
        out = _components(coefficients, (member.features, targets))
        losses = [
            half_mean_square(read_out(each, member.features), targets)
            for each in (coefficients, moved(coefficients))
        ]
        return out.chi_net, out.chi_pos, losses[1] - losses[0]

    def to_the_next(coefficients: Array, count: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        coefficients = jax.lax.fori_loop(0, count, lambda _, c: moved(c), coefficients)
        return coefficients, look(coefficients)

    counts = jnp.diff(jnp.array(moments), prepend=0)
    start = jnp.zeros(config.num_features, member.features.dtype)
    _, found = jax.lax.scan(to_the_next, start, counts)
    return Descent(*found, kernel, targets)


class Exactly(NamedTuple):
    """What equations say of a read-out along its training; fields lead with the moment."""

    chi_net: float
    chi_pos: Float[np.ndarray, " moment"]
    change: Float[np.ndarray, " moment"]


def predicted(
    kernel: Float[np.ndarray, "n n"],
    targets: Float[np.ndarray, " n"],
    step: float,
    moments: tuple[int, ...],
) -> Exactly:
    """Return the components by equation 42, and the change of the loss by equation 40.

    Args:
        kernel: K.
        targets: y.
        step: of gradient descent, times the largest eigenvalue of ``K / n``.
        moments: after how many steps, each with the residual then in place of y.

    Example:
        One mode, a step of half: each halves the residual, and takes 3/8 of the first loss away.

        >>> found = predicted(np.eye(1), np.ones(1), 0.5, (0, 1))
        >>> found.chi_pos.tolist(), found.change.tolist()
        ([1.0, 1.0], [-0.375, -0.09375])
    """
    eigenvalues, vectors = np.linalg.eigh(kernel)
    n = len(targets)
    rate = step * n / eigenvalues[-1]
    shrunk = (1 - rate * eigenvalues / n) ** np.array(moments)[:, None]
    squares = (shrunk * (vectors.T @ targets)) ** 2
    chi_pos = squares @ eigenvalues / (squares.sum(axis=1) * np.trace(kernel))
    linear = -rate / n**2 * (squares @ eigenvalues)
    change = linear + rate**2 / (2 * n**3) * (squares @ eigenvalues**2)
    return Exactly(float(np.trace(kernel)) / n, chi_pos, change)


def features_unit(config: DynamicsConfig, beta: float) -> UnitResult:
    """Train and measure the random feature models of one law of inputs; compare their kernels."""
    rows = []
    with jax.enable_x64(True):
        variances = power_law_variances(config.features.dimension, beta)
        for seed in range(config.num_seeds):
            normals = config.features.normals(beta, seed)
            found = jax.device_get(
                descend(config.features, config.moments, config.step, normals, variances)
            )
            truth = predicted(found.kernel, found.targets, config.step, config.moments)
            about = {"beta": beta, "seed": seed}
            rows += [
                {"kind": "moment", **about, "step": step}
                | {"chi_net": float(found.chi_net[k]), "exact_chi_net": truth.chi_net}
                | {"chi_pos": float(found.chi_pos[k]), "exact_chi_pos": float(truth.chi_pos[k])}
                | {"change": float(found.change[k]), "exact_change": float(truth.change[k])}
                for k, step in enumerate(config.moments)
            ]
        rows += [
            {"kind": "width", "beta": beta, "seed": seed, "width": width}
            | {"distance": distance_of(config, beta, seed, width)}
            for seed in range(config.num_kernels)
            for width in config.widths
        ]
    return UnitResult(rows)


def distance_of(config: DynamicsConfig, beta: float, seed: int, width: int) -> float:
    """Return how far the kernel of a width is from that of infinite width, relative to it."""
    wide = dataclasses.replace(config.features, num_features=width)
    variances = power_law_variances(wide.dimension, beta)
    member = make_member(wide, wide.normals(beta, seed), jnp.asarray(variances))
    limit = relu_kernel(member.inputs)
    off = np.asarray(member.features @ member.features.T) - limit
    return float(np.linalg.norm(off) / np.linalg.norm(limit))


def pairs_unit(config: DynamicsConfig) -> UnitResult:
    """Train small networks, and count the signs of their mode pairs."""
    with jax.enable_x64(True):
        shares = [jax.device_get(pair_shares(config, seed)) for seed in range(config.num_seeds)]
    return UnitResult(
        [
            {"kind": PAIRS, "seed": seed, "step": step}
            | {"share": float(counted[k]), "weighted": float(weighted[k]), "loss": float(loss[k])}
            for seed, (counted, weighted, loss) in enumerate(shares)
            for k, step in enumerate(config.pair_moments)
        ]
    )


def pair_shares(config: DynamicsConfig, seed: int) -> tuple[Array, Array, Array]:
    """Return the share of mode pairs that are positive, by number and by size, and the loss.

    Args:
        config: the size.
        seed: of the network and of its batches.
    """
    images = load_image_classes("digits")
    last, size = config.pair_moments[-1], config.batch_size
    rng = np.random.default_rng(seed)

    def drawn(split: str, count: int) -> tuple[Array, Array]:
        part = getattr(images, split)
        pictures, labels = part.take(rng.integers(len(part), size=count * size))
        return pictures.reshape(count, size, -1).astype(float), labels.reshape(count, size)

    learned, others = drawn("train", last + 1), drawn("test", len(config.pair_moments))
    sizes = (learned[0].shape[-1], config.hidden, CLASSES)
    network = MLP(sizes, activation=jnp.tanh, param_dtype=jnp.float64, rngs=nnx.Rngs(seed))
    graphdef, params = nnx.split(network)
    return _pair_shares(config, graphdef, params, learned, others)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pair_shares(
    config: DynamicsConfig,
    graphdef: nnx.GraphDef,
    params: PyTree,
    learned: tuple[Array, Array],
    others: tuple[Array, Array],
) -> tuple[Array, Array, Array]:
    optimizer = optax.adam(config.rate)

    def apply_fn(params: PyTree, inputs: Array) -> Array:
        return nnx.merge(graphdef, params)(inputs)

    def step(number: Array, carry: PyTree) -> PyTree:
        params, memory = carry
        here = linearize(apply_fn, params, learned[0][number])
        cotangent = jax.grad(cross_entropy)(here.outputs, learned[1][number])
        updates, memory = optimizer.update(here.vjp(cotangent), memory, params)
        return optax.apply_updates(params, updates), memory

    def look(params: PyTree, a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, ...]:
        modes = [
            eigenmodes(
                entk(apply_fn, params, inputs, method="contraction"),
                jax.grad(cross_entropy)(apply_fn(params, inputs), labels),
            )
            for inputs, labels in (b, a)
        ]
        kernel = entk(apply_fn, params, b[0], inputs2=a[0], method="contraction")
        pairs = mode_pairs(kernel, *modes)
        weighted = jnp.sum(jnp.maximum(pairs, 0)) / jnp.sum(jnp.abs(pairs))
        return jnp.mean(pairs > 0), weighted, cross_entropy(apply_fn(params, b[0]), b[1])

    def to_the_next(carry: PyTree, part: PyTree) -> tuple[PyTree, tuple[Array, ...]]:
        first, last, other = part
        carry = jax.lax.fori_loop(first, last, step, carry)
        return carry, look(carry[0], (learned[0][last], learned[1][last]), other)

    ends = jnp.array(config.pair_moments)
    begins = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    carry = (params, optimizer.init(params))
    _, found = jax.lax.scan(to_the_next, carry, (begins, ends, others))
    return found  # type: ignore[return-value]
