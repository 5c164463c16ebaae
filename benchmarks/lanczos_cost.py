"""What the distribution behind chi_pos costs, and how many products it takes to settle."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

import lnpjax
from benchmarks import tables, timing
from benchmarks.measured_step import cross_entropy
from lnpjax.models import Llama, preset, split_llama
from lnpjax.spectra._lanczos import quantiles

WORKLOADS = {"1.2M": (8, 64), "115K": (16, 128)}
MATVECS = 32


def run(name, *, rounds):
    """Time a gradient, and measures with 1 and with 32 products: the difference is 31 products."""
    batch_size, length = WORKLOADS[name]
    config = dataclasses.replace(preset(name), max_seq_len=length)
    apply_fn, params = split_llama(Llama(config, rngs=nnx.Rngs(0)))
    shape = (batch_size, length + 1)
    ids = jax.random.randint(jax.random.key(1), shape, 0, config.vocab_size)
    inputs, targets = ids[:, :-1], ids[:, 1:]

    def gradient(params):
        return jax.grad(lambda p: cross_entropy(apply_fn(p, inputs), targets))(params)

    def measure(num_matvecs, params):
        outputs = apply_fn(params, inputs)
        start = jax.grad(cross_entropy)(outputs, targets)
        return lnpjax.spectral_measure(apply_fn, params, inputs, start, num_matvecs=num_matvecs)

    functions = {"gradient": (gradient, ())} | {
        f"{k} products": (functools.partial(measure, k), ()) for k in (1, MATVECS)
    }
    compiled = timing.compile_all(functions, params)
    timings = timing.time_interleaved(compiled, lambda: (params,), rounds=rounds, warm_up=1)
    base, one, many = timings.values()
    basis = 4 * MATVECS * batch_size * length * config.vocab_size / 1e6
    return [
        {
            "workload": f"{name}, {batch_size} x {length}",
            "gradient_milliseconds": 1e3 * base.median,
            "seconds_for_32_products": many.median,
            "gradients_per_product": (many.median - one.median) / (MATVECS - 1) / base.median,
            "flops_per_product": (many.gigaflops - one.gigaflops) / base.gigaflops,
            "scratch_megabytes": many.temporary_bytes / 1e6,
            "basis_megabytes": basis,
            "gradient_megabytes": base.temporary_bytes / 1e6,
            "spread": many.spread,
        }
    ]


def table(rows):
    """cost: of one product, in gradients; basis: Krylov vectors; gradient: its scratch."""
    return tables.render(
        rows,
        title=f"Lanczos, {MATVECS} products",
        label=lambda row: row["workload"],
        columns={
            "s": ("seconds_for_32_products", ".2f"),
            "spread": ("spread", ".0%"),
            "cost": ("gradients_per_product", ".2f"),
            "MB": ("scratch_megabytes", ".0f"),
            "basis": ("basis_megabytes", ".0f"),
            "gradient": ("gradient_megabytes", ".0f"),
        },
    )


def settling(apply_fn, params, batches, *, most=96):
    """The median spectral position by number of products, for each batch, over the final one."""

    @functools.partial(jax.jit, static_argnums=2)
    def median(params, batch, num_matvecs):
        inputs, targets = batch
        start = jax.grad(cross_entropy)(apply_fn(params, inputs), targets)
        nodes, weights = lnpjax.spectral_measure(
            apply_fn, params, inputs, start, num_matvecs=num_matvecs
        )
        return quantiles(nodes, weights, jnp.array([0.5]))[0]

    counts = [4, 8, 16, 24, 32, 48, 64, most]
    values = {k: [float(median(params, batch, k)) for batch in batches] for k in counts}
    final = values[most]
    return {k: [v / f for v, f in zip(values[k], final, strict=True)] for k in counts}
