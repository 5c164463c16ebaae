"""The Jacobian J = df/dtheta of a network on a batch, as a linear operator.

Every quantity of the library is a property of J seen through a few vectors (*Spectral Reach*, eqs.
4 to 9), and this module is the only one that differentiates a network. `linearize` treats the batch
as one function; `linearize_samples` keeps the samples apart, so that per-sample products cost one
backward pass for the whole batch and no per-sample gradient outlives the reduction that consumes
it.

Only reverse mode is used: forward products come from transposing the pullback, which also works for
code with a custom VJP and no JVP (fused attention). Where the pullback has no transpose (a fixed
point whose custom VJP is a loop), they are made of rows of J. The JVP of what such a function runs
going forward would not do: a custom VJP may say something else.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_count, require
from lnpjax._base.entry_points import vary_alike
from lnpjax._base.slices import sliced, unsliced
from lnpjax.jacobian._contract import ApplyFn, check_batch, one_sample_at_a_time
from lnpjax.jacobian._preconditioners import fit_preconditioner, precondition
from lnpjax.jacobian._pullbacks import Pullback, StoredPullbacks, store_pullbacks

ROWS_AT_ONCE = 16
"""How many rows of J are alive at once where products are made of them."""


class BatchLinearization(Protocol):
    """What the measures need to know of a linearised batch."""

    @property
    def outputs(self) -> Float[Array, "batch ..."]:
        """The network outputs."""

    def vjp(self, cotangents: Float[Array, "batch ..."]) -> PyTree:
        """Return ``J^T cotangents``, summed over the batch."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linearization:
    """J at one batch: see `linearize`. A pytree, so it can be returned from `jit`.

    Attributes:
        outputs: of the network.
        pullback: from cotangents of the outputs to gradients.
        preconditioner: the diagonal of P; `None` for the identity.
        trainable: the parameters that J is taken in, for how they lie on devices; `None` if that
            does not matter.
    """

    outputs: Float[Array, "batch ..."]
    pullback: Pullback
    preconditioner: PyTree | None = None
    trainable: PyTree | None = None

    def vjp(self, cotangents: Float[Array, "batch ..."]) -> PyTree:
        """Return ``J^T cotangents``, shaped as the trainable parameters. Cost: 2/3 gradient."""
        _check_like("cotangents", cotangents, self.outputs)
        cotangents = jnp.asarray(cotangents, self.outputs.dtype)
        return self.pullback(vary_alike((cotangents, self.outputs))[0])[0]

    def jvp(self, tangents: PyTree) -> Float[Array, "batch ..."]:
        """Return ``J tangents``, in the shape of the outputs. Cost: about 2/3 gradient.

        Where the pullback cannot be transposed, a pullback for each output, and a warning.
        """
        expected = jax.eval_shape(self.vjp, self.outputs)
        tangents = parameters.fit("tangents", tangents, expected)
        tangents = jax.tree.map(lambda t, like: jnp.asarray(t, like.dtype), tangents, expected)
        tangents, _ = vary_alike((tangents, self.outputs))
        try:
            return jax.linear_transpose(self.vjp, self.outputs)(tangents)[0]
        except Exception as error:  # whatever a rule of transposition, or its absence, raises
            warnings.warn(
                "apply_fn: its pullback cannot be transposed (a loop or a callback within a custom "
                f"VJP?), so that a product with J takes {self.outputs.size} pullbacks, one for "
                f"each output ({type(error).__name__}: {error})",
                stacklevel=2,
            )
            return self._jvp_by_rows(tangents)

    @property
    def transposable(self) -> bool:
        """Whether products with J come from transposing the pullback. Nothing is computed."""
        tangents = jax.eval_shape(self.vjp, self.outputs)
        try:
            jax.eval_shape(jax.linear_transpose(self.vjp, self.outputs), tangents)
        except Exception:  # whatever a rule of transposition, or its absence, raises
            return False
        return True

    def _jvp_by_rows(self, tangents: PyTree) -> Float[Array, "batch ..."]:
        """Return ``J tangents``, every entry as an inner product with its row of J."""
        size, shape = self.outputs.size, self.outputs.shape

        def entry(index: Int[Array, ""]) -> Float[Array, ""]:
            basis = jax.nn.one_hot(index, size, dtype=self.outputs.dtype).reshape(shape)
            return jnp.sum(numerics.leaf_inner_products(self.vjp(basis), tangents))

        try:
            entries = jax.lax.map(entry, jnp.arange(size), batch_size=min(size, ROWS_AT_ONCE))
        except NotImplementedError:  # an operation without a rule for vmap
            entries = jax.lax.map(entry, jnp.arange(size))
        return entries.reshape(shape).astype(self.outputs.dtype)

    def ntk_vp(self, vector: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Return ``Theta vector`` with Theta = J J^T, or J P J^T under a preconditioner P.

        Theta is the empirical NTK of *Spectral Reach*, eq. 5. Cost: about 4/3 gradients.
        """
        return self.jvp(self.weighted_vjp(vector))

    def weighted_vjp(self, vector: Float[Array, "batch ..."]) -> PyTree:
        """Return ``P J^T vector``, as the second half of a product with J P J^T needs it.

        Under `jit` devices hold the parts of it that they hold of the parameters. Left to the
        compiler, all of it would lie on each of them while it waits for the product with J.
        """
        gradient = self.vjp(vector)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(gradient))
        # With one device, a program that asks for it would only miss caches: it is numbered.
        if self.trainable is not None and traced and jax.device_count() > 1:
            gradient, _ = shard_alike(gradient, self.trainable)
        return precondition(gradient, self.preconditioner)


def linearize(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    *,
    wrt: parameters.Subset = None,
    preconditioner: PyTree | None = None,
) -> Linearization:
    """Linearise a network in its parameters at one batch.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs``, pure; outputs are one array ``(B, ...)``.
        params: any pytree.
        inputs: any pytree whose leaves lead with B.
        wrt: the trainable subset (`lnpjax.parameters.partition`); products live on it alone, with
            `None` in place of frozen leaves.
        preconditioner: optional diagonal P >= 0, in the structure of the trainable parameters. The
            kernel is then J P J^T, which is what an adaptive optimizer descends along.

    Returns:
        A `Linearization` with ``outputs`` and the products ``vjp``, ``jvp`` and ``ntk_vp``.

    Raises:
        TypeError: if the outputs are not one floating-point array, or a trainable leaf is not real
            floating-point.
        ValueError: if the leading axes of the inputs disagree, the batch is empty, `wrt` selects
            nothing, or the preconditioner does not fit the trainable parameters.

    Cost: one forward pass now; see the products for theirs, in units of one gradient (forward 1/3,
    backward 2/3).

    Example:
        >>> weights, inputs = jnp.array([[1.0], [2.0]]), jnp.eye(2)
        >>> J = linearize(lambda w, x: x @ w, weights, inputs)
        >>> J.ntk_vp(jnp.array([[3.0], [4.0]])).ravel()
        Array([3., 4.], dtype=float32)
    """
    check_batch(apply_fn, params, inputs)
    params, inputs, preconditioner = vary_alike((params, inputs, preconditioner))
    trainable, frozen = partition_as_taken(apply_fn, params, inputs, wrt)
    preconditioner, _ = fit_preconditioner(preconditioner, trainable)
    outputs, pullback = jax.vjp(
        lambda subset: apply_fn(parameters.combine(subset, frozen), inputs), trainable
    )
    return Linearization(outputs, pullback, preconditioner, trainable)


@dataclasses.dataclass(frozen=True)
class SampleLinearization:
    """The rows J_i of a batch, kept apart: see `linearize_samples`."""

    outputs: Float[Array, "batch ..."]
    pullbacks: StoredPullbacks
    whole: Callable[[], StoredPullbacks]

    @property
    def probed(self) -> Float[Array, "batch ..."]:
        """What random signs are drawn in the shape of: the outputs."""
        return self.outputs

    def map_vjp(self, function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """Return ``function(vjp_i, *arguments_i)`` for every sample i, vectorised.

        Args:
            function: takes the sample's own pullback, ``vjp_i(cotangent) = J_i^T cotangent``, and
                its slice of each argument. What it returns is stacked.
            *arguments: pytrees whose leaves lead with the batch.
        """
        return self.whole().map_gradients(function, *arguments)

    def map_norms(
        self, function: Callable[..., PyTree], *arguments: PyTree, weights: PyTree | None = None
    ) -> PyTree:
        """Return ``function(norms_i, *arguments_i)`` for every sample i, vectorised.

        Args:
            function: takes the sample's own norms, ``norms_i(cotangent)``: the squared norm of
                ``J_i^T cotangent`` in every parameter leaf; and its slice of each argument.
            *arguments: pytrees whose leaves lead with the batch.
            weights: what the squares are weighted with (a preconditioner); it needs whole
                gradients, and one more pass.
        """
        pullbacks = self.pullbacks if weights is None else self.whole()
        return pullbacks.map_norms(function, *arguments, weights=weights)

    def vjp(
        self, cotangents: Float[Array, "batch ..."], *, apart: Callable[[str], bool] | None = None
    ) -> PyTree:
        """Return ``sum_i J_i^T cotangents_i``. Cost: 2/3 gradient.

        The compiler contracts the sum over samples into the matrix products, so that dense layers
        form no per-sample gradient here.

        Args:
            cotangents: in the shape of the outputs.
            apart: by path, leaves in which the samples' rows are not summed.
        """
        return self.pullbacks.summed(cotangents, apart=apart)


@dataclasses.dataclass(frozen=True)
class MicrobatchedLinearization:
    """`SampleLinearization` in slices, which are linearised anew each time they are needed."""

    outputs: Float[Array, "batch ..."]
    linearize_slice: Callable[[PyTree], SampleLinearization]
    slices: PyTree
    slice_shape: tuple[int, int]

    @property
    def probed(self) -> Float[Array, "batch ..."]:
        """What random signs are drawn in the shape of: the outputs."""
        return self.outputs

    def map_vjp(self, function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """Return `SampleLinearization.map_vjp`, one slice alive at a time."""
        return self._map(lambda rows, xs: rows.map_vjp(function, *xs), arguments)

    def map_norms(
        self, function: Callable[..., PyTree], *arguments: PyTree, weights: PyTree | None = None
    ) -> PyTree:
        """Return `SampleLinearization.map_norms`, one slice alive at a time."""
        return self._map(lambda rows, xs: rows.map_norms(function, *xs, weights=weights), arguments)

    def _map(
        self,
        function: Callable[[SampleLinearization, list[PyTree]], PyTree],
        arguments: tuple[PyTree, ...],
    ) -> PyTree:
        parts = [sliced(argument, *self.slice_shape) for argument in arguments]
        results = jax.lax.map(
            lambda xs: function(self.linearize_slice(xs[0]), xs[1]), (self.slices, parts)
        )
        return unsliced(results, len(self.outputs))

    def vjp(self, cotangents: Float[Array, "batch ..."]) -> PyTree:
        """Return ``sum_i J_i^T cotangents_i``. Cost: one gradient: slices are linearised anew."""
        padding = self.slice_shape[0] * self.slice_shape[1] - len(cotangents)
        silent = jnp.zeros((padding, *cotangents.shape[1:]), cotangents.dtype)
        parts = sliced(jnp.concatenate([cotangents, silent]), *self.slice_shape)

        def add(total: PyTree, xs: tuple[PyTree, Array]) -> tuple[PyTree, None]:
            part = self.linearize_slice(xs[0]).vjp(xs[1])
            return jax.tree.map(jnp.add, total, part), None

        first = jax.tree.map(lambda leaf: leaf[0], (self.slices, parts))
        shapes = jax.eval_shape(lambda xs: self.linearize_slice(xs[0]).vjp(xs[1]), first)
        zeros = jax.tree.map(jnp.zeros_like, shapes)
        return jax.lax.scan(add, zeros, (self.slices, parts))[0]


def linearize_samples(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    *,
    wrt: parameters.Subset = None,
    microbatch_size: int | None = None,
    norms_only: bool = False,
) -> SampleLinearization | MicrobatchedLinearization:
    """Linearise a network at every sample of a batch on its own.

    One forward pass serves the summed and the per-sample products alike: the pullback of a single
    sample is vectorised over the batch together with what it stored, except for what no sample
    influences (the weights), of which there stays one copy.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs``; samples are passed as batches of one.
        params: any pytree.
        inputs: any pytree whose leaves lead with B.
        wrt: the trainable subset.
        microbatch_size: at most so many samples are linearised at once, which bounds memory and
            costs one more forward pass; the result does not depend on it. `None` for all at once.
        norms_only: prepare for ``map_norms``, which then takes norms of gradients without making
            them, where that is cheaper (`lnpjax.jacobian`); ``map_vjp`` costs one more pass.

    Returns:
        An object with ``outputs (B, ...)``, ``vjp(cotangents)``, ``map_vjp(function, ...)`` and
        ``map_norms(function, ...)``.

    Raises:
        TypeError, ValueError: as `linearize`; also if `microbatch_size` is less than 1, or a batch
            of one does not give outputs like a row of the whole batch.

    Cost: one forward pass; each product 2/3 gradient.

    Example:
        >>> rows = linearize_samples(lambda w, x: x * w, jnp.ones(()), jnp.arange(3.0))
        >>> rows.map_vjp(lambda vjp, v: vjp(v) ** 2, jnp.ones(3))
        Array([0., 1., 4.], dtype=float32)
    """
    num_samples = check_batch(apply_fn, params, inputs)
    trainable, frozen = partition_as_taken(apply_fn, params, inputs, wrt)

    def apply_one(subset: PyTree, sample: PyTree) -> Array:
        batch_of_one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], sample)
        return apply_fn(parameters.combine(subset, frozen), batch_of_one)[0]

    _check_batch_of_one(apply_fn, params, inputs)

    def stored(inputs: PyTree, *, ghost_norms: bool) -> StoredPullbacks:
        with one_sample_at_a_time():
            return store_pullbacks(apply_one, trainable, inputs, ghost_norms=ghost_norms)

    def linearize_slice(inputs: PyTree) -> SampleLinearization:
        inputs = jax.tree.map(jnp.asarray, inputs)
        pullbacks = stored(inputs, ghost_norms=norms_only)

        def whole() -> StoredPullbacks:
            return stored(inputs, ghost_norms=False) if pullbacks.measures_norms else pullbacks

        return SampleLinearization(pullbacks.outputs, pullbacks, whole)

    if microbatch_size is None:
        return linearize_slice(inputs)
    check_count("microbatch_size", microbatch_size)
    microbatch_size = min(microbatch_size, num_samples)
    slice_shape = (-(-num_samples // microbatch_size), microbatch_size)
    slices = sliced(inputs, *slice_shape)
    outputs = jax.lax.map(lambda xs: jax.vmap(apply_one, (None, 0))(trainable, xs), slices)
    return MicrobatchedLinearization(
        unsliced(outputs, num_samples), linearize_slice, slices, slice_shape
    )


def partition_as_taken(
    apply_fn: ApplyFn, params: PyTree, inputs: PyTree, wrt: parameters.Subset
) -> tuple[PyTree, PyTree]:
    """Partition parameters, with floats of eight bits as float32 if the network takes them so."""
    trainable, frozen = parameters.partition(params, wrt)
    if not any(parameters.is_narrow(jnp.result_type(leaf)) for leaf in jax.tree.leaves(trainable)):
        return trainable, frozen

    wide = parameters.widened(trainable)

    def outputs(subset: PyTree) -> jax.ShapeDtypeStruct:
        return jax.eval_shape(lambda: apply_fn(parameters.combine(subset, frozen), inputs))

    try:
        same = outputs(wide).dtype == outputs(trainable).dtype
    except (TypeError, ValueError):  # it multiplies in eight bits, and then pulls back so
        same = False
    return (wide if same else trainable), frozen


def _check_batch_of_one(apply_fn: ApplyFn, params: PyTree, inputs: PyTree) -> None:
    def rows(count: int) -> tuple[int, ...]:
        first = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:count], inputs)
        with one_sample_at_a_time():
            return jax.eval_shape(lambda: apply_fn(params, first)).shape

    whole, single = rows(_leading_axis(inputs)), rows(1)
    require(
        single == (1, *whole[1:]),
        "outputs",
        expected=f"shape {(1, *whole[1:])} for a batch of one",
        got=f"{single}: does apply_fn squeeze or reduce the batch axis?",
    )


def _leading_axis(tree: PyTree) -> int:
    return jnp.shape(jax.tree.leaves(tree)[0])[0]


def _check_like(argument: str, value: Array, like: Array) -> None:
    require(
        jnp.shape(value) == jnp.shape(like),
        argument,
        expected=f"the shape of the outputs, {jnp.shape(like)}",
        got=jnp.shape(value),
    )
