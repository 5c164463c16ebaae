"""Sampling from a language model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from lnpjax._base.checks import checked_ids, require
from lnpjax.models.language import LanguageModel


def generate_greedy(
    model: LanguageModel, prompt: Int[Array, "batch prompt"], num_tokens: int
) -> Int[Array, "batch time"]:
    """Continue each prompt with the most probable token, `num_tokens` times.

    The whole sequence is run again for every token: simple, and enough for short samples.

    Args:
        model: the language model.
        prompt: token ids, `(batch, prompt)`, at least one per row.
        num_tokens: how many tokens to add.

    Returns:
        The prompts with their continuations, `(batch, prompt + num_tokens)`.

    Raises:
        ValueError: if a prompt is empty or has an id that is not a token, `num_tokens` is negative,
            or the result would be longer than the model's `max_seq_len`.

    Example:
        >>> from flax import nnx
        >>> from lnpjax.models import Llama, preset
        >>> model = Llama(preset("115K"), rngs=nnx.Rngs(0))
        >>> generate_greedy(model, jnp.array([[1, 2]]), 3).shape
        (1, 5)
    """
    prompt = jnp.asarray(prompt)
    require(
        prompt.ndim == 2 and prompt.shape[1] >= 1,
        "prompt",
        expected="shape (batch, prompt) with at least one token",
        got=f"shape {prompt.shape}",
    )
    checked_ids("prompt", prompt, model.config.vocab_size)
    limit = model.config.max_seq_len - prompt.shape[1]
    require(
        0 <= num_tokens <= limit,
        "num_tokens",
        expected=f"0 to {limit} (what max_seq_len leaves)",
        got=num_tokens,
    )

    def append(position: Int[Array, ""], tokens: Int[Array, "batch time"]) -> Array:
        # Causality makes the zeros that still fill the tail harmless.
        chosen = jnp.argmax(model(tokens)[:, position - 1], axis=-1)
        return tokens.at[:, position].set(chosen.astype(tokens.dtype))

    start = prompt.shape[1]
    tokens = jnp.pad(prompt, ((0, 0), (0, num_tokens)))
    return jax.lax.fori_loop(start, start + num_tokens, append, tokens)
