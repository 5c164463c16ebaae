"""The eigenmodes of an explicit kernel before and after training (Spectral Reach, D.5, Fig. 12).

A Llama is trained. Of single sequences that it did not learn, and of K entries of the vocabulary at
all S positions, the kernel is made and decomposed, for the parameters at the start and at the end.
Pairs of modes (A.1) are those of a sequence, on which a step is taken, and of the next one.

What is left open, and what is done here: the K entries are the most frequent ones of the training
text (the paper names their number); the loss gradient is that of the sequence's mean cross-entropy
over all of the vocabulary, of which those entries are kept; the sequences are held out. Several
models and sequences, where the paper has one of each, tell whether what is seen is chance.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import require
from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_reach import language
from lnpjax.experiments.spectral_reach.explicit_spectrum.config import ExplicitConfig
from lnpjax.experiments.spectral_reach.language import Corpus
from lnpjax.jacobian import ApplyFn, select_outputs
from lnpjax.kernel import Modes, eigenmodes, entk, mode_pairs
from lnpjax.models import preset
from lnpjax.pretraining.loss import cross_entropy
from lnpjax.runs import Row

STATES = ("start", "end")


class Subject(NamedTuple):
    """A model in both states, what it is measured on, and its losses when training ends."""

    apply_fn: ApplyFn
    states: dict[str, PyTree]
    corpus: Corpus
    vocabulary: Int[np.ndarray, " K"]
    loss: float


def measure(config: ExplicitConfig, sweep: Sweep, data: Path | None) -> None:
    """Decompose what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: the folder of stories, where these are learned.
    """
    for model in range(config.num_models):
        for sample in range(config.num_samples):
            unit = functools.partial(kernel_unit, config, data, model, sample)
            sweep.unit(f"model{model}-sample{sample}", unit)


def num_units(config: ExplicitConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_reach.explicit_spectrum.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        24
    """
    return config.num_models * config.num_samples


@functools.lru_cache(maxsize=1)
def subject(config: ExplicitConfig, data: Path | None, model: int) -> Subject:
    """Train a model; once for all of its sequences."""
    corpus, vocab_size = language.load_corpus(
        config.text,
        data,
        context_length=config.context_length,
        num_test=max(config.num_samples, 8),
        max_bytes=config.max_bytes,
    )
    shape = language.fitted(
        preset(config.model), vocab_size=vocab_size, context_length=config.context_length
    )
    seed = 1000 * config.seed + model
    before = language.start(shape, seed)
    apply_fn = language.network(shape)
    after, losses = language.trained(
        apply_fn,
        before,
        corpus,
        jax.random.key(seed),
        jnp.float32(config.rate),
        num_steps=config.train_steps,
        size=config.train_batch,
    )
    vocabulary = most_frequent(np.asarray(corpus.targets), config.num_vocabulary)
    states = dict(zip(STATES, (before, after), strict=True))
    return Subject(apply_fn, states, corpus, vocabulary, float(jnp.mean(losses[-50:])))


def most_frequent(targets: Int[np.ndarray, "n time"], count: int) -> Int[np.ndarray, " K"]:
    """Return the tokens that are most frequent, in ascending order.

    Raises:
        ValueError: if there are fewer different tokens.

    Example:
        >>> most_frequent(np.array([[5, 3, 5], [3, 5, 9]]), 2).tolist()
        [3, 5]
    """
    tokens, counts = np.unique(targets, return_counts=True)
    require(
        len(tokens) >= count,
        "num_vocabulary",
        expected=f"at most the {len(tokens)} different tokens of the text",
        got=count,
    )
    return np.sort(tokens[np.argsort(-counts, kind="stable")[:count]])


def kernel_unit(config: ExplicitConfig, data: Path | None, model: int, sample: int) -> UnitResult:
    """Decompose the kernel of one sequence in both states of one model."""
    subject_of = subject(config, data, model)
    chosen = (None, tuple(subject_of.vocabulary.tolist()))
    rows: list[Row] = []
    arrays: dict[str, np.ndarray] = {}
    for state, params in subject_of.states.items():
        modes = modes_of(subject_of, params, sample, chosen)
        pairs = pairs_of(subject_of, params, sample, chosen, modes) if config.pairs else None
        arrays |= {
            f"{state}_p": np.asarray(modes.p, np.float32),
            f"{state}_gamma2": np.asarray(modes.gamma2, np.float32),
        }
        rows.append(
            {
                "kind": "kernel",
                "model": model,
                "sample": sample,
                "state": state,
                "chi_pos": float(modes.chi_pos),
                "trace": float(modes.trace),
                "positive_pairs": np.nan if pairs is None else float(np.mean(pairs > 0)),
                "positive_part": np.nan if pairs is None else positive_part(pairs),
                "training_loss": subject_of.loss,
            }
        )
    return UnitResult(rows, arrays)


Chosen = tuple[None, tuple[int, ...]]


def modes_of(subject_of: Subject, params: PyTree, sample: int, chosen: Chosen) -> Modes:
    """Return the modes of the kernel of the chosen outputs, seen from their loss gradient."""
    inputs, targets = _sequence(subject_of.corpus, sample)
    kernel = _kernel(subject_of.apply_fn, chosen, params, inputs)
    return _decomposed(kernel, _gradient(subject_of.apply_fn, chosen, params, inputs, targets))


def pairs_of(
    subject_of: Subject, params: PyTree, sample: int, chosen: Chosen, modes: Modes
) -> Float[np.ndarray, "m m"]:
    """Return what pairs of modes add to chi_pos between a sequence and the next (eq. 25)."""
    other = (sample + 1) % len(subject_of.corpus.test_inputs)
    inputs, others = (_sequence(subject_of.corpus, one)[0] for one in (sample, other))
    between = _kernel(subject_of.apply_fn, chosen, params, others, inputs)
    return np.asarray(mode_pairs(between, modes_of(subject_of, params, other, chosen), modes))


def positive_part(pairs: Float[np.ndarray, "m m"]) -> float:
    """Return the sum of what is positive, as a share of the sum of absolute values.

    Example:
        >>> positive_part(np.array([[3.0, -1.0]]))
        0.75
    """
    return float(np.sum(np.maximum(pairs, 0)) / np.sum(np.abs(pairs)))


def _sequence(corpus: Corpus, sample: int) -> tuple[Int[Array, "1 time"], Int[Array, "1 time"]]:
    rows = slice(sample, sample + 1)
    return corpus.test_inputs[rows], corpus.test_targets[rows]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _kernel(
    apply_fn: ApplyFn, chosen: Chosen, params: PyTree, inputs: Array, inputs2: Array | None = None
) -> Float[Array, "m m"]:
    return entk(apply_fn, params, inputs, inputs2=inputs2, outputs=chosen)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(
    apply_fn: ApplyFn,
    chosen: Chosen,
    params: PyTree,
    inputs: Array,
    targets: Array,
) -> Float[Array, " m"]:
    gradient = jax.grad(cross_entropy)(apply_fn(params, inputs), targets)
    return select_outputs(gradient, chosen).ravel()


_decomposed = jax.jit(eigenmodes)
