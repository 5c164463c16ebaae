"""The empirical NTK of the package neural-tangents, as a check that shares no code with ours.

neural-tangents 0.6.5 is its last release. Two things keep it from importing today:

- It names things that jax has since moved or dropped: classes of ``jax.core`` that now live in
  ``jax.extend.core``, the module ``jax.util``, the primitive ``jax.interpreters.ad.zeros_like_p``.
  It needs most of them as annotations or as keys of tables, so it is enough that they exist while
  its modules are executed.
- It imports TensorFlow, for ``neural_tangents.experimental`` and for nothing else.

`import_neural_tangents` therefore supplies the names for the duration of the import, with an empty
module in place of ``neural_tangents.experimental``, and takes them away again. Of the four ways in
which the package computes the finite-width kernel, the two that rest on jax's public transforms
then run, and `neural_tangents_kernel` offers those: Jacobian contraction and NTK-vector products.
The other two interpret jaxprs by rules of the jax of their day.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Literal

import jax
import jax.core
import jax.extend.core
from jax.interpreters import ad
from jaxtyping import Array, Float, PyTree

from lnpjax._base.checks import require

INSTALL = "pip install 'lnpjax[neural-tangents]' && pip install --no-deps neural-tangents==0.6.5"
IMPLEMENTATIONS = {"contraction": "JACOBIAN_CONTRACTION", "products": "NTK_VECTOR_PRODUCTS"}
_PACKAGE = "neural_tangents"
_MOVED_TO_JAX_EXTEND_CORE = ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")


def import_neural_tangents() -> ModuleType:
    """Import neural-tangents on a jax that it does not know, and without TensorFlow.

    jax and `sys.modules` are left as they were, except for the package and what it imports. Its
    ``neural_tangents.experimental`` stays unimported, and can be imported later where TensorFlow is
    installed. A package that was imported before is returned as it is.

    Returns:
        The package ``neural_tangents``.

    Raises:
        ImportError: if it or its requirement frozendict is not installed (the message says how to
            install them), or cannot be imported with this jax (the message names both versions).
    """
    if _PACKAGE in sys.modules:
        return _import_package()  # waits for an import that another thread has begun
    modules_before = set(sys.modules)
    try:
        with _attributes_it_expects(), _modules_it_expects():
            package = _import_package()
            del package.experimental
    except BaseException:
        # Python drops a package whose import fails, but not its submodules that had succeeded.
        for name in set(sys.modules) - modules_before:
            if name.split(".")[0] == _PACKAGE:
                del sys.modules[name]
        raise
    return package


def _import_package() -> ModuleType:
    try:
        return importlib.import_module(_PACKAGE)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (_PACKAGE, "frozendict"):
            raise ImportError(
                f"the neural-tangents kernel needs the package {error.name!r}: {INSTALL}"
            ) from error
        version = importlib.metadata.version("neural-tangents")
        raise ImportError(
            f"neural-tangents {version} cannot be imported with jax {jax.__version__}: {error}"
        ) from error


@contextlib.contextmanager
def _attributes_it_expects() -> Iterator[None]:
    """Give jax's modules the attributes that they have lost, and take them away at the end."""
    core = jax.extend.core
    expected = [
        *((jax.core, name, getattr(core, name, None)) for name in _MOVED_TO_JAX_EXTEND_CORE),
        # Gone without successor: a key under which the package files a rule that nothing looks up.
        (ad, "zeros_like_p", object()),
    ]
    missing = [item for item in expected if item[2] is not None and not hasattr(*item[:2])]
    try:
        for module, name, value in missing:
            setattr(module, name, value)
        yield
    finally:
        for module, name, _ in missing:
            delattr(module, name)


