"""The tangent kernel of a multi-layer perceptron in closed form, layer by layer.

*NTK Lens*, appendix B.2.1 (after Fan and Wang, 2020). With inputs as the columns of ``X_0``, L
hidden layers of widths ``w_l`` and a read-out,

    ``X_l = sigma(W_l X_(l-1)) / sqrt(w_l)``,    ``f = W_out X_L``,

the gradient of an output in ``W_l`` is an outer product: the sensitivity of the output to the
layer's pre-activations times the layer's input. So the kernel is a sum of elementwise products of
a conjugate kernel, which is how similar two samples are to a layer, and a kernel sensitivity, which
is how similarly the outputs respond to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lnpjax._base.checks import check_floating, require
from lnpjax._base.numerics import accumulation_dtype
from lnpjax.kernel._dense import layer_kernel, sensitivities

Activation = Callable[[Array], Array]


class PerceptronParams(TypedDict):
    """Parameters of the multi-layer perceptron.

    `hidden` holds ``W_1, ..., W_L``, each ``(w_l, w_(l-1))``, with w_0 the size of an input;
    `readout` is ``(m, w_L)``, or the vector ``(w_L,)`` of the paper for one output.

    Example:
        >>> params = PerceptronParams(hidden=(jnp.ones((4, 3)),), readout=jnp.ones((2, 4)))
        >>> apply(jnp.tanh, params, jnp.ones((5, 3))).shape
        (5, 2)
    """

    hidden: tuple[Float[Array, "width below"], ...]
    readout: Float[Array, "outputs width"] | Float[Array, " width"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerKernels:
    """The tangent kernel of a multi-layer perceptron in parts; made by `layer_kernels`.

    Attributes:
        terms: the share of each layer in the tangent kernel, ``(B m, B m)``, sample-major, by the
            path of its parameter: ``hidden/0`` for W_1, ..., ``readout`` (the summands of *NTK
            Lens*, eq. 12). They add up to the kernel.
        conjugate_kernels: ``C_l = X_l^T X_l`` for l = 0, ..., L, each ``(B, B)`` (*NTK Lens*,
            eq. 10).
        sensitivities: ``Sigma_l = S_l^T S_l`` for l = 1, ..., L, each ``(B m, B m)``.
    """

    terms: dict[str, Float[Array, "bm bm"]]
    conjugate_kernels: tuple[Float[Array, "b b"], ...]
    sensitivities: tuple[Float[Array, "bm bm"], ...]

    @property
    def kernel(self) -> Float[Array, "bm bm"]:
        """The tangent kernel, the sum of `terms` (*NTK Lens*, eq. 12)."""
        return sum(self.terms.values(), jnp.zeros_like(self.terms["readout"]))


def apply(
    activation: Activation, params: PerceptronParams, inputs: Float[Array, "batch features"]
) -> Float[Array, "batch outputs"] | Float[Array, " batch"]:
    """Apply the network of *NTK Lens*, eq. 8, in the parametrisation with ``1 / sqrt(w_l)``.

    ``functools.partial(apply, activation)`` is an `apply_fn` for the rest of the library.

    Args:
        activation: sigma, elementwise.
        params: see `PerceptronParams`.
        inputs: one sample per row.

    Returns:
        The outputs ``(B, m)``, or ``(B,)`` where the read-out is a vector.

    Raises:
        TypeError: if `params` or `inputs` are not arrays of real floating-point numbers.
        ValueError: if shapes disagree.

    Example:
        >>> params = {"hidden": (jnp.ones((4, 3)),), "readout": jnp.ones(4)}
        >>> apply(jax.nn.relu, params, jnp.ones((2, 3)))
        Array([6., 6.], dtype=float32)
    """
    _check(params, inputs)
    activations, _ = _forward(activation, params, inputs)
    return activations[-1] @ params["readout"].T


def layer_kernels(
    activation: Activation, params: PerceptronParams, inputs: Float[Array, "batch features"]
) -> LayerKernels:
    """Compute the tangent kernel of the network, one term per layer.

    *NTK Lens*, eq. 12, ``Theta = X_L^T X_L + sum_l (S_l^T S_l) o (X_(l-1)^T X_(l-1))``, with the
    sensitivities of its eq. 13 from the last layer down. For m outputs every column of ``S_l``
    becomes m columns, one per output; a conjugate kernel enters once for each pair of outputs, that
    of the read-out's term only for equal ones.

    Args:
        activation: sigma, elementwise; its derivative is taken by `jax.jvp`.
        params: see `PerceptronParams`.
        inputs: one sample per row.

    Returns:
        The `LayerKernels`. Costs a forward pass, a backward pass per output, and L products of
        ``(B m, w_l)`` matrices with their transposes.

    Raises:
        TypeError: if `params` or `inputs` are not arrays of real floating-point numbers.
        ValueError: if shapes disagree.

    Example:
        >>> params = {"hidden": (jnp.ones((4, 3)),), "readout": jnp.ones(4)}
        >>> parts = layer_kernels(jax.nn.relu, params, jnp.eye(3)[:2])
        >>> parts.terms["hidden/0"]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
        >>> parts.kernel
        Array([[2., 1.],
               [1., 2.]], dtype=float32)
    """
    _check(params, inputs)
    weights, readout = params["hidden"], jnp.atleast_2d(params["readout"])
    with jax.default_matmul_precision("highest"):
        activations, slopes = _forward(activation, params, inputs)
        conjugate_kernels = tuple(_gram(layer) for layer in activations)
        last = slopes[-1][:, None, :] * readout
        grams = tuple(
            _gram(derivatives.reshape(-1, derivatives.shape[-1]))
            for derivatives in sensitivities(last, weights[1:], slopes[:-1])
        )
    terms = {
        f"hidden/{index}": layer_kernel(*factors)
        for index, factors in enumerate(zip(grams, conjugate_kernels[:-1], strict=True))
    }
    # The read-out's sensitivity is one for its own output, and zero for the others.
    terms["readout"] = jnp.kron(conjugate_kernels[-1], jnp.eye(len(readout)))
    return LayerKernels(terms, conjugate_kernels, grams)


def _forward(
    activation: Activation, params: PerceptronParams, inputs: Array
) -> tuple[list[Array], list[Array]]:
    """Return ``X_l^T`` for l = 0..L and the diagonals of ``D^l / sqrt(w_l)`` for l = 1..L.

    ``D^l`` is always followed by the ``1 / sqrt(w_l)`` of its layer, so the two stay together.
    """
    activations, slopes = [jnp.asarray(inputs)], []
    for weight in params["hidden"]:
        preactivations = activations[-1] @ weight.T
        value, slope = jax.jvp(activation, (preactivations,), (jnp.ones_like(preactivations),))
        scale = 1 / jnp.sqrt(jnp.asarray(len(weight), value.dtype))
        activations.append(scale * value)
        slopes.append(scale * slope)
    return activations, slopes


def _gram(rows: Float[Array, "n w"]) -> Float[Array, "n n"]:
    rows = rows.astype(accumulation_dtype())
    return rows @ rows.T


def _check(params: Any, inputs: Any) -> None:
    require(
        isinstance(params, dict)
        and set(params) == {"hidden", "readout"}
        and isinstance(params["hidden"], tuple | list)
        and len(params["hidden"]) >= 1,
        "params",
        expected='{"hidden": (W_1, ..., W_L), "readout": W_out} with at least one hidden layer',
        got=jax.tree.map(jnp.shape, params),
    )
    check_floating("inputs", inputs)
    require(inputs.ndim == 2, "inputs", expected="(B, features)", got=f"shape {inputs.shape}")
    below = inputs.shape[1]
    for index, weight in enumerate(params["hidden"]):
        check_floating(f"params['hidden'][{index}]", weight)
        require(
            weight.ndim == 2 and weight.shape[1] == below,
            f"params['hidden'][{index}]",
            expected=f"a matrix with {below} columns, one per unit of the layer below",
            got=f"shape {weight.shape}",
        )
        below = weight.shape[0]
    readout = params["readout"]
    check_floating("params['readout']", readout)
    require(
        readout.ndim in (1, 2) and readout.shape[-1] == below,
        "params['readout']",
        expected=f"({below},) or (outputs, {below})",
        got=f"shape {readout.shape}",
    )
