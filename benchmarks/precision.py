"""What computing in bfloat16 or float32 does to every quantity, against float64."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lnpjax
from benchmarks.measured_step import cross_entropy
from lnpjax import precision
from lnpjax._base import numerics as parameters
from lnpjax.jacobian._rounding import compute_precision
from lnpjax.models import Llama, LlamaConfig

QUANTITIES = ("loss_a", "chi_loss", "chi_net", "delta_loss", "chi_pos", "gradient norm")
MODES = {
    "float32": ("float32", "float32"),
    "bfloat16 compute": ("bfloat16", "float32"),
    "bfloat16 parameters": ("bfloat16", "bfloat16"),
}
OUTPUTS, FEATURES, SAMPLES = 10, 20, 32
VOCABULARY, LENGTH, SEQUENCES = 32, 12, 8


class Subject(NamedTuple):
    """A model in any precision, its loss, its batches by seed, and its parameters."""

    apply_fn: Callable  # of a dtype
    loss_fn: Callable
    batch: Callable
    params: list | dict


def squared_error(outputs, targets):
    return jnp.mean(jnp.square(outputs.astype(targets.dtype) - targets))


def token_loss(logits, targets):
    return cross_entropy(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), targets)


def mlp(*widths, seed=0):
    rng = np.random.default_rng(seed)
    sizes = (FEATURES, *widths, OUTPUTS)
    params = [rng.normal(size=s, scale=s[0] ** -0.5) for s in itertools.pairwise(sizes)]
    teacher = rng.normal(size=(FEATURES, OUTPUTS), scale=FEATURES**-0.5)

    def apply_fn(dtype):
        def apply(params, inputs):
            hidden = inputs.astype(dtype)
            for index, kernel in enumerate(params):
                hidden = jax.nn.gelu(hidden) if index else hidden
                hidden = hidden @ kernel.astype(dtype)
            return hidden

        return apply

    def batch(seed):
        inputs = np.random.default_rng(seed).normal(size=(SAMPLES, FEATURES))
        return inputs.astype(np.float32), np.sin(2 * inputs @ teacher).astype(np.float32)

    return Subject(apply_fn, squared_error, batch, [p.astype(np.float32) for p in params])


def llama():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=2,
        max_seq_len=LENGTH,
    )

    def apply_fn(dtype):
        model = Llama(dataclasses.replace(config, dtype=dtype), rngs=nnx.Rngs(0))
        return lnpjax.from_nnx(model)[0]

    def batch(seed):
        """Arithmetic progressions, now and then broken."""
        rng = np.random.default_rng(seed)
        start, step = rng.integers(0, VOCABULARY, (2, SEQUENCES, 1))
        ids = start + (1 + step % 4) * np.arange(LENGTH + 1)
        ids = np.where(rng.random(ids.shape) < 0.1, rng.integers(0, VOCABULARY, ids.shape), ids)
        ids = (ids % VOCABULARY).astype(np.int32)
        return ids[:, :-1], ids[:, 1:]

    _, params = lnpjax.from_nnx(Llama(config, rngs=nnx.Rngs(0)))
    return Subject(apply_fn, token_loss, batch, jax.tree.map(np.asarray, params))


def trained(subject, steps, *, batches=1000):
    """After Adam at a constant rate, on so many different batches in turn."""
    apply_fn, optimizer = subject.apply_fn("float32"), optax.adam(3e-3)

    def loss(params, batch):
        return subject.loss_fn(apply_fn(params, batch[0]), batch[1])

    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    params, state = subject.params, optimizer.init(subject.params)
    for index in range(steps):
        params, state = step(params, state, subject.batch(index % batches))
    return subject._replace(params=jax.device_get(params))


def cast(params, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), params)


@functools.cache
def measurement(apply_fn_of, loss_fn, dtype):
    """A compiled function of parameters, two batches and a key: the quantities and the rule."""
    apply_fn, loss_gradient = apply_fn_of(dtype), jax.grad(loss_fn)
    measure = lnpjax.lnp(apply_fn, loss_fn)

    def side(params, batch, squared_jacobian_norm, eps):
        linearization = lnpjax.linearize(apply_fn, params, batch[0])
        outputs = linearization.outputs
        cotangents = loss_gradient(outputs, batch[1])
        gradient = linearization.vjp(cotangents)
        norm = jnp.sqrt(jnp.sum(parameters.leaf_inner_products(gradient, gradient)))
        sensitivity = precision.loss_sensitivity(
            lambda f: loss_gradient(f, batch[1]), outputs, cotangents, eps=eps
        )
        noise = precision.gradient_noise(
            norm,
            jnp.linalg.norm(cotangents.astype(norm.dtype)),
            squared_jacobian_norm,
            outputs.size,
            eps=eps,
            sensitivity=sensitivity,
        )
        return norm, noise, sensitivity

    def everything(params, batch_a, batch_b, key):
        eps = compute_precision(apply_fn, params, batch_a[0])
        out = measure(params, batch_a, batch_b, key=key)
        squared_norm = out.chi_net * len(batch_a[0])
        norm_a, noise_a, sensitivity = side(params, batch_a, squared_norm, eps)
        norm_b, noise_b, _ = side(params, batch_b, squared_norm, eps)
        error = precision.relative_error(out.delta_loss, norm_a, norm_b, noise_a, noise_b)
        return {quantity: getattr(out, quantity) for quantity in QUANTITIES[:-1]} | {
            "gradient norm": norm_a,
            "cosine": out.delta_loss / (norm_a * norm_b),
            "estimate": error,
            "sensitivity": sensitivity,
        }

    return jax.jit(everything)


def study(name, subject, *, rounds):
    """Errors in every precision; the truth is float64 at the same parameters and probes."""
    batches = [
        (subject.batch(10_000 + 2 * i), subject.batch(10_001 + 2 * i)) for i in range(rounds)
    ]

    def results(dtype, params):
        function = measurement(subject.apply_fn, subject.loss_fn, dtype)
        return [
            {
                "self": jax.device_get(function(params, first, first, jax.random.key(seed))),
                "cross": jax.device_get(function(params, first, second, jax.random.key(seed))),
            }
            for seed, (first, second) in enumerate(batches)
        ]

    with jax.enable_x64(True):
        truths = results("float64", cast(subject.params, "float64"))
    rows = []
    for mode, (dtype, param_dtype) in MODES.items():
        found = results(dtype, cast(subject.params, param_dtype))
        for pair in ("self", "cross"):
            both = [(x[pair], t[pair]) for x, t in zip(found, truths, strict=True)]
            errors = {q: [abs(x[q] / t[q] - 1) for x, t in both] for q in QUANTITIES}
            estimates = [x["estimate"] for x, _ in both]
            rows.append(
                {
                    "model": name,
                    "precision": mode,
                    "pair": pair,
                    "largest_errors": {q: float(max(e)) for q, e in errors.items()},
                    "cosine": float(np.median([abs(t["cosine"]) for _, t in both])),
                    "chi_pos": float(np.median([abs(t["chi_pos"]) for _, t in both])),
                    "sensitivity": float(np.median([t["sensitivity"] for _, t in both])),
                    "estimated_error": float(max(estimates)),
                    "largest_error_over_estimate": float(
                        max(np.divide(errors["delta_loss"], estimates))
                    ),
                }
            )
    return rows


def linear_loss(outputs, targets):
    return jnp.sum(outputs.astype(targets.dtype) * targets)


def falling_positions(name, subject):
    """One loss gradient after another along an eigenvector of the eNTK: chi_pos is its p."""
    inputs = subject.batch(0)[0]
    shape = jax.eval_shape(subject.apply_fn("float32"), subject.params, inputs).shape
    with jax.enable_x64(True):
        exact = cast(subject.params, "float64")
        kernel = np.asarray(lnpjax.entk(subject.apply_fn("float64"), exact, inputs))
    eigenvalues, vectors = np.linalg.eigh(kernel)
    num_outputs = math.prod(shape)
    # Evenly spread in the logarithm, to the smallest that float64 resolves.
    resolved = eigenvalues[eigenvalues > 1e-13 * eigenvalues[-1]]
    chosen = np.unique(np.searchsorted(resolved, np.geomspace(resolved[0], resolved[-1], 8)))
    offset = num_outputs - len(resolved)
    rows = []
    for mode in ("float32", "bfloat16 compute"):
        function = measurement(subject.apply_fn, linear_loss, MODES[mode][0])
        for index in np.minimum(chosen, len(resolved) - 1):
            targets = vectors[:, offset + index].reshape(shape).astype(np.float32)
            # Rounding the eigenvector to float32 is no error of the measurement.
            vector = targets.ravel().astype(float)
            exact_delta = vector @ kernel @ vector
            squared_scale = np.sum(vector**2) * np.trace(kernel) / num_outputs
            batch = (inputs, targets)
            found = jax.device_get(function(subject.params, batch, batch, jax.random.key(0)))
            rows.append(
                {
                    "model": name,
                    "precision": mode,
                    "chi_pos_times_outputs": float(exact_delta / squared_scale),
                    "error": float(abs(found["delta_loss"] / exact_delta - 1)),
                    "estimated_error": float(found["estimate"]),
                }
            )
    return rows


def run(*, rounds):
    """Errors over `rounds` seeds; then one batch against itself as chi_pos falls by decades."""
    small, language = mlp(64), llama()
    rows = study("mlp", small, rounds=rounds)
    rows += study("mlp, fitted", trained(small, 1500, batches=1), rounds=rounds)
    rows += study("llama", language, rounds=rounds)
    rows += study("llama, trained", trained(language, 300), rounds=rounds)
    rows += falling_positions("mlp of 9 layers", mlp(*[48] * 8))
    return rows


def table(rows):
    """Largest relative errors per quantity, then the fall of chi_pos."""
    header = "".join(f"{q:>10.10}" for q in QUANTITIES)
    lines = [f"{'':16}{'':21}{'':6}{header}{'cosine':>9}{'s':>7}{'rule':>9}{'of rule':>8}"]
    for row in rows:
        if "pair" in row:
            errors = "".join(f"{row['largest_errors'][q]:10.0e}" for q in QUANTITIES)
            lines.append(
                f"{row['model']:16}{row['precision']:21}{row['pair']:6}{errors}"
                f"{row['cosine']:9.3f}{row['sensitivity']:7.1f}{row['estimated_error']:9.0e}"
                f"{row['largest_error_over_estimate']:8.2f}"
            )
    lines.append(f"\n{'A = B':16}{'':21}{'chi_pos M':>12}{'error':>10}{'rule':>10}")
    lines += [
        f"{row['model']:16}{row['precision']:21}{row['chi_pos_times_outputs']:12.1e}"
        f"{row['error']:10.0e}{row['estimated_error']:10.0e}"
        for row in rows
        if "pair" not in row
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(run(rounds=3)))
