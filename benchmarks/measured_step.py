"""What one measurement inside an instrumented training step costs, in plain steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lnpjax
from benchmarks import tables, timing
from lnpjax.kernel._costs import matmul_flops
from lnpjax.models import Llama, ViT, ViTConfig, preset, split_llama

PAPER_STEPS = 66_116  # Spectral Reach, B.2.1
REFERENCE_OVERHEAD = 0.27  # the paper's own figure for its method on that schedule

VIT = "vit-"
NEVER = "instrumented, never measuring"
FEW_SAMPLES = 8

# Dense, in TFLOP/s, by the vendors' data sheets (SXM parts).
HOPPER = {"bfloat16": 989.5, "tensorfloat32": 494.7, "float32": 66.9}
PEAKS = {"NVIDIA H200": HOPPER, "NVIDIA H100 80GB HBM3": HOPPER}


def cross_entropy(logits, targets):
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


class Workload(NamedTuple):
    """A model, the AdamW training step of the papers, and two random batches."""

    apply_fn: Callable
    split_model: Callable
    train_step: Callable
    state: tuple
    batch_a: tuple
    batch_b: tuple


def workload(model_name, batch_size, length, *, dtype="float32"):
    """`dtype` is what the model computes in; its parameters are float32.

    A ViT, by its width, has ten classes and images that are `length` pixels high.
    """
    if model_name.startswith(VIT):
        apply_fn, params, batch = _classifier(model_name, batch_size, length, dtype)
        return _trained_by_adamw(apply_fn, apply_fn, params, batch)
    config = dataclasses.replace(preset(model_name), max_seq_len=length, dtype=dtype)
    model = Llama(config, rngs=nnx.Rngs(0))
    apply_fn, params = lnpjax.from_nnx(model)

    def batch(seed):
        shape = (batch_size, length + 1)
        ids = jax.random.randint(jax.random.key(seed), shape, 0, config.vocab_size)
        return ids[:, :-1], ids[:, 1:]

    return _trained_by_adamw(apply_fn, split_llama(model)[0], params, batch)


def _classifier(model_name, batch_size, image_size, dtype):
    """A ViT of four blocks, and what draws batches for it."""
    width = int(model_name.removeprefix(VIT))
    config = ViTConfig(
        image_size=image_size, patch_size=4, num_channels=1, num_classes=10, num_layers=4,
        hidden_size=width, intermediate_size=4 * width, num_heads=width // 32, dtype=dtype,
    )  # fmt: skip
    apply_fn, params = lnpjax.from_nnx(ViT(config, rngs=nnx.Rngs(0)))

    def batch(seed):
        keys = jax.random.split(jax.random.key(seed))
        images = jax.random.uniform(keys[0], (batch_size, image_size, image_size, 1))
        return images, jax.random.randint(keys[1], (batch_size,), 0, config.num_classes)

    return apply_fn, params, batch


def adamw_step(apply_fn):
    """The optimizer of the papers, and a training step that hands over its gradient."""
    optimizer = optax.adamw(1e-3, b1=0.9, b2=0.95, weight_decay=0.01)

    def train_step(state, batch):
        params, optimizer_state, step = state
        loss, gradient = jax.value_and_grad(
            lambda params: cross_entropy(apply_fn(params, batch[0]), batch[1])
        )(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        state = (optax.apply_updates(params, updates), optimizer_state, step + 1)
        return state, {"loss": loss, "gradient": gradient}

    return optimizer, train_step


def _trained_by_adamw(apply_fn, split_model, params, batch):
    optimizer, train_step = adamw_step(apply_fn)
    # Not step 0, at which a run checks the gradient that it hands over.
    state = (params, optimizer.init(params), jnp.int32(1))
    return Workload(apply_fn, split_model, train_step, state, batch(1), batch(2))


def take_gradient(metrics):
    return metrics["gradient"], {"loss": metrics["loss"]}


def variants(work):
    """Every way to take the measurement, by name: (function, donated arguments)."""
    measure = lnpjax.lnp(work.apply_fn, cross_entropy)
    closed = lnpjax.lnp(work.split_model, cross_entropy)
    exact = lnpjax.lnp(work.apply_fn, cross_entropy, estimator=lnpjax.Exact())
    few = lnpjax.lnp(
        work.apply_fn, cross_entropy, estimator=lnpjax.Hutchinson(1, samples=FEW_SAMPLES)
    )
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

    def norm_of_one_batch(state, batch_a, *_):
        exactly = lnpjax.Exact()
        return lnpjax.squared_jacobian_norm(
            work.apply_fn, state[0], batch_a[0], estimator=exactly
        ).value

    handed = {"take_gradient": take_gradient}
    linear = {"real_update": False}
    own = without_gradient(step(measure, always, **linear))
    donating = {
        "plain step": without_gradient(lambda state, batch_a, *_: work.train_step(state, batch_a)),
        NEVER: step(measure, never, **handed),
        "measured": step(measure, always, **handed, **linear).measured,
        "measured, closed forms": step(closed, always, **handed, **linear).measured,
        "measured, exact": step(exact, always, **handed, **linear).measured,
        f"measured, {FEW_SAMPLES} samples probed": step(few, always, **handed, **linear).measured,
        "measured with nu": step(measure, always, **handed).measured,
        "measured with nu, closed forms": step(closed, always, **handed).measured,
        "measured under cond": step(measure, always, **handed, **linear),
        "measured under cond, own gradient": own,
    }
    keeping = {
        "stand-alone": alone(measure),
        "one batch, exact": norm_of_one_batch,
        "stand-alone, closed forms": alone(closed),
    }
    return {name: (f, (0,)) for name, f in donating.items()} | {
        name: (f, ()) for name, f in keeping.items()
    }


def peak_teraflops(device_kind, dtype):
    """The chip's peak in the arithmetic that products of this dtype use; nan where not known."""
    if dtype == "float32" and jax.config.jax_default_matmul_precision not in ("highest", "float32"):
        dtype = "tensorfloat32"  # jax's default on a GPU that has it
    return PEAKS.get(device_kind, {}).get(dtype, math.nan)


