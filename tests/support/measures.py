"""Every measurement of the library on one small network: what contracts over all of them run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import zoo

import lnpjax

CASE = zoo.mlp(sizes=(16, 64, 32), batch_sizes=(16, 16))
"""As wide as eight devices need, so that each of them has a share of everything."""

WEIGHT = "layer0/kernel"
HEAD, TAIL = (1, 4), (2, 8)
Measure = Callable[..., Any]


def hidden_states(params, inputs):
    return {"first": jnp.tanh(inputs @ params["layer0"]["kernel"])}


def lnp(apply_fn, loss_fn, *, estimator) -> Measure:
    return lnpjax.lnp(apply_fn, loss_fn, estimator=estimator)


def position(apply_fn, loss_fn) -> Measure:
    return lnpjax.spectra.position_distribution(apply_fn, loss_fn, num_matvecs=4)


def gradients(apply_fn, loss_fn) -> Measure:
    sizes = {"microbatch_size": 8, "block_size": 8}
    return lnpjax.lens.gradient_spectra(
        apply_fn, loss_fn, weights=WEIGHT, head=HEAD, tail=TAIL, **sizes
    )


def activations(apply_fn, loss_fn) -> Measure:
    del apply_fn, loss_fn  # of the network, it needs the hidden states alone
    return lnpjax.lens.activation_spectra(hidden_states, microbatch_size=8, head=HEAD, tail=TAIL)


FACTORIES: dict[str, Callable[[Any, Any], Measure]] = {
    "lnp, exact": functools.partial(lnp, estimator=lnpjax.Exact()),
    "lnp, hutchinson": functools.partial(lnp, estimator=lnpjax.Hutchinson(2)),
    "lnp, microbatches": functools.partial(lnp, estimator=lnpjax.Hutchinson(1, microbatch_size=8)),
    "lnp, few samples": functools.partial(lnp, estimator=lnpjax.Hutchinson(1, samples=8)),
    "lnp, global": functools.partial(lnp, estimator=lnpjax.GlobalHutchinson(2)),
    "sample_components": lnpjax.decomposition.sample_components,
    "position_distribution": position,
    "gradient_spectra": gradients,
    "activation_spectra": activations,
}
"""Each makes ``measure(params, batch_a, batch_b=None, *, key)`` of a network and a loss."""


def measure_of(name: str) -> Measure:
    return FACTORIES[name](CASE.apply_fn, CASE.loss_fn)


def statuses(result) -> list[lnpjax.Status]:
    """The status of every part of a result."""
    flat = jax.tree_util.tree_flatten_with_path(result)[0]
    return [
        lnpjax.Status(int(leaf))
        for path, leaf in flat
        if jax.tree_util.keystr(path).endswith(".status")
    ]
