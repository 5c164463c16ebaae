"""The kernels of neural-tangents: how it is imported, and that it agrees with the dense Jacobian.

The golden kernels (golden/make_golden_kernels.py) were computed by the package as it was released,
on the last jax that it supports: they tell whether the way it is run here changes its numbers.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import oracles
import pytest
import zoo
from golden import models as golden

import lnpjax
from lnpjax.kernel._neural_tangents import INSTALL, import_neural_tangents, neural_tangents_kernel

MISSING = [
    name for name in ("neural_tangents", "frozendict") if importlib.util.find_spec(name) is None
]
needs_package = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: {INSTALL}"
)
every_implementation = pytest.mark.parametrize("implementation", ["contraction", "products"])
GOLDEN_KERNELS = Path(golden.__file__).parent / "kernels.npz"


def run_script(body):
    """Run in a fresh interpreter, where `snapshot()` tells what jax's modules hold."""
    prelude = """
        import importlib.util, sys
        import jax, jax.extend.core, lnpjax
        import jax.example_libraries.stax, jax.experimental.ode  # which the package imports too
        from jax.interpreters import ad
        from lnpjax.kernel._neural_tangents import import_neural_tangents

        def snapshot():
            return {module.__name__: dict(vars(module)) for module in (jax, jax.core, ad)}

        before, modules_before = snapshot(), set(sys.modules)
    """
    script = textwrap.dedent(prelude) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_package
def test_import_leaves_jax_as_it_was():
    run_script("""
        package = import_neural_tangents()
        assert package.__version__ == "0.6.5"
        assert package is import_neural_tangents() is sys.modules["neural_tangents"]
        assert snapshot() == before
        assert importlib.util.find_spec("jax.util") is None
        assert not {"jax.util", "neural_tangents.experimental"} & set(sys.modules)
        assert not hasattr(package, "experimental")
        # What came along was read from files: no stand-in of ours.
        new_modules = set(sys.modules) - modules_before
        ours = [name for name in new_modules if name.startswith(("jax", "neural_tangents"))]
        assert ours
        assert all(sys.modules[name].__file__ for name in ours)
        assert not {"tensorflow", "tf2jax"} & set(sys.modules)
    """)


@needs_package
def test_failed_import_leaves_jax_as_it_was():
    """Half the package has been imported when it fails; a second try finds nothing half-made."""
    run_script("""
        sys.modules["neural_tangents._src.batching"] = None
        try:
            import_neural_tangents()
        except ImportError as error:
            assert "neural-tangents 0.6.5 cannot be imported with jax " in str(error), error
            assert jax.__version__ in str(error), error
        else:
            raise AssertionError("the import did not fail")
        del sys.modules["neural_tangents._src.batching"]
        assert snapshot() == before
        left = [name for name in sys.modules if name.startswith(("neural_tangents", "jax.util"))]
        assert not left, left
        assert import_neural_tangents().empirical_ntk_fn
        assert snapshot() == before
    """)


@needs_package
def test_package_imported_before_is_returned(monkeypatch):
    monkeypatch.setitem(sys.modules, "neural_tangents", sys)
    assert import_neural_tangents() is sys


