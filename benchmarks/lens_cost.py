"""What the spectra of activations and gradients cost, in plain training steps (Spectral Lens)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import tables, timing
from benchmarks.measured_step import cross_entropy, workload
from lnpjax import parameters
from lnpjax.lens import (
    activation_spectra,
    gradient_spectra,
    nnx_hidden_states,
    per_sample_gradients,
)
from lnpjax.models import Llama, preset

MODEL, LENGTH, BATCH, POOL = "1.2M", 64, 32, 512
WEIGHT = "layers/3/attention/output/kernel"


def run(*, rounds):
    """Time plain steps, and one measurement each on a pool of 512 sequences, in turn."""
    config = dataclasses.replace(preset(MODEL), max_seq_len=LENGTH)
    hidden_states, _ = nnx_hidden_states(Llama(config, rngs=nnx.Rngs(0)))
    work, pool = workload(MODEL, BATCH, LENGTH), workload(MODEL, POOL, LENGTH).batch_b

    def gradients(**options):
        return gradient_spectra(work.apply_fn, cross_entropy, weights=WEIGHT, **options)

    def stacked(params, pool):
        rows = per_sample_gradients(work.apply_fn, cross_entropy, params, pool, weights=WEIGHT)
        return jnp.linalg.svd(rows[WEIGHT].reshape(POOL, -1), compute_uv=False)

    measures = {
        "gradient spectrum": gradients(),
        "gradient spectrum, 8 at a time": gradients(microbatch_size=8),
        "gradient spectrum, 4 blocks": gradients(block_size=POOL // 4, microbatch_size=4),
        "SVD of stacked gradients": stacked,
        "activation spectra, every layer": activation_spectra(hidden_states, microbatch_size=BATCH),
    }

    def on_pool(measure):
        return lambda state, _, pool: measure(state[0], pool)

    plain, whole = f"plain step, {BATCH} x {LENGTH}", f"plain step, {POOL} x {LENGTH}"
    variants = {
        plain: lambda state, batch, _: work.train_step(state, batch)[0],
        whole: lambda state, _, pool: work.train_step(state, pool)[0],
    } | {name: on_pool(measure) for name, measure in measures.items()}
    arguments = (work.state, work.batch_a, pool)
    compiled = timing.compile_all({name: (f, ()) for name, f in variants.items()}, *arguments)
    timings = timing.time_interleaved(compiled, lambda: arguments, rounds=rounds, warm_up=1)
    weight, _ = parameters.partition(work.state[0], WEIGHT)
    row_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(weight))
    return [
        {
            "workload": f"{MODEL}, {POOL} x {LENGTH}, {WEIGHT}",
            "variant": name,
            "seconds": t.median,
            "spread": t.spread,
            "cost_in_plain_steps": t.median / timings[plain].median,
            "cost_in_steps_on_the_pool": t.median / timings[whole].median,
            "scratch_megabytes": t.temporary_bytes / 1e6,
            "stacked_gradients_megabytes": POOL * row_bytes / 1e6,
        }
        for name, t in timings.items()
    ]


def table(rows):
    """cost: in plain steps; pool: in plain steps on as many sequences as are measured."""
    return tables.render(
        rows,
        title=f"{rows[0]['workload']}: G has {rows[0]['stacked_gradients_megabytes']:.0f} MB",
        label=lambda row: row["variant"],
        columns={
            "s": ("seconds", ".2f"),
            "spread": ("spread", ".0%"),
            "cost": ("cost_in_plain_steps", ".2f"),
            "pool": ("cost_in_steps_on_the_pool", ".2f"),
            "MB": ("scratch_megabytes", ".0f"),
        },
    )
