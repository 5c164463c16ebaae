"""Hidden states of Flax modules by the name of their layer, through Flax's own capture mechanisms.

Anything else that computes ``{layer: (B, ..., features)}`` from parameters and inputs serves
`lnpjax.lens.activation_spectra` as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array, PyTree

from lnpjax._base.checks import require
from lnpjax.adapters import fit_state, split_module, split_variables
from lnpjax.jacobian._contract import checked_layers

Captured: TypeAlias = dict[str, Array]
CALL = "__call__"
"""What the capture mechanisms call the output of a module; the name of the whole module's own."""


@dataclasses.dataclass(frozen=True, eq=False)  # hashable: jit takes it
class HiddenStates:
    """A function from parameters and inputs to hidden states, made by `nnx_hidden_states`.

    Attributes:
        capture: ``capture(params, inputs, state) -> (outputs, {layer: array})`` of every layer.
        layers: the layers that were asked for; `None` for the blocks.
        is_block: whether a layer of that name can be a block of the module.
    """

    capture: Callable[..., tuple[Any, Captured]]
    layers: tuple[str, ...] | None
    is_block: Callable[[str], bool]

    def __call__(self, params: PyTree, inputs: PyTree, state: PyTree | None = None) -> Captured:
        """Return the hidden states of the layers, in the order of `names`.

        Under `jit`, what none of them needs (other layers, the read-out) is not computed.

        Args:
            params: the parameters.
            inputs: what the module takes.
            state: what the module has besides parameters; `None` for what it was when the function
                was made.

        Returns:
            ``{layer: (B, ..., features)}``.

        Raises:
            ValueError: if a layer is unknown; the message lists those there are.
        """
        stacks = self._stacks(params, inputs)
        names = self._names(*self._trace(params, inputs, stacks))
        captured = stacks.apart(self.capture(params, inputs, state)[1])
        return {name: captured[name] for name in names}

    def names(self, params: PyTree, inputs: PyTree) -> tuple[str, ...]:
        """Return the layers in the order asked for or, by default, in the order of depth.

        Args:
            params: the parameters, or their shapes.
            inputs: what the module takes, or its shapes.

        Returns:
            Names of layers, found by tracing: nothing is computed.

        Raises:
            ValueError: as calling does.
        """
        return self._names(*self._trace(params, inputs, self._stacks(params, inputs)))

    def all_names(self, params: PyTree, inputs: PyTree) -> tuple[str, ...]:
        """Return all the layers there are, in the order in which they are computed."""
        return self._trace(params, inputs, self._stacks(params, inputs))[0]

    def _names(self, every: tuple[str, ...], blocks: tuple[str, ...]) -> tuple[str, ...]:
        if self.layers is None:
            require(
                len(blocks) > 0,
                "layers",
                expected=f"names among {list(every)}, since no part of the module comes before "
                "its output",
                got=None,
            )
            return blocks
        unknown = [name for name in self.layers if name not in every]
        require(
            not unknown and len(self.layers) > 0,
            "layers",
            expected=f"some of the layers there are, {list(every)}",
            got=unknown or "none",
        )
        return self.layers

    def _trace(
        self, params: PyTree, inputs: PyTree, stacks: _Stacks
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return all layers, and the blocks: the parts that come before the module's output."""
        names: dict[str, list[str]] = {}
        blocks: set[str] = set()

        def look(params: PyTree, inputs: PyTree) -> list[Array]:
            outputs, captured = self.capture(params, inputs)
            results = {id(leaf) for leaf in jax.tree.leaves(outputs)}
            for name, value in captured.items():
                names[name] = list(stacks.apart({name: value}))
                if id(value) not in results:
                    blocks.update(part for part in names[name] if self.is_block(part))
            return list(captured.values())

        jaxpr = jax.make_jaxpr(look)(params, inputs).jaxpr
        places = {
            variable: place
            for place, equation in enumerate(jaxpr.eqns)
            for variable in equation.outvars
        }
        depth = {
            name: -1 if isinstance(variable, Literal) else places.get(variable, -1)
            for name, variable in zip(names, jaxpr.outvars, strict=True)
        }
        every = tuple(part for name in sorted(names, key=depth.__getitem__) for part in names[name])
        return every, tuple(name for name in every if name in blocks)

    def _stacks(self, params: PyTree, inputs: PyTree) -> _Stacks:
        """Tell stacks by the axis that grows with the batch: the second, and a layer's first.

        The batch is doubled, since a model may need one that some number divides. One that takes no
        other batch than its own is believed to capture layers only.
        """

        def shapes(times: int) -> dict[str, tuple[int, ...]]:
            batch = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    (times * jnp.shape(leaf)[0], *jnp.shape(leaf)[1:]), jnp.result_type(leaf)
                ),
                inputs,
            )
            captured = jax.eval_shape(lambda p, x: self.capture(p, x)[1], params, batch)
            return {name: value.shape for name, value in captured.items()}

        try:
            small, large = shapes(1), shapes(2)
        except Exception:  # a model raises whatever it likes
            return _Stacks(frozenset(), frozenset())
        fixed = {name for name, shape in small.items() if large[name][0] == shape[0]}
        stacks = {name for name in fixed if len(small[name]) >= 3}
        stacks = {name for name in stacks if large[name][1] != small[name][1]}
        return _Stacks(frozenset(stacks), frozenset(fixed - stacks))


