"""What the explicit kernel costs, against neural-tangents' two working implementations.

Where neural-tangents cannot be imported, this library's two methods are compared with each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lnpjax
from benchmarks import tables, timing
from lnpjax.jacobian._outputs import restrict
from lnpjax.kernel._costs import matmul_flops
from lnpjax.kernel._fill import BatchJacobian
from lnpjax.kernel._neural_tangents import import_neural_tangents
from lnpjax.kernel._plan import choose_plan
from lnpjax.models import MLP, ConvNet, Llama, LlamaConfig


class Workload(NamedTuple):
    """A network, a batch, and the outputs that are kept."""

    apply_fn: Callable
    params: Any
    inputs: Any
    outputs: Any = None


def mlp():
    apply_fn, params = lnpjax.from_nnx(MLP((784, 512, 512, 10), rngs=nnx.Rngs(0)))
    return Workload(apply_fn, params, jax.random.normal(jax.random.key(0), (128, 784)))


def cnn():
    module = ConvNet((32, 32, 3), channels=(32, 32), hidden=64, num_outputs=10, rngs=nnx.Rngs(0))
    apply_fn, params = lnpjax.from_nnx(module)
    return Workload(apply_fn, params, jax.random.normal(jax.random.key(0), (64, 32, 32, 3)))


def llama():
    """One sample of 64 tokens; 40 vocabulary entries at 32 positions, as in Spectral Reach, D.5."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=4,
        max_seq_len=64,
    )
    apply_fn, params = lnpjax.from_nnx(Llama(config, rngs=nnx.Rngs(0)))
    tokens = jax.random.randint(jax.random.key(0), (1, 64), 0, config.vocab_size)
    return Workload(apply_fn, params, tokens, (range(0, 64, 2), range(40)))


WORKLOADS = {"mlp": mlp, "cnn": cnn, "llama": llama}
GRADIENT = "gradient"  # the yardstick: of the summed outputs on the batch


def kernel_of(work, backend, method, params, inputs):
    return lnpjax.entk(
        work.apply_fn, params, inputs, outputs=work.outputs, backend=backend, method=method
    )


def rival_is_missing():
    """Why neural-tangents cannot be compared with here, or None."""
    try:
        import_neural_tangents()
    except ImportError as error:
        return f"neural-tangents is left out: {error}"
    return None


def run(name, *, rounds):
    """Time and memory of the backends by both methods, and the floor of each method."""
    work = WORKLOADS[name]()
    backends = ("jax",) if rival_is_missing() else ("jax", "neural_tangents")

    def gradient(params, inputs):
        return jax.grad(lambda params: jnp.sum(work.apply_fn(params, inputs)))(params)

    side = BatchJacobian(restrict(work.apply_fn, work.outputs), work.params, work.inputs, None)
    functions = {
        (backend, method): (functools.partial(kernel_of, work, backend, method), ())
        for backend in backends
        for method in ("contraction", "products")
    }
    yardstick = {GRADIENT: (gradient, ())}
    compiled = timing.compile_all(functions | yardstick, work.params, work.inputs)
    timings = timing.time_interleaved(
        compiled, lambda: (work.params, work.inputs), rounds=rounds, warm_up=1
    )
    reference = np.asarray(compiled["jax", "contraction"](work.params, work.inputs))
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(work.params))
    one = jax.tree.map(lambda leaf: leaf[:1], work.inputs)
    forward = matmul_flops(side.apply_fn, work.params, one)
    chosen = choose_plan(side, side, method="auto", chunk_size=None, symmetric=True).method
    floors = {
        "contraction": side.num_rows * (side.num_rows + 1) * num_parameters,
        "products": side.num_rows * side.shape[0] * 2 * forward,
    }
    rows = []
    for backend, method in functions:
        kernel = np.asarray(compiled[backend, method](work.params, work.inputs))
        t, floor = timings[backend, method], floors[method] / 1e9
        rows.append(
            {
                "workload": name,
                "rows": side.num_rows,
                "parameters": num_parameters,
                "backend": backend,
                "method": method,
                "chosen": backend == "jax" and method == chosen,
                "seconds": t.median,
                "spread": t.spread,
                "cost_in_gradients": t.median / timings[GRADIENT].median,
                "scratch_megabytes": t.temporary_bytes / 1e6,
                "kernel_megabytes": kernel.nbytes / 1e6,
                "floor_gigaflop": floor,
                "gigaflop_per_second": floor / t.median,
                "difference": float(np.max(np.abs(kernel - reference)) / np.max(reference)),
            }
        )
    return rows


def table(rows):
    """cost: in gradients on the batch; floor GF: operations that the method needs at least."""
    first = rows[0]
    text = tables.render(
        rows,
        title=f"{first['workload']}: {first['rows']} rows, {first['parameters']:,} parameters",
        label=lambda row: (
            f"{row['backend']}, {row['method']}{' (chosen)' if row['chosen'] else ''}"
        ),
        columns={
            "s": ("seconds", ".2f"),
            "spread": ("spread", ".0%"),
            "cost": ("cost_in_gradients", ".0f"),
            "MB": ("scratch_megabytes", ".0f"),
            "floor GF": ("floor_gigaflop", ".0f"),
            "GF/s": ("gigaflop_per_second", ".0f"),
            "differs": ("difference", ".0e"),
        },
    )
    reason = rival_is_missing()
    return f"{text}\n{reason}" if reason else text
