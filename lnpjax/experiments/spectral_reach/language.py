"""Small language models for the experiments that need a trained one: text, and a short training."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from lnpjax._base.checks import require
from lnpjax.data import load_dataset
from lnpjax.experiments.spectral_reach.data import STORIES, TOKENIZER
from lnpjax.jacobian import ApplyFn, linearize
from lnpjax.models import Llama, LlamaConfig, split_llama
from lnpjax.pretraining.loss import cross_entropy

Text = Literal["stdlib", "bytes", "stories"]
TEXTS: tuple[Text, ...] = ("stdlib", "bytes", "stories")


class Corpus(NamedTuple):
    """Sequences of tokens, with the token that follows each.

    Attributes:
        inputs: that are learned.
        targets: of these.
        test_inputs: that are not.
        test_targets: of these.
    """

    inputs: Int[Array, "n time"]
    targets: Int[Array, "n time"]
    test_inputs: Int[Array, "k time"]
    test_targets: Int[Array, "k time"]


class MakeOptimizer(Protocol):
    """Makes an optimizer from its learning rate, which may be traced."""

    def __call__(self, rate: Float[Array, ""]) -> optax.GradientTransformationExtraArgs:
        """Return the optimizer."""


def check_text(text: str) -> None:
    """Refuse a name of a text that is not known."""
    names = ", ".join(map(repr, TEXTS))
    require(text in TEXTS, "text", expected=f"one of {names}", got=repr(text))


def text_of(text: Text, data: Path | None) -> Text:
    """Return what is learned with a folder of data, or without one: "stdlib" in place of "bytes".

    The standard library differs between versions of Python, and the folder's stories do not, so
    that rows of several machines go together with a folder.

    Example:
        >>> text_of("bytes", None), text_of("bytes", Path("data")), text_of("stdlib", Path("data"))
        ('stdlib', 'bytes', 'stdlib')
    """
    return "stdlib" if text == "bytes" and data is None else text


def load_corpus(
    text: Text, data: Path | None, *, context_length: int, num_test: int, max_bytes: int
) -> tuple[Corpus, int]:
    """Load text as sequences, and the size of its vocabulary.

    Args:
        text: "stdlib", the sources of Python's standard library as bytes, which need no folder;
            "bytes", the stories of the folder as bytes, or "stdlib" without one (`text_of`); or
            "stories", these in the tokens of *Spectral Reach* (B.2.1).
        data: the folder that holds `tinystories` and `tokenizers`, for stories.
        context_length: positions of a sequence.
        num_test: sequences that are not learned.
        max_bytes: of text.

    Raises:
        ValueError: without a folder where one is needed.
        FileNotFoundError: if it lacks a file.
    """
    check_text(text)
    sizes: dict[str, Any] = {
        "context_length": context_length,
        "num_validation": num_test,
        "max_bytes": max_bytes,
    }
    if text_of(text, data) == "stdlib":
        dataset = load_dataset("stdlib", **sizes)
    else:
        require(data is not None, "data", expected=f"a folder that holds {STORIES}", got="None")
        assert data is not None
        tokenizer = data / TOKENIZER if text == "stories" else None
        dataset = load_dataset(data / STORIES, tokenizer=tokenizer, **sizes)
    learned = dataset.train(np.arange(dataset.num_train))
    others = dataset.validation(np.arange(dataset.num_validation))
    return Corpus(*map(jnp.asarray, (*learned, *others))), dataset.vocab_size


def fitted(config: LlamaConfig, *, vocab_size: int, context_length: int) -> LlamaConfig:
    """Return a shape with the vocabulary and the length of a text."""
    fields = {"vocab_size": vocab_size, "max_seq_len": context_length}
    return LlamaConfig(**{**vars(config), **fields})


@functools.lru_cache(maxsize=16)
def network(config: LlamaConfig) -> ApplyFn:
    """Return a Llama as a function of its parameters, the same one for the same shape."""
    return split_llama(Llama(config, rngs=nnx.Rngs(0)))[0]


def start(config: LlamaConfig, seed: int) -> PyTree:
    """Return the parameters that a Llama starts from."""
    return split_llama(Llama(config, rngs=nnx.Rngs(seed)))[1]


def warmed_up_adamw(rate: Float[Array, ""]) -> optax.GradientTransformationExtraArgs:
    """Return AdamW with a warm-up over 20 steps, and clipped gradients."""

    def schedule(count: Int[Array, ""]) -> Float[Array, ""]:
        return rate * jnp.minimum(1.0, (count + 1) / WARM_UP)

    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0))


WARM_UP = 20


def batch_at(corpus: Corpus, key: Key[Array, ""], size: int) -> tuple[Array, Array]:
    """Return sequences that are drawn anew at every step."""
    rows = jax.random.randint(key, (size,), 0, len(corpus.inputs))
    return corpus.inputs[rows], corpus.targets[rows]


@functools.partial(jax.jit, static_argnames=("apply_fn", "make_optimizer", "num_steps", "size"))
def trained(
    apply_fn: ApplyFn,
    params: PyTree,
    corpus: Corpus,
    key: Key[Array, ""],
    rate: Float[Array, ""],
    *,
    num_steps: int,
    size: int,
    make_optimizer: MakeOptimizer = warmed_up_adamw,
) -> tuple[PyTree, Float[Array, " step"]]:
    """Train a language model in one program.

    Args:
        apply_fn: the model.
        params: where it starts.
        corpus: what it learns.
        key: of the order of batches.
        rate: the learning rate.
        num_steps: how many.
        size: sequences of a batch.
        make_optimizer: makes the optimizer from the rate.

    Returns:
        The parameters afterwards, and the loss of every batch.
    """
    optimizer = make_optimizer(rate)

    def step(carry: PyTree, key: Array) -> tuple[PyTree, Array]:
        params, memory = carry
        inputs, targets = batch_at(corpus, key, size)
        here = linearize(apply_fn, params, inputs)
        loss, gradient = jax.value_and_grad(cross_entropy)(here.outputs, targets)
        updates, memory = optimizer.update(here.vjp(gradient), memory, params)
        return (optax.apply_updates(params, updates), memory), loss

    carry = (params, optimizer.init(params))
    (params, _), losses = jax.lax.scan(step, carry, jax.random.split(key, num_steps))
    return params, losses
