"""The tangent kernel of `lnpjax.models.vision.MLP` from its layers: exact, and far cheaper.

As *NTK Lens*, eq. 12, for networks in the standard parametrisation, with biases and with several
outputs (`lnpjax.theory.conjugate_kernels` has the paper's parametrisation and no biases): the
gradient of output k of sample i in the weights of a layer is an outer product ``a_i s_ik^T`` of the
layer's input and the sensitivity of the output to its pre-activations, in the biases ``s_ik``. So
``Theta = sum_l (s s^T) o (a a^T + 1)``, and no gradient is ever formed.

In another parametrisation a layer computes ``c W a + e b`` from parameters W and b. Gradients in
these are those in ``c W`` and ``e b`` times c and e, so that the layer's share of the kernel
becomes ``(s s^T) o (c^2 a a^T + e^2)``; `ntk_scales` has the squares for the NTK parametrisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Scales = Sequence[tuple[float, float]]
"""By what the gradients in the weights and in the biases of each layer count in the kernel."""


def ntk_scales(sizes: Sequence[int], *, bias: float = 0.1) -> tuple[tuple[float, float], ...]:
    """Return by what the gradients of each layer count under the NTK parametrisation.

    A layer then is ``W a / sqrt(n) + bias * b``, with n the width below it (Jacot et al. 2018,
    whose factor of the biases is the default).

    Args:
        sizes: widths from the inputs to the outputs.
        bias: factor of the biases.

    Returns:
        For each layer the squares of both factors, ``1 / n`` and ``bias^2``.

    Example:
        >>> ntk_scales((4, 2, 1), bias=1.0)
        ((0.25, 1.0), (0.5, 1.0))
    """
    return tuple((1 / below, bias**2) for below in sizes[:-1])


def _scaled(scales: Scales | None, num_layers: int) -> Scales:
    """The scales, which are 1 in the standard parametrisation."""
    return [(1.0, 1.0)] * num_layers if scales is None else scales


class LayerFactors(NamedTuple):
    """What the gradients of one layer are made of.

    Attributes:
        below: inputs of the layer, ``(B, w_below)``.
        sensitivity: derivatives of all outputs by its pre-activations, ``(B, m, w)``.
    """

    below: Float[Array, "batch below"]
    sensitivity: Float[Array, "batch outputs width"]


def layer_factors(params: PyTree, inputs: Float[Array, "batch ..."]) -> list[LayerFactors]:
    """Return the factors of every layer, from the first to the read-out.

    Args:
        params: parameters of an `MLP` with ReLU.
        inputs: as the network takes them.

    Returns:
        One `LayerFactors` per layer. Costs a forward pass and m backward passes.

    Example:
        >>> from lnpjax.models.vision import MLP
        >>> from flax import nnx
        >>> params = nnx.state(MLP((3, 4, 2), rngs=nnx.Rngs(0)), nnx.Param)
        >>> [factors.sensitivity.shape for factors in layer_factors(params, jnp.ones((5, 3)))]
        [(5, 2, 4), (5, 2, 2)]
    """
    layers = [params["layers"][index] for index in range(len(params["layers"]))]
    below, slopes = [inputs.reshape(len(inputs), -1)], []
    for layer in layers[:-1]:
        preactivations = below[-1] @ layer["kernel"][...] + layer["bias"][...]
        value, slope = jax.jvp(jax.nn.relu, (preactivations,), (jnp.ones_like(preactivations),))
        below.append(value)
        slopes.append(slope)
    num_outputs = layers[-1]["bias"][...].shape[-1]
    readout = jnp.broadcast_to(jnp.eye(num_outputs), (len(inputs), num_outputs, num_outputs))
    weights = [layer["kernel"][...].T for layer in layers[1:]]
    factors = zip(below, sensitivities(readout, weights, slopes), strict=True)
    return [LayerFactors(*pair) for pair in factors]


def sensitivities(
    last: Float[Array, "batch outputs width"],
    weights: Sequence[Float[Array, "width below"]],
    slopes: Sequence[Float[Array, "batch below"]],
) -> list[Float[Array, "batch outputs width"]]:
    """Return the derivatives of all outputs by the pre-activations of every layer.

    *NTK Lens*, eq. 13: ``s_(l-1) = (s_l W_l) o sigma'(h_(l-1))``, from the last layer down.

    Args:
        last: the sensitivity of the last layer.
        weights: ``W_l`` of the layers above the first one, in ascending order.
        slopes: the derivative of the activation below each of these, times its scale.

    Returns:
        One sensitivity for each layer, the first layer first.
    """
    downwards = [last]
    for weight, slope in zip(reversed(weights), reversed(slopes), strict=True):
        downwards.append((downwards[-1] @ weight) * slope[:, None, :])
    return downwards[::-1]


def layer_kernel(
    sensitivity: Float[Array, "bm bm"], similarity: Float[Array, "b b"]
) -> Float[Array, "bm bm"]:
    """Return the share of one layer in the kernel: one summand of *NTK Lens*, eq. 12.

    Args:
        sensitivity: ``S^T S``, the inner products of the layer's sensitivities, sample-major.
        similarity: ``X^T X``, those of its inputs; plus 1 for a layer with biases.

    Returns:
        ``(S^T S) o (X^T X)``, where an entry of the latter counts for each pair of outputs.

    Example:
        >>> layer_kernel(jnp.ones((2, 2)), jnp.array([[3.0]]))
        Array([[3., 3.],
               [3., 3.]], dtype=float32)
    """
    b, m = len(similarity), len(sensitivity) // len(similarity)
    pairs = sensitivity.reshape(b, m, b, m) * similarity[:, None, :, None]
    return pairs.reshape(b * m, b * m)


def dense_kernel(
    params: PyTree, inputs: Float[Array, "batch ..."], *, scales: Scales | None = None
) -> Float[Array, "bm bm"]:
    """Compute the kernel of all outputs, as `lnpjax.entk` returns it.

    Args:
        params: parameters of an `MLP` with ReLU.
        inputs: B samples.
        scales: of another parametrisation, as `ntk_scales`; `params` are those of the `MLP` still.

    Returns:
        ``(B m, B m)``, sample-major.

    Example:
        >>> from lnpjax.models.vision import MLP
        >>> from flax import nnx
        >>> params = nnx.state(MLP((1, 1), rngs=nnx.Rngs(0)), nnx.Param)
        >>> dense_kernel(params, jnp.array([[1.0], [2.0]]))
        Array([[2., 3.],
               [3., 5.]], dtype=float32)
    """
    kernel: Array | float = 0.0
    layers = layer_factors(params, inputs)
    for (below, sensitivity), (weight, bias) in zip(
        layers, _scaled(scales, len(layers)), strict=True
    ):
        rows = sensitivity.reshape(-1, sensitivity.shape[-1])
        kernel = kernel + layer_kernel(rows @ rows.T, weight * (below @ below.T) + bias)
    return jnp.asarray(kernel)


def dense_sample_kernel(
    params: PyTree, inputs: Float[Array, "batch ..."], *, scales: Scales | None = None
) -> Float[Array, "b b"]:
    """Compute the kernel between samples, ``trace_outputs(dense_kernel(params, inputs), m)``.

    Args:
        params: parameters of an `MLP` with ReLU.
        inputs: B samples.
        scales: of another parametrisation, as `ntk_scales`; `params` are those of the `MLP` still.

    Returns:
        ``(B, B)``; about m times cheaper than the kernel of all outputs.

    Example:
        >>> from lnpjax.models.vision import MLP
        >>> from flax import nnx
        >>> params = nnx.state(MLP((1, 1), rngs=nnx.Rngs(0)), nnx.Param)
        >>> dense_sample_kernel(params, jnp.array([[1.0], [2.0]]))
        Array([[2., 3.],
               [3., 5.]], dtype=float32)
    """
    kernel: Array | float = 0.0
    layers = layer_factors(params, inputs)
    for (below, sensitivity), (weight, bias) in zip(
        layers, _scaled(scales, len(layers)), strict=True
    ):
        rows = sensitivity.reshape(len(below), -1)
        kernel = kernel + (rows @ rows.T) * (weight * (below @ below.T) + bias)
    return jnp.asarray(kernel)


def dense_trace(
    params: PyTree, inputs: Float[Array, "batch ..."], *, scales: Scales | None = None
) -> Float[Array, ""]:
    """Compute the trace of the kernel exactly, without the kernel.

    Args:
        params: parameters of an `MLP` with ReLU.
        inputs: B samples.
        scales: of another parametrisation, as `ntk_scales`; `params` are those of the `MLP` still.

    Returns:
        ``Tr(Theta)``, a sum over samples and outputs.

    Example:
        >>> from lnpjax.models.vision import MLP
        >>> from flax import nnx
        >>> params = nnx.state(MLP((1, 1), rngs=nnx.Rngs(0)), nnx.Param)
        >>> dense_trace(params, jnp.array([[1.0], [2.0]]))
        Array(7., dtype=float32)
    """
    layers = layer_factors(params, inputs)
    shares = [
        jnp.sum(jnp.sum(sensitivity**2, axis=(1, 2)) * (weight * jnp.sum(below**2, axis=1) + bias))
        for (below, sensitivity), (weight, bias) in zip(
            layers, _scaled(scales, len(layers)), strict=True
        )
    ]
    return jnp.sum(jnp.stack(shares))


def expected_trace(
    sizes: Sequence[int], inputs: Float[Array, "batch ..."], *, scales: Scales | None = None
) -> Float[Array, ""]:
    """Return the mean of `dense_trace` over LeCun initialisations, in closed form.

    Weights of a symmetric law with variance ``1 / w_below`` and biases of zero: half of the squared
    pre-activations, and of the squared sensitivities, passes each ReLU in the mean. With L layers
    the share of the first one is ``|x|^2 / 2^(L-1)``, whatever the width, and each later one adds
    the same times ``width / pixels``. So the trace does not grow with the width before that reaches
    ``pixels / (L - 1)``: 392 for three layers on images of 784 pixels, close to where *NTK Lens*
    (Fig. 3) sees networks of that size turn from features to the kernel. Under the NTK
    parametrisation every layer has the same share, whatever the width.

    Args:
        sizes: widths from the pixels to the classes.
        inputs: B samples.
        scales: of another parametrisation, as `ntk_scales`.

    Returns:
        The expected trace, exact except for layers all of whose units are silent.

    Example:
        >>> expected_trace((4, 4, 1), jnp.ones((1, 4)))
        Array(5.5, dtype=float32)
        >>> expected_trace((4, 4, 1), jnp.ones((1, 4)), scales=ntk_scales((4, 4, 1), bias=0.0))
        Array(1., dtype=float32)
    """
    squares = jnp.sum(inputs.reshape(len(inputs), -1) ** 2, axis=1)
    num_hidden, trace = len(sizes) - 2, jnp.zeros(())
    layers = zip(sizes, _scaled(scales, num_hidden + 1), strict=False)
    for layer, (below, (weight, bias)) in enumerate(layers):
        # |a|^2 is halved by every ReLU before the layer, |s|^2 by every one after it.
        activation = squares / 2**layer * below / sizes[0]
        trace += sizes[-1] * jnp.sum(weight * activation + bias) / 2 ** (num_hidden - layer)
    return trace
