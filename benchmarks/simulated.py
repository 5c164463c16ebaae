"""Programs for hundreds of devices, compiled and not run: what each device would do, send and hold.

A process with as many simulated CPU devices as the mesh has compiles each program for arrays that
exist in shape alone, so that a model of any size fits. A step takes the batch; the distribution of
chi_pos and the kernels, one sample for each place along ``data``. Read from the compiled program
(`benchmarks.programs`) and from the compiler's plan, for each device and one execution:

- operations of matrix products, in those that a plain step on as many samples needs (in plain), and
  as a multiple of an equal share of what the traced program needs (work): more than 1 says that
  devices repeat each other's work;
- bytes of the arrays that collectives leave on a device, in copies of the parameters for gathers
  and sums. Of a sum, a device sends and receives about twice that, of the others once;
- memory: arguments, results and scratch, at the most.

What differs from an accelerator's program: everything is float32, since the CPU's compiler computes
bfloat16 in it; a sum of gradients of which each device keeps its part stays a sum, where others
make a reduce-scatter of it; scores of attention are written to memory, T x T for each head.

The model is a Llama in one of two forms. "layers written out" is `lnpjax.models.Llama` with all
weights gathered before a pass, as `lnpjax train --mesh` has it; it is compiled with 2 and with 4
layers, and what it takes is continued linearly. "loop over layers" runs the same blocks in a loop,
gathers the weights of one at a time, and computes its activations again in the backward pass.

One workload, here and now: ``python -m benchmarks.simulated 7B data=256 256 1024 loop``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

import lnpjax
from benchmarks import programs, tables, timing
from benchmarks.measured_step import adamw_step, cross_entropy, take_gradient
from benchmarks.processes import found_by
from lnpjax.kernel._costs import matmul_flops
from lnpjax.models import Llama, LlamaConfig, split_llama
from lnpjax.models.rotary import rotary_angles
from lnpjax.sharding import (
    MeshShape,
    batch_sharding,
    gather_over_data,
    make_mesh,
    parameter_shardings,
    replicated,
)

MODELS = {
    "tiny": {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_layers": 4,
        "num_heads": 2,
    },
    "7B": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_layers": 32,
        "num_heads": 32,
    },
}  # fmt: skip
FORMS = {"unrolled": "layers written out", "loop": "loop over layers"}
COMPILED_LAYERS = (2, 4)
NUM_MATVECS = 4
OUTPUTS = 2  # of the last position, of every sample, in the explicit kernel
PLAIN, MEASURED, CLOSED = "plain step", "measured step", "measured step, closed forms"
CHECKED = "measured step, checked"  # as the first one of windows 0, 1, 2, 4, 8, ...
STEPS = (PLAIN, MEASURED, CLOSED, CHECKED)  # on the whole batch
# Devices are simulated; machine code, which is not run, is made without care; and operations are
# ordered for the least memory, not for the most that can run at once.
FLAGS = (
    "--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false"
)


class Network(NamedTuple):
    """A function of parameters that lie sharded, with their shapes."""

    apply_fn: Callable
    split_model: lnpjax.SplitModel  # the same, whose table and read-out are measured in closed form
    params: Any
    gathered: Callable  # parameters as `apply_fn` takes them


class Task(NamedTuple):
    """A function, its arguments as shapes, whether it takes the first one's place, its results."""

    function: Callable
    arguments: tuple
    donates: bool
    out_shardings: Any


def abstract(tree, shardings):
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def unrolled(config: LlamaConfig, mesh: Mesh) -> Network:
    """The library's own model; all weights are gathered before a pass."""
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    apply_fn, params = lnpjax.from_nnx(model)
    split_model, _ = split_llama(model)
    return Network(apply_fn, split_model, params, lambda params: gather_over_data(params, mesh))


def loop(config: LlamaConfig, mesh: Mesh) -> Network:
    """The same with its blocks stacked, run in a loop that gathers one block at a time."""
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    params = jax.eval_shape(stack_layers, lnpjax.from_nnx(model)[1])
    split_model = looped_llama(config, lambda layer: gather_over_data(layer, mesh))

    def gathered(params):
        return params | {"rest": gather_over_data(params["rest"], mesh)}

    return Network(lambda *arguments: split_model(*arguments), split_model, params, gathered)


def stack_layers(params):
    """The parameters of a Llama, with those of its layers along a new first axis."""
    params = nnx.to_pure_dict(params)
    layers = params.pop("layers")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers.values())
    return {"layers": stacked, "rest": params}


