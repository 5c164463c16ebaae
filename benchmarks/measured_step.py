"""What one measurement inside an instrumented training step costs, in plain steps."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import lnpjax
from benchmarks import timing
from lnpjax.models import Llama, preset

PAPER_STEPS, PAPER_SPECTRUM = 66_116, 4096


def cross_entropy(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def build(model_name, batch_size, length):
    """The model, the AdamW training step of the papers, and two random batches."""
    config = dataclasses.replace(preset(model_name), max_seq_len=max(length, 8))
    apply_fn, params = lnpjax.from_nnx(Llama(config, rngs=nnx.Rngs(0)))
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
    return apply_fn, train_step, state, batch(1), batch(2)


def take_gradient(metrics):
    return metrics["gradient"], {"loss": metrics["loss"]}


def plain_step(train_step):
    def step(state, batch_a, batch_b, key):
        del batch_b, key
        state, metrics = train_step(state, batch_a)
        return state, metrics["loss"]

    return step


def variants(apply_fn, train_step):
    """Every way to take the measurement; all share the signature of an instrumented step."""
    measure = lnpjax.lnp(apply_fn, cross_entropy)
    always = lnpjax.Windows((0,), 2**30)
    never = lnpjax.Windows((2**30,), 1)

    def step(windows, **options):
        return lnpjax.instrument(
            train_step,
            measure,
            windows,
            params_of=lambda state: state[0],
            step_of=lambda state: state[2],
            **options,
        )

    def drop_gradient(step):
        def dropped(*arguments):
            state, metrics, record = step(*arguments)
            return state, metrics["loss"], record

        return dropped

    def standalone(state, batch_a, batch_b, key):
        return measure(state[0], batch_a, batch_b, key=key)

    return {
        "plain step": (plain_step(train_step), (0,)),
        "never measuring": (step(never, take_gradient=take_gradient), (0,)),
        "measured": (
            step(always, take_gradient=take_gradient, real_update=False).measured,
            (0,),
        ),
        "measured, cond": (
            step(always, take_gradient=take_gradient, real_update=False),
            (0,),
        ),
        "measured, cond, own gradient": (drop_gradient(step(always, real_update=False)), (0,)),
        "measured, own gradient": (
            drop_gradient(step(always, real_update=False).measured),
            (0,),
        ),
        "measured and nu": (step(always, take_gradient=take_gradient).measured, (0,)),
        "stand-alone": (standalone, ()),
    }


def run(model_name, batch_size, length, *, rounds):
    """Time every variant; the cost of a measurement is the difference to the plain step."""
    apply_fn, train_step, state, batch_a, batch_b = build(model_name, batch_size, length)
    key = jax.random.key(3)
    functions = variants(apply_fn, train_step)
    compiled = timing.compile_all(functions, state, batch_a, batch_b, key)

    def arguments():
        return jax.tree.map(jnp.copy, state), batch_a, batch_b, key

    timings = timing.time_interleaved(compiled, arguments, rounds=rounds)
    plain = timings["plain step"]
    return [
        {
            "model": model_name,
            "batch": f"{batch_size}x{length}",
            "variant": name,
            "milliseconds": 1e3 * t.median,
            "spread": t.spread,
            "step_ratio": t.median / plain.median,
            "measurement_cost": (t.median - (plain.median if name != "stand-alone" else 0))
            / plain.median,
            "flops_ratio": t.gigaflops / plain.gigaflops,
            "temporary_memory_ratio": t.temporary_bytes / plain.temporary_bytes,
            "temporary_MB": t.temporary_bytes / 1e6,
        }
        for name, t in timings.items()
    ]