@dataclasses.dataclass(frozen=True)
class _Stacks:
    """What was captured that is not one layer.

    Attributes:
        stacks: all layers of a scan in one array, whose axis of layers leads.
        constant: what has no row per sample, such as a table of positions.
    """

    stacks: frozenset[str]
    constant: frozenset[str]

    def apart(self, captured: Captured) -> Captured:
        """Return the layers, those of each stack on their own."""
        apart: Captured = {}
        for name, value in captured.items():
            if name in self.stacks:
                apart |= {f"{name}/{index}": value[index] for index in range(len(value))}
            elif name not in self.constant:
                apart[name] = value
        return apart


def nnx_hidden_states(
    module: Any,
    layers: Sequence[str] | None = None,
    *,
    method: str = CALL,
    **keywords: Any,
) -> tuple[HiddenStates, PyTree]:
    """Capture the hidden states of a Flax NNX module, through `flax.nnx.capture`.

    A layer is named by its path, such as ``"layers/1"`` or ``"layers/1/attention"``; that of a part
    which is called repeatedly in one pass, or stands for all layers of an `nnx.scan`, has the
    number of the call at its end, ``"shared/0"``.
    The outputs of other methods (``"embedding/attend"``) and what the module itself sows as
    `nnx.Intermediate` (``"layers/1/scores"``) have names as well, and ``"__call__"`` is the output
    of the whole. What is not one array of floating-point numbers with a feature axis has no name.

    Flax captures the methods that a class defines itself. A submodule of a class that inherits its
    ``__call__`` is not among the layers: override it, or sow what it returns.

    Args:
        module: the module; parameters are `nnx.Param`, all else is frozen at its present value, as
            in `lnpjax.from_nnx`, whose `params` fit. Switch dropout off (``module.eval()``).
        layers: names of layers. `None` for the blocks in their order: the direct parts of the
            module and the members of its direct lists, except embedding tables and the part that
            returns what the module returns. Of a `lnpjax.models.Llama` these are ``"layers/0"``,
            ... (the residual stream after each block) and ``"norm"``.
        method: the method that maps inputs to outputs.
        **keywords: passed to that method.

    Returns:
        ``(hidden_states, params)`` for `lnpjax.lens.activation_spectra`.

    Raises:
        TypeError: if `module` is not an NNX module.
        ValueError: when called, if a layer is unknown; the message lists those there are.

    Example:
        >>> from flax import nnx
        >>> first, last = (nnx.Linear(*size, rngs=nnx.Rngs(0)) for size in ((3, 4), (4, 2)))
        >>> model = nnx.Sequential(first, nnx.tanh, last)
        >>> hidden_states, params = nnx_hidden_states(model)
        >>> {name: h.shape for name, h in hidden_states(params, jnp.ones((5, 3))).items()}
        {'layers/0': (5, 4)}
    """
    from flax import nnx

    states, params = split_module(module, for_linen="linen_hidden_states")
    embeddings = {
        "/".join(map(str, path))
        for path, part in nnx.iter_modules(module)
        if isinstance(part, nnx.Embed)
    }
    parts = {
        "/".join(map(str, path))
        for path, _ in nnx.iter_modules(module)
        if len(path) == 1 or (len(path) == 2 and isinstance(path[1], int))
    }

    def capture(
        params: PyTree, inputs: PyTree, state: PyTree | None = None
    ) -> tuple[Any, Captured]:
        with states.run_with(params, state) as own:  # a copy, since capturing writes to the module
            function = own if method == CALL else getattr(own, method)
            captured = nnx.capture(function, nnx.Intermediate, method_outputs=nnx.Intermediate)
            outputs, intermediates = captured(inputs, **keywords)
        return outputs, dict(_named(nnx.to_pure_dict(intermediates)))

    return HiddenStates(capture, checked_layers(layers), _among(parts - embeddings)), params


