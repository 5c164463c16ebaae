"""How Hutchinson's estimator of the squared gradient norm converges (Spectral Reach, B.1, Fig. 6).

A Llama is trained; then ``|J|_F^2`` is drawn for some of its sequences, one probe at a time, in
three ways: with probes that all samples share, as the reference of the paper has it; with probes of
their own for every sample; and with the closed forms of the outer layers (`lnpjax.SplitModel`).
An estimate of M probes is the mean of M draws. Every estimate has draws of its own, also those of
another M, so that all errors are independent.

What is left open, and what is done here: the text, the length of sequences and how long the model
is trained (the paper names its size and 32 samples). Cost is in gradients of the batch: two thirds
for each probe, and a third for the forward pass, which probes share.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from lnpjax.decomposition import Hutchinson
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach import language
from lnpjax.experiments.spectral_reach.hutchinson_convergence.config import HutchinsonConfig
from lnpjax.jacobian import ApplyFn
from lnpjax.models import preset

WAYS = ("shared", "independent", "closed_forms")
"""How probes are drawn."""


class Subject(NamedTuple):
    """A trained model, and the sequences whose squared norm is drawn."""

    apply_fn: ApplyFn
    params: PyTree
    inputs: Array
    loss: float


def measure(config: HutchinsonConfig, sweep: Sweep, data: Path | None) -> None:
    """Draw what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of stories, where these are learned.
    """
    for way in WAYS:
        for part in range(_num_parts(config)):
            unit = functools.partial(draws_unit, config, data, way, part)
            sweep.unit(f"{way}-{part}", unit)


def num_units(config: HutchinsonConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.hutchinson_convergence.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        18
    """
    return len(WAYS) * _num_parts(config)


def _num_parts(config: HutchinsonConfig) -> int:
    return -(-config.num_draws // config.probes_per_unit)


@functools.lru_cache(maxsize=1)
def subject(config: HutchinsonConfig, data: Path | None) -> Subject:
    """Train the model; once for all units of a process."""
    corpus, vocab_size = language.load_corpus(
        config.text,
        data,
        context_length=config.context_length,
        num_test=config.num_samples,
        max_bytes=config.max_bytes,
    )
    shape = language.fitted(
        preset(config.model), vocab_size=vocab_size, context_length=config.context_length
    )
    apply_fn = language.network(shape)
    params, losses = language.trained(
        apply_fn,
        language.start(shape, config.seed),
        corpus,
        jax.random.key(config.seed),
        jnp.float32(config.rate),
        num_steps=config.train_steps,
        size=config.train_batch,
    )
    return Subject(apply_fn, params, corpus.test_inputs, float(jnp.mean(losses[-20:])))


def draws_unit(config: HutchinsonConfig, data: Path | None, way: str, part: int) -> UnitResult:
    """Draw some of the probes of one kind."""
    model = subject(config, data)
    key = jax.random.fold_in(jax.random.key(config.seed), WAYS.index(way))
    first = part * config.probes_per_unit
    count = min(config.probes_per_unit, config.num_draws - first)
    values = draws(
        model.apply_fn, way, count, model.params, model.inputs, jax.random.fold_in(key, part)
    )
    row = {"kind": "draws", "way": way, "part": part, "count": count, "loss": model.loss}
    return UnitResult([row], {"draws": np.asarray(values, np.float32)})


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draws(
    apply_fn: ApplyFn, way: str, count: int, params: PyTree, inputs: Array, key: Key[Array, ""]
) -> Float[Array, " probe"]:
    """Draw ``|J|_F^2`` of a batch, one probe at a time (*Spectral Reach*, eq. 51).

    Args:
        apply_fn: the model.
        way: how probes are drawn, one of `WAYS`.
        count: how many.
        params: of the model.
        inputs: the batch.
        key: of the probes.

    Returns:
        One draw for each probe: the squared norm summed over samples and parameters.
    """
    estimator = Hutchinson(count, shared=way == "shared")
    # Without its parts, a model has no closed forms.
    network = apply_fn if way == "closed_forms" else lambda params, inputs: apply_fn(params, inputs)
    linearization = estimator.linearize(network, params, inputs)
    every = jnp.ones(len(inputs), bool)
    return jnp.sum(estimator.draw(linearization, key=key, mask=every), axis=(0, 2))
