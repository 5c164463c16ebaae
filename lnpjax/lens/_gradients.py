"""Per-sample gradients of single weights, and how concentrated an update is.

*Spectral Lens*, section 2 and appendix C. One loss gradient per sample of a fixed held-out pool is
a row of ``G (M, P)`` (eqs. 4 and 11), and the singular values of G say over how many directions
the samples spread what they ask of a weight. They are the square roots of the eigenvalues of the
Gram matrix ``G G^T (M, M)``, which
`lnpjax.lens.gradient_gram` builds without forming G.

Summaries are of those eigenvalues, as they are of the eigenvalues of an activation covariance: both
views then are spectra of second moments. An exponent of the singular values themselves is half of
the one reported. Forming the Gram matrix squares the condition number: singular values below
``sqrt(resolution)`` of the largest, see `gram_resolution`, are rounding and are not fitted.
"""

from __future__ import annotations

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_kernel, check_key, concrete, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.shards import AxisName, shards_over
from lnpjax.jacobian import ApplyFn, Batch, LossFn
from lnpjax.jacobian._contract import check_batch, check_training_batch, measured_batch, with_state
from lnpjax.jacobian._interaction import check_interaction, void_where_interacting
from lnpjax.jacobian._rounding import compute_precision
from lnpjax.lens._gram import (
    MICROBATCH_SIZE,
    Weights,
    checked_weights,
    gram_matrices,
    weight_sizes,
)
from lnpjax.spectra import SpectrumSummary, Window, spectral_resolution, summarize_spectrum
from lnpjax.spectra._summary import check_windows

_WRITE_GATE = re.compile(r"layers/(\d+)/attention/output/kernel")


def gradient_singular_values(
    gram: Float[Array, "*batch samples samples"],
) -> Float[Array, "*batch samples"]:
    """Return the singular values of the gradient matrix G, from its Gram matrix.

    *Spectral Lens*, eq. 11. Square roots of the eigenvalues, those below zero (rounding) counted
    as zero. Values below the root of `gram_resolution` are not to be trusted: 0.3 % of the largest
    for 512 samples in float32.

    Args:
        gram: ``G G^T``, from `gradient_gram`; symmetric.

    Returns:
        M values in descending order, in units of the gradient; those beyond the number of
        parameters are zero up to that noise.

    Raises:
        TypeError, ValueError: if `gram` is not a kernel (`lnpjax.kernel` has the same rules).

    Example:
        >>> gradient_singular_values(jnp.array([[9.0, 0.0], [0.0, 16.0]]))
        Array([4., 3.], dtype=float32)
    """
    check_kernel("gram", gram)
    return jnp.sqrt(jnp.maximum(_descending_eigenvalues(gram), 0))


