"""Ways to draw ``|J|_F^2``, the squared Frobenius norm of a network's Jacobian.

The norm is a sum over samples and outputs. `Exact` takes every output in turn; `Hutchinson` probes
each sample with its own random signs and needs per-sample norms; `GlobalHutchinson` probes the
batch as one vector and needs only a plain backward pass.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_count, check_key, require
from lnpjax.decomposition._chosen import ChosenSamples, choose, chosen_rows
from lnpjax.jacobian import ApplyFn, Linearization, SplitModel, linearize
from lnpjax.jacobian._linearize import (
    MicrobatchedLinearization,
    SampleLinearization,
    linearize_samples,
)
from lnpjax.jacobian._masks import by_row
from lnpjax.jacobian._probes import for_each_probe, rademacher, sample_keys
from lnpjax.jacobian._pullbacks import Norms
from lnpjax.jacobian._split import SplitLinearization, linearize_split

PerSample: TypeAlias = (
    SampleLinearization | MicrobatchedLinearization | SplitLinearization | ChosenSamples
)


class Estimator(Protocol):
    """How a batch is linearised and its squared Jacobian norm drawn.

    What `lnpjax.lnp` and `lnpjax.squared_jacobian_norm` take as `estimator`: `Exact`, `Hutchinson`,
    `GlobalHutchinson`, or one of your own.

    Attributes:
        stochastic: whether it draws, and so needs a key.
        per_sample: whether it gives the norms of single samples, or that of the batch as one.

    Example:
        >>> import lnpjax
        >>> lnpjax.Exact.stochastic, lnpjax.Hutchinson.per_sample
        (False, True)
        >>> weights, inputs = jnp.ones((3, 2)), jnp.ones((4, 3))
        >>> rows = lnpjax.Exact().linearize(lambda w, x: x @ w, weights, inputs)
        >>> lnpjax.Exact().draw(rows, key=None, mask=jnp.ones(4, bool)).shape
        (4, 1, 1)
    """

    stochastic: ClassVar[bool]
    per_sample: ClassVar[bool]

    def linearize(
        self, apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
    ) -> Any:
        """Linearise a network at a batch in the form that `draw` needs.

        Args:
            apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
            params: any pytree.
            inputs: any pytree whose leaves lead with B.
            wrt: the trainable subset (`lnpjax.parameters.partition`).

        Returns:
            Anything with ``outputs (B, ...)`` and ``vjp(cotangents)``, the gradient summed over the
            batch.
        """

    def draw(
        self,
        linearization: Any,
        *,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"],
        weights: PyTree | None = None,
    ) -> Float[Array, "rows probes leaf"]:
        """Draw the squared norm of every parameter leaf.

        Args:
            linearization: from `linearize`.
            key: a `jax.random` key, for an estimator that draws.
            mask: False for samples that only pad the batch. An estimator of single samples may
                ignore it, since their rows are left out later.
            weights: what squares are weighted with (a preconditioner), in the structure of the
                trainable parameters.

        Returns:
            A row for each sample, or one for the batch as a whole.
        """


class _Counts:
    """Settings that are numbers of something, or switches."""

    def __post_init__(self) -> None:
        settings: Any = self  # a dataclass
        for field in dataclasses.fields(settings):
            if isinstance(field.default, bool):
                continue
            optional = field.default is None
            check_count(field.name, getattr(self, field.name), optional=optional)


class _PerSampleEstimator(_Counts):
    """Linearises every sample on its own."""

    microbatch_size: int | None
    closed_forms: ClassVar[bool]
    """Whether it draws a `SplitModel` by its closed forms; not where slices bound memory."""
    per_sample: ClassVar[bool] = True

    def linearize(
        self, apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
    ) -> PerSample:
        """Linearise every sample on its own; see `Estimator.linearize`."""
        size = self.microbatch_size
        if self.closed_forms and size is None and isinstance(apply_fn, SplitModel):
            return linearize_split(apply_fn, params, inputs, wrt=wrt)
        return linearize_samples(
            apply_fn, params, inputs, wrt=wrt, microbatch_size=size, norms_only=True
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
    closed_forms: ClassVar[bool] = False

    def draw(
        self,
        linearization: Any,
        *,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"],
        weights: PyTree | None = None,
    ) -> Float[Array, "rows probes leaf"]:
        """Take the norm of every output's gradient and sum; see `Estimator.draw`."""
        del key, mask
        shape, dtype = linearization.outputs.shape[1:], linearization.outputs.dtype
        num_outputs = math.prod(shape)
        chunk_size = min(self.chunk_size, num_outputs)
        starts = jnp.arange(0, num_outputs, chunk_size)

        def one_sample(norms: Norms) -> Float[Array, "one leaf"]:
            def chunk_norms(start: Int[Array, ""]) -> Float[Array, " leaf"]:
                # An index past the last output gives a row of zeros, which adds nothing.
                basis = jax.nn.one_hot(start + jnp.arange(chunk_size), num_outputs, dtype=dtype)
                return jnp.sum(jax.vmap(norms)(basis.reshape((chunk_size, *shape))), axis=0)

            return jnp.sum(jax.lax.map(chunk_norms, starts), axis=0)[None]

        return linearization.map_norms(one_sample, weights=weights)


