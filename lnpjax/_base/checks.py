"""How the library refuses bad input and names a missing extra."""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


def require(
    condition: bool,
    argument: str,
    *,
    expected: str,
    got: Any,
    error: type[Exception] = ValueError,
) -> None:
    """Raise `error` unless `condition` holds, naming the argument, the expectation and what came.

    Args:
        condition: what must be true; a Python bool, never a traced value.
        argument: the name of the offending argument, as the caller wrote it.
        expected: what would have been accepted, and where it helps, what to do about it.
        got: what came instead.
        error: the exception to raise.

    Raises:
        ValueError: (or `error`) if the condition is false.

    Example:
        >>> require(0 >= 1, "num_probes", expected="an integer >= 1", got=0)
        Traceback (most recent call last):
            ...
        ValueError: num_probes: expected an integer >= 1, got 0
    """
    if not condition:
        raise error(f"{argument}: expected {expected}, got {got}")


def is_integer(value: Any) -> bool:
    """Return whether a value is one integer of Python or NumPy; booleans are not.

    Example:
        >>> is_integer(3), is_integer(np.int64(3)), is_integer(True), is_integer(3.0)
        (True, True, False, False)
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_count(argument: str, count: Any, *, least: int = 1, optional: bool = False) -> None:
    """Refuse what is not an integer of at least this size.

    Args:
        argument: the name of the argument, as the caller wrote it.
        count: the number; never traced.
        least: the smallest that is accepted.
        optional: whether `None` is accepted, too.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> check_count("num_probes", 0)
        Traceback (most recent call last):
            ...
        ValueError: num_probes: expected an integer >= 1, got 0
    """
    accepted = (count is None and optional) or (is_integer(count) and count >= least)
    require(accepted, argument, expected=f"an integer >= {least}", got=repr(count))


def concrete(array: Any) -> np.ndarray | None:
    """Return the values of an array, or `None` where they cannot be looked at.

    Values are known outside of `jit`, `vmap` and `grad`, and where this process holds all of them;
    elsewhere a check of values is skipped, and shapes and dtypes are all that can be refused.

    Example:
        >>> concrete(jnp.ones(2))
        array([1., 1.], dtype=float32)
        >>> jax.jit(lambda x: x if concrete(x) is None else 0 * x)(1.0)
        Array(1., dtype=float32, weak_type=True)
    """
    if isinstance(array, jax.core.Tracer):
        return None
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return None
    return np.asarray(array)


def check_key(argument: str, key: Any, *, drawn_by: str | None = None) -> None:
    """Refuse what is not one key of `jax.random`.

    Args:
        argument: the name of the argument, as the caller wrote it.
        key: the key, traced or not: a typed one (`jax.random.key`) or a raw one
            (`jax.random.PRNGKey`).
        drawn_by: who draws with it; `None` if it may also be `None`, since nobody does.

    Raises:
        ValueError: if it is missing, or an array of several.
        TypeError: if it is something else, such as a seed.

    Example:
        >>> check_key("key", 0)
        Traceback (most recent call last):
            ...
        TypeError: key: expected a jax.random key, such as jax.random.key(0), got 0
        >>> check_key("key", jax.random.split(jax.random.key(0)))
        Traceback (most recent call last):
            ...
        ValueError: key: expected one jax.random key, of shape (), got an array of them of shape
        (2,)
    """
    if key is None:
        why = "" if drawn_by is None else f", since {drawn_by} draws random probes"
        require(drawn_by is None, argument, expected=f"a jax.random key{why}", got=None)
        return
    is_array = isinstance(key, jax.Array | np.ndarray)
    typed = is_array and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    own = () if typed else jax.eval_shape(jax.random.PRNGKey, 0).shape
    shape = np.shape(key) if is_array else ()
    around = shape[: len(shape) - len(own)]
    require(
        typed or (is_array and key.dtype == jnp.uint32 and shape == (*around, *own)),
        argument,
        expected="a jax.random key, such as jax.random.key(0)",
        got=f"an array of {key.dtype} of shape {shape}" if is_array and shape else repr(key),
        error=TypeError,
    )
    require(
        not around,
        argument,
        expected="one jax.random key, of shape ()",
        got=f"an array of them of shape {around}",
    )


def check_functions(**functions: Any) -> None:
    """Refuse what cannot be called.

    Args:
        **functions: by the name of the argument.

    Raises:
        TypeError: naming the first that is not a function; a module is none of parameters and
            inputs, and the message says what makes one of it.

    Example:
        >>> check_functions(loss_fn=0.5)
        Traceback (most recent call last):
            ...
        TypeError: loss_fn: expected a function, got float
    """
    for argument, value in functions.items():
        line = _line_for_module(value) if argument == "apply_fn" else None
        require(
            line is None,
            argument,
            expected=f"a function of parameters and inputs: {line}",
            got=f"a module, {type(value).__name__}",
            error=TypeError,
        )
        require(
            callable(value),
            argument,
            expected="a function",
            got=type(value).__name__,
            error=TypeError,
        )


_LINES = {
    "flax.nnx": "apply_fn, params = lnpjax.from_nnx(module)",
    "flax.linen": "apply_fn, params = lnpjax.from_linen(module, variables)",
    "equinox": "params, static = equinox.partition(module, equinox.is_inexact_array), and "
    "apply_fn=lambda params, inputs: jax.vmap(equinox.combine(params, static))(inputs)",
}
"""What turns the modules of a library into a function and its parameters."""


def _line_for_module(value: Any) -> str | None:
    """Return what makes a function of a module, or `None` if it is none of those known."""
    for cls in type(value).__mro__:
        for library, line in _LINES.items():
            if cls.__name__ == "Module" and cls.__module__.startswith(library):
                return line
    return None


def checked_ids(argument: str, ids: Any, count: int, *, from_end: bool = False) -> Int[Array, ...]:
    """Check ids that pick rows, since JAX would pick another row for those outside.

    Args:
        argument: the name of the argument, as the caller wrote it.
        ids: integers, traced or not.
        count: how many rows there are.
        from_end: whether -1 stands for the last row, which it does for `jnp.take`, or is refused.

    Returns:
        The ids from 0 to ``count - 1``. Where values are not known (under `jit`), those outside
        have become `count`: ``mode="fill"``, the default of `jnp.take`, gives NaN for them.

    Raises:
        TypeError: if they are not integers.
        ValueError: where values are known, if one is outside.

    Example:
        >>> checked_ids("labels", jnp.array([0, -1]), 3, from_end=True)
        Array([0, 2], dtype=int32)
        >>> checked_ids("labels", jnp.array([0, -1]), 3)
        Traceback (most recent call last):
            ...
        ValueError: labels: expected ids from 0 to 2, got -1 to 0
    """
    require(
        jnp.issubdtype(jnp.result_type(ids), jnp.integer),
        argument,
        expected="integer ids",
        got=f"dtype {jnp.result_type(ids)}",
        error=TypeError,
    )
    least, values = -count if from_end else 0, concrete(ids)
    require(
        values is None or not values.size or (values.min() >= least and values.max() < count),
        argument,
        expected=f"ids from {least} to {count - 1}",
        got="some outside"
        if values is None or not values.size
        else f"{values.min()} to {values.max()}",
    )
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.signedinteger):
        return ids  # what is too large stays so
    ids = ids.astype(jnp.promote_types(ids.dtype, jnp.int32))  # narrow ones may not hold `count`
    inside = (ids >= least) & (ids < count)
    return jnp.where(inside, jnp.where(ids < 0, ids + count, ids), count)


def check_floating(argument: str, array: Any) -> None:
    """Refuse what is not an array of real floating-point numbers.

    Args:
        argument: the name of the argument, as the caller wrote it.
        array: the array, traced or not.

    Raises:
        TypeError: if it is not an array, or holds other than real floating-point numbers.

    Example:
        >>> check_floating("losses", np.arange(3))
        Traceback (most recent call last):
            ...
        TypeError: losses: expected an array of real floating-point numbers, got dtype int64
    """
    require(
        isinstance(array, jax.Array | np.ndarray),
        argument,
        expected="an array of real floating-point numbers",
        got=type(array).__name__,
        error=TypeError,
    )
    require(
        jnp.issubdtype(array.dtype, jnp.floating),
        argument,
        expected="an array of real floating-point numbers",
        got=f"dtype {array.dtype}",
        error=TypeError,
    )


def check_values(
    argument: str,
    array: Any,
    *,
    expected: str,
    least: float = -math.inf,
    above: float = -math.inf,
) -> None:
    """Refuse values, where they are known, that are infinite, NaN or out of range.

    Args:
        argument: the name of the argument, as the caller wrote it.
        array: a number or an array, traced or not.
        expected: what the values have to be, for the message.
        least: the smallest value that is accepted.
        above: what every value has to exceed.

    Raises:
        ValueError: if a value is refused; the message shows the first three.

    Example:
        >>> check_values("times", jnp.array([0.0, jnp.nan]), expected="finite numbers")
        Traceback (most recent call last):
            ...
        ValueError: times: expected finite numbers, got [nan]
    """
    values = concrete(array)
    if values is not None:
        refused = values[~(np.isfinite(values) & (values >= least) & (values > above))]
        require(refused.size == 0, argument, expected=expected, got=refused[:3].tolist())


def check_ascending(
    argument: str, vector: Any, *, of: str, count: int = 2, positive: bool = False
) -> None:
    """Refuse what is not a vector of finite, strictly ascending numbers.

    Args:
        argument: the name of the argument, as the caller wrote it.
        vector: an array, traced or not.
        of: what its entries are, in the plural, for the message.
        count: how many there must be at least.
        positive: whether all of them must be above zero.

    Raises:
        ValueError: if it is not a vector, or too short; where its values are known, if they are
            not finite or do not ascend.

    Example:
        >>> check_ascending("times", jnp.array([2.0, 1.0]), of="times")
        Traceback (most recent call last):
            ...
        ValueError: times: expected finite, strictly ascending numbers, got [2. 1.]
    """
    require(
        vector.ndim == 1 and len(vector) >= count,
        argument,
        expected=f"a vector of at least {count} {of}",
        got=f"shape {vector.shape}",
    )
    values = concrete(vector)
    require(
        values is None
        or bool(
            np.all(np.isfinite(values))
            and np.all(np.diff(values) > 0)
            and (values[0] > 0 or not positive)
        ),
        argument,
        expected=f"{'positive, ' if positive else ''}finite, strictly ascending numbers",
        got=values,
    )


def check_kernel(argument: str, kernel: Any, *, symmetric: bool = True) -> None:
    """Refuse what is not a kernel matrix.

    Args:
        argument: the name of the argument, as the caller wrote it.
        kernel: the kernel, traced or not.
        symmetric: whether it is the kernel of a batch with itself: square, and symmetric to within
            ``sqrt(eps)`` of its largest entry. `False` for a kernel between two batches.

    Raises:
        TypeError: if it is not an array of real floating-point numbers.
        ValueError: if it is not a matrix, or not square where `symmetric`; and, where its values
            are known (see `concrete`), if one is infinite or NaN, or if it is not symmetric.

    Example:
        >>> check_kernel("kernel", jnp.array([[1.0, 2.0], [0.0, 1.0]]))
        Traceback (most recent call last):
            ...
        ValueError: kernel: expected a symmetric matrix, got entries that differ from those across
        the diagonal by up to 2.0
    """
    check_floating(argument, kernel)
    require(
        kernel.ndim == 2 and (kernel.shape[0] == kernel.shape[1] or not symmetric),
        argument,
        expected=f"a {'square ' if symmetric else ''}matrix",
        got=f"shape {kernel.shape}",
    )
    values = concrete(kernel)
    if values is None or not values.size:
        return
    check_values(argument, kernel, expected="finite entries")
    if symmetric:
        difference = float(np.max(np.abs(values - values.T)))
        tolerance = float(jnp.finfo(kernel.dtype).eps) ** 0.5 * float(np.max(np.abs(values)))
        require(
            difference <= tolerance,
            argument,
            expected="a symmetric matrix",
            got=f"entries that differ from those across the diagonal by up to {difference}",
        )


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module that belongs to an optional extra.

    Args:
        module: the module to import.
        extra: the extra of lnpjax that installs it.
        purpose: what needs it, for the error message.

    Returns:
        The imported module.

    Raises:
        ImportError: if it is not installed; the message names the extra.

    Example:
        >>> import_extra("json", extra="run", purpose="reading metrics").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {module!r}: pip install 'lnpjax[{extra}]'"
        ) from error
