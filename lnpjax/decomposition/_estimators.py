"""Ways to draw ``|J|_F^2``, the squared Frobenius norm of a network's Jacobian.

The norm is a sum over samples and outputs. `Exact` takes every output in turn; `Hutchinson` probes
each sample with its own random signs and needs per-sample norms; `GlobalHutchinson` probes the
batch as one vector and needs only a plain backward pass.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lnpjax import parameters
from lnpjax._base.checks import check_key, require
from lnpjax.jacobian import ApplyFn, Linearization, SplitModel, linearize
from lnpjax.jacobian._contract import by_row
from lnpjax.jacobian._linearize import (
    MicrobatchedLinearization,
    SampleLinearization,
    linearize_samples,
)
from lnpjax.jacobian._probes import for_each_probe, map_norms, rademacher, sample_keys, squares
from lnpjax.jacobian._pullbacks import Pullback
from lnpjax.jacobian._split import SplitLinearization, linearize_split

PerSample: TypeAlias = SampleLinearization | MicrobatchedLinearization | SplitLinearization


class Estimator(Protocol):
    """How a batch is linearised and its squared Jacobian norm drawn."""

    stochastic: ClassVar[bool]
    per_sample: ClassVar[bool]

    def linearize(
        self, apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
    ) -> Any:
        """Linearise (see `BatchLinearization`) in the form that `draw` needs."""

    def draw(
        self,
        linearization: Any,
        *,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"],
        weights: PyTree | None = None,
    ) -> Float[Array, "rows probes leaf"]:
        """Weighted squared norms per parameter leaf; rows are samples, or the batch as one."""


class _PerSampleEstimator:
    """Linearises every sample on its own."""

    microbatch_size: int | None
    per_sample: ClassVar[bool] = True

    def linearize(
        self, apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
    ) -> PerSample:
        """See `Estimator`."""
        return linearize_samples(
            apply_fn,
            params,
            inputs,
            wrt=wrt,
            microbatch_size=self.microbatch_size,
            norms_only=True,
        )


@dataclasses.dataclass(frozen=True)
class Exact(_PerSampleEstimator):
    """The sum over all outputs, without error.

    Args:
        chunk_size: how many outputs of each sample are pulled back at once. Memory grows with it.
        microbatch_size: how many samples are alive at once; `None` for all.

    Cost: 2/3 gradient per output of one sample (m of them), plus a forward pass.

    Example:
        >>> Exact(chunk_size=0)
        Traceback (most recent call last):
            ...
        ValueError: chunk_size: expected an integer >= 1, got 0
    """

    chunk_size: int = 16
    microbatch_size: int | None = None
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require_count("chunk_size", self.chunk_size)
        _require_count("microbatch_size", self.microbatch_size, optional=True)

    def draw(
        self,
        linearization: Any,
        *,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"],
        weights: PyTree | None = None,
    ) -> Float[Array, "rows probes leaf"]:
        """See `Estimator`."""
        del key, mask
        shape, dtype = linearization.outputs.shape[1:], linearization.outputs.dtype
        num_outputs = math.prod(shape)
        chunk_size = min(self.chunk_size, num_outputs)
        starts = jnp.arange(0, num_outputs, chunk_size)

        def one_sample(vjp: Pullback) -> Float[Array, "one leaf"]:
            def chunk_norms(start: Int[Array, ""]) -> Float[Array, " leaf"]:
                # An index past the last output gives a row of zeros, which adds nothing.
                basis = jax.nn.one_hot(start + jnp.arange(chunk_size), num_outputs, dtype=dtype)
                rows = basis.reshape((chunk_size, *shape))
                return jnp.sum(jax.vmap(lambda row: squares(vjp(row), weights))(rows), axis=0)

            return jnp.sum(jax.lax.map(chunk_norms, starts), axis=0)[None]

        return map_norms(linearization, weights)(one_sample)


@dataclasses.dataclass(frozen=True)
class Hutchinson(_PerSampleEstimator):
    """Random signs, independent from sample to sample, and per-sample norms.

    Spectral Reach, equation 51, with one difference: there, all samples share their probes. The
    errors of independent probes average out over the batch, so that the relative error falls like
    ``1/sqrt(batch)`` and one probe does the work of many shared ones.

    With one probe the standard error is the spread between samples, their true differences
    included. That is all that one probe tells: samples that differ but have no noise, and samples
    alike but noisy, can give the very same draws, and no function of these can tell them apart.
    Where samples differ much (a few carry most of the norm, or groups that hardly any noise
    reaches), two probes give the error itself, often many times smaller.

    Args:
        num_probes: probes per sample. One is enough where the batch has many samples of a kind; two
            or more give an unbiased standard error.
        microbatch_size: how many samples are alive at once; `None` for all.

    Cost: 2/3 gradient per probe, plus one forward pass for all.

    Example:
        >>> Hutchinson(num_probes=0)
        Traceback (most recent call last):
            ...
        ValueError: num_probes: expected an integer >= 1, got 0
    """

    num_probes: int = 1
    microbatch_size: int | None = None
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_count("num_probes", self.num_probes)
        _require_count("microbatch_size", self.microbatch_size, optional=True)

    def linearize(
        self, apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
    ) -> PerSample:
        """See `Estimator`; closed forms are not used where memory is bounded by slices."""
        if isinstance(apply_fn, SplitModel) and self.microbatch_size is None:
            return linearize_split(apply_fn, params, inputs, wrt=wrt)
        return super().linearize(apply_fn, params, inputs, wrt=wrt)

    def draw(
        self,
        linearization: Any,
        *,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"],
        weights: PyTree | None = None,
    ) -> Float[Array, "rows probes leaf"]:
        """See `Estimator`."""
        del mask
        if isinstance(linearization, SplitLinearization):
            return linearization.draw(
                key=required_key(self, key), num_probes=self.num_probes, weights=weights
            )
        keys = sample_keys(required_key(self, key), len(linearization.outputs))
        shape, dtype = linearization.outputs.shape[1:], linearization.outputs.dtype

        def one_sample(vjp: Pullback, sample_key: Key[Array, ""]) -> Float[Array, "probes leaf"]:
            return for_each_probe(
                lambda probe_key: squares(vjp(rademacher(probe_key, shape, dtype)), weights),
                sample_key,
                self.num_probes,
            )

        return map_norms(linearization, weights)(one_sample, keys)


@dataclasses.dataclass(frozen=True)
class GlobalHutchinson:
    """Random signs over the whole batch: plain backward passes, least memory, most noise.

    Needs no per-sample Jacobians, so that it also serves models whose samples interact.

    Args:
        num_probes: how many; the standard error needs at least two.

    Cost: 2/3 gradient per probe, plus one forward pass for all.

    Example:
        >>> GlobalHutchinson(num_probes=-1)
        Traceback (most recent call last):
            ...
        ValueError: num_probes: expected an integer >= 1, got -1
    """

    num_probes: int = 1
    stochastic: ClassVar[bool] = True
    per_sample: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require_count("num_probes", self.num_probes)

    def linearize(
        self, apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
    ) -> Linearization:
        """See `Estimator`."""
        return linearize(apply_fn, params, inputs, wrt=wrt)

    def draw(
        self,
        linearization: Linearization,
        *,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"],
        weights: PyTree | None = None,
    ) -> Float[Array, "rows probes leaf"]:
        """See `Estimator`."""
        shape, dtype = linearization.outputs.shape, linearization.outputs.dtype
        keep = by_row(mask, linearization.outputs)

        def one_probe(probe_key: Key[Array, ""]) -> Float[Array, " leaf"]:
            signs = jnp.where(keep, rademacher(probe_key, shape, dtype), 0)
            return squares(linearization.vjp(signs), weights)

        return for_each_probe(one_probe, required_key(self, key), self.num_probes)[None]


def exact_leaves(estimator: Estimator, linearization: Any, num_leaves: int) -> range | list[int]:
    """Return which parameter leaves the draws of an estimator hold without error.

    All of them, for an estimator that does not draw, and where a single sign is drawn, whose square
    is 1. Otherwise those of which the linearisation knows a closed form.
    """
    shape = linearization.outputs.shape
    num_signs = math.prod(shape[1:] if estimator.per_sample else shape)
    if not estimator.stochastic or num_signs == 1:
        return range(num_leaves)
    return linearization.exact if isinstance(linearization, SplitLinearization) else []


def check_estimator(estimator: Any) -> None:
    """Raise a TypeError unless `estimator` is an instance of an `Estimator`."""
    require(
        not isinstance(estimator, type) and hasattr(estimator, "draw"),
        "estimator",
        expected="an estimator such as lnpjax.Hutchinson(num_probes=1)",
        got=repr(estimator),
        error=TypeError,
    )


def _require_count(argument: str, count: int | None, *, optional: bool = False) -> None:
    if count is None and optional:
        return
    whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
    positive = whole and count is not None and count >= 1
    require(positive, argument, expected="an integer >= 1", got=count)


def required_key(estimator: Estimator, key: Key[Array, ""] | None) -> Key[Array, ""]:
    """The key, for an estimator that draws.

    Raises:
        TypeError, ValueError: as `check_estimator_key`.
    """
    check_estimator_key(estimator, key)
    assert key is not None
    return key


def check_estimator_key(estimator: Estimator, key: Key[Array, ""] | None) -> None:
    """Refuse what is not a key, or that there is none for an estimator that draws.

    Raises:
        ValueError: if there is none, or an array of several.
        TypeError: if it is something else, such as a seed.
    """
    drawn_by = type(estimator).__name__ if estimator.stochastic else None
    check_key("key", key, drawn_by=drawn_by)