def _descending_eigenvalues(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    return jnp.linalg.eigvalsh(matrix)[::-1]


@dataclasses.dataclass(frozen=True, eq=False)  # hashable: jit takes it whatever `pool` holds
class GradientSpectra:
    """A measurement of gradient spectra, made by `gradient_spectra`. Call it; see there."""

    apply_fn: ApplyFn
    loss_fn: LossFn
    weights: Weights | None
    pool: Batch | None
    block_size: int | None
    microbatch_size: int
    head: Window | None
    tail: Window | None
    axis_name: AxisName

    def __call__(
        self,
        params: PyTree,
        batch_a: Batch,
        batch_b: Batch | None = None,
        *,
        key: Key[Array, ""] | None = None,
        state: PyTree | None = None,
    ) -> dict[str, SpectrumSummary]:
        """Measure on the pool, without a pool on `batch_b`, and without that on `batch_a`.

        Args:
            params: the parameters.
            batch_a: ``(inputs, targets)``.
            batch_b: another batch.
            key: not used, so that `lnpjax.instrument` can call this like any measurement.
            state: of the network besides parameters, handed to `apply_fn` and not trained.

        Returns:
            A `SpectrumSummary` for every weight, of the ``min(M, P)`` largest eigenvalues of its
            Gram matrix; `Status.NON_FINITE` where a gradient is, or its square overflows.

        Raises:
            TypeError, ValueError: for bad weights, batches or sizes; if there are fewer samples or
                parameters than a window needs, and, outside of `jit`, if samples interact or a
                gradient is not finite.
        """
        check_key("key", key)
        name, batch = measured_batch(self.pool, batch_a, batch_b)
        if self.pool is None:
            batch = shards_over(self.axis_name).gathered(name, batch)
        return self._measure(params, batch, name, state)

    @entry_point
    def _measure(
        self, params: PyTree, batch: Batch, argument: str, state: PyTree | None
    ) -> dict[str, SpectrumSummary]:
        apply_fn = with_state(self, state).apply_fn
        chosen = _final_write_gate(params) if self.weights is None else self.weights
        names = checked_weights(params, chosen)
        num_samples = check_training_batch(apply_fn, self.loss_fn, params, batch, argument=argument)
        sizes = weight_sizes(params)
        for name in names:
            of = f"samples or of parameters of {name!r}, whichever is less"
            rank = min(num_samples, sizes[name])
            check_windows(rank, of=of, head=self.head, tail=self.tail)
        interact = check_interaction(apply_fn, params, batch[0])
        resolution = gram_resolution(apply_fn, params, batch[0])
        grams = gram_matrices(
            apply_fn,
            self.loss_fn,
            params,
            batch,
            weights=names,
            block_size=self.block_size,
            microbatch_size=self.microbatch_size,
        )
        grams = void_where_interacting(grams, interact)
        return {
            name: self._summary(name, grams[name], sizes[name], resolution, interact)
            for name in names
        }

    def _summary(
        self,
        name: str,
        gram: Float[Array, "samples samples"],
        size: int,
        resolution: float,
        status: Int[Array, ""],
    ) -> SpectrumSummary:
        finite = jnp.all(jnp.isfinite(gram))
        known_finite = concrete(finite)
        require(
            known_finite is None or bool(known_finite),
            "params",
            expected=f"finite gradients in {name!r}, whose squares do not overflow",
            got="infinite or NaN ones",
        )
        eigenvalues = _descending_eigenvalues(jnp.where(finite, gram, 0))[:size]
        return summarize_spectrum(
            jnp.where(finite, eigenvalues, jnp.nan),
            head=self.head,
            tail=self.tail,
            resolution=resolution,
            status=status,
        )


def gradient_spectra(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    weights: Weights | None = None,
    pool: Batch | None = None,
    block_size: int | None = None,
    microbatch_size: int = MICROBATCH_SIZE,
    head: Window | None = None,
    tail: Window | None = None,
    axis_name: AxisName = None,
) -> GradientSpectra:
    """Make a measurement of the spectra of per-sample gradients.

    *Spectral Lens*, section 2 and appendix C: RankMe, head and tail exponents of ``G G^T``, one
    summary per weight. Spectra of different weights are not comparable with each other (its figure
    6): compare runs in the same weight, on the same pool.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure; or a `lnpjax.SplitModel`.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a mean over samples.
        weights: the weights to probe; `None` for the attention output projection of the last block
            of a `lnpjax.models.Llama`, the paper's choice. `attention_probes` names others.
        pool: a fixed held-out batch ``(inputs, targets)``, the same at every step; `None` to
            measure on the batches that are handed over.
        block_size: how many samples' gradients are kept at once, after rounding up to whole
            microbatches; `None` for as many as fit in 128 MiB.
        microbatch_size: how many samples pass through the network at once.
        head: window of ranks for the exponent of the head; `None` for ranks 1 to 10, cut to the
            spectrum.
        tail: window of ranks for that of the tail; `None` for `lnpjax.spectra.tail_window` of
            ``min(M, P)`` eigenvalues.
        axis_name: inside `jax.shard_map` and `jax.pmap`, the axis (or axes) over which devices hold
            parts of one batch, which is then put together on every device (a pool
            is there already); ``()`` if each
            device measures its own.

    Returns:
        A pure function ``measure(params, batch_a, batch_b=None, *, key=None)`` that returns a dict
        from weight to `SpectrumSummary`, for use by itself, in `jit` and `scan`, or in
        `lnpjax.instrument`.

    Raises:
        ValueError: when called, before anything is computed: see `GradientSpectra.__call__`.

    Cost: that of `gradient_gram`, the eigenvalues of a matrix of M samples, and a forward pass of
    eight.

    Example:
        >>> def loss_fn(outputs, targets):
        ...     return jnp.mean((outputs - targets) ** 2)
        >>> measure = gradient_spectra(
        ...     lambda p, x: x @ p["w"], loss_fn, weights="w", head=(1, 3), tail=(1, 4)
        ... )
        >>> batch = (jnp.diag(jnp.arange(1.0, 5.0) ** -0.5), jnp.ones((4, 1)))
        >>> out = measure({"w": jnp.zeros((4, 1))}, batch)
        >>> print(f"{out['w'].head.exponent:.3f} {out['w'].rank_me:.2f}")
        1.000 3.46
    """
    # An iterator would be used up by the first measurement.
    chosen = weights if weights is None or isinstance(weights, str) else tuple(weights)
    return GradientSpectra(
        apply_fn, loss_fn, chosen, pool, block_size, microbatch_size, head, tail, axis_name
    )


def attention_probes(params: PyTree) -> dict[str, str]:
    """Name the weights of the last block whose gradient spectra the paper compares.

    *Spectral Lens*, figure 6: query and value projection, attention output, and MLP output.

    Args:
        params: of a `lnpjax.models.Llama`.

    Returns:
        The path of each, under the names ``query``, ``value``, ``output`` and ``mlp_output``.

    Raises:
        ValueError: if `params` has no such weights; the message lists the matrices it has.

    Example:
        >>> layer = {"attention": {"query": {"kernel": jnp.eye(2)}}}
        >>> attention_probes({"layers": {0: layer}})
        Traceback (most recent call last):
            ...
        ValueError: weights: expected a Llama's 'layers/*/attention/output/kernel', or the paths
        of weights given explicitly, such as the matrices 'layers/0/attention/query/kernel', got
        none
    """
    output = _final_write_gate(params)
    block = output.removesuffix("attention/output/kernel")
    probes = {
        "query": block + "attention/query/kernel",
        "value": block + "attention/value/kernel",
        "output": output,
        "mlp_output": block + "feed_forward/down/kernel",
    }
    checked_weights(params, tuple(probes.values()))
    return probes


@entry_point
def weight_spectra(
    params: PyTree,
    weights: Weights,
    *,
    head: Window | None = None,
    tail: Window | None = None,
) -> dict[str, SpectrumSummary]:
    """Summarise the spectra of weight matrices themselves (*Spectral Lens*, appendix G.3).

    Of the squared singular values, ``W^T W``, like all spectra here; the paper's exponents, of the
    singular values, are half of these.

    Args:
        params: any pytree.
        weights: the paths of weights with two axes or more. A convolution's kernel
            ``(*window, channels in, channels out)`` counts as the matrix that multiplies a patch,
            ``(window x channels in, channels out)``: all axes but the last are joined. A stack of
            matrices (layers in a scan) has to be taken apart first.
        head: window of ranks for the exponent of the head; `None` for ranks 1 to 10, cut to the
            spectrum.
        tail: window of ranks for that of the tail; `None` for `lnpjax.spectra.tail_window`.

    Returns:
        For every weight a `SpectrumSummary` of its ``min(rows, columns)`` squared singular values.

    Raises:
        TypeError: if a weight is not real floating-point.
        ValueError: if there is no such weight, it has fewer than two axes, a window reaches beyond
            its rank, or, outside of `jit`, it is not finite.

    Example:
        >>> matrix = jnp.diag(jnp.arange(1.0, 11.0) ** -0.5)
        >>> out = weight_spectra({"w": matrix}, "w")["w"]
        >>> print(f"{out.trace:.3f} {out.head.exponent:.3f}")
        2.929 1.000
    """
    names = checked_weights(params, weights)
    leaves = dict(zip(parameters.paths(params), jax.tree.leaves(params), strict=True))
    parameters.partition(params, lambda path: path in names)  # refuses other dtypes
    for name in names:
        shape = jnp.shape(leaves[name])
        require(
            len(shape) >= 2,
            "weights",
            expected="weights with two axes or more",
            got=(f"{name!r} of shape {shape}"),
        )
        rank = min(math.prod(shape[:-1]), shape[-1])
        check_windows(rank, of=f"singular values of {name!r}", head=head, tail=tail)
    return {name: _weight_summary(leaves[name], head, tail) for name in names}


def _weight_summary(
    weight: Float[Array, "... columns"], head: Window | None, tail: Window | None
) -> SpectrumSummary:
    dtype = numerics.accumulation_dtype()
    matrix = jnp.asarray(weight, dtype).reshape(-1, jnp.shape(weight)[-1])
    finite = jnp.all(jnp.isfinite(matrix))
    values = jnp.linalg.svd(jnp.where(finite, matrix, 0), compute_uv=False)
    return summarize_spectrum(
        jnp.where(finite, values**2, jnp.nan),
        head=head,
        tail=tail,
        # No product was formed: singular values are resolved to eps of the largest.
        resolution=spectral_resolution(max(matrix.shape), dtype) ** 2,
    )


def gram_resolution(apply_fn: ApplyFn, params: PyTree, inputs: PyTree) -> float:
    """Return the least eigenvalue of a gradient Gram matrix to trust, as a share of the largest.

    The larger of what the eigensolver resolves (`lnpjax.spectra.spectral_resolution`, of
    the float32 or float64 that the Gram matrix is summed in; its summation adds no more than that),
    and the square of the precision that the network computes in, which matters in bfloat16: every
    singular value then carries an error of up to about that precision times the largest.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        params: any pytree.
        inputs: of M samples.

    Returns:
        The fraction: 1.1e-5 for 512 samples in float32, 6.1e-5 in bfloat16.

    Example:
        >>> print(f"{gram_resolution(lambda w, x: w * x, 1.0, jnp.ones(512)):.1e}")
        1.1e-05
    """
    num_samples = check_batch(apply_fn, params, inputs)
    precision = compute_precision(apply_fn, params, inputs)
    return max(spectral_resolution(num_samples, numerics.accumulation_dtype()), precision**2)


def _final_write_gate(params: PyTree) -> str:
    """Return the path of the attention output projection of the last block."""
    paths_by_block = {
        int(m[1]): m[0] for path in parameters.paths(params) if (m := _WRITE_GATE.fullmatch(path))
    }
    shapes = zip(parameters.paths(params), jax.tree.leaves(params), strict=True)
    matrices = [repr(path) for path, leaf in shapes if jnp.ndim(leaf) == 2]
    require(
        bool(paths_by_block),
        "weights",
        expected="a Llama's 'layers/*/attention/output/kernel', or the paths of weights given "
        f"explicitly, such as the matrices {', '.join(matrices)}",
        got="none",
    )
    return paths_by_block[max(paths_by_block)]
