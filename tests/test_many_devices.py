"""On eight devices: the numbers of one, each device doing its share and holding no more.

This file is also the program that runs on the eight, in a process of its own.
"""

import functools
import math
import os
import re
import subprocess
import sys
import unittest.mock

import jax
import jax.numpy as jnp
import measures
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lnpjax
from lnpjax.jacobian import _linearize
from lnpjax.jacobian._losses import loss_status
from lnpjax.pretraining.loss import cross_entropy

EVERYWHERE = P(("data", "model"))
CASE = measures.CASE
LAYERS = jnp.stack([jnp.eye(16), jnp.full((16, 16), 0.1)])


def over_model(leaf):
    return P(*[None] * (leaf.ndim - 1), "model")


def fully_sharded(leaf):
    return P("data", "model") if leaf.ndim == 2 else P("model")


LAYOUTS = {  # how a parameter lies on the mesh, and the samples of a batch
    "by data": (lambda leaf: P(), EVERYWHERE),
    "by model": (over_model, P()),
    "by both": (fully_sharded, P("data")),
}


def looped(layers, inputs):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), inputs, layers)[0]


def operators(params, batch_a, key):
    """Measure what is no measurement of a step: norms in loops, kernels, and Lanczos."""
    kernels = {
        method: lnpjax.entk(CASE.apply_fn, params, batch_a[0], method=method, chunk_size=128)
        for method in ("contraction", "products")
    }
    lanczos = lnpjax.spectral_measure(CASE.apply_fn, params, *batch_a, num_matvecs=4)
    return {
        "loop": lnpjax.squared_jacobian_norm(looped, LAYERS, batch_a[0], key=key).groups,
        "kernels": kernels,
        "lanczos": (lanczos.nodes, lanczos.weights, lanczos.total),
    }


def measured(names, *, with_operators):
    """One function that measures all that these names say: one program for each layout."""
    every = {name: measures.measure_of(name) for name in names}

    def run(params, batch_a, batch_b, key):
        results = {name: m(params, batch_a, batch_b, key=key) for name, m in every.items()}
        return results | (operators(params, batch_a, key) if with_operators else {})

    return run


def placed(mesh, layout, batch_a=CASE.batch_a, batch_b=CASE.batch_b):
    of_parameter, of_batch = LAYOUTS[layout]

    def put(leaf, spec):
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    params = jax.tree.map(lambda leaf: put(leaf, of_parameter(leaf)), CASE.params)
    batches = jax.tree.map(lambda leaf: put(leaf, of_batch), (batch_a, batch_b))
    return params, *batches


