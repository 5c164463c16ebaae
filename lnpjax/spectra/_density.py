"""The eigenvalue density of the empirical NTK, by stochastic Lanczos quadrature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_count, check_key
from lnpjax._base.entry_points import entry_point
from lnpjax._base.printing import result
from lnpjax._base.scaling import unit_of
from lnpjax.jacobian import ApplyFn, OutputSubset, linearize
from lnpjax.jacobian._outputs import restrict
from lnpjax.jacobian._preconditioners import fit_preconditioner
from lnpjax.jacobian._probes import rademacher
from lnpjax.spectra._lanczos import measure_at

Moments = Float[Array, " moment"]


@result
@dataclasses.dataclass(frozen=True)
class SpectralDensity:
    """The eigenvalue density of Theta, as spectral measures of random vectors.

    A pytree, made by `spectral_density`.

    Attributes:
        nodes: of each probe's quadrature, ``(probes, k)``.
        weights: of these nodes, in numbers of eigenvalues: they add up to `dimension` for each
            probe. Their mean over probes is an unbiased picture of the density up to the
            quadrature.
        dimension: N, the number of eigenvalues.
        status: `lnpjax.Status` flags.
    """

    nodes: Float[Array, "probe node"]
    weights: Float[Array, "probe node"]
    dimension: Int[Array, ""]
    status: Int[Array, ""]

    @property
    def trace(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """``sum_k lambda_k`` and its standard error; unbiased."""
        return self.estimate(lambda moments: moments[0])

    @property
    def effective_rank(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The effective rank (*NTK Lens*, eq. 3) and its standard error, to first order.

        ``exp(log T - sum_k lambda_k log(lambda_k) / T)`` with the trace T.
        """
        return self._scale_free(lambda m: jnp.exp(jnp.log(m[0]) - m[2] / m[0]))

    @property
    def inverse_participation_ratio(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """``sum lambda^2 / (sum lambda)^2`` and its standard error, to first order."""
        return self._scale_free(lambda moments: moments[1] / moments[0] ** 2)

    def _scale_free(
        self, function: Callable[[Moments], Float[Array, ""]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Call `estimate` with nodes in a unit in which squares do not overflow."""
        scaled = dataclasses.replace(self, nodes=self.nodes / unit_of(self.nodes))
        return scaled.estimate(function)

    def counts(
        self, edges: Float[Array, " edge"]
    ) -> tuple[Float[Array, " bin"], Float[Array, " bin"]]:
        """Count eigenvalues between edges, with standard errors; a value at an edge is above it.

        Args:
            edges: ascending.

        Returns:
            Means and standard errors over probes, one for each of the ``len(edges) - 1`` bins.
        """
        inside = (self.nodes[..., None] >= edges[:-1]) & (self.nodes[..., None] < edges[1:])
        counts = jnp.sum(jnp.where(inside, self.weights[..., None], 0), axis=1)
        num_probes = len(counts)
        spread = jnp.sum((counts - jnp.mean(counts, axis=0)) ** 2, axis=0)
        return jnp.mean(counts, axis=0), jnp.sqrt(spread / (num_probes * (num_probes - 1)))

    def estimate(
        self, function: Callable[[Moments], Float[Array, ""]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Estimate a function of ``sum lambda``, ``sum lambda^2`` and ``sum lambda log lambda``.

        Args:
            function: of the three numbers.

        Returns:
            The function at their means over probes, and its standard error to first order.
        """
        positive = jnp.maximum(self.nodes, 0)
        logarithms = positive * jnp.log(jnp.where(positive > 0, positive, 1))
        values = jnp.stack([self.nodes, self.nodes**2, logarithms])
        moments = jnp.sum(self.weights * values, axis=2)  # (moment, probe)
        means, num_probes = jnp.mean(moments, axis=1), moments.shape[1]
        centred = moments - means[:, None]
        slope = jax.grad(function)(means)
        variance = jnp.sum((slope @ centred) ** 2) / (num_probes * (num_probes - 1))
        return function(means), jnp.sqrt(variance)


@entry_point
def spectral_density(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    *,
    num_matvecs: int,
    key: Key[Array, ""],
    num_probes: int = 8,
    outputs: OutputSubset = None,
    wrt: parameters.Subset = None,
    preconditioner: PyTree | None = None,
) -> SpectralDensity:
    """Estimate the eigenvalue density of the empirical NTK, without the kernel.

    The spectral measures of random sign vectors average to the density (stochastic Lanczos
    quadrature). Standard errors come from the spread between probes. They do not hold what the
    quadrature leaves out, which falls with `num_matvecs`: there is none in the trace and in the sum
    of squares, and most in `SpectralDensity.counts`, since all probes place their nodes alike. The
    entropy, and with it the effective rank, comes down from above as products are added, and slowly
    where the tail of the spectrum holds much of the trace: that of a trained language model was
    39 % lower with 16 products than with 8. Measure with half the products too before you rely on
    it. Ratios and exponentials of noisy means carry a bias of the order of the
    squared relative error.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        params: any pytree.
        inputs: any pytree whose leaves lead with the B samples.
        num_matvecs: products with Theta for each probe, at least two.
        key: a `jax.random` key.
        num_probes: random vectors, at least two.
        outputs: which outputs of each sample to keep (`lnpjax.jacobian.select_outputs`).
        wrt: the trainable subset.
        preconditioner: optional diagonal P >= 0, for J P J^T.

    Returns:
        A `SpectralDensity`.

    Raises:
        TypeError, ValueError: for bad networks or batches; if `num_probes` or `num_matvecs` is
            less than two.

    Cost: for each probe, one after the other, a forward pass and 4/3 gradients for each product.

    Example:
        >>> scale = lambda w, x: w * x
        >>> density = spectral_density(
        ...     scale,
        ...     jnp.ones(3),
        ...     jnp.array([[1.0, 2.0, 3.0]]),
        ...     num_matvecs=3,
        ...     key=jax.random.key(0),
        ... )
        >>> trace, error = density.trace
        >>> round(float(trace), 3), round(float(error), 3)
        (14.0, 0.0)
    """
    check_key("key", key, drawn_by="spectral_density")
    check_count("num_probes", num_probes, least=2)
    check_count("num_matvecs", num_matvecs, least=2)
    network = apply_fn if outputs is None else restrict(apply_fn, outputs)
    with jax.default_matmul_precision("highest"):
        linearization = linearize(network, params, inputs, wrt=wrt, preconditioner=preconditioner)
    shape, dtype = linearization.outputs.shape, numerics.accumulation_dtype()

    def of_probe(probe_key: Key[Array, ""]) -> tuple[Array, Array, Array]:
        signs = rademacher(probe_key, shape, dtype)
        measure = measure_at(linearization.ntk_vp, signs, num_matvecs=num_matvecs)
        return measure.nodes, measure.weights * measure.total, measure.status

    _, negative = fit_preconditioner(preconditioner, parameters.partition(params, wrt)[0])
    nodes, weights, status = jax.lax.map(of_probe, jax.random.split(key, num_probes))
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        dimension=jnp.int32(linearization.outputs.size),
        status=jax.lax.reduce(status, jnp.int32(0), jax.lax.bitwise_or, (0,)) | negative,
    )