def linen_hidden_states(
    module: Any,
    variables: Mapping[str, PyTree],
    layers: Sequence[str] | None = None,
    **keywords: Any,
) -> tuple[HiddenStates, PyTree]:
    """Capture the hidden states of a Flax Linen module, through ``capture_intermediates``.

    Names are those of `nnx_hidden_states`, with Linen's own for parts: ``"Dense_0"``,
    ``"layers_1/attention"``.

    Args:
        module: the module.
        variables: what ``module.init`` returned, or a trained version of it.
        layers: names of layers. `None` for the blocks: the direct parts of the module except
            embedding tables and the part that returns what the module returns.
        **keywords: passed to ``module.apply`` (``train=False``, ``method=...``).

    Returns:
        ``(hidden_states, params)`` with params the collection ``"params"``, as `lnpjax.from_linen`
        gives them; the others are frozen at their present value. Called with all the variables
        instead, it takes all from there.

    Raises:
        TypeError: if `module` is not a Linen module.
        ValueError: if `variables` holds no ``"params"``; when called, if a layer is unknown.

    Example:
        >>> import flax.linen as nn
        >>> module = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(2)])
        >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> hidden_states, params = linen_hidden_states(module, variables)
        >>> {name: h.shape for name, h in hidden_states(params, jnp.ones((5, 3))).items()}
        {'layers_0': (5, 4)}
    """
    import flax.linen

    frozen, own = split_variables(module, variables, for_nnx="nnx_hidden_states")
    parts: set[str] = set()

    def is_call(part: Any, name: str) -> bool:
        if len(part.path) == 1 and not isinstance(part, flax.linen.Embed):
            parts.add(part.path[0])
        return name == CALL

    def capture(
        params: PyTree, inputs: PyTree, state: PyTree | None = None
    ) -> tuple[Any, Captured]:
        rest = frozen if state is None else fit_state(state, frozen)
        collections = params if "params" in params else {"params": params, **rest}
        outputs, captured = module.apply(
            collections,
            inputs,
            capture_intermediates=is_call,
            mutable=["intermediates"],
            **keywords,
        )
        return outputs, dict(_named(captured.get("intermediates", {})))

    return HiddenStates(capture, checked_layers(layers), _among(parts)), own


def _among(parts: set[str]) -> Callable[[str], bool]:
    """Tell whether a layer is one of the parts, or one call of it. `parts` may still be growing."""

    def is_block(name: str) -> bool:
        part, _, call = name.rpartition("/")
        return name in parts or (call.isdecimal() and part in parts)

    return is_block


def _named(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Array]]:
    """Yield what was captured, by path, where it is an array of numbers with features."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _named(value, (*path, str(key)))
        return
    *parents, method = path
    name = "/".join(parents if method == CALL and parents else path)
    calls = node if isinstance(node, tuple) else (node,)
    for index, value in enumerate(calls):
        if isinstance(value, jax.Array) and value.ndim >= 2 and _is_floating(value):
            yield (name if len(calls) == 1 else f"{name}/{index}"), value


def _is_floating(value: Array) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)
