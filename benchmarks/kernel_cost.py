"""What the explicit kernel costs, against neural-tangents' two working implementations.

Where neural-tangents cannot be imported, this library's methods are compared with each other. What
the compiler plans to need more memory for than there is is not run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lnpjax
from benchmarks import tables, timing
from lnpjax.jacobian._outputs import restrict
from lnpjax.kernel._costs import free_memory, matmul_flops
from lnpjax.kernel._fill import BatchJacobian
from lnpjax.kernel._neural_tangents import import_neural_tangents
from lnpjax.kernel._plan import choose_plan
from lnpjax.kernel._structured import Shape, choose_factored
from lnpjax.models import MLP, ConvNet, Llama, LlamaConfig


class Workload(NamedTuple):
    """A network, a batch, and the outputs that are kept."""

    apply_fn: Callable
    params: Any
    inputs: Any
    outputs: Any = None


def mlp(num_samples):
    apply_fn, params = lnpjax.from_nnx(MLP((784, 512, 512, 10), rngs=nnx.Rngs(0)))
    return Workload(apply_fn, params, jax.random.normal(jax.random.key(0), (num_samples, 784)))


def cnn():
    module = ConvNet((32, 32, 3), channels=(32, 32), hidden=64, num_outputs=10, rngs=nnx.Rngs(0))
    apply_fn, params = lnpjax.from_nnx(module)
    return Workload(apply_fn, params, jax.random.normal(jax.random.key(0), (64, 32, 32, 3)))


def llama(length, positions):
    """One sample; 40 vocabulary entries at some positions, as in Spectral Reach, D.5."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=4,
        max_seq_len=length,
    )
    apply_fn, params = lnpjax.from_nnx(Llama(config, rngs=nnx.Rngs(0)))
    tokens = jax.random.randint(jax.random.key(0), (1, length), 0, config.vocab_size)
    return Workload(apply_fn, params, tokens, (positions, range(40)))


WORKLOADS = {
    "mlp": functools.partial(mlp, 128),
    "mlp-512": functools.partial(mlp, 512),
    "mlp-1024": functools.partial(mlp, 1024),
    "cnn": cnn,
    "llama": functools.partial(llama, 64, range(0, 64, 2)),
    "llama-256": functools.partial(llama, 256, range(256)),
}
OURS = ("structured", "contraction", "products")
THEIRS = ("contraction", "products")
GRADIENT = "gradient"  # the yardstick: of the summed outputs on the batch
GEMM_ROWS = 2048


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


def gemm_speed(num_parameters):
    """Operations per second of a matrix product with rows of J, the yardstick of a contraction."""
    rows = jnp.ones((GEMM_ROWS, min(num_parameters, 2**16)))
    with jax.default_matmul_precision("highest"):
        compiled = timing.compile_all({"gemm": (lambda a: a @ a.T, ())}, rows)
    timings = timing.time_interleaved(compiled, lambda: (rows,), rounds=3, warm_up=1)
    return 2 * GEMM_ROWS * rows.size / timings["gemm"].median


def compile_what_fits(functions, *arguments):
    """Compiled functions, without those that there is no memory for, and what each plans."""
    compiled, planned = {}, {}
    for name, function in functions.items():
        compiled |= timing.compile_all({name: function}, *arguments)
        planned[name] = timing.planned_bytes(compiled[name], "temp", "output")
        if (free := free_memory()) is not None and planned[name] > free:
            del compiled[name]
    return compiled, planned


def run(name, *, rounds, ours=OURS, theirs=THEIRS):
    """Time and memory of the backends by each method, and the floor of the methods."""
    work = WORKLOADS[name]()
    candidates = [("jax", method) for method in ours]
    if not rival_is_missing():
        candidates += [("neural_tangents", method) for method in theirs]

    def gradient(params, inputs):
        return jax.grad(lambda params: jnp.sum(work.apply_fn(params, inputs)))(params)

    functions = {pair: (functools.partial(kernel_of, work, *pair), ()) for pair in candidates}
    compiled, planned = compile_what_fits(
        functions | {GRADIENT: (gradient, ())}, work.params, work.inputs
    )
    timings = timing.time_interleaved(
        compiled, lambda: (work.params, work.inputs), rounds=rounds, warm_up=1
    )
    side = BatchJacobian(
        restrict(work.apply_fn, work.outputs),
        work.params,
        work.inputs,
        None,
        work.apply_fn,
        work.outputs,
    )
    chosen, factored, floors = floors_of(side)
    speed = gemm_speed(num_parameters_of(work))
    kernels = {
        pair: np.asarray(compiled[pair](work.params, work.inputs))
        for pair in candidates
        if pair in compiled
    }
    reference = next(iter(kernels.values()))
    rows = []
    for pair in candidates:
        seconds, kernel = nan_timing(timings.get(pair)), kernels.get(pair)
        floor = floors[pair[1]] / 1e9
        rows.append(
            {
                "workload": name,
                "rows": side.num_rows,
                "parameters": num_parameters_of(work),
                "backend": pair[0],
                "method": pair[1],
                "chosen": pair[0] == "jax" and pair[1] == chosen,
                "factored": factored if pair == ("jax", "structured") else None,
                "seconds": seconds.median,
                "spread": seconds.spread,
                "cost_in_gradients": seconds.median / timings[GRADIENT].median,
                "scratch_megabytes": (planned[pair] - 4 * side.num_rows**2) / 1e6,
                "kernel_megabytes": 4 * side.num_rows**2 / 1e6,
                "floor_gigaflop": floor,
                "gigaflop_per_second": floor / seconds.median,
                "gemm_gigaflop_per_second": speed / 1e9,
                "contraction_floor_seconds": floors["contraction"] / speed,
                "difference": math.nan if kernel is None else relative(kernel, reference),
            }
        )
    return rows


def num_parameters_of(work):
    return sum(leaf.size for leaf in jax.tree.leaves(work.params))


def relative(kernel, reference):
    return float(np.max(np.abs(kernel - reference)) / np.max(reference))


def nan_timing(timed):
    return timed or timing.Timing(math.nan, math.nan, math.nan, math.nan)


def floors_of(side):
    """The chosen method, the weights that stay factored, and the operations each method needs."""
    plan = functools.partial(choose_plan, side, side, chunk_size=None, symmetric=True)
    structured = plan(method="structured")
    jacobian, factored = structured.sides[0].jacobian, structured.sides[0].factored
    paths = lnpjax.parameters.paths(side.params)
    one = jax.tree.map(lambda leaf: leaf[:1], side.inputs)
    forward = matmul_flops(side.apply_fn, side.params, one)
    _, on_pairs = choose_factored(jacobian, Shape(side.shape, side.shape))
    num_parameters = sum(leaf.size for leaf in jacobian.trainable)
    return (
        plan(method="auto").method,
        [paths[leaf] for leaf in factored],
        {
            "structured": on_pairs / 2 + 2 * side.num_rows * forward,
            "contraction": side.num_rows * (side.num_rows + 1) * num_parameters,
            "products": side.num_rows * side.shape[0] * 2 * forward,
        },
    )


def table(rows):
    """cost: in gradients on the batch; floor GF: operations that the method needs at least.

    nan: what would not fit was not run. Below: where gradients stay factored, and how long the
    contraction of whole rows would take as one matrix product at this machine's speed.
    """
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
    text += f"\none matrix product of whole rows: {first['contraction_floor_seconds']:.2g} s"
    for row in rows:
        if row["factored"]:
            text += f"\nfactored: {', '.join(row['factored'])}"
    reason = rival_is_missing()
    return f"{text}\n{reason}" if reason else text