def communicated(compiled):
    """How many numbers each collective of a program hands to a device."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (.*) ({kinds})(?:-start)?\(", compiled.as_text())
    return {
        (math.prod(map(int, filter(None, shape.split(",")))), kind)
        for shapes, kind in found
        for shape in re.findall(r"\w\d+\[([\d,]*)\]", shapes)
    }


def check_numbers(run, mesh_of):
    key, run = jax.random.key(0), jax.jit(run)
    expected = run(CASE.params, CASE.batch_a, CASE.batch_b, key)
    assert expected["lnp, microbatches"].chi_net > 0
    for (kind, layout), mesh in mesh_of.items():
        actual = run(*placed(mesh, layout), key)
        jax.tree_util.tree_map_with_path(
            functools.partial(assert_equal, f"{kind}, {layout}"), actual, expected
        )


def assert_equal(where, path, left, right):
    np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-11, err_msg=f"{where}: {path}")


def check_work(mesh):
    """No device does the work of another, and no gradient travels but in the sum of all."""
    key = jax.random.key(0)
    estimator = lnpjax.Hutchinson(1)
    lnp = measures.lnp(CASE.apply_fn, CASE.loss_fn, estimator=estimator)
    measure = jax.jit(functools.partial(lnp, key=key))
    batches = jax.tree.map(lambda rows: jnp.tile(rows, (64, 1)), (CASE.batch_a, CASE.batch_b))
    alone = measure.lower(CASE.params, *batches).compile()
    leaves = jax.tree.leaves(CASE.params)
    num_samples = len(batches[0][0])
    # Of a device's own samples, in the smallest matrix: 16 times the largest activations.
    sample_gradients = num_samples // 8 * min(leaf.size for leaf in leaves if leaf.ndim == 2)
    for layout, most in (("by data", 1.3), ("by both", 1.5)):
        shared = measure.lower(*placed(mesh, layout, *batches)).compile()
        work = shared.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
        assert work < most / 8, (layout, work)
        numbers = communicated(shared)
        assert numbers, layout
        sent = max(size for size, _ in numbers)
        assert sent < sample_gradients, (layout, numbers)
        if layout == "by data":  # gradients are added up, and norms; nothing else is sent
            assert {kind for _, kind in numbers} == {"all-reduce"}
            assert sent <= max(num_samples * len(leaves), *(leaf.size for leaf in leaves))


def check_checks(mesh):
    """The checks of the loss take an eighth of the batch from every device; no outputs travel."""
    rows = NamedSharding(mesh, P("data"))
    outputs = jax.ShapeDtypeStruct((64, 4, 50), jnp.float32, sharding=rows)
    targets = jax.ShapeDtypeStruct((64, 4), jnp.int32, sharding=rows)
    loss = jax.jit(functools.partial(loss_status, cross_entropy)).lower(outputs, targets)
    assert communicated(loss.compile()) <= {(1, "all-reduce")}
    lnp = lnpjax.lnp(lambda weights, x: x * weights, cross_entropy, estimator=lnpjax.Exact())
    whole = jax.ShapeDtypeStruct((4, 50), jnp.float32, sharding=NamedSharding(mesh, P()))
    measured = jax.jit(lnp).lower(whole, (outputs, targets)).compile()
    sent = max(size for size, _ in communicated(measured))
    assert sent <= 2 * 4 * 50, sent  # two samples, whose company is compared, and the gradient


def check_products(mesh):
    """A gradient within a product with Theta lies where the parameters do."""
    layers, rows = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in (((16, 128, 128), P(None, "data")), ((8, 128), P("data")))
    )

    def product(layers, inputs):
        return lnpjax.jacobian.linearize(looped, layers, inputs).ntk_vp(inputs)

    def planned():
        compiled = jax.jit(lambda *arguments: product(*arguments)).lower(layers, rows).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    spread = planned()
    with unittest.mock.patch.object(_linearize, "shard_alike", lambda *trees: trees):
        left_to_the_compiler = planned()
    assert spread < 4 * layers.size <= left_to_the_compiler, (spread, left_to_the_compiler)


FEW = ["lnp, microbatches", "gradient_spectra"]
EVERY = list(measures.FACTORIES)
CASES = {  # the measurements, whether with all else, the kind of mesh, and the layouts on it
    "a few measurements": (FEW, False, [("explicit", "by both")]),
    "both kinds of mesh": (EVERY, True, [("automatic", "by both"), ("explicit", "by both")]),
    "all layouts": (EVERY, True, [("automatic", "by data"), ("automatic", "by model")]),
}


def on_eight_devices(name):
    assert jax.device_count() == 8
    kinds = {"automatic": AxisType.Auto, "explicit": AxisType.Explicit}
    meshes = {
        kind: jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis, axis))
        for kind, axis in kinds.items()
    }
    check_work(meshes["automatic"])
    by_data = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    check_checks(by_data)
    check_products(by_data)
    names, with_operators, layouts = CASES[name]
    run = measured(names, with_operators=with_operators)
    check_numbers(run, {layout: meshes[layout[0]] for layout in layouts})
    print("eight devices agree with one")


@pytest.mark.parametrize("name", CASES)
def test_eight_devices_agree_with_one(name):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, __file__, name],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([os.path.dirname(measures.__file__), *sys.path])}
        | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "agree" in done.stdout


if __name__ == "__main__":
    on_eight_devices(sys.argv[1])