def looped_llama(config: LlamaConfig, gather: Callable) -> lnpjax.SplitModel:
    """A Llama of stacked layers, each of which goes through `gather`, and is computed twice."""
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    structure, _ = nnx.split(model.layers[0])
    norm, _ = nnx.split(model.norm)

    def body(params, embedded):
        length, base = embedded.shape[1], config.rope_base
        angles = rotary_angles(length, config.head_width, base=base, dtype=jnp.float32)

        def block(x, layer):
            return nnx.merge(structure, nnx.State(gather(layer)))(x, angles), None

        x, _ = jax.lax.scan(jax.checkpoint(block), embedded, params["layers"])
        return nnx.merge(norm, nnx.State(params["rest"]["norm"]))(x)

    return lnpjax.SplitModel(
        body, embedding="rest/embedding/embedding", readout="rest/head/kernel", from_end=False
    )


def tasks(network: Network, mesh: Mesh, batch_size: int, length: int) -> dict[str, Task]:
    """Return what is compiled, by name."""
    apply_fn, split_model, params, gathered = network
    optimizer, train_step = adamw_step(lambda params, tokens: apply_fn(gathered(params), tokens))
    everywhere = replicated(mesh)

    def shapes_of_tokens(num_samples):
        shape = (num_samples, length)
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))

    def plain(state, batch):
        state, metrics = train_step(state, batch)
        return state, metrics["loss"]

    def unchecked(model):
        measure = lnpjax.lnp(model, cross_entropy)

        def measure_alone(*arguments, key, gradient_a):
            return measure(*arguments, key=key, gradient_a=gradient_a, check_gradient_a=False)

        return measure_alone

    def measured(measure):
        return lnpjax.instrument(
            train_step,
            measure,
            lnpjax.Windows((0,), 2**30),
            params_of=lambda state: gathered(state[0]),
            step_of=lambda state: state[2],
            take_gradient=take_gradient,
            real_update=False,
        ).measured

    distribution = lnpjax.spectra.position_distribution(
        apply_fn, cross_entropy, num_matvecs=NUM_MATVECS
    )

    def position(params, batch, key):
        return distribution(gathered(params), batch, key=key)

    def kernel(method):
        chosen = ([length - 1], list(range(OUTPUTS)))
        return lambda params, tokens: lnpjax.entk(
            apply_fn, gathered(params), tokens, outputs=chosen, method=method, max_bytes=2**60
        )

    state = (params, jax.eval_shape(optimizer.init, params), jax.ShapeDtypeStruct((), jnp.int32))
    states = parameter_shardings(state, mesh)
    state = abstract(state, states)
    batch = (shapes_of_tokens(batch_size),) * 2
    few = shapes_of_tokens(mesh.shape["data"])
    key = abstract(jax.eval_shape(lambda: jax.random.key(0)), everywhere)
    step_and_batches, step_results = (state, batch, batch, key), (states, everywhere, everywhere)
    return {
        PLAIN: Task(plain, (state, batch), True, (states, everywhere)),
        MEASURED: Task(measured(unchecked(apply_fn)), step_and_batches, True, step_results),
        CLOSED: Task(measured(unchecked(split_model)), step_and_batches, True, step_results),
        CHECKED: Task(
            measured(lnpjax.lnp(apply_fn, cross_entropy)), step_and_batches, True, step_results
        ),
        f"position distribution, {NUM_MATVECS} products": Task(
            position, (state[0], (few, few), key), False, everywhere
        ),
        "eNTK by contraction": Task(kernel("contraction"), (state[0], few), False, everywhere),
        "eNTK by products": Task(kernel("products"), (state[0], few), False, everywhere),
    }


def compiled_task(task: Task) -> Any:
    donated = (0,) if task.donates else ()
    function = jax.jit(task.function, donate_argnums=donated, out_shardings=task.out_shardings)
    return function.lower(*task.arguments).compile()


def read(task: Task, devices: int) -> dict[str, float]:
    """What a device does in one execution of a task."""
    compiled = compiled_task(task)
    work = programs.work(compiled.as_text())
    planned = timing.planned_bytes(compiled, "temp", "argument", "output")
    reduced = ("all-reduce", "reduce-scatter")
    others = set(programs.COLLECTIVES) - {"all-gather", *reduced}

    def total(counts, kinds):
        return sum(counts.get(kind, 0) for kind in kinds)

    return {
        "flops": work.flops,
        "needed_flops": matmul_flops(task.function, *task.arguments) / devices,
        "gathers": total(work.number, ["all-gather"]),
        "gathered_bytes": total(work.bytes, ["all-gather"]),
        "sums": total(work.number, reduced),
        "summed_bytes": total(work.bytes, reduced),
        "other_collectives": total(work.number, others),
        "other_bytes": total(work.bytes, others),
        "planned_megabytes": (planned - timing.planned_bytes(compiled, "alias")) / 1e6,
    }