@pytest.mark.parametrize(
    "name",
    ["neural_tangents", pytest.param("frozendict", marks=needs_package)],
)
def test_missing_package_is_named_with_its_remedy(name, monkeypatch):
    for loaded in [m for m in sys.modules if m.split(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"package '{name}': pip install") as caught:
        import_neural_tangents()
    assert str(caught.value).endswith(
        "pip install 'lnpjax[neural-tangents]' && pip install --no-deps neural-tangents==0.6.5"
    )


def kernel_of(case, inputs, inputs2, **knobs):
    trainable, frozen = lnpjax.parameters.partition(case.params, case.wrt)

    def apply_trainable(trainable, inputs):
        outputs = case.apply_fn(lnpjax.parameters.combine(trainable, frozen), inputs)
        return outputs.reshape(len(outputs), -1)

    return neural_tangents_kernel(apply_trainable, trainable, inputs, inputs2, **knobs)


# Sample by sample; the golden kernels take the batch as one function.
# A part frozen; integer inputs and one table in two places; inputs that are a dict; a reverse rule
# and no forward rule. Convolutions and attention are among the golden kernels.
@needs_package
@every_implementation
@pytest.mark.parametrize(
    "name", ["frozen_subset", "tied_embeddings", "inputs_pytree", "custom_vjp", "scan_over_layers"]
)
def test_kernel_is_that_of_the_dense_jacobian(x64, name, implementation):
    case = zoo.build(name)
    inputs, inputs2 = case.batch_a[0], case.batch_b[0]
    jacobian = functools.partial(
        oracles.dense_jacobian, case.apply_fn, case.params, selected=case.selected
    )
    rows, rows2 = np.hstack(jacobian(inputs)), np.hstack(jacobian(inputs2))
    kernel = jax.jit(functools.partial(kernel_of, case, implementation=implementation, vmap_axes=0))
    for actual, expected in (
        (kernel(inputs, inputs2), rows @ rows2.T),
        (kernel(inputs, None), rows @ rows.T),
    ):
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@needs_package
@every_implementation
def test_kernel_in_single_precision_without_jit(implementation):
    case = zoo.build("mlp")
    inputs = case.batch_a[0]
    kernel = kernel_of(case, inputs, None, implementation=implementation, vmap_axes=0)
    assert kernel.dtype == np.float32
    expected = oracles.dense_kernel(case.apply_fn, case.params, inputs)
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-5 * expected.max())


def golden_arrays(name):
    prefix = f"{name}/"
    with np.load(GOLDEN_KERNELS) as file:
        arrays = {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
    params = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    return arrays, params


@needs_package
@every_implementation
@pytest.mark.parametrize("name", golden.MODELS)
def test_golden_kernels(x64, name, implementation):
    arrays, params = golden_arrays(name)
    case = zoo.Case(golden.MODELS[name].apply_fn, None, params, (), ())

    @jax.jit
    def kernel(inputs, inputs2):
        return kernel_of(case, inputs, inputs2, implementation=implementation, vmap_axes=None)

    inputs, inputs2 = arrays["inputs1"], arrays["inputs2"]
    for actual, expected in (
        (kernel(inputs, None), arrays["kernel11"]),
        (kernel(inputs, inputs2), arrays["kernel12"]),
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", golden.MODELS)
def test_golden_kernels_by_structure(x64, name, all_factored):
    """By this library, from factors wherever there are any: no code is shared, nor a release."""
    with np.load(GOLDEN_KERNELS) as file:
        arrays = {
            k.removeprefix(f"{name}/"): file[k] for k in file.files if k.split("/")[0] == name
        }
    params = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}

    @jax.jit
    def kernel(params, inputs, inputs2):
        options = {"inputs2": inputs2, "method": "structured"}
        return lnpjax.entk(golden.MODELS[name].apply_fn, params, inputs, **options)

    actual = kernel(params, arrays["inputs1"], arrays["inputs2"])
    np.testing.assert_allclose(actual, arrays["kernel12"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("implementation", {"implementation": "auto"}),
        ("vmap_axes", {"vmap_axes": 1}),
        ("vmap_axes", {"vmap_axes": False}),
        ("trainable", {"trainable": {"w": None}}),
        ("apply_trainable", {"apply_trainable": lambda trainable, inputs: inputs[:, 0]}),
    ],
)
def test_bad_input_is_named(argument, change):
    options = {
        "apply_trainable": lambda trainable, inputs: inputs * trainable["w"],
        "trainable": {"w": np.ones(2, np.float32)},
        "inputs": np.ones((3, 2), np.float32),
        "inputs2": None,
        "implementation": "contraction",
        "vmap_axes": 0,
    } | change
    with pytest.raises(ValueError, match=rf"^{argument}: expected"):
        neural_tangents_kernel(**options)