def run(model_name, batch_size, length, *, rounds, dtypes=("float32",), names=None):
    """Time the variants (those of these names, or all for a Llama) in each compute dtype."""
    rows = []
    for dtype in dtypes:
        work = workload(model_name, batch_size, length, dtype=dtype)
        steps = variants(work)
        every = [name for name in steps if not name.endswith(", exact")]  # outputs are many
        peak = peak_teraflops(jax.devices()[0].device_kind, dtype)
        rows += [
            {"model": model_name, "batch": f"{batch_size} x {length}", "compute": dtype}
            | row
            | {"share_of_peak": row["teraflop_per_second"] / peak}
            for row in time_steps(work, {name: steps[name] for name in names or every}, rounds)
        ]
    return rows


def time_steps(work, steps, rounds):
    """A row per step; inside of one, a measurement costs what it adds to a plain step."""
    key = jax.random.key(3)
    given = (work.state, work.batch_a, work.batch_b, key)
    compiled = timing.compile_all(steps, *given)

    def arguments():
        return jax.tree.map(jnp.copy, work.state), work.batch_a, work.batch_b, key

    timings = timing.time_interleaved(compiled, arguments, rounds=rounds)
    # An accelerator's compiler does not count the library calls that matrix products become.
    products = {name: matmul_flops(step, *given) / 1e9 for name, (step, _) in steps.items()}
    counted = {name: float(np.fmax(t.gigaflops, products[name])) for name, t in timings.items()}
    plain = timings["plain step"]
    measured_steps = len(lnpjax.log_windows(PAPER_STEPS).steps)
    rows = []
    for name, t in timings.items():
        inside = not name.startswith(("stand-alone", "one batch"))
        cost = t.median / plain.median - inside
        done = math.nan if name == NEVER else products[name]  # of a condition, the larger branch
        rows.append(
            {
                "variant": name,
                "milliseconds": 1e3 * t.median,
                "spread": t.spread,
                "cost_in_plain_steps": cost,
                "flops_in_plain_steps": counted[name] / counted["plain step"] - inside,
                "overhead_at_paper_schedule": cost * measured_steps / PAPER_STEPS,
                "teraflop_per_second": done / 1e3 / t.median,
                "scratch_memory_in_plain_steps": t.temporary_bytes / plain.temporary_bytes,
                "scratch_megabytes": t.temporary_bytes / 1e6,
            }
        )
    return rows


def table(rows):
    """cost, flops: in plain steps; paper: what it adds to a run; TF/s: of matrix products."""
    mixed = len({row["compute"] for row in rows}) > 1
    return tables.render(
        rows,
        title=f"{rows[0]['model']} parameters, batch {rows[0]['batch']}",
        label=lambda row: f"{row['compute']}, {row['variant']}" if mixed else row["variant"],
        columns={
            "ms": ("milliseconds", ".1f"),
            "spread": ("spread", ".0%"),
            "cost": ("cost_in_plain_steps", ".2f"),
            "flops": ("flops_in_plain_steps", ".2f"),
            "paper": ("overhead_at_paper_schedule", ".2%"),
            "TF/s": ("teraflop_per_second", ".3g"),
            "of peak": ("share_of_peak", ".0%"),
            "memory": ("scratch_memory_in_plain_steps", ".2f"),
            "MB": ("scratch_megabytes", ".0f"),
        },
    )