@dataclasses.dataclass(frozen=True)
class Hutchinson(_PerSampleEstimator):
    """Random signs, independent from sample to sample, and per-sample norms.

    *Spectral Reach*, eq. 51, with one difference: there, all samples share their probes. The
    errors of independent probes average out over the batch, so that the relative error falls like
    ``1/sqrt(batch)`` and one probe does the work of many shared ones. With `shared`, all samples
    have the same probes, as in the paper's reference: to reproduce its numbers, and for no other
    use. That is unbiased, too, at the same cost, and noisier by up to ``sqrt(batch)``, since what
    a probe makes of one sample it makes of those like it.

    With one probe the standard error is the spread between samples, their true differences
    included. That is all that one probe tells: samples that differ but have no noise, and samples
    alike but noisy, can give the very same draws, and no function of these can tell them apart.
    Where samples differ much (a few carry most of the norm, or groups that hardly any noise
    reaches), two probes give the error itself, often many times smaller.

    Args:
        num_probes: probes per sample. One is enough where the batch has many samples of a kind; two
            or more give an unbiased standard error.
        microbatch_size: how many samples are alive at once; `None` for all.
        shared: whether all samples have the same probes. Two probes or more then give an unbiased
            standard error, and one gives none. Of a `lnpjax.SplitModel`, signs of hidden states
            are shared, which have less noise than those of outputs. Devices that hold parts of a
            batch share theirs within each part.
        samples: how many samples of the batch are probed, chosen anew by every key; `None` for all.
            Unbiased, too; the standard error is then that of the choice as well, and always from
            the spread between samples. Devices that hold parts of a batch choose as many of each.

    Cost: 2/3 gradient per probe, plus one forward pass for all; with `samples`, the part of it that
    they are of the batch, and a forward pass.

    Example:
        >>> Hutchinson(num_probes=0)
        Traceback (most recent call last):
            ...
        ValueError: num_probes: expected an integer >= 1, got 0
    """

    num_probes: int = 1
    microbatch_size: int | None = None
    shared: bool = False
    samples: int | None = None
    stochastic: ClassVar[bool] = True
    closed_forms: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            isinstance(self.shared, bool), "shared", expected="True or False", got=repr(self.shared)
        )
        require(
            not (self.shared and self.samples),
            "samples",
            expected="None where probes are shared",
            got=self.samples,
        )

    def linearize(
        self, apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
    ) -> PerSample:
        """Linearise every sample on its own, or those alone that are chosen."""
        one_by_one = functools.partial(super().linearize, apply_fn, params, wrt=wrt)
        whole = one_by_one(inputs)
        if self.samples is None or self.samples >= len(whole.outputs):
            return whole
        return ChosenSamples(whole, inputs, one_by_one, self.samples)

    def draw(
        self,
        linearization: Any,
        *,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"],
        weights: PyTree | None = None,
    ) -> Float[Array, "rows probes leaf"]:
        """Draw signs for every sample, or the same for all; see `Estimator.draw`.

        Samples that are not chosen have rows of zeros.
        """
        if isinstance(linearization, ChosenSamples):
            choice, probes = jax.random.split(required_key(self, key))
            rows = choose(choice, mask, linearization.count)
            few = jnp.ones(len(rows), bool)
            drawn = self.draw(linearization.of(rows), key=probes, mask=few, weights=weights)
            zeros = jnp.zeros((len(mask), *drawn.shape[1:]), drawn.dtype)
            return zeros.at[rows].set(drawn)
        del mask
        shape, dtype = linearization.probed.shape, linearization.probed.dtype
        key = required_key(self, key)
        keys = jnp.broadcast_to(key, shape[:1]) if self.shared else sample_keys(key, shape[0])

        def one_sample(norms: Norms, sample_key: Key[Array, ""]) -> Float[Array, "probes leaf"]:
            return for_each_probe(
                lambda probe_key: norms(rademacher(probe_key, shape[1:], dtype)),
                sample_key,
                self.num_probes,
            )

        return linearization.map_norms(one_sample, keys, weights=weights)


