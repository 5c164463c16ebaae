"""Maximal-update parametrisation (muP) of any network, by comparison with one of a base width.

Yang et al. (2021, 2022), table 8 of the latter, relative to the base width, where everything is as
in the standard parametrisation. With r the ratio of a weight's inputs to those in the base network:

| weight | axes that grow | initial scale | multiplier | Adam's rate | SGD's rate |
|---|---|---|---|---|---|
| matrices | two | base / sqrt(r) | 1 | 1 / r | 1 |
| embeddings, positions, biases, gains | the last | base | 1 | 1 | r |
| read-outs | one before the last | base | 1 / r | 1 | r |
| others | none | base | 1 | 1 | 1 |

SGD's rate of a matrix is the ratio of its outputs over that of its inputs, should they differ.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from lnpjax import parameters
from lnpjax._base.checks import check_functions, require
from lnpjax.jacobian import ApplyFn

SCALE_TOLERANCE = 0.15
"""How far from a multiple of 1/2 the exponent of an initial scale over widths may be."""


class Growth(NamedTuple):
    """How a weight grows with the width.

    Attributes:
        kind: "matrix", "vector", "readout" or "fixed".
        inputs: ratio of the inputs to those in the base network.
        outputs: ratio of the outputs.
    """

    kind: str
    inputs: float = 1.0
    outputs: float = 1.0


@dataclasses.dataclass(frozen=True)
class MaximalUpdate:
    """A network under muP, made by `maximal_update`.

    Attributes:
        apply_fn: the network with the multipliers in it.
        params: initial parameters.
        growths: how each of them grows, by path.
        scales: what initial parameters are multiplied with, by path.
        factors: the multipliers of the forward pass, by path.
    """

    apply_fn: ApplyFn
    params: PyTree
    growths: dict[str, Growth]
    scales: dict[str, float]
    factors: dict[str, float]

    def initial(self, params: PyTree) -> PyTree:
        """Bring other freshly drawn parameters of the network to the scales of muP."""
        return _scaled(params, self.scales)

    def as_standard(self, params: PyTree) -> PyTree:
        """Return the parameters with which the network without multipliers computes the same.

        But for the division of outputs where the read-out is tied.
        """
        return _scaled(params, self.factors)

    def adam(self) -> optax.GradientTransformation:
        """Return what scales the updates of optimizers that normalise gradients (Adam, Lion).

        To be chained after the optimizer and before decoupled weight decay, whose strength per step
        is then the same at all widths; after it, matrices would decay by 1 / r:

            optax.chain(
                optax.scale_by_adam(),
                network.adam(),
                optax.add_decayed_weights(0.05),
                optax.scale_by_learning_rate(rate),
            )
        """
        return self._scale(lambda growth: 1 / growth.inputs if growth.kind == "matrix" else 1.0)

    def sgd(self) -> optax.GradientTransformation:
        """Return what scales updates that are proportional to gradients (SGD, momentum).

        To be chained with the optimizer, on either side.
        """
        return self._scale(_sgd_rate)

    def _scale(self, rate_of: Any) -> optax.GradientTransformation:
        rates = {path: rate_of(growth) for path, growth in self.growths.items()}

        def update(updates: PyTree, params: PyTree | None = None) -> PyTree:
            del params
            return _scaled(updates, rates)

        return optax.stateless(update)


def maximal_update(
    apply_fn: ApplyFn,
    params: PyTree,
    base_params: PyTree,
    *,
    tied: str | None = None,
    head_widths: tuple[int, int] | None = None,
    queries: str = "query",
) -> MaximalUpdate:
    """Put a network into the maximal-update parametrisation, where all widths learn features alike.

    Which axes grow is read off the shapes, and how initial weights scale off the two networks:
    initial weights of a constant scale and those by the number of inputs are both brought to what
    muP asks for. At the base width nothing is changed, to the bit.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs``, pure, as `lnpjax.from_nnx` returns it.
        params: freshly drawn.
        base_params: those of the same network at the base width, freshly drawn.
        tied: the path of an embedding that reads out, too. The outputs are then divided by r, which
            must not have a bias.
        head_widths: of an attention head, here and in the base network, where they differ: logits
            of attention then go with 1 / d, not 1 / sqrt(d).
        queries: a regular expression that finds the weights and biases of queries in their paths.

    Returns:
        The `MaximalUpdate`.

    Raises:
        ValueError: if the networks have other parameters; if more than two axes of a weight grow,
            so that inputs cannot be told from outputs; if initial weights follow neither scale; if
            `tied` names no embedding, or none is named where no weight reads out; if `queries`
            names nothing.

    Example:
        >>> def network(params, inputs):
        ...     return jnp.tanh(inputs @ params["in"]) @ params["out"]
        >>> def draw(width):
        ...     shapes = {"in": (3, width), "out": (width, 2)}
        ...     return {k: jax.random.normal(jax.random.key(0), s) for k, s in shapes.items()}
        >>> wide = maximal_update(network, draw(256), draw(64))
        >>> wide.growths["out"]
        Growth(kind='readout', inputs=4.0, outputs=1.0)
    """
    check_functions(apply_fn=apply_fn)
    names, given = parameters.paths(params), parameters.paths(base_params)
    require(names == given, "base_params", expected=f"the parameters {names}", got=str(given))
    own, base = (dict(zip(names, jax.tree.leaves(t), strict=True)) for t in (params, base_params))
    growths = {name: _growth(name, own[name].shape, base[name].shape) for name in names}
    scales = {name: _initial_scale(name, growths[name], own[name], base[name]) for name in names}
    factors = {name: 1 / g.inputs if g.kind == "readout" else 1.0 for name, g in growths.items()}
    divisor = _check_readout(tied, growths)
    if head_widths is not None:
        found = [name for name in names if re.search(queries, name)]
        require(bool(found), "queries", expected=f"part of a path among {names}", got=repr(queries))
        for name in found:
            factors[name] *= math.sqrt(head_widths[1] / head_widths[0])

    def network(params: PyTree, *inputs: Any, **keywords: Any) -> Array:
        outputs = apply_fn(_scaled(params, factors), *inputs, **keywords)
        return outputs if divisor == 1 else outputs / divisor

    return MaximalUpdate(network, _scaled(params, scales), growths, scales, factors)


def _check_readout(tied: str | None, growths: dict[str, Growth]) -> float:
    """Return what outputs are divided by, or refuse a network that nothing would be divided in."""
    vectors = [name for name, growth in growths.items() if growth.kind == "vector"]
    readouts = [name for name, growth in growths.items() if growth.kind == "readout"]
    if tied is None:
        require(
            bool(readouts) or not vectors,
            "tied",
            expected=f"the one of {vectors} that reads out, too, as no weight has only inputs that "
            "grow with the width",
            got="None",
        )
        return 1.0
    expected = f"a weight of which the last axis alone grows with the width, of {vectors}"
    is_fixed = tied in growths and growths[tied].kind == "fixed" and not vectors
    require(tied in vectors or is_fixed, "tied", expected=expected, got=repr(tied))
    return growths[tied].outputs


def _growth(name: str, shape: Sequence[int], base: Sequence[int]) -> Growth:
    require(
        len(shape) == len(base),
        f"base_params/{name}",
        expected=f"{len(shape)} axes",
        got=f"shape {tuple(base)}",
    )
    ratios = [own / other for own, other in zip(shape, base, strict=True)]
    grown = [axis for axis, ratio in enumerate(ratios) if ratio != 1]
    require(
        len(grown) <= 2,
        f"params/{name}",
        expected="at most two axes that differ from the base network's (inputs and outputs)",
        got=f"shape {tuple(shape)} against {tuple(base)}",
    )
    if len(grown) == 2:
        return Growth("matrix", ratios[grown[0]], ratios[grown[1]])
    if not grown:
        return Growth("fixed")
    ratio = ratios[grown[0]]
    is_last = grown[0] == len(shape) - 1
    return Growth("vector", outputs=ratio) if is_last else Growth("readout", inputs=ratio)


def _initial_scale(name: str, growth: Growth, own: Array, base: Array) -> float:
    """Return what brings initial weights to the scale that muP asks for."""
    sizes = [float(np.sqrt(np.mean(np.square(np.asarray(w, np.float64))))) for w in (own, base)]
    if growth.kind in ("vector", "fixed") or growth.inputs == 1 or 0 in sizes:
        return 1.0
    exponent = math.log(sizes[0] / sizes[1]) / math.log(growth.inputs)
    rounded = round(2 * exponent) / 2
    require(
        abs(exponent - rounded) <= SCALE_TOLERANCE,
        f"params/{name}",
        expected="initial weights that scale with a power of 0, 1/2 or 1 of the number of inputs",
        got=f"{sizes[0]:.3g} against {sizes[1]:.3g} at {growth.inputs:.3g} times as many inputs",
    )
    wanted = -0.5 if growth.kind == "matrix" else 0.0
    return growth.inputs ** (wanted - rounded)


def _sgd_rate(growth: Growth) -> float:
    return growth.inputs if growth.kind == "readout" else growth.outputs / growth.inputs


def _scaled(tree: PyTree, factors: dict[str, float]) -> PyTree:
    """Multiply leaves by the factors of their paths; a factor of 1 changes no bit."""
    leaves, structure = jax.tree.flatten(tree)
    paths = parameters.paths(tree)
    scaled = [
        leaf if factors[path] == 1 else jnp.asarray(factors[path], leaf.dtype) * leaf
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, scaled)
