"""What one measurement inside an instrumented training step costs, in plain steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import lnpjax
from benchmarks import timing
from lnpjax.models import Llama, preset, split_llama

PAPER_STEPS = 66_116  # Spectral Reach, B.2.1
REFERENCE_OVERHEAD = 0.27  # the paper's own figure for its method on that schedule


def cross_entropy(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


class Workload(NamedTuple):
    """A model, the AdamW training step of the papers, and two random batches."""

    apply_fn: Callable
    split_model: Callable
    train_step: Callable
    state: tuple
    batch_a: tuple
    batch_b: tuple


def workload(model_name, batch_size, length):
    config = dataclasses.replace(preset(model_name), max_seq_len=length)
    model = Llama(config, rngs=nnx.Rngs(0))
    apply_fn, params = lnpjax.from_nnx(model)
    split_model, _ = split_llama(model)
    optimizer = optax.adamw(1e-3, b1=0.9, b2=0.95, weight_decay=0.01)

    def train_step(state, batch):
        params, optimizer_state, step = state
        loss, gradient = jax.value_and_grad(
            lambda params: cross_entropy(apply_fn(params, batch[0]), batch[1])
        )(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        state = (optax.apply_updates(params, updates), optimizer_state, step + 1)
        return state, {"loss": loss, "gradient": gradient}

    def batch(seed):
        shape = (batch_size, length + 1)
        ids = jax.random.randint(jax.random.key(seed), shape, 0, config.vocab_size)
        return ids[:, :-1], ids[:, 1:]

    state = (params, optimizer.init(params), jnp.int32(0))
    return Workload(apply_fn, split_model, train_step, state, batch(1), batch(2))


def take_gradient(metrics):
    return metrics["gradient"], {"loss": metrics["loss"]}


def variants(work):
    """Every way to take the measurement, by name: (function, donated arguments)."""
    measure = lnpjax.lnp(work.apply_fn, cross_entropy)
    closed = lnpjax.lnp(work.split_model, cross_entropy)
    always, never = lnpjax.Windows((0,), 2**30), lnpjax.Windows((2**30,), 1)

    def step(measure, windows, **options):
        return lnpjax.instrument(
            work.train_step,
            measure,
            windows,
            params_of=lambda state: state[0],
            step_of=lambda state: state[2],
            **options,
        )

    def without_gradient(function):
        def wrapped(*arguments):
            state, metrics, *rest = function(*arguments)
            return state, metrics["loss"], *rest

        return wrapped

    def alone(measure):
        return lambda state, *rest: measure(state[0], *rest[:2], key=rest[2])

    handed = {"take_gradient": take_gradient}
    linear = {"real_update": False}
    own = without_gradient(step(measure, always, **linear))
    donating = {
        "plain step": without_gradient(lambda state, batch_a, *_: work.train_step(state, batch_a)),
        "instrumented, never measuring": step(measure, never, **handed),
        "measured": step(measure, always, **handed, **linear).measured,
        "measured, closed forms": step(closed, always, **handed, **linear).measured,
        "measured with nu": step(measure, always, **handed).measured,
        "measured with nu, closed forms": step(closed, always, **handed).measured,
        "measured under cond": step(measure, always, **handed, **linear),
        "measured under cond, own gradient": own,
    }
    keeping = {
        "stand-alone": alone(measure),
        "stand-alone, closed forms": alone(closed),
    }
    return {name: (f, (0,)) for name, f in donating.items()} | {
        name: (f, ()) for name, f in keeping.items()
    }


def run(model_name, batch_size, length, *, rounds):
    """Time every variant; the cost of a measurement is what it adds to a plain step."""
    work = workload(model_name, batch_size, length)
    key = jax.random.key(3)
    compiled = timing.compile_all(variants(work), work.state, work.batch_a, work.batch_b, key)

    def arguments():
        return jax.tree.map(jnp.copy, work.state), work.batch_a, work.batch_b, key

    timings = timing.time_interleaved(compiled, arguments, rounds=rounds)
    plain = timings["plain step"]
    measured_steps = len(lnpjax.log_windows(PAPER_STEPS).steps)
    rows = []
    for name, t in timings.items():
        inside = not name.startswith("stand-alone")
        cost = t.median / plain.median - inside
        rows.append(
            {
                "model": model_name,
                "batch": f"{batch_size} x {length}",
                "variant": name,
                "milliseconds": 1e3 * t.median,
                "spread": t.spread,
                "cost_in_plain_steps": cost,
                "flops_in_plain_steps": t.gigaflops / plain.gigaflops - inside,
                "overhead_at_paper_schedule": cost * measured_steps / PAPER_STEPS,
                "scratch_memory_in_plain_steps": t.temporary_bytes / plain.temporary_bytes,
                "scratch_megabytes": t.temporary_bytes / 1e6,
            }
        )
    return rows
