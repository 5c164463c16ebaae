"""From a PyTorch module to the pair ``(apply_fn, params)`` that the measures take."""

from __future__ import annotations

from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lnpjax import parameters
from lnpjax._base.checks import import_extra, require
from lnpjax.adapters._flax import MODULE, fit_state
from lnpjax.jacobian import ApplyFn


@overload
def from_torch(
    module: Any, *, with_state: Literal[True], **keywords: Any
) -> tuple[ApplyFn, PyTree, PyTree]: ...


@overload
def from_torch(
    module: Any, *, with_state: Literal[False] = False, **keywords: Any
) -> tuple[ApplyFn, PyTree]: ...


def from_torch(
    module: Any, *, with_state: bool = False, **keywords: Any
) -> tuple[ApplyFn, PyTree] | tuple[ApplyFn, PyTree, PyTree]:
    """Turn a PyTorch module into a pure function of JAX and its parameters, through torchax.

    The arrays are copies: neither follows the module as it trains on. Parameters that share one
    tensor (a tied read-out) are one parameter, under its first name. Buffers are the module's
    state. Put the module into inference mode first (``module.eval()``).

    Args:
        module: the module, on the CPU.
        with_state: whether to return the state too.
        **keywords: passed to the module.

    Returns:
        ``(apply_fn, params)`` with ``apply_fn(params, inputs, state=None)``, where `inputs` is
        what the module takes first, as arrays of JAX, and `params` are nested dictionaries by the
        parts of the parameters' dotted names; or ``(apply_fn, params, state)``.

    Raises:
        TypeError: if `module` is not a PyTorch module.
        ImportError: if torchax and torch are not installed (the extra "torch").
        ValueError: when called, if parameters or `state` are not those of the module.

    Example:
        >>> import torch  # doctest: +SKIP
        >>> apply_fn, params = from_torch(torch.nn.Linear(3, 2))  # doctest: +SKIP
        >>> apply_fn(params, jnp.ones((4, 3))).shape  # doctest: +SKIP
        (4, 2)
    """
    from flax.traverse_util import flatten_dict, unflatten_dict

    torchax = import_extra("torchax", extra="torch", purpose="a PyTorch module")
    torch = import_extra("torch", extra="torch", purpose="a PyTorch module")
    require(
        isinstance(module, torch.nn.Module),
        "module",
        expected="a torch.nn.Module",
        got=type(module).__name__,
        error=TypeError,
    )
    arrays, call = torchax.extract_jax(module)
    names = {name for name, _ in module.named_parameters()}
    own = unflatten_dict({name: array for name, array in arrays.items() if name in names}, sep=".")
    frozen = unflatten_dict(
        {name: array for name, array in arrays.items() if name not in names}, sep="."
    )

    def apply_fn(params: PyTree, inputs: PyTree, state: PyTree | None = None) -> Array:
        params = parameters.fit("params", params, own, of=MODULE)
        rest = frozen if state is None else fit_state(state, frozen)
        arrays = flatten_dict(params, sep=".") | flatten_dict(rest, sep=".")
        return call(arrays, (jax.tree.map(jnp.asarray, inputs),), keywords)

    return (apply_fn, own, frozen) if with_state else (apply_fn, own)
