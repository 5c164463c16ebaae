"""Which way to fill an empirical NTK is the cheapest, and how many rows of J it makes at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax.jacobian._factors import factored_jacobian
from lnpjax.jacobian._rounding import floating_dtypes
from lnpjax.kernel._costs import largest_intermediate, matmul_flops
from lnpjax.kernel._fill import STORED_CHUNKS, BatchJacobian
from lnpjax.kernel._structured import (
    FactoredBatch,
    Shape,
    choose_factored,
    factor_bytes,
    in_common,
)

MOST_ROWS = 2048
"""The side of the largest block of a kernel that is made at once."""
BLOCKS = 8
"""A kernel is cut into so many blocks a side or more, so that few of them lie on its diagonal..."""
FEWEST_ROWS = 128
"""...unless they would be smaller than this."""
CHUNK_BYTES = {True: 2**27, False: 2**31}
"""How much a chunk of rows may take, on a CPU and on an accelerator..."""
STORED_BYTES = {True: 2**30, False: 2**33}
"""...and the factors of all rows, to be kept."""


class Plan(NamedTuple):
    """How a kernel will be filled.

    Attributes:
        method: one of entk's, never "auto".
        chunk_size: how many rows of J are made at once.
        flops: operations of matrix products.
        working_bytes: memory behind the kernel.
        sides: both batches, for the method "structured".
        stored: whether the rows of J are made once and kept, there.
        block_size: how many of these rows meet at once.
    """

    method: str
    chunk_size: int
    flops: float
    working_bytes: int
    sides: tuple[FactoredBatch, FactoredBatch] | None = None
    stored: bool = False
    block_size: int = 0


class _Network(NamedTuple):
    """What one sample costs: operations forward, bytes on the way and of a gradient."""

    forward: float
    passing: int
    row_bytes: int
    num_parameters: int
    one: PyTree
    alone: bool


def choose_plan(
    left: BatchJacobian,
    right: BatchJacobian,
    *,
    method: str,
    chunk_size: int | None,
    symmetric: bool,
    factored: bool = True,
    by_sample: bool = False,
) -> Plan:
    """Choose the method with fewer operations, and how many rows of J are made at once.

    Products inherit the rounding of the network, so one that anywhere computes in less than the
    kernel's precision is contracted.

    Args:
        left: the first batch.
        right: the second.
        method: "contraction", "products", "batch", "structured" or "auto".
        chunk_size: rows made at once; `None` to choose.
        symmetric: whether both batches are the same.
        factored: whether rows of J can stay factored; not with weights between them.
        by_sample: whether entries are added up over outputs, which only "structured" does on its
            way.
    """
    network = _inspect(left)
    plans = _plans_of_whole_rows(left, right, network, chunk_size, symmetric)
    if factored and network.alone and method in ("auto", "structured"):
        plan = _structured_plan(left, right, network, chunk_size, symmetric, by_sample)
        if plan.sides is not None and (plan.sides[0].factored or by_sample or method != "auto"):
            plans["structured"] = plan
    if method == "auto":
        dtypes = floating_dtypes(left.apply_fn, left.params, network.one)
        coarsest = min(dtype.itemsize for dtype in dtypes)
        exact = coarsest >= numerics.accumulation_dtype().itemsize
        exact_ones = ["products"] if exact else []
        candidates = ["structured" if "structured" in plans else "contraction", *exact_ones]
        method = min(candidates, key=lambda name: plans[name].flops)
    if method == "products" and not left.transposable:
        method = "structured" if "structured" in plans else "contraction"
    return plans.get(method, plans["contraction"])


def _inspect(batch: BatchJacobian) -> _Network:
    trainable, _ = parameters.partition(batch.params, batch.wrt)
    leaves = jax.tree.leaves(trainable)
    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *jnp.shape(leaf)[1:]), jnp.result_type(leaf)),
        batch.inputs,
    )
    alone, size = batch.takes(one), 1
    if not alone:
        one, size = batch.inputs, batch.shape[0]
    arguments: tuple[Any, ...] = (batch.apply_fn, batch.params, one)
    return _Network(
        forward=matmul_flops(*arguments) / size,
        passing=2 * largest_intermediate(*arguments) // size,  # forward, and back
        row_bytes=sum(jnp.size(leaf) * jnp.result_type(leaf).itemsize for leaf in leaves),
        num_parameters=sum(jnp.size(leaf) for leaf in leaves),
        one=one,
        alone=alone,
    )


def _plans_of_whole_rows(
    left: BatchJacobian,
    right: BatchJacobian,
    network: _Network,
    chunk_size: int | None,
    symmetric: bool,
) -> dict[str, Plan]:
    forward, passing, row_bytes, num_parameters = network[:4]
    pushed_bytes = row_bytes + left.shape[0] * passing
    sizes = _chunk_sizes(row_bytes + passing, pushed_bytes)
    if chunk_size is not None:
        sizes = dict.fromkeys(sizes, chunk_size)
    most = max(left.num_rows, right.num_rows)
    sizes = {name: min(size, most) for name, size in sizes.items()}

    num_left, num_right, num_samples = left.num_rows, right.num_rows, left.shape[0]
    num_blocks = -(-num_left // (STORED_CHUNKS * sizes["contraction"]))
    made, halved = _made_anew(num_left, num_right, num_blocks, symmetric)
    costs = {
        "contraction": 3 * forward * made + 2 * num_left * num_right * num_parameters * halved,
        "products": num_right * forward * (3 + 2 * num_samples),
        "batch": num_right * forward * (2 * right.shape[0] + 2 * num_samples),
    }
    alive = {
        "contraction": (STORED_CHUNKS + 1) * row_bytes + passing,
        "products": pushed_bytes,
        "batch": pushed_bytes + right.shape[0] * passing,
    }
    return {name: Plan(name, sizes[name], costs[name], sizes[name] * alive[name]) for name in costs}


def _made_anew(
    num_left: int, num_right: int, num_blocks: int, symmetric: bool
) -> tuple[float, float]:
    """Return how many rows a contraction makes, and which share of the kernel it computes."""
    remade = (num_blocks - 1) / 2 if symmetric else num_blocks
    halved = (num_blocks + 1) / (2 * num_blocks) if symmetric else 1
    return num_left + remade * num_right, halved


def _structured_plan(
    left: BatchJacobian,
    right: BatchJacobian,
    network: _Network,
    chunk_size: int | None,
    symmetric: bool,
    by_sample: bool,
) -> Plan:
    jacobians = [
        factored_jacobian(side.whole_fn or side.apply_fn, side.params, side.inputs, wrt=side.wrt)
        for side in ((left,) if symmetric else (left, right))
    ]
    mine, theirs = in_common(jacobians[0], jacobians[-1])
    # Outputs of a sample that share a row
    width = left.shape[1] if by_sample else 1
    num_left, num_right = left.num_rows // width, right.num_rows // width
    shapes = [(side.shape[0], side.shape[1] // width) for side in (left, right)]
    factored, pair_flops = choose_factored(mine, Shape(*shapes))
    row_bytes, sample_bytes = factor_bytes(mine, factored)
    row_bytes, passing = width * row_bytes, width * network.passing
    held_bytes = row_bytes * num_left + sample_bytes * left.shape[0]
    if not symmetric:
        held_bytes += row_bytes * num_right + sample_bytes * right.shape[0]
    on_cpu = jax.default_backend() == "cpu"
    most = max(num_left, num_right)
    block_size = max(FEWEST_ROWS, min(MOST_ROWS, -(-most // BLOCKS)))
    if chunk_size is None:
        chunk_size = max(1, CHUNK_BYTES[on_cpu] // (row_bytes + sample_bytes + passing))
    else:
        block_size = chunk_size
    chunk_size = min(chunk_size, most)
    stored = held_bytes <= STORED_BYTES[on_cpu]
    num_blocks = -(-num_left // block_size)
    made, halved = _made_anew(num_left, num_right, num_blocks, symmetric)
    if stored:
        made = num_left + (0 if symmetric else num_right)
    else:
        chunk_size = min(chunk_size, block_size)
        num_blocks = -(-num_left // (STORED_CHUNKS * chunk_size))
        made, halved = _made_anew(num_left, num_right, num_blocks, symmetric)
        held_bytes = (STORED_CHUNKS + 1) * chunk_size * (row_bytes + sample_bytes)
    blocks = STORED_CHUNKS * block_size**2 * numerics.accumulation_dtype().itemsize
    return Plan(
        method="structured",
        chunk_size=chunk_size,
        flops=width * (3 * network.forward * made + pair_flops * halved),
        working_bytes=held_bytes + chunk_size * passing + blocks,
        sides=(
            FactoredBatch(left, mine, factored, by_sample),
            FactoredBatch(right, theirs, factored, by_sample),
        ),
        stored=stored,
        block_size=min(block_size, most),
    )


def _chunk_sizes(row_bytes: int, pushed_bytes: int) -> dict[str, int]:
    """Return how many rows of J to make at once, by method, from the bytes that one takes.

    Products are fastest with what fits into a CPU's caches: 64 MB, or 512 MB on an accelerator.
    Matrix products between rows need a hundred or so of them: 128 rows, or what 256 MB hold.
    """
    pushed = (2**26 if jax.default_backend() == "cpu" else 2**29) // pushed_bytes
    contracted = min(128, 2**28 // row_bytes)
    sizes = {"contraction": contracted, "products": pushed, "batch": pushed}
    return {name: max(1, size) for name, size in sizes.items()}
