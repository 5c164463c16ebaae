"""Parameter pytrees: paths, trainable subsets, groups, and inner products over them.

A path is the sequence of names that leads to a leaf, written with slashes:
``layers/0/attention/query/kernel``. Subsets (`wrt`) and groups are functions of paths.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lnpjax._base.checks import check_count, require

Subset: TypeAlias = Callable[[str], bool] | str | Sequence[str] | PyTree | None
REST = "other"
"""The group of the parameters that no prefix names."""
Grouping: TypeAlias = Callable[[str], str] | Sequence[str] | None


def path_of(key_path: tuple[Any, ...]) -> str:
    """Return the path of a leaf as text: the names joined by slashes.

    Args:
        key_path: a key path as `jax.tree_util.tree_flatten_with_path` gives it.

    Example:
        >>> import jax
        >>> [(key_path, _)], _ = jax.tree_util.tree_flatten_with_path({"head": [0.0]})
        >>> path_of(key_path)
        'head/0'
    """
    return "/".join(
        key.name
        if isinstance(key, jax.tree_util.GetAttrKey)
        else str(key.idx if isinstance(key, jax.tree_util.SequenceKey) else key.key)
        for key in key_path
    )


def paths(params: PyTree) -> list[str]:
    """Return the path of every leaf, in the order of `jax.tree.leaves`.

    The array inside a Flax NNX variable goes by the path of the variable.

    Example:
        >>> paths({"a": 1.0, "b": {"w": 2.0}})
        ['a', 'b/w']
    """
    nodes = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_nnx_variable)[0]
    return [path_of(key_path) for key_path, node in nodes for _ in jax.tree.leaves(node)]


def _is_nnx_variable(node: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(node, nnx.Variable)


def by_depth(depth: int) -> Callable[[str], str]:
    """Group parameters by the first `depth` names of their path.

    Args:
        depth: how many names make a group; at least 1.

    Returns:
        A labelling function for `groups=`.

    Raises:
        ValueError: if `depth` is less than 1.

    Example:
        >>> by_depth(2)("layers/0/attention/query/kernel")
        'layers/0'
    """
    check_count("depth", depth)
    return lambda path: "/".join(path.split("/")[:depth])


def is_under(path: str, prefix: str) -> bool:
    """Return whether a path begins with a prefix, whole names of it.

    Example:
        >>> is_under("layers/1/norm", "layers/1"), is_under("layers/10/norm", "layers/1")
        (True, False)
    """
    return path == prefix or path.startswith(prefix + "/")


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _selected(params: PyTree, wrt: Subset) -> list[bool]:
    names = paths(params)
    if wrt is None:
        return [True] * len(names)
    if callable(wrt) and not _is_container(wrt):
        return [bool(wrt(name)) for name in names]
    if isinstance(wrt, str):
        wrt = (wrt,)
    if isinstance(wrt, Sequence) and wrt and all(isinstance(prefix, str) for prefix in wrt):
        for prefix in wrt:
            require(
                any(is_under(name, prefix) for name in names),
                "wrt",
                expected=f"path prefixes of the parameters ({_listed(names)})",
                got=repr(prefix),
            )
        return [any(is_under(name, prefix) for prefix in wrt) for name in names]
    try:
        mask = jax.tree.leaves(jax.tree.broadcast(wrt, params))
    except ValueError as error:
        raise ValueError(
            "wrt: expected None, a function of a path, path prefixes, or a pytree of booleans "
            f"that is a prefix of params, got a structure that does not match: {error}"
        ) from error
    require(
        all(isinstance(flag, bool | np.bool_) for flag in mask),
        "wrt",
        expected="Python booleans as the leaves of its pytree",
        got=_listed([type(flag).__name__ for flag in mask]),
        error=TypeError,
    )
    return [bool(flag) for flag in mask]


def _is_container(tree: PyTree) -> bool:
    """Return whether a pytree holds leaves, as a model does that can also be called."""
    return (
        not isinstance(tree, jax.tree_util.Partial)
        and not jax.tree_util.all_leaves([tree])
        and bool(jax.tree.leaves(tree))
    )


def partition(params: PyTree, wrt: Subset) -> tuple[PyTree, PyTree]:
    """Split parameters into the trainable part and the frozen part.

    Args:
        params: any pytree.
        wrt: what is trainable. `None` (everything), a function of a leaf's path, one path prefix or
            several (``"head"``, ``("head", "layers/3")``), or a pytree of booleans that is a prefix
            of `params`, be it one that can be called (a module whose leaves are booleans).

    Returns:
        ``(trainable, frozen)``, each with the structure of `params` and `None` where a leaf belongs
        to the other part, so that `jax.tree.map` over either meets only its own leaves. Trainable
        leaves are arrays: Python numbers have become weakly typed ones.

    Raises:
        ValueError: if nothing is selected, or a prefix names no parameter.
        TypeError: if a selected leaf is not a real floating-point array.

    Example:
        >>> partition({"body": jnp.ones(2), "head": jnp.ones(3)}, "head")[0]
        {'body': None, 'head': Array([1., 1., 1.], dtype=float32)}
    """
    check_leaves(params)
    flags = _selected(params, wrt)
    require(
        any(flags),
        "wrt",
        expected=f"at least one trainable parameter among {_listed(paths(params))}",
        got="a selection of none" if flags else "params without leaves",
    )
    check_leaves(params)
    for name, leaf, flag in zip(paths(params), jax.tree.leaves(params), flags, strict=True):
        require(
            not flag or jnp.issubdtype(jnp.result_type(leaf), jnp.floating),
            "params",
            expected=f"real floating-point leaves ({_remedy(name)})",
            got=f"{name or 'an array'!r} of dtype {jnp.result_type(leaf)}",
            error=TypeError,
        )
    trainable, frozen = _split_leaves(params, flags)
    return jax.tree.map(_as_array, trainable), frozen


def check_leaves(params: PyTree, *, argument: str = "params") -> None:
    """Refuse parameters that hold anything but arrays and numbers.

    Args:
        params: any pytree.
        argument: what it is called in messages.

    Raises:
        TypeError: naming the first leaf that is neither.

    Example:
        >>> check_leaves({"scale": 1.0, "activation": "relu"})
        Traceback (most recent call last):
            ...
        TypeError: params/activation: expected an array or a number (functions and settings belong
        into apply_fn, or into static fields of a module), got str
    """
    for name, leaf in zip(paths(params), jax.tree.leaves(params), strict=True):
        is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, type)
        require(
            is_array or isinstance(leaf, int | float | complex),
            f"{argument}/{name}".rstrip("/"),
            expected="an array or a number (functions and settings belong into apply_fn, or into "
            "static fields of a module)",
            got=type(leaf).__name__,
            error=TypeError,
        )


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, int | float | np.generic) else leaf


def _remedy(name: str) -> str:
    """Say what to do about a leaf that is not trainable."""
    return f"leave {name!r} out with wrt=" if name else "params.astype('float32')"


def widened(params: PyTree) -> PyTree:
    """Return parameters with their floats of eight bits in float32.

    A gradient in eight bits is zero below 2e-3 and NaN above 448 (float8_e4m3fn); one in the values
    that they stand for is neither.

    Example:
        >>> widened({"w": jnp.ones(2, jnp.float8_e4m3fn), "b": jnp.ones(1, jnp.bfloat16)})
        {'b': Array([1], dtype=bfloat16), 'w': Array([1., 1.], dtype=float32)}
    """
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if is_narrow(jnp.result_type(leaf)) else leaf, params
    )


def is_narrow(dtype: Any) -> bool:
    """Return whether a dtype holds floating-point numbers of eight bits or less.

    Args:
        dtype: anything that names a dtype.

    Example:
        >>> is_narrow("float8_e4m3fn"), is_narrow("bfloat16"), is_narrow("int8")
        (True, False, False)
    """
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize == 1


def split_paths(params: PyTree, selected: Callable[[str], bool]) -> tuple[PyTree, PyTree]:
    """Split a pytree by the paths of its leaves, whatever they hold; see `partition`.

    Example:
        >>> split_paths({"a": 1, "b": 2}, lambda path: path == "a")
        ({'a': 1, 'b': None}, {'a': None, 'b': 2})
    """
    return _split_leaves(params, [selected(name) for name in paths(params)])


def split_floating(params: PyTree) -> tuple[PyTree, PyTree]:
    """Split off what can be differentiated: real floating-point leaves; see `partition`.

    Example:
        >>> split_floating({"w": 1.0, "step": 3})
        ({'step': None, 'w': 1.0}, {'step': 3, 'w': None})
    """
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    return _split_leaves(params, [jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes])


def _split_leaves(params: PyTree, flags: list[bool]) -> tuple[PyTree, PyTree]:
    leaves, treedef = jax.tree.flatten(params)
    pairs = list(zip(leaves, flags, strict=True))
    left = jax.tree.unflatten(treedef, [leaf if flag else None for leaf, flag in pairs])
    right = jax.tree.unflatten(treedef, [None if flag else leaf for leaf, flag in pairs])
    return left, right


def fit(
    argument: str, tree: PyTree, like: PyTree, *, of: str = "the trainable parameters"
) -> PyTree:
    """Bring a pytree that goes with another into the structure of that.

    Leaves are identified by their paths, so that containers may differ (a dictionary for a Flax
    state) and entries without leaves may be left out.

    Args:
        argument: its name, for the message.
        tree: the pytree.
        like: the pytree that it goes with.
        of: what that is, for the message.

    Returns:
        The leaves of `tree`, as arrays, in the structure of `like`.

    Raises:
        TypeError: if a leaf is not an array or a number.
        ValueError: if leaves are missing, or there are others, or a shape differs; the message
            names them.

    Example:
        >>> fit("gradient", {"head": 1.0}, {"body": None, "head": jnp.zeros(())})
        {'body': None, 'head': Array(1., dtype=float32, weak_type=True)}
    """
    names, given = paths(like), paths(tree)
    leaves, structure = jax.tree.leaves(tree), jax.tree.structure(like)
    if str(jax.tree.structure(tree)) != str(structure):
        missing = [name for name in names if name not in given]
        others = [name for name in given if name not in names]
        require(
            sorted(given) == sorted(names) and len(set(names)) == len(names),
            argument,
            expected=f"the structure of {of} ({names})",
            got=f"{given}"
            + (f", without {_listed(missing)}" if missing else "")
            + (f", with {_listed(others)}" if others else ""),
        )
        by_path = dict(zip(given, leaves, strict=True))
        leaves = [by_path[name] for name in names]
    check_leaves(tree, argument=argument)
    for name, leaf, model in zip(names, leaves, jax.tree.leaves(like), strict=True):
        require(
            jnp.shape(leaf) == jnp.shape(model),
            f"{argument}/{name}".rstrip("/"),
            expected=f"shape {jnp.shape(model)}",
            got=f"shape {jnp.shape(leaf)}",
        )
    return jax.tree.unflatten(structure, [_as_array(leaf) for leaf in leaves])


def fit_parts(
    argument: str, tree: PyTree, trainable: PyTree, frozen: PyTree
) -> tuple[PyTree, PyTree]:
    """Bring a pytree that goes with the parameters, or with the trainable ones, into their parts.

    Args:
        argument: its name, for the message.
        tree: a pytree with a leaf for each trainable parameter, and for all frozen ones or none.
        trainable: the trainable part, from `partition`.
        frozen: the frozen part, from `partition`.

    Returns:
        ``(trainable part, frozen part)``, in the structures of `trainable` and `frozen`; `None` in
        place of the second where `tree` has no frozen leaves.

    Raises:
        TypeError, ValueError: as `fit`.

    Example:
        >>> parts = partition({"base": jnp.ones(2, "int8"), "lora": jnp.ones(2)}, "lora")
        >>> fit_parts("gradient", {"base": None, "lora": jnp.zeros(2)}, *parts)
        ({'base': None, 'lora': Array([0., 0.], dtype=float32)}, None)
    """
    still = set(paths(frozen)) - set(paths(trainable))
    own, rest = split_paths(tree, lambda path: path not in still)
    left = fit(argument, own, trainable)
    if not jax.tree.leaves(rest):
        return left, None
    return left, fit(argument, rest, frozen, of="the frozen parameters")


def combine(trainable: PyTree, frozen: PyTree) -> PyTree:
    """Undo `partition`.

    Example:
        >>> combine({"body": None, "head": 1.0}, {"body": 2.0, "head": None})
        {'body': 2.0, 'head': 1.0}
    """
    return jax.tree.map(
        lambda left, right: right if left is None else left,
        trainable,
        frozen,
        is_leaf=lambda leaf: leaf is None,
    )


def group_leaves(params: PyTree, groups: Grouping) -> dict[str, tuple[int, ...]]:
    """Assign every leaf to a group.

    Args:
        params: any pytree; `None` entries (frozen leaves) belong to no group.
        groups: `None` for the first name of each path (the top-level module), or the first two
            where all is under ``"params"``, as in what Flax Linen calls variables; a function from
            a path to a group's name; or path prefixes, each of which is a group, with the rest in
            ``"other"``.

    Returns:
        For each group, in alphabetical order (in which pytrees keep dictionaries), the indices of
        its leaves in `jax.tree.leaves(params)`.

    Raises:
        ValueError: if a prefix names no parameter, or none that an earlier one does not name; or if
            one is called ``"other"`` and there is a rest.

    Example:
        >>> group_leaves({"a": {"w": 1.0, "b": 2.0}, "c": 3.0}, None)
        {'a': (0, 1), 'c': (2,)}
    """
    names = paths(params)
    if groups is None:
        label = by_depth(2 if all(is_under(name, "params") for name in names) else 1)
    elif callable(groups):
        label = groups
    else:
        prefixes = (groups,) if isinstance(groups, str) else tuple(groups)
        for prefix in prefixes:
            require(
                any(is_under(name, prefix) for name in names),
                "groups",
                expected=f"path prefixes of the trainable parameters ({_listed(names)})",
                got=f"the unknown group {prefix!r}",
            )

        def label(path: str) -> str:
            return next((prefix for prefix in prefixes if is_under(path, prefix)), REST)

        _check_prefixes(names, prefixes)

    members: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(names):
        group = str(label(name))
        members[group] = (*members.get(group, ()), index)
    return dict(sorted(members.items()))


def _check_prefixes(names: list[str], prefixes: Sequence[str]) -> None:
    """Refuse groups by prefix that would silently swallow others."""
    rest = [name for name in names if not any(is_under(name, prefix) for prefix in prefixes)]
    require(
        REST not in prefixes or not rest,
        "groups",
        expected=f"a function of the path, or prefixes of all parameters, where one is {REST!r}, "
        "the name of the group of all others",
        got=f"none for {_listed(rest)}",
    )
    first = [next((p for p in prefixes if is_under(name, p)), None) for name in names]
    empty = [prefix for prefix in prefixes if prefix not in first]
    require(
        not empty,
        "groups",
        expected="prefixes that each name parameters which no earlier one does (narrow ones first)",
        got=f"{_listed(empty)} behind a wider one",
    )
