"""How learning is spread over the spectrum: the distribution whose mean is chi_pos."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from lnpjax import parameters
from lnpjax._base.checks import check_functions
from lnpjax._base.entry_points import entry_point
from lnpjax._base.intervals import Interval, scale_interval
from lnpjax._base.printing import result
from lnpjax._base.shards import AxisName, shards_over
from lnpjax.decomposition import Estimator, Hutchinson, squared_jacobian_norm
from lnpjax.decomposition._estimators import check_estimator, check_estimator_key
from lnpjax.jacobian import ApplyFn, Batch, LossFn
from lnpjax.jacobian._contract import check_training_batch, with_state
from lnpjax.spectra._lanczos import SpectralMeasure, quantiles, spectral_measure

LEVELS = (0.1, 0.5, 0.9)


@result
@dataclasses.dataclass(frozen=True)
class PositionDistribution:
    """The distribution of the loss gradient over normalised eigenvalues.

    A pytree, made by `position_distribution`.

    Attributes:
        p: nodes of the quadrature, ``lambda / Tr(Theta)``, descending.
        weights: the share ``gamma^2`` of the squared loss gradient at each; they add up to 1.
        chi_pos: the mean, the spectral position of *Spectral Reach*, eq. 9.
        chi_pos_sem: its standard error, which is that of the trace.
        sem_df: effective degrees of freedom of it (`lnpjax.Estimate.df`).
        tenth: 10 % of the squared loss gradient lies at smaller p.
        median: 50 %: the median spectral position.
        ninetieth: 90 %.
        unresolved: the weight of nodes that have not converged to eigenvalues. Lanczos resolves the
            spectrum from its top, so these stand for all of it from there down, and quantiles at
            levels below this are known by their order of magnitude at best; they go on falling as
            products are added.
        trace: ``Tr(Theta)``, estimated.
        loss: on the batch.
        measure: the quadrature in eigenvalues, with its quality.
        status: `lnpjax.Status` flags.
    """

    p: Float[Array, " node"]
    weights: Float[Array, " node"]
    chi_pos: Float[Array, ""]
    chi_pos_sem: Float[Array, ""]
    sem_df: Float[Array, ""]
    tenth: Float[Array, ""]
    median: Float[Array, ""]
    ninetieth: Float[Array, ""]
    unresolved: Float[Array, ""]
    trace: Float[Array, ""]
    loss: Float[Array, ""]
    measure: SpectralMeasure
    status: Int[Array, ""]

    def chi_pos_interval(self, coverage: float = 0.95) -> Interval:
        """Return an interval that holds the true chi_pos with this probability over the probes.

        See `lnpjax.Estimate.interval`, whose coverage this has.

        Raises:
            ValueError: if `coverage` does not lie between 0 and 1.
        """
        return scale_interval(self.chi_pos, self.chi_pos_sem, self.sem_df, coverage)


@dataclasses.dataclass(frozen=True, eq=False)
class PositionMeasure:
    """A measurement of the `PositionDistribution`, made by `position_distribution`."""

    apply_fn: ApplyFn
    loss_fn: LossFn
    num_matvecs: int
    estimator: Estimator
    wrt: parameters.Subset
    axis_name: AxisName

    @entry_point
    def __call__(
        self,
        params: PyTree,
        batch_a: Batch,
        batch_b: Batch | None = None,
        *,
        key: Key[Array, ""] | None = None,
        state: PyTree | None = None,
    ) -> PositionDistribution:
        """Measure on one batch.

        Args:
            params: the parameters.
            batch_a: ``(inputs, targets)``.
            batch_b: not used, so that `lnpjax.instrument` can call this like any measurement.
            key: a `jax.random` key, for estimators of the trace that draw.
            state: of the network besides parameters, handed to `apply_fn` and not trained.

        Returns:
            A `PositionDistribution`.
        """
        del batch_b
        shards = shards_over(self.axis_name)
        batch_a = shards.gathered("batch_a", batch_a)
        apply_fn = with_state(self, state).apply_fn
        check_estimator_key(self.estimator, key)
        check_training_batch(apply_fn, self.loss_fn, params, batch_a, argument="batch_a")
        inputs, targets = batch_a
        with jax.default_matmul_precision("highest"):
            outputs = apply_fn(params, inputs)
        loss, gradient = jax.value_and_grad(self.loss_fn)(outputs, targets)
        measure = spectral_measure(
            apply_fn,
            params,
            inputs,
            gradient,
            num_matvecs=self.num_matvecs,
            wrt=self.wrt,
        )
        trace = squared_jacobian_norm(
            apply_fn,
            params,
            inputs,
            estimator=self.estimator,
            key=key,
            wrt=self.wrt,
            axis_name=(),  # every device has the whole batch
        )
        p = measure.nodes / trace.value
        tenth, median, ninetieth = quantiles(p, measure.weights, jnp.array(LEVELS, p.dtype))
        chi_pos = measure.mean / trace.value
        distribution = PositionDistribution(
            p=p,
            weights=measure.weights,
            chi_pos=chi_pos,
            chi_pos_sem=chi_pos * trace.sem / trace.value,
            sem_df=trace.df,
            tenth=tenth,
            median=median,
            ninetieth=ninetieth,
            unresolved=jnp.sum(jnp.where(measure.converged, 0, measure.weights)),
            trace=trace.value,
            loss=loss.astype(p.dtype),
            measure=measure,
            status=measure.status | trace.status,
        )
        return shards.replicated(distribution)


def position_distribution(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    num_matvecs: int = 16,
    estimator: Estimator = Hutchinson(1),
    wrt: parameters.Subset = None,
    axis_name: AxisName = None,
) -> PositionMeasure:
    """Make a measurement of how learning is spread over the eNTK spectrum.

    chi_pos is the mean of this distribution. Lanczos from the loss gradient gives the rest of it:
    whether a small mean is all of the gradient in the tail, or a few modes at the top and the bulk
    at the bottom.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a mean over samples.
        num_matvecs: products with the kernel. The mean is exact with one; Lanczos then resolves the
            spectrum from its top, and `unresolved` says how much of the gradient lies below.
        estimator: of ``Tr(Theta)``.
        wrt: the trainable subset.
        axis_name: inside `jax.shard_map` and `jax.pmap`, the axis (or axes) over which devices hold
            parts of one batch, which is then put together on every device; ``()`` if each
            device measures its own.

    Returns:
        A pure function ``measure(params, batch, batch_b=None, *, key) -> PositionDistribution``,
        for use by itself or in `lnpjax.instrument`.

    Raises:
        TypeError: if `estimator` is not an estimator, or `apply_fn` or `loss_fn` not a function;
            when called, for wrong types of parameters, batches or keys.
        ValueError: when called, for bad batches or more products than outputs.

    Cost: 5/3 gradients for the loss gradient and the trace, and 4/3 for each product.

    Example:
        >>> measure = position_distribution(
        ...     lambda w, x: x @ w, lambda f, y: jnp.mean((f - y) ** 2), num_matvecs=2
        ... )
        >>> batch = (jnp.diag(jnp.array([2.0, 1.0])), jnp.ones((2, 1)))
        >>> out = measure(jnp.zeros((2, 1)), batch, key=jax.random.key(0))
        >>> out.p.round(3), out.weights.round(3)
        (Array([0.8, 0.2], dtype=float32), Array([0.5, 0.5], dtype=float32))
    """
    check_estimator(estimator)
    check_functions(apply_fn=apply_fn, loss_fn=loss_fn)
    return PositionMeasure(apply_fn, loss_fn, num_matvecs, estimator, wrt, axis_name)