def measure(model, mesh_shape, batch_size, length, form, *, only="", layers=None):
    """The numbers of every task with `only` in its name, in this process."""
    config = LlamaConfig(**MODELS[model], max_seq_len=length)
    if layers is not None:
        config = dataclasses.replace(config, num_layers=layers)
    mesh = make_mesh(mesh_shape)
    network = {"unrolled": unrolled, "loop": loop}[form](config, mesh)
    every = tasks(network, mesh, batch_size, length)
    return {name: read(task, mesh.size) for name, task in every.items() if only in name}


def continued(few, more, num_layers):
    """Numbers of so many layers from those of `COMPILED_LAYERS`, along a line."""
    start, end = COMPILED_LAYERS
    steps = (num_layers - start) / (end - start)
    return {
        name: {
            key: few[name][key] + steps * (more[name][key] - few[name][key]) for key in few[name]
        }
        for name in few
    }


def in_own_process(*arguments, devices):
    """What `measure` finds in a Python with that many devices."""
    flags = os.environ.get("XLA_FLAGS", "") + " " + FLAGS.format(devices=devices)
    return found_by("simulated", *arguments, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")


def run(model, mesh_shape, batch_size, length, form, *, rounds):
    """A row per program; nothing is executed, so that one round says all."""
    del rounds
    devices = MeshShape.parse(mesh_shape).size
    arguments = (model, mesh_shape, batch_size, length, form)
    sizes = MODELS[model]
    if form == "loop":
        numbers = in_own_process(*arguments, devices=devices)
    else:
        few, more = (
            in_own_process(*arguments, "--layers", layers, devices=devices)
            for layers in COMPILED_LAYERS
        )
        numbers = continued(few, more, sizes["num_layers"])
    num_parameters = LlamaConfig(**sizes, max_seq_len=length).num_parameters
    few = MeshShape.parse(mesh_shape).data / batch_size
    plain = {
        name: numbers[PLAIN]["needed_flops"] * (1 if name in STEPS else few) for name in numbers
    }
    return [
        {
            "model": model,
            "mesh": mesh_shape,
            "batch": f"{batch_size} x {length}",
            "form": FORMS[form],
            "program": name,
            "teraflops": row["flops"] / 1e12,
            "in_plain_steps": row["flops"] / plain[name],
            "work": row["flops"] / row["needed_flops"],
            "gathers": row["gathers"],
            "gathered_parameters": row["gathered_bytes"] / 4 / num_parameters,
            "sums": row["sums"],
            "summed_parameters": row["summed_bytes"] / 4 / num_parameters,
            "other_collectives": row["other_collectives"],
            "other_gigabytes": row["other_bytes"] / 1e9,
            "planned_megabytes": row["planned_megabytes"],
        }
        for name, row in numbers.items()
    ]


def table(rows):
    """What the columns mean is said at the top of this file."""
    first = rows[0] if rows else dict.fromkeys(("model", "mesh", "batch", "form"), "")
    return tables.render(
        rows,
        title="simulated, {model} parameters on {mesh}, batch {batch}, {form}".format(**first),
        label=lambda row: row["program"],
        columns={
            "TFLOP": ("teraflops", ".4g"),
            "in plain": ("in_plain_steps", ".2f"),
            "work": ("work", ".2f"),
            "gathers": ("gathers", ".0f"),
            "of P": ("gathered_parameters", ".2f"),
            "sums": ("sums", ".0f"),
            "of P ": ("summed_parameters", ".2f"),
            "others": ("other_collectives", ".0f"),
            "GB": ("other_gigabytes", ".2f"),
            "memory MB": ("planned_megabytes", ".0f"),
        },
    )


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulated")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("mesh", help="such as data=64,model=4")
    parser.add_argument("batch_size", type=int)
    parser.add_argument("length", type=int)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--layers", type=int, help="in place of the model's own number")
    parser.add_argument("--only", default="", help="only programs with this in their names")
    given = parser.parse_args()
    found = measure(
        given.model, given.mesh, given.batch_size, given.length, given.form,
        only=given.only, layers=given.layers,
    )  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
