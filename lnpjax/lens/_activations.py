"""Where the variance of hidden states lies: the spectra of their covariances (*Spectral Lens*).

*Spectral Lens*, section 2.2 and eq. 1: the samples are token positions, and the covariance is
centred. `lnpjax.lens.covariance_update` accumulates it, and `lnpjax.spectra` reads off its
spectrum.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, PyTree

from lnpjax._base.checks import check_count, check_floating, check_key, concrete, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.reporting import Reporter
from lnpjax._base.shards import AxisName, shards_over
from lnpjax._base.slices import filled, sliced
from lnpjax.jacobian import Batch
from lnpjax.jacobian._contract import check_pair, checked_layers, measured_batch, with_state
from lnpjax.jacobian._interaction import interaction_status, values_interact
from lnpjax.lens._covariance import (
    CovarianceState,
    covariance_init,
    covariance_spectrum,
    covariance_update,
)
from lnpjax.spectra import SpectrumSummary, Window, tail_window
from lnpjax.spectra._summary import check_windows
from lnpjax.status import Status

HiddenFn: TypeAlias = Callable[[PyTree, PyTree], Mapping[str, Array]]
MaskFn: TypeAlias = Callable[[PyTree], Bool[Array, "..."]]


@dataclasses.dataclass(frozen=True, eq=False)  # hashable: jit takes it whatever the pool holds
class ActivationSpectra:
    """A measurement of activation spectra, made by `activation_spectra`. Call it; see there."""

    hidden_states: HiddenFn
    pool: Batch | None
    microbatch_size: int | None
    layers: tuple[str, ...] | None
    mask: MaskFn | None
    head: Window | None
    tail: Window | None
    resolution: float | None
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
        """Measure the spectra on the pool, without a pool on B, and without B on A.

        Args:
            params: what the hidden states are taken at.
            batch_a: ``(inputs, targets)``, as training steps take; the targets are not looked at.
            batch_b: another such batch, or `None`.
            key: not used: nothing is drawn.
            state: of the network besides parameters, handed to `hidden_states`.

        Returns:
            A `SpectrumSummary` for each layer.

        Raises:
            TypeError, ValueError: for bad layers, masks or windows; outside of `jit`, if hidden
                states are infinite or NaN, or samples interact.
        """
        check_key("key", key)
        name, batch = measured_batch(self.pool, batch_a, batch_b)
        inputs, _ = check_pair(name, batch)
        if self.pool is None:
            inputs = shards_over(self.axis_name).gathered(name, inputs)
        return self._measure(params, inputs, name, state)

    @entry_point
    def _measure(
        self, params: PyTree, inputs: PyTree, argument: str, state: PyTree | None
    ) -> dict[str, SpectrumSummary]:
        measure = with_state(self, state, network="hidden_states")
        shapes = _shapes(measure.hidden_states, params, inputs, self.layers)
        self._check_ranks(shapes, argument)
        interact = interaction_status(
            "hidden_states", _interact(measure.hidden_states, params, inputs, tuple(shapes))
        )
        states = measure._covariances(params, inputs, shapes)
        return {
            layer: covariance_spectrum(
                _with_status(layer, states[layer], interact[layer]),
                head=self.head,
                tail=self.tail,
                resolution=self.resolution,
            )
            for layer in shapes
        }

    def _covariances(
        self, params: PyTree, inputs: PyTree, shapes: dict[str, jax.ShapeDtypeStruct]
    ) -> dict[str, CovarianceState]:
        num_samples = _num_samples(inputs)
        states = {layer: covariance_init(shape.shape[-1]) for layer, shape in shapes.items()}
        size = min(self.microbatch_size or num_samples, num_samples)
        add = _Accumulate(self.hidden_states, self.layers, self.mask)
        if size == num_samples:
            return add(params, states, inputs, jnp.ones(num_samples, bool))

        num_microbatches = -(-num_samples // size)

        def microbatch(
            states: dict[str, CovarianceState], part: tuple[PyTree, Array]
        ) -> tuple[dict[str, CovarianceState], None]:
            return add(params, states, *part), None

        parts = sliced(inputs, num_microbatches, size)
        valid = filled(num_samples, num_microbatches, size)
        return jax.lax.scan(microbatch, states, (parts, valid))[0]

    def _check_ranks(self, shapes: Mapping[str, jax.ShapeDtypeStruct], argument: str) -> None:
        """Refuse windows beyond the rank that the covariance of so many samples can have."""
        for layer, shape in shapes.items():
            dimension, samples = shape.shape[-1], math.prod(shape.shape[:-1])
            rank = min(dimension, samples - 1)
            of = f"eigenvalues that {samples} samples of {dimension} features in {layer!r} can have"
            expected = f"at least two samples in {layer!r}"
            require(rank >= 1, argument, expected=expected, got=samples)
            tail = self.tail or tail_window(dimension)
            check_windows(rank, of=of, head=self.head, tail=tail)


def activation_spectra(
    hidden_states: HiddenFn,
    *,
    pool: Batch | None = None,
    microbatch_size: int | None = None,
    layers: Sequence[str] | None = None,
    mask: MaskFn | None = None,
    head: Window | None = None,
    tail: Window | None = None,
    resolution: float | None = None,
    axis_name: AxisName = None,
) -> ActivationSpectra:
    """Make a measurement of the activation covariance spectra of chosen layers.

    *Spectral Lens*, sections 2.2 and appendix C: the centred covariance of hidden states over all
    positions of a pool (eq. 1), its RankMe (eq. 10), and its exponents over head and tail
    (eq. 2).

    Args:
        hidden_states: ``hidden_states(params, inputs) -> {layer: (B, ..., features)}``, pure; from
            `lnpjax.lens.nnx_hidden_states`, `linen_hidden_states`, or any function.
        pool: a held-out batch ``(inputs, targets)`` that every measurement uses, as the paper does;
            `None` for the batches that the measurement is called with. It becomes part of the
            compiled program.
        microbatch_size: samples whose hidden states are held at a time; `None` for all.
        layers: which layers, in this order; `None` for all that `hidden_states` returns.
        mask: ``mask(inputs)`` is False for positions that only pad, of the shape ``(B, ...)`` of
            the hidden states without their features, or of its leading axes, in every layer.
        head: window of ranks of the head exponent; `None` for `HEAD_WINDOW` cut to the width.
        tail: window of the tail exponent; `None` for `tail_window` of each layer's width.
        resolution: eigenvalues below this fraction of the largest are left out of the fits, and
            flagged; `None` for what float32 or the dtype of the hidden states resolves.
        axis_name: inside `jax.shard_map` and `jax.pmap`, the axis (or axes) over which devices hold
            parts of one batch, which is then put together on every device (a pool
            is there already); ``()`` if each
            device measures its own.

    Returns:
        A pure function ``measure(params, batch_a, batch_b=None, *, key=None)``, which gives a
        `SpectrumSummary` for each layer, and goes into `jit`, `scan` and `lnpjax.instrument`. (JAX
        sorts the keys of a dict that leaves `jit`: `layers` keeps their order.) A few samples are
        also passed one by one, where the model takes them so: `Status.SAMPLES_INTERACT` tells that
        it makes a difference, as with batch normalisation or dropout in training mode.

    Raises:
        TypeError: if a layer is not an array of real floating-point numbers, or `hidden_states`
            does not return a dict.
        ValueError: if `microbatch_size` is not an integer >= 1; when called, before anything is
            computed: if a layer is unknown (the message lists those there are), a window reaches
            beyond the width or the number of samples less one, or the mask has more axes than the
            positions of a layer.

    Cost: a forward pass and that of eight samples, ``4 d^2`` operations per position and layer, and
    an eigendecomposition.

    Example:
        >>> def hidden_states(params, inputs):
        ...     return {"first": jnp.tanh(inputs @ params)}
        >>> measure = activation_spectra(hidden_states, head=(1, 4))
        >>> inputs = jax.random.normal(jax.random.key(0), (256, 16))
        >>> out = jax.jit(measure)(jnp.eye(16), (inputs, None))
        >>> print(f"{out['first'].rank_me:.1f} of 16")
        15.5 of 16
    """
    check_count("microbatch_size", microbatch_size, optional=True)
    if pool is not None:
        _num_samples(check_pair("pool", pool)[0])
    check_windows(2**31 - 1, of="ranks there can be", head=head, tail=tail)
    return ActivationSpectra(
        hidden_states=hidden_states,
        pool=pool,
        microbatch_size=microbatch_size,
        layers=checked_layers(layers),
        mask=mask,
        head=head,
        tail=tail,
        resolution=resolution,
        axis_name=axis_name,
    )


def stream_covariances(
    hidden_states: HiddenFn,
    params: PyTree,
    batches: Iterable[PyTree],
    *,
    layers: Sequence[str] | None = None,
    mask: MaskFn | None = None,
    reporter: Reporter | None = None,
) -> dict[str, CovarianceState]:
    """Accumulate covariances of hidden states over batches that come one by one.

    For pools of any size. Compiles one function for each shape of batch, and runs it on them.

    Args:
        hidden_states: ``hidden_states(params, inputs) -> {layer: (B, ..., features)}``, pure.
        params: what the hidden states are taken at.
        batches: inputs (not pairs with targets), each a pytree whose leaves lead with the sample.
        layers: which layers; `None` for all.
        mask: ``mask(inputs)`` is False for positions that only pad; `None` if all count.
        reporter: receives the number of batches whenever it has doubled.

    Returns:
        A `CovarianceState` for each layer, in the order of `layers` or of `hidden_states`: for
        `covariance_spectrum`, `covariance_float64`, and `covariance_merge` with those of others.

    Raises:
        TypeError: if a layer is not an array of real floating-point numbers.
        ValueError: if a layer is unknown, or the mask does not fit; if there is no batch, or
            samples of the first one interact.

    Example:
        >>> def hidden_states(scale, inputs):
        ...     return {"scaled": scale * inputs}
        >>> batches = [jnp.ones((2, 3)), jnp.zeros((1, 3))]
        >>> states = stream_covariances(hidden_states, 2.0, batches)
        >>> from lnpjax.lens import covariance_float64
        >>> covariance_float64(states["scaled"]).matrix[0].round(6)
        array([1.333333, 1.333333, 1.333333])
    """
    chosen = checked_layers(layers)
    add = jax.jit(_Accumulate(hidden_states, chosen, mask))
    states: dict[str, CovarianceState] = {}
    order: tuple[str, ...] = ()
    done = 0
    for inputs in batches:
        num_samples = _num_samples(inputs)
        if not states:
            shapes = _shapes(hidden_states, params, inputs, chosen)
            order = tuple(shapes)
            check = jax.jit(partial(_interact, hidden_states, layers=order))
            interaction_status("hidden_states", check(params, inputs))
            states = {layer: covariance_init(shape.shape[-1]) for layer, shape in shapes.items()}
        states = add(params, states, inputs, jnp.ones(num_samples, bool))
        done += 1
        if reporter is not None and done & (done - 1) == 0:
            reporter.note(f"hidden states of {done} batches")
    require(done > 0, "batches", expected="at least one batch", got="none")
    return {layer: states[layer] for layer in order}


@dataclasses.dataclass(frozen=True, eq=False)
class _Accumulate:
    """Adds the hidden states of a batch to the covariances of its layers."""

    hidden_states: HiddenFn
    layers: tuple[str, ...] | None
    mask: MaskFn | None

    @entry_point
    def __call__(
        self,
        params: PyTree,
        states: dict[str, CovarianceState],
        inputs: PyTree,
        valid: Bool[Array, " batch"],
    ) -> dict[str, CovarianceState]:
        hidden = _chosen(self.hidden_states(params, inputs), self.layers, len(valid))
        if self.mask is not None:
            counts = jnp.asarray(self.mask(inputs))
            for layer, values in hidden.items():
                require(
                    counts.ndim < values.ndim,
                    "mask",
                    expected=f"at most the axes {values.shape[:-1]} of the positions of {layer!r} "
                    "(measure layers with fewer axes apart, each kind with layers= and its mask)",
                    got=f"shape {counts.shape}",
                )
            valid = counts & valid.reshape(valid.shape + (1,) * (counts.ndim - 1))
        return {
            layer: covariance_update(
                states[layer], values, mask=valid, argument=f"hidden_states/{layer}"
            )
            for layer, values in hidden.items()
        }


def _interact(
    hidden_states: HiddenFn, params: PyTree, inputs: PyTree, layers: tuple[str, ...]
) -> dict[str, Bool[Array, ""]]:
    """Return for each layer whether the hidden states of a sample depend on its company."""

    def rows(params: PyTree, inputs: PyTree) -> dict[str, Array]:
        return _chosen(hidden_states(params, inputs), layers, _num_samples(inputs))

    try:
        interact: dict[str, Bool[Array, ""]] = values_interact(rows, params, inputs)
    except Exception:
        # A model that takes no batches but its own (of a size that divides, sharded over devices)
        # raises whatever it likes. There is then no telling.
        interact = {layer: jnp.array(False) for layer in layers}
    return interact


def _with_status(layer: str, state: CovarianceState, status: Int[Array, ""]) -> CovarianceState:
    """Return the state with further flags; refuse samples that are known not to be finite."""
    flags = concrete(state.status)
    require(
        flags is None or not flags & Status.NON_FINITE,
        f"hidden_states/{layer}",
        expected="finite samples",
        got="infinite or NaN entries",
    )
    return dataclasses.replace(state, status=state.status | status)


def _chosen(hidden: Any, layers: tuple[str, ...] | None, num_samples: int) -> dict[str, Any]:
    """Return the layers that were asked for, in that order, checked."""
    require(
        isinstance(hidden, Mapping) and len(hidden) > 0,
        "hidden_states",
        expected="a function that returns a dict from layers to hidden states",
        got=type(hidden).__name__ if not isinstance(hidden, Mapping) else "no layer",
        error=TypeError,
    )
    unknown = [layer for layer in layers or () if layer not in hidden]
    require(
        not unknown and layers != (),
        "layers",
        expected=f"some of the layers there are, {list(hidden)}",
        got=unknown or "none",
    )
    chosen = {layer: hidden[layer] for layer in layers or tuple(hidden)}
    for layer, values in chosen.items():
        name = f"hidden_states/{layer}"
        check_floating(name, values)
        require(
            len(values.shape) >= 2 and values.shape[0] == num_samples,
            name,
            expected=f"shape ({num_samples}, ..., features), a row for each sample of the inputs",
            got=f"shape {values.shape}",
        )
    return chosen


def _shapes(
    hidden_states: HiddenFn, params: PyTree, inputs: PyTree, layers: tuple[str, ...] | None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the chosen layers, in their order, before anything is computed."""
    order: list[str] = []

    def look(params: PyTree, inputs: PyTree) -> dict[str, Array]:
        chosen = _chosen(hidden_states(params, inputs), layers, _num_samples(inputs))
        order.extend(chosen)
        return chosen

    shapes = jax.eval_shape(look, params, inputs)
    return {layer: shapes[layer] for layer in order}  # JAX sorts dicts


def _num_samples(inputs: PyTree) -> int:
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    require(
        len(sizes) == 1 and sizes != {()} and sizes != {(0,)},
        "inputs",
        expected="arrays whose first axes all have the number of samples, at least one",
        got=f"first axes {sorted(sizes)}",
    )
    return next(iter(sizes))[0]
