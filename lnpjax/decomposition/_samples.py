"""Which samples of a batch carry the loss gradient, and which the Jacobian."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_functions, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.printing import result
from lnpjax.decomposition._estimators import Estimator, Hutchinson, check_estimator
from lnpjax.decomposition._squared_norm import squared_jacobian_norm
from lnpjax.jacobian import ApplyFn, Batch, LossFn
from lnpjax.jacobian._contract import check_training_batch, with_state
from lnpjax.jacobian._losses import loss_status, sample_losses
from lnpjax.status import Status, flag


@result
@dataclasses.dataclass(frozen=True)
class SampleComponents:
    """The scales of loss and network for every sample of a batch. A pytree.

    Attributes:
        loss: of each sample alone.
        chi_loss: ``|d loss_i / d f_i|^2``. Their mean is the `chi_loss` of `lnpjax.lnp` where A =
            B.
        chi_net: ``|J_i|_F^2``, estimated. Their mean is its `chi_net`.
        status: `lnpjax.Status` flags.

    Example:
        >>> import lnpjax
        >>> measure = sample_components(lambda w, x: x @ w, lambda f, y: jnp.mean((f - y) ** 2))
        >>> out = measure(jnp.zeros((2, 1)), (jnp.eye(2), jnp.ones((2, 1))), key=jax.random.key(0))
        >>> out.loss, lnpjax.describe_status(out.status)
        (Array([1., 1.], dtype=float32), 'ok')
    """

    loss: Float[Array, " batch"]
    chi_loss: Float[Array, " batch"]
    chi_net: Float[Array, " batch"]
    status: Int[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class SampleMeasure:
    """A measurement of `SampleComponents`, made by `sample_components`."""

    apply_fn: ApplyFn
    loss_fn: LossFn
    estimator: Estimator
    wrt: parameters.Subset

    @entry_point
    def __call__(
        self,
        params: PyTree,
        batch_a: Batch,
        batch_b: Batch | None = None,
        *,
        key: Key[Array, ""] | None = None,
        state: PyTree | None = None,
    ) -> SampleComponents:
        """Measure each sample of a batch.

        Args:
            params: the parameters.
            batch_a: ``(inputs, targets)``.
            batch_b: not used, so that `lnpjax.instrument` can call this like any measurement.
            key: a `jax.random` key, for estimators that draw.
            state: of the network besides parameters, handed to `apply_fn` and not trained.

        Returns:
            `SampleComponents`, in the order of the batch.

        Raises:
            TypeError, ValueError: for bad parameters, batches or keys; outside of `jit`, if samples
                interact.
        """
        del batch_b
        apply_fn = with_state(self, state).apply_fn
        check_training_batch(apply_fn, self.loss_fn, params, batch_a, argument="batch_a")
        inputs, targets = batch_a
        norm = squared_jacobian_norm(
            apply_fn,
            params,
            inputs,
            estimator=self.estimator,
            key=key,
            wrt=self.wrt,
            axis_name=(),  # samples stay on their device
        )
        with jax.default_matmul_precision("highest"):
            outputs = apply_fn(params, inputs)

        def summed(outputs: Array) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
            losses = sample_losses(self.loss_fn, outputs, targets)
            return jnp.sum(losses), losses

        gradients, losses = jax.grad(summed, has_aux=True)(outputs)
        dtype = numerics.accumulation_dtype()
        squares = jnp.square(gradients.astype(dtype)).reshape(len(outputs), -1)
        result = SampleComponents(
            loss=losses.astype(dtype),
            chi_loss=jnp.sum(squares, axis=1),
            chi_net=norm.per_sample,
            status=norm.status | loss_status(self.loss_fn, outputs, targets),
        )
        finite = jnp.all(jnp.isfinite(result.loss) & jnp.isfinite(result.chi_loss))
        status = result.status | flag(~finite, Status.NON_FINITE)
        return dataclasses.replace(result, status=status)


def sample_components(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    estimator: Estimator = Hutchinson(1),
    wrt: parameters.Subset = None,
) -> SampleMeasure:
    """Make a measurement of which samples carry the loss gradient, and which the Jacobian.

    `chi_loss` and `chi_net` of *Spectral Reach* (eqs. 24, 29) are means over samples, which a few
    may dominate. There is no such mean of chi_pos: it compares samples with each other.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a mean over samples.
        estimator: `Exact` or `Hutchinson`. One probe says hardly more of a single sample than its
            order of magnitude where it has few outputs; take `Exact` there.
        wrt: the trainable subset (`lnpjax.parameters.partition`); everything if `None`.

    Returns:
        A pure function ``measure(params, batch, batch_b=None, *, key) -> SampleComponents``, for
        use by itself or in `lnpjax.instrument`.

    Raises:
        TypeError: if `estimator` is not an estimator, or `apply_fn` or `loss_fn` not a function.
        ValueError: if the estimator draws for the batch as a whole (`GlobalHutchinson`).

    Cost: that of `lnpjax.squared_jacobian_norm`, and a forward pass.

    Example:
        >>> from lnpjax import Exact
        >>> measure = sample_components(
        ...     lambda w, x: x @ w, lambda f, y: jnp.mean((f - y) ** 2), estimator=Exact()
        ... )
        >>> batch = (jnp.diag(jnp.array([1.0, 3.0])), jnp.array([[0.0], [2.0]]))
        >>> out = measure(jnp.zeros((2, 1)), batch)
        >>> out.chi_loss, out.chi_net
        (Array([ 0., 16.], dtype=float32), Array([1., 9.], dtype=float32))
    """
    check_estimator(estimator)
    check_functions(apply_fn=apply_fn, loss_fn=loss_fn)
    require(
        estimator.per_sample,
        "estimator",
        expected="Exact or Hutchinson, which look at samples one by one",
        got=type(estimator).__name__,
    )
    return SampleMeasure(apply_fn, loss_fn, estimator, wrt)
