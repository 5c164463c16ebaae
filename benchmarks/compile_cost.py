"""What tracing and compiling a measured training step costs, next to a plain step."""

from __future__ import annotations

import statistics
import time

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import lnpjax
from benchmarks import tables
from benchmarks.measured_step import cross_entropy
from lnpjax.models import GPT, GPTConfig

PLAIN = "plain step"


def workload(num_layers):
    """A GPT whose layers are written out, as most people's are, and its AdamW training step."""
    config = GPTConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=256,
        num_layers=num_layers,
        num_heads=4,
        max_seq_len=64,
    )
    apply_fn, params = lnpjax.from_nnx(GPT(config, rngs=nnx.Rngs(0)))
    optimizer = optax.adamw(1e-3)

    def train_step(state, batch):
        params, optimizer_state, step = state
        loss, gradient = jax.value_and_grad(
            lambda params: cross_entropy(apply_fn(params, batch[0]), batch[1])
        )(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state, step + 1), loss

    return apply_fn, train_step, (params, optimizer.init(params), jnp.int32(0))


def cpu_seconds(function, arguments):
    """Trace, then lower and compile, from scratch: CPU seconds of all cores for either."""
    jax.clear_caches()
    start = time.process_time()
    traced = jax.jit(function).trace(*arguments)
    middle = time.process_time()
    traced.lower().compile()
    return middle - start, time.process_time() - middle


def run(num_layers, *, rounds):
    """Compile a plain step and steps that measure in turn, for a fifth of the rounds."""
    apply_fn, train_step, state = workload(num_layers)
    step = lnpjax.instrument(
        train_step,
        lnpjax.lnp(apply_fn, cross_entropy),
        lnpjax.log_windows(1000),
        params_of=lambda state: state[0],
        step_of=lambda state: state[2],
    )
    ids = jnp.zeros((8, 64), jnp.int32)
    batch, key = (ids, ids), jax.random.key(0)
    variants = {
        PLAIN: (train_step, (state, batch)),
        "instrumented": (step, (state, batch, batch, key)),
        "instrumented, one batch": (step, (state, batch, None, key)),
    }
    seconds = {name: [] for name in variants}
    for turn in range(1 + max(1, rounds // 5)):
        for name, variant in variants.items():
            spent = cpu_seconds(*variant)
            if turn:  # the first one imports and warms up
                seconds[name].append(spent)
    medians = {
        name: [statistics.median(part) for part in zip(*spent, strict=True)]
        for name, spent in seconds.items()
    }
    return [
        {
            "workload": f"GPT of {num_layers} layers",
            "variant": name,
            "trace_seconds": trace,
            "compile_seconds": compilation,
            "cost_in_plain_steps": (trace + compilation) / sum(medians[PLAIN]),
        }
        for name, (trace, compilation) in medians.items()
    ]


def table(rows):
    """trace and compile: CPU seconds of all cores; cost: both, in a plain step's."""
    return tables.render(
        rows,
        title=rows[0]["workload"],
        label=lambda row: row["variant"],
        columns={
            "trace s": ("trace_seconds", ".1f"),
            "compile s": ("compile_seconds", ".1f"),
            "cost": ("cost_in_plain_steps", ".1f"),
        },
    )