@contextlib.contextmanager
def _modules_it_expects() -> Iterator[None]:
    """Put stand-ins for modules that cannot be imported, and take them away at the end."""
    stand_ins = {
        "jax.util": _module("jax.util", safe_map=_safe_map, safe_zip=_safe_zip),
        f"{_PACKAGE}.experimental": _module(f"{_PACKAGE}.experimental"),
    }
    with contextlib.suppress(ImportError):
        importlib.import_module("jax.util")
        del stand_ins["jax.util"]
    try:
        sys.modules.update(stand_ins)
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module


def _safe_zip(*sequences: Any) -> list[tuple]:
    return list(zip(*sequences, strict=True))


def _safe_map(function: Callable, *sequences: Any) -> list:
    return [function(*arguments) for arguments in zip(*sequences, strict=True)]


def neural_tangents_kernel(
    apply_trainable: Callable[[PyTree, PyTree], Float[Array, "batch m"]],
    trainable: PyTree,
    inputs: PyTree,
    inputs2: PyTree | None,
    *,
    implementation: Literal["contraction", "products"],
    vmap_axes: Literal[0] | None,
) -> Float[Array, "n1*m n2*m"]:
    """Compute the empirical NTK ``J(inputs) J(inputs2)^T`` by neural-tangents.

    Nothing is traced out: every output of every sample has its row. (With `trace_axes` the package
    would divide by the number of outputs.) Matrix products run at the highest precision.

    Args:
        apply_trainable: ``apply_trainable(trainable, inputs) -> outputs`` of shape ``(B, m)``.
        trainable: a pytree of floating-point arrays; `None` marks what is frozen.
        inputs: a pytree of arrays that lead with n1 samples, of any dtype.
        inputs2: the same with n2 samples, or `None` for the kernel of `inputs` with itself.
        implementation: ``"contraction"`` makes both Jacobians (n1 + n2) m P and multiplies them;
            ``"products"`` applies the kernel to each unit vector, with less memory for more time.
        vmap_axes: 0 to differentiate each sample by itself, which is cheaper by the batch size for
            the contraction and WRONG for a network whose samples interact; `None` to differentiate
            the batch as one function.

    Returns:
        The kernel ``(n1 m, n2 m)``, sample-major: row ``i m + k`` is output k of sample i. Units of
        outputs squared over parameters squared. It is summed in the dtype of the network: for
        half-precision parameters, promote them first.

    Raises:
        ImportError: see `import_neural_tangents`.
        ValueError: if a knob is not one of its values, the outputs are not of shape ``(B, m)``, or
            nothing is trainable.
    """
    require(
        implementation in IMPLEMENTATIONS,
        "implementation",
        expected="'contraction' or 'products'",
        got=repr(implementation),
    )
    # Not `in (0, None)`: False and 0.0 are equal to 0, and the package treats them otherwise.
    require(
        vmap_axes is None or (type(vmap_axes) is int and vmap_axes == 0),
        "vmap_axes",
        expected="0 or None",
        got=repr(vmap_axes),
    )
    require(bool(jax.tree.leaves(trainable)), "trainable", expected="at least one array", got=0)
    outputs = jax.eval_shape(apply_trainable, trainable, inputs)
    require(
        len(getattr(outputs, "shape", ())) == 2,
        "apply_trainable",
        expected="outputs of shape (B, m)",
        got=outputs,
    )
    package = import_neural_tangents()
    kernel_fn = package.empirical_ntk_fn(
        apply_trainable,
        trace_axes=(),
        vmap_axes=vmap_axes,
        implementation=package.NtkImplementation[IMPLEMENTATIONS[implementation]],
    )
    with jax.default_matmul_precision("highest"), warnings.catch_warnings():
        # The products ask for the size of a shape without data, which jax is about to refuse.
        warnings.filterwarnings("ignore", "size requires ndarray", DeprecationWarning)
        kernel = kernel_fn(inputs, inputs2, trainable)
    n1, n2, m, _ = kernel.shape  # the package pairs the axes of the two outputs: (n1, n2, m, m)
    return kernel.transpose(0, 2, 1, 3).reshape(n1 * m, n2 * m)