@dataclasses.dataclass(frozen=True)
class GlobalHutchinson(_Counts):
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

    def linearize(
        self, apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
    ) -> Linearization:
        """Linearise the batch as one function; see `Estimator.linearize`."""
        return linearize(apply_fn, params, inputs, wrt=wrt)

    def draw(
        self,
        linearization: Linearization,
        *,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"],
        weights: PyTree | None = None,
    ) -> Float[Array, "rows probes leaf"]:
        """Draw signs for the batch as one vector; see `Estimator.draw`."""
        shape, dtype = linearization.outputs.shape, linearization.outputs.dtype
        keep = by_row(mask, linearization.outputs)

        def one_probe(probe_key: Key[Array, ""]) -> Float[Array, " leaf"]:
            signs = jnp.where(keep, rademacher(probe_key, shape, dtype), 0)
            gradient = linearization.vjp(signs)
            return numerics.leaf_inner_products(gradient, gradient, weights=weights)

        return for_each_probe(one_probe, required_key(self, key), self.num_probes)[None]


def probed_as_one(estimator: Estimator) -> bool:
    """Return whether a probe is one draw for the whole batch, and says nothing sample by sample."""
    shared = isinstance(estimator, Hutchinson) and estimator.shared
    return shared or not estimator.per_sample


def probed_rows(
    linearization: Any, key: Key[Array, ""] | None, mask: Bool[Array, " batch"]
) -> Bool[Array, " batch"]:
    """Return which samples have rows among the draws made with this key."""
    if key is None or not isinstance(linearization, ChosenSamples):
        return mask
    return chosen_rows(jax.random.split(key)[0], mask, linearization.count)


def exact_leaves(estimator: Estimator, linearization: Any, num_leaves: int) -> range | list[int]:
    """Return which parameter leaves the draws of an estimator hold without error.

    All of them, for an estimator that does not draw, and where a single sign is drawn, whose square
    is 1. Otherwise those of which the linearisation knows a closed form.
    """
    if isinstance(linearization, ChosenSamples):
        return []
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


def required_key(estimator: Estimator, key: Key[Array, ""] | None) -> Key[Array, ""]:
    """Return the key, for an estimator that draws.

    Raises:
        TypeError, ValueError: as `check_estimator_key`.
    """
    check_estimator_key(estimator, key)
    assert key is not None
    return key


def check_estimator_key(estimator: Estimator, key: Key[Array, ""] | None) -> None:
    """Refuse what is not a key, or a missing one for an estimator that draws.

    Raises:
        ValueError: if it is missing, or an array of several.
        TypeError: if it is something else, such as a seed.
    """
    drawn_by = type(estimator).__name__ if estimator.stochastic else None
    check_key("key", key, drawn_by=drawn_by)
